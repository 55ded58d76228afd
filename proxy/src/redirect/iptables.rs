//! The plan as texts for `iptables-restore --noflush` and `ip6tables-restore`, with chains of our own.
//!
//! Rules are written as `iptables-save` prints them, so that what is installed can be held against what should be. Each
//! table is replaced at once; what others have in it stays.

use super::names::Names;
use super::plan::{Family, RedirectPlan, probe_address};
use postern_config::capture::Ports;
use std::collections::BTreeSet;

/// Of every chain of ours, and of nobody else's.
pub const PREFIX: &str = "POSTERN_";
/// Of the `multiport` match (Linux, `XT_MULTI_PORTS`).
const PORTS_A_RULE: usize = 15;

/// The order in which tables are replaced: what closes comes before what opens a way.
const TABLES: [&str; 3] = ["filter", "mangle", "nat"];

struct Chain {
    table: &'static str,
    name: &'static str,
    /// The kernel's chain that jumps to it; `None`: our own rules do.
    from: Option<(&'static str, &'static str)>,
    rules: Vec<String>,
}

/// Replaces what of ours `saved` (the output of `iptables-save`) holds by the plan's chains, if any.
pub fn install(plan: &RedirectPlan, family: Family, saved: &str) -> String {
    restore(&Writer { plan, family }.chains(), saved)
}

/// Removes what of ours `saved` holds; empty if that is nothing.
pub fn remove(saved: &str) -> String {
    restore(&[], saved)
}

/// What of ours there should be, as [`ours`] finds it in the output of `iptables-save`.
pub fn expected(plan: &RedirectPlan, family: Family) -> BTreeSet<String> {
    ours(&install(plan, family, "").replace("-I ", "-A "))
}

/// `table line` for each line that is ours: rules within our chains, and jumps to them.
pub fn ours(saved: &str) -> BTreeSet<String> {
    own_lines(saved).into_iter().map(|(table, line)| format!("{table} {line}")).collect()
}

fn own_lines(saved: &str) -> Vec<(&str, &str)> {
    let mut table = "";
    let mut found = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if is_ours(line) {
            found.push((table, line.trim_end()));
        }
    }
    found
}

fn is_ours(line: &str) -> bool {
    let mut words = line.split(' ');
    let in_own_chain = words.next() == Some("-A") && words.next().is_some_and(|chain| chain.starts_with(PREFIX));
    in_own_chain || line.starts_with("-A") && target(line).is_some_and(|chain| chain.starts_with(PREFIX))
}

fn target(line: &str) -> Option<&str> {
    line.split_once(" -j ").and_then(|(_, rest)| rest.split(' ').next())
}

fn restore(chains: &[Chain], saved: &str) -> String {
    let mut text = String::new();
    for table in TABLES {
        let wanted: Vec<&Chain> = chains.iter().filter(|chain| chain.table == table).collect();
        let body = restore_table(&wanted, &lines_of(table, saved));
        if !body.is_empty() {
            text += &format!("*{table}\n{body}COMMIT\n");
        }
    }
    text
}

fn lines_of<'a>(table: &str, saved: &'a str) -> Vec<&'a str> {
    let header = format!("*{table}");
    let within = saved.lines().skip_while(|line| **line != header).skip(1);
    within.take_while(|line| *line != "COMMIT").collect()
}

fn restore_table(wanted: &[&Chain], saved: &[&str]) -> String {
    let mut text = String::new();
    // To declare a chain makes it, or empties it.
    for chain in wanted {
        text += &format!(":{} - [0:0]\n", chain.name);
    }
    let present = saved.iter().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    let stale: Vec<&str> =
        present.filter(|name| name.starts_with(PREFIX) && !wanted.iter().any(|chain| chain.name == *name)).collect();
    let foreign = |line: &&&str| is_ours(line) && !line.starts_with(&format!("-A {PREFIX}"));
    for jump in saved.iter().filter(foreign) {
        text += &format!("-D {}\n", jump[3..].trim_end());
    }
    for name in &stale {
        text += &format!("-F {name}\n");
    }
    for chain in wanted {
        for rule in &chain.rules {
            text += &format!("-A {} {rule}\n", chain.name);
        }
    }
    for name in &stale {
        text += &format!("-X {name}\n");
    }
    for chain in wanted {
        if let Some((from, which)) = chain.from {
            text += &format!("-I {from} {which}-j {}\n", chain.name);
        }
    }
    text
}

struct Writer<'a> {
    plan: &'a RedirectPlan,
    family: Family,
}

const TCP: &str = "-p tcp ";
const UDP_NAMES: &str = "-p udp -m udp --dport 53 ";
const TCP_NAMES: &str = "-p tcp -m tcp --dport 53 ";
/// Queries to nameservers on loopback.
const RESOLVER: &str = "POSTERN_RESOLVER";

impl Writer<'_> {
    fn chains(&self) -> Vec<Chain> {
        let plan = self.plan;
        let mut chains = Vec::new();
        let mut chain = |table, name, from, rules| chains.push(Chain { table, name, from, rules });
        if plan.closed_egress {
            chain("filter", "POSTERN_EGRESS", Some(("OUTPUT", "")), self.egress());
        }
        if plan.diverts() {
            chain("mangle", "POSTERN_DIVERT", None, self.divert());
            chain("mangle", "POSTERN_INBOUND", Some(("PREROUTING", TCP)), self.inbound("POSTERN_DIVERT"));
            chain("mangle", "POSTERN_ANSWERS", Some(("OUTPUT", TCP)), self.answers());
        }
        // Inserted last, so that they come first.
        if plan.drop_invalid {
            let mut rules = self.excluded_interfaces();
            rules.push(INVALID.to_owned());
            chain("mangle", "POSTERN_INVALID_IN", Some(("PREROUTING", TCP)), rules);
            chain("mangle", "POSTERN_INVALID_OUT", Some(("OUTPUT", TCP)), vec![INVALID.to_owned()]);
        }
        if let Some(port) = plan.inbound {
            chain("nat", "POSTERN_TO_INBOUND", None, vec![format!("-p tcp -j REDIRECT --to-ports {port}")]);
            if !plan.diverts() {
                chain("nat", "POSTERN_INBOUND", Some(("PREROUTING", TCP)), self.inbound("POSTERN_TO_INBOUND"));
            }
            if !plan.exempt_uids.is_empty() {
                chain("nat", "POSTERN_OURSELVES", None, self.calls_of_ourselves());
            }
        }
        let outbound = self.outbound();
        if !outbound.is_empty() {
            chain("nat", "POSTERN_OUTBOUND", Some(("OUTPUT", TCP)), outbound);
        }
        if let Some(port) = plan.outbound {
            chain("nat", "POSTERN_CAPTURE", None, self.capture(port));
        }
        if let Some(names) = &plan.names {
            chain("nat", "POSTERN_NAMES", Some(("OUTPUT", UDP_NAMES)), self.names(names));
            if names.of_family(self.family).next().is_some() {
                chain("nat", RESOLVER, None, self.queries_to_loopback(names));
            }
        }
        // A chain is known before a rule that jumps to it: `restore_table` declares all first.
        chains
    }

    fn excluded_interfaces(&self) -> Vec<String> {
        self.plan.excluded_interfaces.iter().map(|name| format!("-i {name} -j RETURN")).collect()
    }

    fn inbound(&self, then: &str) -> Vec<String> {
        let mut rules = self.excluded_interfaces();
        rules.push("-i lo -j RETURN".to_owned());
        if self.plan.diverts() {
            rules.push("-m conntrack --ctdir REPLY -j RETURN".to_owned());
        }
        rules.push("-m addrtype ! --dst-type LOCAL -j RETURN".to_owned());
        rules.extend(to_ports(&self.plan.inbound_left_alone, "-j RETURN"));
        match &self.plan.inbound_ports {
            Ports::All => rules.push(format!("-j {then}")),
            Ports::Only(ports) => rules.extend(to_ports(ports, &format!("-j {then}"))),
        }
        rules
    }

    /// TPROXY drops what no socket takes, so connections that were there before us must not come here: ours have a mark.
    fn divert(&self) -> Vec<String> {
        let Some(port) = self.plan.inbound else { return Vec::new() };
        let (mark, divert) = (mask(self.plan.mark.get()), mask(self.plan.divert_mark().get()));
        let any = match self.family {
            Family::V4 => "0.0.0.0",
            Family::V6 => "::",
        };
        vec![
            format!("-m conntrack --ctstate NEW -j CONNMARK --set-xmark {mark}"),
            format!(
                "-p tcp -m connmark --mark {:#x} -j TPROXY --on-port {port} --on-ip {any} --tproxy-mark {divert}",
                self.plan.mark
            ),
        ]
    }

    fn answers(&self) -> Vec<String> {
        let (plain, masked) = (self.plan.divert_mark(), mask(self.plan.divert_mark().get()));
        vec![
            format!("-m conntrack --ctdir REPLY -m connmark --mark {plain:#x} -j MARK --set-xmark {masked}"),
            format!(
                "-o lo -m conntrack --ctdir ORIGINAL -m addrtype ! --src-type LOCAL -j CONNMARK --set-xmark {masked}"
            ),
        ]
    }

    fn outbound(&self) -> Vec<String> {
        let plan = self.plan;
        let names = plan.names.as_ref();
        let mut rules = names.map_or(Vec::new(), |names| self.to_loopback(names, TCP_NAMES));
        rules.push(format!("-d {} -o lo -j RETURN", self.loopback()));
        rules.extend(plan.outbound.map(|port| self.probe(port)));
        let ourselves = plan.inbound.is_some() && !plan.exempt_uids.is_empty();
        if ourselves {
            let own = plan.exempt_uids.iter();
            rules.extend(own.map(|uid| format!("-o lo -m owner --uid-owner {uid} -j POSTERN_OURSELVES")));
        }
        if plan.outbound.is_none() && names.is_none() {
            return if ourselves { rules } else { Vec::new() };
        }
        rules.extend(self.own_packets());
        if let Some(names) = names {
            rules.extend(of_users(&names.resolvers, TCP_NAMES, "RETURN"));
            rules.push(format!("{TCP_NAMES}-j REDIRECT --to-ports {}", names.port));
        }
        if plan.outbound.is_none() {
            return rules;
        }
        rules.extend(to_ports(&plan.outbound_left_alone, "-j RETURN"));
        rules.extend(self.excluded_networks("RETURN"));
        if plan.only_networks.is_empty() {
            rules.push("-j POSTERN_CAPTURE".to_owned());
        }
        for network in RedirectPlan::networks_of(&plan.only_networks, self.family) {
            let whole = whole(&network, self.family);
            rules.push(format!("{whole}-j POSTERN_CAPTURE"));
        }
        rules
    }

    /// As `nft::Writer::probes`, which says why.
    fn probe(&self, port: u16) -> String {
        let (to, length) = (probe_address(self.family), if self.family == Family::V4 { 32 } else { 128 });
        format!("-d {}/{length} -p tcp -m tcp --dport {} -j REDIRECT --to-ports {port}", to.ip(), to.port())
    }

    fn own_packets(&self) -> Vec<String> {
        let mark = format!("-m mark --mark {:#x} -j RETURN", self.plan.mark);
        std::iter::once(mark).chain(of_users(&self.plan.exempt_uids, "", "RETURN")).collect()
    }

    fn names(&self, names: &Names) -> Vec<String> {
        let mut rules = self.to_loopback(names, UDP_NAMES);
        rules.push(format!("-d {} -o lo -j RETURN", self.loopback()));
        rules.extend(self.own_packets());
        rules.extend(of_users(&names.resolvers, "", "RETURN"));
        rules.push(format!("-p udp -j REDIRECT --to-ports {}", names.port));
        rules
    }

    /// Before what stays within this host is left alone, and, inserted first, before what Docker rewrites.
    fn to_loopback(&self, names: &Names, queries: &str) -> Vec<String> {
        let length = self.length();
        names.of_family(self.family).map(|ip| format!("-d {ip}/{length} -o lo {queries}-j {RESOLVER}")).collect()
    }

    fn queries_to_loopback(&self, names: &Names) -> Vec<String> {
        let mut rules = self.own_packets();
        rules.extend(of_users(&names.asking_each_other(), "", "RETURN"));
        rules.extend(["udp", "tcp"].map(|protocol| format!("-p {protocol} -j REDIRECT --to-ports {}", names.port)));
        rules
    }

    fn capture(&self, port: u16) -> Vec<String> {
        match &self.plan.outbound_ports {
            Ports::All => vec![format!("-p tcp -j REDIRECT --to-ports {port}")],
            Ports::Only(ports) => to_ports(ports, &format!("-j REDIRECT --to-ports {port}")),
        }
    }

    fn calls_of_ourselves(&self) -> Vec<String> {
        let application =
            self.plan.application.iter().filter(|address| address.is_ipv4() == (self.family == Family::V4));
        let length = self.length();
        let mut rules: Vec<String> = application
            .map(|address| format!("-d {}/{length} -p tcp -m tcp --dport {} -j RETURN", address.ip(), address.port()))
            .collect();
        rules.extend(to_ports(&self.plan.inbound_left_alone, "-j RETURN"));
        match &self.plan.inbound_ports {
            Ports::All => rules.push("-j POSTERN_TO_INBOUND".to_owned()),
            Ports::Only(ports) => rules.extend(to_ports(ports, "-j POSTERN_TO_INBOUND")),
        }
        rules
    }

    fn excluded_networks(&self, target: &str) -> Vec<String> {
        let networks = RedirectPlan::networks_of(&self.plan.excluded_networks, self.family).into_iter();
        networks.map(|network| format!("{}-j {target}", whole(&network, self.family))).collect()
    }

    /// As `nft::Writer::egress`, which says why. `RETURN`, because `ACCEPT` would pass over what others refuse.
    fn egress(&self) -> Vec<String> {
        let plan = self.plan;
        let (plain, masked) = (plan.mark, mask(plan.mark.get()));
        let mut rules = vec![
            "-o lo -j RETURN".to_owned(),
            format!("-d {} -j RETURN", self.loopback()),
            "-m conntrack --ctdir REPLY -j RETURN".to_owned(),
            "-m conntrack --ctstate RELATED -j RETURN".to_owned(),
            format!("-m mark --mark {plain:#x} -j CONNMARK --set-xmark {masked}"),
        ];
        let then = format!("CONNMARK --set-xmark {masked}");
        rules.extend(of_users(&plan.exempt_uids, "", &then));
        rules.extend(plan.names.iter().flat_map(|names| of_users(&names.resolvers, TCP_NAMES, &then)));
        rules.push(format!("-m connmark --mark {plain:#x} -j RETURN"));
        if plan.diverts() {
            rules.push(format!("-m mark --mark {:#x} -j RETURN", plan.divert_mark()));
        }
        match &plan.names {
            None => rules.push(format!("{UDP_NAMES}-j RETURN")),
            Some(names) => rules.extend(of_users(&names.resolvers, UDP_NAMES, "RETURN")),
        }
        rules.extend(to_ports(&plan.open_ports(), "-j RETURN"));
        rules.extend(self.excluded_networks("RETURN"));
        match self.family {
            Family::V4 => rules.push("-j REJECT --reject-with icmp-admin-prohibited".to_owned()),
            Family::V6 => {
                let kinds = [133, 135, 136, 143];
                rules.extend(kinds.map(|kind| format!("-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN")));
                rules.push("-j REJECT --reject-with icmp6-adm-prohibited".to_owned());
            }
        }
        rules
    }

    /// Of an address that stands for itself.
    fn length(&self) -> u8 {
        if self.family == Family::V4 { 32 } else { 128 }
    }

    fn loopback(&self) -> &'static str {
        match self.family {
            Family::V4 => "127.0.0.0/8",
            Family::V6 => "::1/128",
        }
    }
}

const INVALID: &str = "-m conntrack --ctstate INVALID -j DROP";

/// A rule each.
fn of_users(uids: &[u32], what: &str, then: &str) -> Vec<String> {
    uids.iter().map(|uid| format!("{what}-m owner --uid-owner {uid} -j {then}")).collect()
}

/// `-d NETWORK `, and nothing for the whole of a family, which is not shown.
fn whole(network: &postern_config::Network, family: Family) -> String {
    match (network.prefix(), family) {
        (0, _) => String::new(),
        (prefix, _) => format!("-d {}/{prefix} ", network.address()),
    }
}

fn mask(mark: u32) -> String {
    format!("{mark:#x}/0xffffffff")
}

/// A rule for every [`PORTS_A_RULE`] ports.
fn to_ports(ports: &[u16], then: &str) -> Vec<String> {
    let rule = |ports: &[u16]| match ports {
        [port] => format!("-p tcp -m tcp --dport {port} {then}"),
        ports => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("-p tcp -m multiport --dports {} {then}", ports.join(","))
        }
    };
    ports.chunks(PORTS_A_RULE).map(rule).collect()
}

#[cfg(test)]
pub(super) mod tests;
