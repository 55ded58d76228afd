//! Rules of others that stand in ours' way, read out of listings.

/// A rule that is not ours and may take, or drop, what should come to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Such as `table inet firewall, chain input`.
    pub place: String,
    pub rule: String,
    pub effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It gives connections another destination before our rules see them.
    Diverts,
    /// It drops packets, maybe of ours.
    Drops,
}

const DIVERTING: &[&str] = &["redirect", "dnat", "tproxy"];
const DROPPING: &[&str] = &["drop", "reject"];

/// A chain of `nft -y list ruleset`.
struct Chain<'a> {
    table: &'a str,
    name: &'a str,
    /// `type nat hook output priority -100; policy accept;`
    base: Option<&'a str>,
    rules: Vec<&'a str>,
}

/// Tables of nftables in which something happens to TCP before the priority `ours`, or drops.
pub fn in_nft(ruleset: &str, ours: i32) -> Vec<Suspect> {
    let chains = chains(ruleset);
    let early = |chain: &&Chain<'_>| {
        let base = chain.base.filter(|base| base.contains("hook output") || base.contains("hook prerouting"));
        base.and_then(priority).is_some_and(|priority| priority < ours)
    };
    let early: Vec<&str> = chains.iter().filter(early).map(|chain| chain.table).collect();
    let mut found = Vec::new();
    for chain in &chains {
        let place = format!("table {}, chain {}", chain.table, chain.name);
        let mut suspect = |rule: &str, effect| {
            found.push(Suspect { place: place.clone(), rule: rule.trim_end_matches(';').to_owned(), effect });
        };
        if let Some(base) = chain.base.filter(|base| base.contains("policy drop") && is_local(base)) {
            suspect(base, Effect::Drops);
        }
        let local = chain.base.is_none_or(is_local);
        for rule in &chain.rules {
            let has = |words: &[&str]| rule.split(' ').any(|word| words.contains(&word));
            if has(DIVERTING) && early.contains(&chain.table) {
                suspect(rule, Effect::Diverts);
            } else if has(DROPPING) && local && !rule.contains("ct state invalid") {
                suspect(rule, Effect::Drops);
            }
        }
    }
    found
}

/// What is forwarded never comes to us.
fn is_local(base: &str) -> bool {
    !base.contains("hook forward") && !base.contains("hook postrouting")
}

fn priority(base: &str) -> Option<i32> {
    let (_, rest) = base.split_once("priority ")?;
    rest.split([';', ' ']).next()?.parse().ok()
}

fn chains(ruleset: &str) -> Vec<Chain<'_>> {
    let mut table = "";
    let mut chains: Vec<Chain<'_>> = Vec::new();
    for line in ruleset.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ").and_then(|rest| rest.strip_suffix(" {")) {
            table = name;
        } else if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            chains.push(Chain { table, name, base: None, rules: Vec::new() });
        } else if let Some(chain) = chains.last_mut() {
            match line.starts_with("type ") {
                true => chain.base = Some(line),
                false => chain.rules.push(line),
            }
        }
    }
    let ours = |chain: &Chain<'_>| {
        chain.table.ends_with(&format!(" {}", super::nft::TABLE)) || chain.name.starts_with(super::iptables::PREFIX)
    };
    chains.retain(|chain| !ours(chain));
    chains
}

/// Rules of `iptables-save`. What stands before our jump diverts first; dropping is possible anywhere.
pub fn in_iptables(saved: &str, program: &str) -> Vec<Suspect> {
    let mut table = "";
    let mut jumped = Vec::new();
    let mut found = Vec::new();
    let has_ours = saved.contains(&format!("-j {}", super::iptables::PREFIX));
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            (table, jumped) = (name, Vec::new());
            continue;
        }
        let mut words = line.split(' ');
        let (first, chain) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let target = line.split_once(" -j ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
        let mut suspect = |place: &str, effect| {
            let place = format!("{program}, table {table}, chain {place}");
            found.push(Suspect { place, rule: line.trim_end().to_owned(), effect });
        };
        match (first, target) {
            (":INPUT" | ":OUTPUT", _) if chain == "DROP" => suspect(&first[1..], Effect::Drops),
            ("-A", target) if target.starts_with(super::iptables::PREFIX) => jumped.push(chain),
            ("-A", _) if chain.starts_with(super::iptables::PREFIX) => {}
            ("-A", "REDIRECT" | "DNAT" | "TPROXY")
                if has_ours && ["OUTPUT", "PREROUTING"].contains(&chain) && !jumped.contains(&chain) =>
            {
                suspect(chain, Effect::Diverts);
            }
            ("-A", "DROP" | "REJECT") if chain != "FORWARD" && !line.contains("INVALID") => {
                suspect(chain, Effect::Drops)
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Effect, in_iptables, in_nft};

    #[test]
    fn finds_what_diverts_earlier_and_what_drops() {
        let ruleset = "table ip mesh {\n\tchain out {\n\t\ttype nat hook output priority -110; policy accept;\n\t\tjump to\n\t}\n\
                       \tchain to {\n\t\tmeta l4proto tcp redirect to :15101\n\t}\n}\n\
                       table ip nat {\n\tchain OUTPUT {\n\t\ttype nat hook output priority -100; policy accept;\n\t\t\
                       tcp dport 80 redirect to :8080\n\t}\n}\n\
                       table inet firewall {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t\t\
                       ct state invalid drop\n\t\ttcp dport 22 accept\n\t}\n\tchain forward {\n\t\ttype filter hook forward \
                       priority 0; policy drop;\n\t\tdrop\n\t}\n}\n\
                       table inet postern {\n\tchain outbound {\n\t\ttype nat hook output priority -101; policy accept;\n\t\t\
                       redirect to :15001\n\t}\n}\n";
        let found = in_nft(ruleset, -101);
        let shown: Vec<_> = found.iter().map(|suspect| (suspect.place.as_str(), suspect.effect)).collect();
        let expected =
            [("table ip mesh, chain to", Effect::Diverts), ("table inet firewall, chain input", Effect::Drops)];
        assert_eq!(shown, expected, "{found:?}");
    }

    #[test]
    fn finds_what_stands_before_our_jump() {
        let saved = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\n\
                     -A OUTPUT -p tcp -j POSTERN_OUTBOUND\n-A OUTPUT -p tcp -m tcp --dport 81 -j DNAT --to 10.0.0.1\n\
                     -A POSTERN_OUTBOUND -j POSTERN_CAPTURE\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n\
                     -A FORWARD -j DROP\n-A POSTERN_EGRESS -j REJECT --reject-with icmp-admin-prohibited\nCOMMIT\n";
        let shown: Vec<_> =
            in_iptables(saved, "iptables").into_iter().map(|suspect| (suspect.rule, suspect.effect)).collect();
        let expected = [
            ("-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080".to_owned(), Effect::Diverts),
            (":INPUT DROP [0:0]".to_owned(), Effect::Drops),
        ];
        assert_eq!(shown, expected);
    }
}
