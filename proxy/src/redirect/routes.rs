//! Policy routing of `mode: tproxy`, by the `ip` program: what is marked, or comes from loopback, is delivered here.

use super::host::{HostError, run};
use super::plan::{Family, RedirectPlan};
use super::proc;

/// The routing table and the first of two preferences: "PP" in ASCII, before the main table's 32766.
pub const TABLE: u32 = 20560;
const PREFERENCES: [u32; 2] = [TABLE, TABLE + 1];

/// What `ip rule` should show, without its preference.
///
/// The second is for an application on loopback: its answers to a caller's address have a source that no interface but
/// `lo` may send, so the kernel would refuse them before any rule of the packet filter could mark them.
fn rules(plan: &RedirectPlan, family: Family) -> [(u32, String); 2] {
    let loopback = match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1",
    };
    [
        (PREFERENCES[0], format!("from all fwmark {:#x} lookup {TABLE}", plan.divert_mark())),
        (PREFERENCES[1], format!("from {loopback} iif lo lookup {TABLE}")),
    ]
}

/// The commands that [`install`] runs, for `postern redirect print`.
pub fn commands(plan: &RedirectPlan) -> Vec<String> {
    let mut commands = Vec::new();
    for family in plan.families.list().iter().filter(|_| plan.diverts()) {
        let flag = flag(*family);
        commands.push(format!("ip {flag} route replace local default dev lo table {TABLE}"));
        for (preference, rule) in rules(plan, *family) {
            commands.push(format!("ip {flag} rule add pref {preference} {rule}"));
        }
    }
    commands
}

/// Idempotent: what stands as it should stays.
///
/// # Errors
/// `ip` is absent or refuses.
pub fn install(plan: &RedirectPlan) -> Result<(), HostError> {
    for family in plan.families.list() {
        let result = install_family(plan, *family);
        if !(*family == Family::V6 && proc::ipv6_is_off()) {
            result?;
        }
    }
    Ok(())
}

fn install_family(plan: &RedirectPlan, family: Family) -> Result<(), HostError> {
    let table = TABLE.to_string();
    ip(family, &["route", "replace", "local", "default", "dev", "lo", "table", &table])?;
    let wanted = rules(plan, family);
    let shown = ip(family, &["rule", "show"])?;
    if own_rules(&shown) == wanted {
        return Ok(());
    }
    remove_rules(family, &shown)?;
    for (preference, rule) in wanted {
        let preference = preference.to_string();
        let mut words = vec!["rule", "add", "pref", &preference];
        words.extend(rule.split(' '));
        ip(family, &words)?;
    }
    Ok(())
}

/// # Errors
/// `ip` refuses. That it is absent, or a family is, is none: then nothing of ours is there.
pub fn remove() -> Result<(), HostError> {
    for family in [Family::V4, Family::V6] {
        match ip(family, &["rule", "show"]) {
            Ok(shown) => remove_rules(family, &shown)?,
            Err(HostError::Missing { .. }) => return Ok(()),
            Err(_) if family == Family::V6 => return Ok(()),
            Err(error) => return Err(error),
        }
        let table = TABLE.to_string();
        // A table that never had a route is an error to some versions.
        let present = ip(family, &["route", "show", "table", &table]).is_ok_and(|routes| !routes.trim().is_empty());
        if present {
            ip(family, &["route", "flush", "table", &table])?;
        }
    }
    Ok(())
}

fn remove_rules(family: Family, shown: &str) -> Result<(), HostError> {
    for (preference, _) in own_rules(shown) {
        ip(family, &["rule", "del", "pref", &preference.to_string()])?;
    }
    Ok(())
}

/// What is not as the plan has it, in words.
///
/// # Errors
/// `ip` is absent or refuses.
pub fn examine(plan: &RedirectPlan, family: Family) -> Result<Option<String>, HostError> {
    let found = own_rules(&ip(family, &["rule", "show"])?);
    let wanted: Vec<(u32, String)> = if plan.diverts() { rules(plan, family).to_vec() } else { Vec::new() };
    if found != wanted {
        return Ok(Some(format!("{family}: `ip rule` has {} of our {} rules", found.len(), wanted.len())));
    }
    if !plan.diverts() {
        return Ok(None);
    }
    let routes = ip(family, &["route", "show", "table", &TABLE.to_string()])?;
    let there = routes.lines().any(|line| line.starts_with("local default dev lo"));
    Ok((!there).then(|| format!("{family}: table {TABLE} has no `local default dev lo`")))
}

/// `20560:\tfrom all fwmark 0x5050 lookup 20560`
fn own_rules(shown: &str) -> Vec<(u32, String)> {
    let rules = shown.lines().filter_map(|line| line.split_once(':'));
    let numbered =
        rules.filter_map(|(preference, rule)| Some((preference.trim().parse().ok()?, rule.trim().to_owned())));
    numbered.filter(|(preference, _)| PREFERENCES.contains(preference)).collect()
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

fn ip(family: Family, words: &[&str]) -> Result<String, HostError> {
    let mut arguments = vec![flag(family)];
    arguments.extend(words);
    run("ip", &arguments, "")
}

#[cfg(test)]
mod tests {
    use super::own_rules;

    #[test]
    fn reads_our_rules_among_others() {
        let shown = "0:\tfrom all lookup local\n20560:\tfrom all fwmark 0x5050 lookup 20560\n\
                     20561:\tfrom 127.0.0.0/8 iif lo lookup 20560\n32766:\tfrom all lookup main\n";
        let expected = [
            (20560, "from all fwmark 0x5050 lookup 20560".to_owned()),
            (20561, "from 127.0.0.0/8 iif lo lookup 20560".to_owned()),
        ];
        assert_eq!(own_rules(shown), expected);
        assert!(own_rules("").is_empty());
    }
}
