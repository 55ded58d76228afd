//! The plan as one transaction of nftables, with a table of our own.
//!
//! Rules are written as `nft -y list` prints them, so that what is installed can be held against what should be.

use super::plan::{DNS, Families, Family, RedirectPlan, ordered, probe_address};
use postern_config::Network;
use postern_config::capture::Ports;
use std::fmt::Display;

pub const TABLE: &str = "postern";
/// Before the chains of iptables (-100), so that a redirect of somebody else comes too late instead of first.
pub const PRIORITY_NAT: i32 = -101;
/// After conntrack (-200) has said what connection a packet is of.
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_FILTER: i32 = 0;
/// The chain of our own to which connections to `only_networks` go.
const CAPTURE: &str = "capture";

/// Whether one table holds both families. Kernels before 5.2 have no NAT in `inet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Inet,
    Split,
}

/// The families of tables that the plan has in this layout, in nftables' words.
pub fn tables(families: Families, layout: Layout) -> &'static [&'static str] {
    match (families, layout) {
        (Families::Both, Layout::Inet) => &["inet"],
        (Families::Both, Layout::Split) => &["ip", "ip6"],
        (Families::V4, _) => &["ip"],
        (Families::V6, _) => &["ip6"],
    }
}

/// One transaction: tables of ours that are `present` go, those of the plan come. Either all of it happens, or nothing.
pub fn install(plan: &RedirectPlan, layout: Layout, present: &[String]) -> String {
    let mut text = remove(present);
    for table in tables(plan.families, layout) {
        text += &render(plan, table);
    }
    text
}

pub fn remove(present: &[String]) -> String {
    present.iter().map(|family| format!("delete table {family} {TABLE}\n")).collect()
}

/// The families in which a table of our name stands, in the output of `nft list tables`.
pub fn present(listing: &str) -> Vec<String> {
    let families = listing.lines().filter_map(|line| line.strip_prefix("table ")?.strip_suffix(&format!(" {TABLE}")));
    families.filter(|family| ["ip", "ip6", "inet"].contains(family)).map(str::to_owned).collect()
}

/// The table `family` of a plan, as a listing shows it.
pub fn render(plan: &RedirectPlan, family: &str) -> String {
    let writer = Writer {
        plan,
        families: match family {
            "ip" => Families::V4,
            "ip6" => Families::V6,
            _ => Families::Both,
        },
    };
    let chains: Vec<String> = writer.chains().iter().map(Chain::render).collect();
    format!("table {family} {TABLE} {{\n{}}}\n", chains.join("\n"))
}

struct Chain {
    name: &'static str,
    /// Where the kernel calls it; `None`: our own rules do.
    hook: Option<String>,
    rules: Vec<String>,
}

impl Chain {
    fn hooked(name: &'static str, kind: &str, hook: &str, priority: i32, rules: Vec<String>) -> Self {
        let hook = format!("type {kind} hook {hook} priority {priority}; policy accept;");
        Self { name, hook: Some(hook), rules }
    }

    fn render(&self) -> String {
        let lines: String = self.hook.iter().chain(&self.rules).map(|line| format!("\t\t{line}\n")).collect();
        format!("\tchain {} {{\n{lines}\t}}\n", self.name)
    }
}

struct Writer<'a> {
    plan: &'a RedirectPlan,
    families: Families,
}

impl Writer<'_> {
    fn chains(&self) -> Vec<Chain> {
        let plan = self.plan;
        let mut chains = Vec::new();
        if plan.closed_egress {
            chains.push(Chain::hooked("egress", "filter", "output", PRIORITY_FILTER, self.egress()));
        }
        if plan.drop_invalid {
            let (before, out) = (PRIORITY_MANGLE - 1, vec![INVALID.to_owned()]);
            chains.push(Chain::hooked("invalid_in", "filter", "prerouting", before, self.invalid_in()));
            chains.push(Chain::hooked("invalid_out", "filter", "output", before, out));
        }
        match plan.inbound {
            Some(port) if plan.diverts() => {
                chains.push(Chain::hooked("inbound", "filter", "prerouting", PRIORITY_MANGLE, self.inbound(port)));
                chains.push(Chain::hooked("answers", "route", "output", PRIORITY_MANGLE, self.answers()));
            }
            Some(port) => {
                chains.push(Chain::hooked("inbound", "nat", "prerouting", PRIORITY_NAT, self.inbound(port)));
            }
            None => {}
        }
        let outbound = self.outbound();
        if !outbound.is_empty() {
            chains.push(Chain::hooked("outbound", "nat", "output", PRIORITY_NAT, outbound));
        }
        if let (Some(port), false) = (plan.outbound, plan.only_networks.is_empty()) {
            chains.push(Chain { name: CAPTURE, hook: None, rules: self.capture(port) });
        }
        chains
    }

    fn invalid_in(&self) -> Vec<String> {
        let mut rules = self.excluded_interfaces();
        rules.push(INVALID.to_owned());
        rules
    }

    fn excluded_interfaces(&self) -> Vec<String> {
        let names: Vec<String> = self.plan.excluded_interfaces.iter().map(|name| format!("\"{name}\"")).collect();
        if names.is_empty() { Vec::new() } else { vec![format!("iifname {} return", set(&names))] }
    }

    /// Connections of other hosts to addresses of this one.
    fn inbound(&self, port: u16) -> Vec<String> {
        let mut rules = self.excluded_interfaces();
        rules.push("meta l4proto != tcp return".to_owned());
        rules.push("iifname \"lo\" return".to_owned());
        if self.plan.diverts() {
            // Answers to connections that were opened here are nobody's to take.
            rules.push("ct direction reply return".to_owned());
        }
        rules.push("fib daddr type != local return".to_owned());
        rules.push(format!("tcp dport {} return", set(&self.plan.inbound_left_alone)));
        if let Ports::Only(ports) = &self.plan.inbound_ports {
            rules.push(format!("tcp dport != {} return", set(ports)));
        }
        if !self.plan.diverts() {
            rules.push(format!("meta l4proto tcp redirect to :{port}"));
            return rules;
        }
        let mark = hexadecimal(self.plan.divert_mark().get());
        let then = format!("to :{port} meta mark set {mark} accept");
        match self.families {
            Families::Both => rules.extend([
                format!("meta nfproto ipv4 meta l4proto tcp tproxy ip {then}"),
                format!("meta nfproto ipv6 meta l4proto tcp tproxy ip6 {then}"),
            ]),
            Families::V4 | Families::V6 => rules.push(format!("meta l4proto tcp tproxy {then}")),
        }
        // `tproxy` lets pass what no socket takes: without Postern the application would stand open.
        rules.push("ct state new drop".to_owned());
        rules
    }

    /// Connections that Postern opens to the application with the caller's address: their answers come back to it, and do
    /// not leave for the caller.
    fn answers(&self) -> Vec<String> {
        let mark = hexadecimal(self.plan.divert_mark().get());
        vec![
            "meta l4proto != tcp return".to_owned(),
            format!("ct direction reply ct mark {mark} meta mark set {mark}"),
            format!("oifname \"lo\" ct direction original fib saddr type != local ct mark set {mark}"),
        ]
    }

    /// Connections that are opened on this host.
    fn outbound(&self) -> Vec<String> {
        let plan = self.plan;
        let (mark, uids) = (hexadecimal(plan.mark.get()), set(&plan.exempt_uids));
        let mut rules = self.queries_to_loopback();
        for family in self.families.list() {
            let (word, loopback) = words(*family);
            rules.push(format!("oifname \"lo\" {word} daddr {loopback} return"));
        }
        if let Some(names) = &plan.names {
            let others = set(&ordered(plan.exempt_uids.iter().chain(&names.resolvers).copied()));
            rules.push(format!(
                "udp dport {DNS} meta mark != {mark} meta skuid != {others} redirect to :{}",
                names.port
            ));
        }
        rules.push("meta l4proto != tcp return".to_owned());
        rules.extend(plan.outbound.into_iter().flat_map(|port| self.probes(port)));
        let ourselves = plan.inbound.filter(|_| !plan.exempt_uids.is_empty());
        rules.extend(ourselves.into_iter().flat_map(|port| self.calls_of_ourselves(port)));
        if plan.outbound.is_none() && plan.names.is_none() {
            return if ourselves.is_some() { rules } else { Vec::new() };
        }
        rules.push(format!("meta mark {mark} return"));
        rules.push(format!("meta skuid {uids} return"));
        if let Some(names) = &plan.names {
            if !names.resolvers.is_empty() {
                rules.push(format!("meta skuid {} tcp dport {DNS} return", set(&names.resolvers)));
            }
            rules.push(format!("tcp dport {DNS} redirect to :{}", names.port));
        }
        let Some(port) = plan.outbound else { return rules };
        if !plan.outbound_left_alone.is_empty() {
            rules.push(format!("tcp dport {} return", set(&plan.outbound_left_alone)));
        }
        rules.extend(self.to_networks(&plan.excluded_networks, "return"));
        if plan.only_networks.is_empty() {
            rules.extend(self.capture(port));
        } else {
            rules.extend(self.to_networks(&plan.only_networks, &format!("goto {CAPTURE}")));
        }
        rules
    }

    /// Before anybody is exempt: Postern's own user tries it.
    fn probes(&self, port: u16) -> Vec<String> {
        let probe = |family: &Family| {
            let ((word, _), to) = (words(*family), probe_address(*family));
            format!("{word} daddr {} tcp dport {} redirect to :{port}", to.ip(), to.port())
        };
        self.families.list().iter().map(probe).collect()
    }

    /// Before what stays within this host is left alone, and by priority before what Docker rewrites.
    fn queries_to_loopback(&self) -> Vec<String> {
        let Some(names) = &self.plan.names else { return Vec::new() };
        let mark = hexadecimal(self.plan.mark.get());
        let others = set(&ordered(self.plan.exempt_uids.iter().copied().chain(names.asking_each_other())));
        let mut rules = Vec::new();
        for family in self.families.list() {
            for ip in names.of_family(*family) {
                let (word, _) = words(*family);
                rules.extend(["udp", "tcp"].map(|protocol| {
                    let queries = format!("oifname \"lo\" {word} daddr {ip} {protocol} dport {DNS}");
                    format!("{queries} meta mark != {mark} meta skuid != {others} redirect to :{}", names.port)
                }));
            }
        }
        rules
    }

    fn capture(&self, port: u16) -> Vec<String> {
        let mut rules = Vec::new();
        if let Ports::Only(ports) = &self.plan.outbound_ports {
            rules.push(format!("tcp dport != {} return", set(ports)));
        }
        rules.push(format!("meta l4proto tcp redirect to :{port}"));
        rules
    }

    /// What Postern sends to this host's own address for its application arrives as a peer's connection would.
    fn calls_of_ourselves(&self, port: u16) -> Vec<String> {
        let plan = self.plan;
        let own = format!("oifname \"lo\" meta skuid {}", set(&plan.exempt_uids));
        let mut rules = Vec::new();
        for address in &plan.application {
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            if self.families.list().contains(&family) {
                let (word, _) = words(family);
                rules.push(format!("{own} {word} daddr {} tcp dport {} return", address.ip(), address.port()));
            }
        }
        let only = match &plan.inbound_ports {
            Ports::All => String::new(),
            Ports::Only(ports) => format!(" tcp dport {}", set(ports)),
        };
        let except = set(&plan.inbound_left_alone);
        rules.push(format!("{own}{only} tcp dport != {except} redirect to :{port}"));
        rules
    }

    /// One rule each: in a set, nftables joins neighbours, and lists them otherwise than they were written.
    fn to_networks(&self, networks: &[Network], verdict: &str) -> Vec<String> {
        let of = |family: &Family| {
            let (word, _) = words(*family);
            let networks = RedirectPlan::networks_of(networks, *family).into_iter();
            networks.map(move |network| format!("{word} daddr {network} {verdict}")).collect::<Vec<_>>()
        };
        self.families.list().iter().flat_map(of).collect()
    }

    /// What leaves past Postern is refused: the rules hold when Postern is dead.
    fn egress(&self) -> Vec<String> {
        let plan = self.plan;
        let mark = hexadecimal(plan.mark.get());
        let mut rules = vec!["oifname \"lo\" accept".to_owned()];
        // The interface is that of the route before the redirect.
        for family in self.families.list() {
            let (word, loopback) = words(*family);
            rules.push(format!("{word} daddr {loopback} accept"));
        }
        rules.extend([
            // Answers of uncaptured ports, such as those to a login over SSH.
            "ct direction reply accept".to_owned(),
            "ct state related accept".to_owned(),
            // A connection's last packets have no socket, and so no user any more: the connection is marked.
            format!("ct mark {mark} accept"),
            format!("meta mark {mark} ct mark set {mark} accept"),
            format!("meta skuid {} ct mark set {mark} accept", set(&plan.exempt_uids)),
        ]);
        if plan.diverts() {
            rules.push(format!("meta mark {} accept", hexadecimal(plan.divert_mark().get())));
        }
        match &plan.names {
            None => rules.push(format!("udp dport {DNS} accept")),
            Some(names) if names.resolvers.is_empty() => {}
            Some(names) => {
                let resolvers = set(&names.resolvers);
                rules.push(format!("meta skuid {resolvers} udp dport {DNS} accept"));
                rules.push(format!("meta skuid {resolvers} tcp dport {DNS} ct mark set {mark} accept"));
            }
        }
        let open = plan.open_ports();
        if !open.is_empty() {
            rules.push(format!("tcp dport {} accept", set(&open)));
        }
        rules.extend(self.to_networks(&plan.excluded_networks, "accept"));
        if self.families != Families::V4 {
            // Without neighbour discovery there is no IPv6 at all (RFC 4861 §4, RFC 3810 §5).
            rules.push("icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept".to_owned());
        }
        rules.push(
            match self.families {
                Families::Both => "reject with icmpx admin-prohibited",
                Families::V4 => "reject with icmp admin-prohibited",
                Families::V6 => "reject with icmpv6 admin-prohibited",
            }
            .to_owned(),
        );
        rules
    }
}

const INVALID: &str = "meta l4proto tcp ct state invalid drop";

/// Of a family: nftables' word for its header, and its loopback.
fn words(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("ip", "127.0.0.0/8"),
        Family::V6 => ("ip6", "::1"),
    }
}

/// One element alone, as newer versions list it.
fn set<T: Display>(elements: &[T]) -> String {
    match elements {
        [one] => one.to_string(),
        several => {
            let words: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!("{{ {} }}", words.join(", "))
        }
    }
}

fn hexadecimal(mark: u32) -> String {
    format!("{mark:#010x}")
}

#[cfg(test)]
mod tests;
