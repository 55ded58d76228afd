use super::{Families, HostFacts, Interface, PlanError, RedirectPlan, Wanted};
use crate::redirect::names::WantedNames;
use crate::redirect::proc::Socket;
use postern_config::{Capture, CaptureMode, Config, Network};
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
use std::path::Path;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\npostern:x:1337:1337::/:/usr/sbin/nologin\n";
const RESOLV_CONF: &str = "nameserver 10.96.0.10\n";

pub(crate) fn config(redirect: &str) -> Config {
    let redirect: String = redirect.lines().map(|line| format!("    {}\n", line.trim())).collect();
    let text = format!(
        "inbound:\n  - port: 8080\n    listen: 0.0.0.0:8443\n    allow: [{{ spiffe: spiffe://shop.example/web }}]\n    \
         app: 10.0.0.5:8080\ncapture:\n  inbound: 15006\n  outbound: 15001\n  redirect:\n{redirect}"
    );
    Config::from_str(Path::new("test.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

pub(crate) fn facts(families: Families) -> HostFacts<'static> {
    HostFacts { passwd: PASSWD, resolv_conf: RESOLV_CONF, nameservers: &[], uid: 0, families, tcp_be_liberal: false }
}

pub(crate) fn plan(redirect: &str) -> RedirectPlan {
    let wanted = Wanted::of_file(&config(redirect)).unwrap();
    RedirectPlan::new(&wanted, facts(Families::Both)).unwrap()
}

/// Every key at once, and TPROXY.
pub(crate) fn full(families: Families) -> RedirectPlan {
    let mut wanted = Wanted::of_file(&config(
        "exempt_users: [postern, 77]\n  inbound_ports: [8080, 9090]\n  exclude_inbound_ports: 22\n  outbound_ports: [443, \
         80]\n  exclude_outbound_ports: [5432, 3306]\n  only_networks: [10.96.0.0/12, 10.96.1.0/24, fd00::/8]\n  \
         exclude_networks: [10.97.0.0/16, 2001:db8::1]\n  exclude_interfaces: docker0\n  closed_egress: true",
    ))
    .unwrap();
    wanted.capture.mode = CaptureMode::Tproxy;
    wanted.names = Some(WantedNames { port: 15053, ..WantedNames::default() });
    let nameservers = [socket("127.0.0.53:53", 101), socket("[::1]:53", 0)];
    let resolv_conf = "nameserver 127.0.0.53\nnameserver ::1\n";
    RedirectPlan::new(&wanted, HostFacts { resolv_conf, nameservers: &nameservers, ..facts(families) }).unwrap()
}

fn socket(address: &str, uid: u32) -> Socket {
    Socket { address: address.parse().unwrap(), uid, inode: 0 }
}

fn refused(change: impl FnOnce(&mut Wanted)) -> PlanError {
    let mut wanted = Wanted::of_file(&config("exempt_users: postern")).unwrap();
    change(&mut wanted);
    RedirectPlan::new(&wanted, facts(Families::Both)).unwrap_err()
}

fn change(edit: impl FnOnce(&mut Capture)) -> PlanError {
    refused(|wanted| edit(&mut wanted.capture))
}

#[test]
fn refuses_what_would_capture_nothing_or_ourselves() {
    let found = [
        change(|capture| (capture.inbound, capture.outbound) = (None, None)),
        change(|capture| capture.outbound = capture.inbound),
        change(|capture| capture.redirect.exempt_users = vec!["postren".to_owned()]),
        change(|capture| capture.redirect.exempt_users.clear()),
        change(|capture| capture.redirect.exclude_interfaces = vec!["eth0; drop".to_owned()]),
        change(|capture| capture.redirect.inbound_ports = postern_config::capture::Ports::Only(vec![8080, 15020])),
    ];
    let expected = [
        PlanError::NothingCaptured,
        PlanError::SamePort(15006),
        PlanError::UnknownUser("postren".to_owned()),
        PlanError::NobodyExempt,
        PlanError::Interface("eth0; drop".to_owned()),
        PlanError::OwnPort(15020),
    ];
    assert_eq!(found, expected);
}

#[test]
fn resolves_users_and_exempts_whoever_runs_it_but_root() {
    assert_eq!(plan("exempt_users: [postern, 7, 7]").exempt_uids, [7, 1337]);
    let wanted = Wanted::without_a_file();
    let as_user = HostFacts { uid: 1000, ..facts(Families::V4) };
    assert_eq!(RedirectPlan::new(&wanted, as_user).unwrap().exempt_uids, [1000]);
    assert_eq!(RedirectPlan::new(&wanted, facts(Families::V4)), Err(PlanError::NobodyExempt));
}

#[test]
fn every_port_of_our_own_is_left_alone() {
    let plan = plan("exempt_users: 7\n  exclude_inbound_ports: 22");
    assert_eq!(plan.own_ports, [8443, 15001, 15006, 15020, 15021]);
    assert_eq!(plan.inbound_left_alone, [22, 8443, 15001, 15006, 15020, 15021]);
    for (port, expected) in [(8080, true), (22, false), (15020, false)] {
        assert_eq!(plan.captures_inbound(port), expected, "{port}");
    }
}

#[test]
fn name_queries_over_tcp_are_left_alone_unless_listed() {
    assert_eq!(plan("exempt_users: 7\nexclude_outbound_ports: 25").outbound_left_alone, [25, 53]);
    assert!(plan("exempt_users: 7\noutbound_ports: [53, 80]").outbound_left_alone.is_empty());
    assert_eq!(plan("exempt_users: 7\nexclude_outbound_ports: 25").open_ports(), [25, 53]);
    assert_eq!(full(Families::Both).open_ports(), [3306, 5432]);
}

#[test]
fn virtual_addresses_are_captured_where_only_some_networks_are() {
    let text = "capture:\n  outbound: 15001\n  dns: { listen: 15053, virtual_networks: [240.240.0.0/16] }\n  \
                redirect: { exempt_users: 7 }\n";
    let config = Config::from_str(Path::new("test.yaml"), text).unwrap_or_else(|problems| panic!("{problems}"));
    let mut wanted = Wanted::of_file(&config).unwrap();
    wanted.capture.redirect.only_networks = vec![Network::parse("10.0.0.0/8").unwrap()];
    let plan = RedirectPlan::new(&wanted, facts(Families::Both)).unwrap();
    assert_eq!(plan.names.as_ref().map(|names| names.port), Some(15053));
    assert!(plan.captures_outbound("240.240.0.1:80".parse().unwrap()));
    assert!(!plan.captures_outbound("192.0.2.1:80".parse().unwrap()));
}

#[test]
fn networks_that_lie_in_another_are_not_repeated() {
    let shown: Vec<String> = full(Families::Both).only_networks.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.96.0.0/12", "fd00::/8"]);
}

#[test]
fn nobody_is_exempt_from_the_probe_s_destination() {
    let exempting = ["meta mark 0x0000504f return", "meta skuid { 77, 1337 } return", "--uid-owner 77 -j RETURN"];
    for text in texts(&full(Families::Both)) {
        let probes: Vec<usize> = text.match_indices("dport 20560 ").map(|(at, _)| at).collect();
        let first = exempting.iter().filter_map(|rule| text.rfind(rule)).min().expect("somebody is exempt");
        assert!(!probes.is_empty() && probes[0] < first, "{text}");
    }
    let inbound_only = RedirectPlan { outbound: None, ..full(Families::Both) };
    assert!(texts(&inbound_only).iter().all(|text| !text.contains("20560")));
}

#[test]
fn the_two_marks_differ() {
    for (mark, expected) in [(0x504f, 0x5050), (u32::MAX, 1)] {
        let plan = RedirectPlan { mark: mark.try_into().unwrap(), ..full(Families::Both) };
        assert_eq!(plan.divert_mark().get(), expected);
    }
}

/// Both packet filters' notations, for whatever somebody might write in a file.
pub(crate) fn texts(plan: &RedirectPlan) -> [String; 4] {
    use crate::redirect::{Family, iptables, nft};
    [
        nft::install(plan, nft::Layout::Inet, &[]),
        nft::install(plan, nft::Layout::Split, &["inet".to_owned()]),
        iptables::install(plan, Family::V4, ""),
        iptables::install(plan, Family::V6, ""),
    ]
}

proptest! {
    /// What free text there is in a plan comes out as one word or not at all.
    #[test]
    fn no_text_of_a_configuration_gets_into_the_rules(text in "\\PC{0,20}|[a-z0-9;{}\"'\\\\ \n*+!,/-]{1,15}") {
        if let Ok(interface) = Interface::parse(&text) {
            let harmless = |character: char| character.is_ascii_alphanumeric() || "_-.@".contains(character);
            prop_assert!(text.chars().all(harmless) && !text.starts_with('-') && text.len() <= 15);
            let before = full(Families::Both);
            let lines = |plan: &RedirectPlan| texts(plan).map(|text| text.lines().count());
            let after = RedirectPlan { excluded_interfaces: vec![interface], ..before.clone() };
            prop_assert_eq!(lines(&before), lines(&after));
        }
        let mut wanted = Wanted::of_file(&config("exempt_users: postern")).unwrap();
        wanted.capture.redirect.exempt_users = vec![text.clone()];
        match RedirectPlan::new(&wanted, facts(Families::Both)) {
            // A number, or a name that /etc/passwd has: only the number goes on.
            Ok(plan) => prop_assert!(plan.exempt_uids == [1337] || plan.exempt_uids == [0] || text.parse::<u32>().is_ok()),
            Err(error) => prop_assert_eq!(error, PlanError::UnknownUser(text)),
        }
    }
}
