//! What keeps connections from being captured, each finding with its fix.

use super::{FamilyChoice, names, plan};
use crate::cli::doctor::Report;
use crate::redirect::compare::{self, Difference};
use crate::redirect::host::{self, Installed, flavours, run};
use crate::redirect::others::{self, Effect, Suspect};
use crate::redirect::plan::loopback;
use crate::redirect::probe::{self, Arrival};
use crate::redirect::proc::Socket;
use crate::redirect::{Backend, Families, Family, HostError, RedirectPlan, Wanted, iptables, nft, proc, routes};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether this process is meant to be able to look at the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Privilege {
    Mandatory,
    Optional,
}

const INSTALL: &str = "`postern redirect install`, with the same file and flags";
/// Of the differences and of others' rules: more would hide the rest.
const SHOWN_MAX: usize = 3;

/// Everything, in the order in which one thing needs the other.
pub(in crate::cli) fn examine(report: &mut Report, wanted: &Wanted, family: FamilyChoice, privilege: Privilege) {
    let plan = match plan(wanted, family) {
        Ok(plan) => plan,
        Err(error) => {
            report.fail("capture", error.to_string(), "correct `capture:`, or the flags");
            return;
        }
    };
    ipv6(report, &plan, family);
    ports(report, &plan);
    application(report, &plan, wanted, &proc::listeners());
    if !tools(report, &plan) || !capability(report, privilege) {
        return;
    }
    match host::installed() {
        Ok(installed) if installed.is_empty() => {
            report.fail("rules", "none of ours are installed: the application's connections go their own way", INSTALL);
        }
        Ok(installed) => {
            rules(report, &plan, &installed);
            if plan.diverts() {
                routing(report, &plan);
            }
        }
        Err(error) => report.fail("rules", error.to_string(), error.fix()),
    }
    names::examine(report, &plan);
    let before = report.count(crate::cli::doctor::Verdict::Fail);
    arrivals(report, &plan);
    let arrived = report.count(crate::cli::doctor::Verdict::Fail) == before;
    others(report, &plan, arrived);
}

/// Rules for one family alone leave the other open.
fn ipv6(report: &mut Report, plan: &RedirectPlan, family: FamilyChoice) {
    let off = proc::ipv6_is_off();
    match (plan.families, family) {
        (Families::V4, _) if off => report.ok("IPv6", "is off here: rules for IPv4 suffice"),
        (Families::V4, _) => report.fail(
            "IPv6",
            "is on, and there are rules for IPv4 only: connections by IPv6 go past Postern",
            "`--family auto`, or switch it off: `sysctl -w net.ipv6.conf.all.disable_ipv6=1`",
        ),
        (_, FamilyChoice::V6 | FamilyChoice::Both) if off => report.fail(
            "IPv6",
            "is off here, and rules for it are asked for",
            "`--family auto`, or switch it on: `sysctl -w net.ipv6.conf.all.disable_ipv6=0`",
        ),
        (Families::V6, _) => report.fail(
            "IPv4",
            "is on, and there are rules for IPv6 only: connections by IPv4 go past Postern",
            "`--family auto`",
        ),
        (Families::Both, _) if off => report.ok("IPv6", "is off here; its rules wait for it"),
        (Families::Both, _) if plan.outbound.is_some() && !proc::has_loopback_ipv6() => report.fail(
            "IPv6",
            "is on, but `lo` has no ::1, to which connections would be redirected",
            "`ip -6 addr add ::1/128 dev lo`",
        ),
        (Families::Both, _) => report.ok("IPv6", "is captured as IPv4 is"),
    }
}

/// Where captured connections arrive somebody has to listen, and that has to be Postern.
fn ports(report: &mut Report, plan: &RedirectPlan) {
    let listeners = proc::listeners();
    for family in plan.families.list().iter().filter(|family| **family == Family::V4 || !proc::ipv6_is_off()) {
        let any = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let wanted = [(plan.inbound, any, "inbound"), (plan.outbound, loopback(*family), "outbound")];
        for (port, ip, direction) in wanted {
            let Some(address) = port.map(|port| SocketAddr::new(ip, port)) else { continue };
            let Some(listener) = listeners.iter().find(|listener| listener.takes(address)) else {
                report.warn(
                    "ports",
                    format!("nobody listens at {address}: captured {direction} connections are refused"),
                    "start `postern run` with the file that has this `capture:`",
                );
                continue;
            };
            let process = listener.process().unwrap_or_else(|| "a process".to_owned());
            let who = format!("{process}, uid {}", listener.uid);
            if plan.exempt_uids.is_empty() || plan.exempt_uids.contains(&listener.uid) {
                report.ok("ports", format!("{address} is held by {who} ({direction})"));
            } else {
                report.fail(
                    "ports",
                    format!("{address} ({direction}) is held by {who}, and that user is not exempt"),
                    "stop it if it is not Postern; if it is, name its user in `exempt_users`: its own connections would be \
                     captured again and again",
                );
            }
        }
    }
}

/// An application that runs as an exempt user calls others past Postern (PEERS B21: one container image, one user).
pub(super) fn application(report: &mut Report, plan: &RedirectPlan, wanted: &Wanted, listeners: &[Socket]) {
    for address in wanted.application.iter().filter(|address| !plan.own_ports.contains(&address.port())) {
        let holder = listeners.iter().find(|listener| listener.takes(*address));
        if let Some(listener) = holder.filter(|listener| plan.exempt_uids.contains(&listener.uid)) {
            let process = listener.process().unwrap_or_else(|| "a process".to_owned());
            report.fail(
                "application",
                format!(
                    "{address} is held by {process}, uid {}, and that user is exempt: what it calls goes past Postern",
                    listener.uid
                ),
                "run it as another user, or Postern",
            );
        }
    }
}

fn tools(report: &mut Report, plan: &RedirectPlan) -> bool {
    let mut found: Vec<String> = run("nft", &["--version"], "").is_ok().then(|| "nft".to_owned()).into_iter().collect();
    found.extend(flavours().into_iter().map(str::to_owned));
    if found.is_empty() {
        report.fail("programs", "neither `nft` nor `iptables` is on $PATH", "install nftables, or iptables");
        return false;
    }
    match run("ip", &["-V"], "") {
        Err(error @ HostError::Missing { .. }) if plan.diverts() => {
            report.fail("programs", format!("{error}, which `mode: tproxy` needs"), error.fix());
        }
        _ => report.ok("programs", found.join(", ")),
    }
    true
}

fn capability(report: &mut Report, privilege: Privilege) -> bool {
    if proc::has_capability(proc::CAP_NET_ADMIN) {
        report.ok("capability", "CAP_NET_ADMIN");
        return true;
    }
    let what = "without CAP_NET_ADMIN nobody may read or change rules";
    match privilege {
        Privilege::Mandatory => report.fail("capability", what, crate::redirect::diagnose::Diagnosis::Capability.fix()),
        Privilege::Optional => {
            report.warn("capability", what, "nothing to mend; ask `postern redirect check` where it is there");
        }
    }
    false
}

/// What is installed, against what file and flags say.
fn rules(report: &mut Report, plan: &RedirectPlan, installed: &[Installed]) {
    let backends: std::collections::BTreeSet<String> = installed.iter().map(backend).collect();
    if backends.len() > 1 {
        let names: Vec<&str> = backends.iter().map(String::as_str).collect();
        report.fail("rules", format!("ours are there twice: by {}", names.join(" and ")), INSTALL);
    }
    let before = report.count(crate::cli::doctor::Verdict::Fail);
    for family in plan.families.list() {
        if !installed.iter().any(|one| covers(one, *family)) {
            report.fail("rules", format!("there are none for {family}: its connections go past Postern"), INSTALL);
        }
    }
    for one in installed {
        let (place, difference, text) = match one {
            Installed::Nft { family, listing } => (
                format!("table {family} {}", nft::TABLE),
                compare::tables(&nft::render(plan, family), listing),
                listing,
            ),
            Installed::Iptables { flavour, family, saved } => {
                let difference = compare::sets(&iptables::expected(plan, *family), &iptables::ours(saved));
                (format!("{flavour}, {family}"), difference, saved)
            }
        };
        if !difference.is_none() {
            own_ports(report, plan, text);
            let families = plan.families.list().iter().copied().filter(|family| covers(one, *family));
            names::installed(report, plan, &families.collect::<Vec<_>>(), text, INSTALL);
            report.fail("rules", format!("{place} is not as it should be: {}", told(&difference)), INSTALL);
        }
    }
    if report.count(crate::cli::doctor::Verdict::Fail) == before {
        let names: Vec<&str> = backends.iter().map(String::as_str).collect();
        report.ok("rules", format!("are as they should be, by {}", names.join(" and ")));
    }
}

fn backend(installed: &Installed) -> String {
    match installed {
        Installed::Nft { .. } => Backend::Nft(nft::Layout::Inet).to_string(),
        Installed::Iptables { flavour, .. } => Backend::Iptables(flavour).to_string(),
    }
}

fn covers(installed: &Installed, family: Family) -> bool {
    match installed {
        Installed::Nft { family: table, .. } => match family {
            Family::V4 => table == "ip" || table == "inet",
            Family::V6 => table == "ip6" || table == "inet",
        },
        Installed::Iptables { family: found, .. } => *found == family,
    }
}

/// Rules of before a listener of ours moved take its port for the application's.
fn own_ports(report: &mut Report, plan: &RedirectPlan, text: &str) {
    if plan.inbound.is_none() {
        return;
    }
    let numbers: Vec<&str> = text.split(|character: char| !character.is_ascii_alphanumeric()).collect();
    for port in plan.own_ports.iter().filter(|port| !numbers.contains(&port.to_string().as_str())) {
        report.fail(
            "own ports",
            format!("{port} is Postern's own and is captured: what comes for it is refused"),
            INSTALL,
        );
    }
}

fn told(difference: &Difference) -> String {
    if difference.reordered {
        return "its rules are in another order".to_owned();
    }
    let mut parts = Vec::new();
    for (what, lines) in [("missing", &difference.missing), ("not ours", &difference.extra)] {
        let more = lines.len().saturating_sub(SHOWN_MAX);
        let mut shown: Vec<String> = lines.iter().take(SHOWN_MAX).map(|line| format!("`{line}`")).collect();
        if more > 0 {
            shown.push(format!("{more} more"));
        }
        if !shown.is_empty() {
            parts.push(format!("{what}: {}", shown.join(", ")));
        }
    }
    parts.join("; ")
}

/// TPROXY needs routes, and settings that let marked packets in.
fn routing(report: &mut Report, plan: &RedirectPlan) {
    for family in plan.families.list().iter().filter(|family| **family == Family::V4 || !proc::ipv6_is_off()) {
        match routes::examine(plan, *family) {
            Ok(None) => report.ok("routes", format!("{family}: what is marked is delivered here")),
            Ok(Some(what)) => report.fail("routes", what, INSTALL),
            Err(error) => report.fail("routes", error.to_string(), error.fix()),
        }
    }
    for interface in proc::interfaces().into_iter().filter(|name| name != "lo") {
        let of = |name: &str| {
            let at = |interface: &str| proc::setting(&format!("net/ipv4/conf/{interface}/{name}")).unwrap_or(0);
            at("all").max(at(&interface))
        };
        if of("rp_filter") != 0 && of("src_valid_mark") != 0 {
            report.fail(
                "settings",
                format!(
                    "rp_filter and src_valid_mark are both on for {interface}: marked packets are dropped as martians"
                ),
                format!("`sysctl -w net.ipv4.conf.all.src_valid_mark=0 net.ipv4.conf.{interface}.src_valid_mark=0`"),
            );
        }
    }
}

/// Connections that we make, by family and direction.
pub(super) fn arrivals(report: &mut Report, plan: &RedirectPlan) {
    let own_uid = crate::admin::own_uid().unwrap_or(u32::MAX);
    let may_change = proc::has_capability(proc::CAP_SETUID);
    for family in plan.families.list().iter().filter(|family| **family == Family::V4 || !proc::ipv6_is_off()) {
        if plan.outbound.is_some() {
            let found = probe::outbound(plan, *family, own_uid, may_change);
            arrival(report, &format!("{family}: a connection of another user to elsewhere"), &found);
        }
        if plan.names.is_some() {
            let found = probe::names(plan, *family, own_uid, may_change);
            arrival(report, &format!("{family}: a name query of another user, over TCP"), &found);
        }
        if plan.inbound.is_some() && !plan.exempt_uids.is_empty() {
            let found = probe::ourselves(plan, *family, own_uid, may_change);
            arrival(report, &format!("{family}: a connection of Postern's user to this host"), &found);
        }
    }
}

fn arrival(report: &mut Report, what: &str, found: &Arrival) {
    const SUBJECT: &str = "arrival";
    match found {
        Arrival::Here => report.ok(SUBJECT, format!("{what} arrives")),
        Arrival::AtTheListener => report.ok(SUBJECT, format!("{what} arrives at who listens")),
        Arrival::NoRoute => report.ok(SUBJECT, format!("{what}: there is no route, and nothing to capture")),
        Arrival::NotAsThatUser => report.warn(
            SUBJECT,
            format!("{what} cannot be tried: this process may not become that user"),
            "run it as root, with CAP_SETUID and CAP_SETGID",
        ),
        Arrival::Not(why) => {
            let fix = "`postern redirect check` says whose rules are in the way; then `postern redirect install`";
            report.fail(SUBJECT, format!("{what} does not arrive: {why}"), fix);
        }
    }
}

/// Whose rules take what should come to us; those that drop are told when something does not arrive.
fn others(report: &mut Report, plan: &RedirectPlan, arrived: bool) {
    let mut suspects = Vec::new();
    if let Ok(ruleset) = run("nft", &["-y", "list", "ruleset"], "") {
        suspects.extend(others::in_nft(&ruleset, nft::PRIORITY_NAT));
    }
    for flavour in flavours() {
        for family in plan.families.list() {
            suspects
                .extend(host::saved(flavour, *family).map_or(Vec::new(), |saved| others::in_iptables(&saved, flavour)));
        }
    }
    let closes_input = |suspect: &Suspect| suspect.rule.contains("hook input") || suspect.rule.starts_with(":INPUT");
    suspects.retain(|suspect| suspect.effect == Effect::Diverts || !arrived || closes_input(suspect));
    for suspect in suspects.iter().take(2 * SHOWN_MAX) {
        let Suspect { place, rule, effect } = suspect;
        match effect {
            Effect::Diverts => report.fail(
                "others",
                format!("{place}: `{rule}` comes before ours"),
                "remove it (another mesh's sidecar?), or exclude its ports here",
            ),
            Effect::Drops if arrived => report.warn(
                "others",
                format!("{place}: `{rule}` drops what nothing accepts"),
                match plan.inbound {
                    Some(port) if !plan.diverts() => {
                        format!("let it accept port {port}, where captured connections arrive")
                    }
                    _ => "let it accept the application's ports".to_owned(),
                },
            ),
            Effect::Drops => report.fail(
                "others",
                format!("{place}: `{rule}` may be why it does not arrive"),
                "let it accept our ports before that, or remove it",
            ),
        }
    }
}
