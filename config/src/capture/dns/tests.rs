use super::{Dns, SPECIAL, is_a_name, is_ourselves};
use crate::{Config, Network};
use std::path::Path;
use std::time::Duration;

/// A file with `dns` as the whole of `capture.dns`.
fn file(dns: &str, redirect: &str) -> String {
    format!("capture:\n  outbound: 15001\n  redirect: {redirect}\n  dns: {dns}\n")
}

fn load(text: &str) -> Result<Dns, Vec<String>> {
    match Config::from_str(Path::new("f"), text) {
        Ok(config) => Ok(config.capture.and_then(|capture| capture.dns).expect("a section `dns`")),
        Err(problems) => Err(problems.0.iter().map(|problem| format!("{} {}", problem.place, problem.what)).collect()),
    }
}

const NOTHING: &str = "{ closed_egress: false }";

#[test]
fn what_nobody_wrote_is_the_default() {
    let dns = load(&file("{ listen: 15053 }", NOTHING)).expect("right");
    assert_eq!((dns.listen, dns.ttl, dns.search), (15053, Duration::from_secs(30), None));
    assert_eq!(dns.upstreams, []);
    assert_eq!(dns.virtual_networks, Dns::default_networks());
    assert_eq!(dns.virtual_networks.len(), 2);
    assert_eq!((dns.loopback_nameservers, dns.resolver_users), (None, None));
    let special: Vec<Network> = SPECIAL.iter().filter_map(|text| Network::parse(text).ok()).collect();
    assert_eq!(special.len(), SPECIAL.len());
}

#[test]
fn what_was_written_counts() {
    let text = "{ listen: 5353, upstreams: [10.0.0.2, \"[fd00::2]:5300\"], search: [svc.cluster.local, Local.], \
                virtual_networks: 198.18.0.0/15, ttl: 5s, \
                loopback_nameservers: [127.0.0.53, \"::1\"], resolver_users: systemd-resolve }";
    let dns = load(&file(text, NOTHING)).expect("right");
    assert_eq!(dns.upstreams, ["10.0.0.2:53".parse().unwrap(), "[fd00::2]:5300".parse().unwrap()]);
    assert_eq!(dns.search, Some(vec!["svc.cluster.local".to_owned(), "local".to_owned()]));
    assert_eq!(dns.virtual_networks, [Network::parse("198.18.0.0/15").unwrap()]);
    assert_eq!(dns.loopback_nameservers, Some(vec!["127.0.0.53".parse().unwrap(), "::1".parse().unwrap()]));
    assert_eq!(dns.resolver_users, Some(vec!["systemd-resolve".to_owned()]));
    let written = Config::from_str(Path::new("f"), &file(text, NOTHING)).expect("right");
    let again = Config::from_str(Path::new("f"), &written.to_effective_yaml()).expect("right");
    assert!(again.same_as(&written));
}

#[test]
fn no_nameserver_on_loopback_is_another_thing_than_those_of_the_system() {
    let text = file("{ listen: 53, loopback_nameservers: [], resolver_users: [] }", NOTHING);
    let dns = load(&text).expect("right");
    assert_eq!((dns.loopback_nameservers, dns.resolver_users), (Some(Vec::new()), Some(Vec::new())));
    let written = Config::from_str(Path::new("f"), &text).expect("right");
    let again = Config::from_str(Path::new("f"), &written.to_effective_yaml()).expect("right");
    assert!(again.same_as(&written));
}

/// `dns` begins at 4:8 of the file.
#[test]
fn what_makes_no_sense_is_a_problem() {
    for (dns, redirect, expected) in [
        ("{ ttl: 5s }", NOTHING, "f:4:8 `listen` is missing"),
        ("{ listen: 15001 }", NOTHING, "f:4:18 capture.dns listens on 127.0.0.1:15001, which capture.outbound takes"),
        ("{ listen: 1, ttl: 0s }", NOTHING, "f:4:26 `ttl: 0s` would end everything at once"),
        ("{ listen: 1, ttl: 500ms }", NOTHING, "f:4:26 `ttl` is shorter than a second or longer than an hour"),
        ("{ listen: 1, ttl: 2h }", NOTHING, "f:4:26 `ttl` is shorter than a second or longer than an hour"),
        ("{ listen: 1, upstreams: dns.example }", NOTHING, "f:4:32 `upstreams: dns.example` is not a nameserver's"),
        ("{ listen: 1, upstreams: [] }", NOTHING, "f:4:32 `upstreams` names nobody who could be asked"),
        (
            "{ listen: 1, upstreams: \"127.0.0.1:1\" }",
            NOTHING,
            "f:4:32 the upstream `127.0.0.1:1` is `capture.dns` itself",
        ),
        ("{ listen: 53, upstreams: \"::1\" }", NOTHING, "f:4:33 the upstream `[::1]:53` is `capture.dns` itself"),
        ("{ listen: 1, upstreams: 0.0.0.0 }", NOTHING, "f:4:32 the upstream `0.0.0.0:53` is no address to ask"),
        (
            "{ listen: 1, upstreams: 240.240.0.1 }",
            NOTHING,
            "f:4:32 the upstream `240.240.0.1:53` is in a virtual network",
        ),
        (
            "{ listen: 1, loopback_nameservers: 10.0.0.2 }",
            NOTHING,
            "f:4:43 the nameserver `10.0.0.2` is not on loopback: queries to it are redirected anyway",
        ),
        (
            "{ listen: 53, loopback_nameservers: [127.0.0.53, 127.0.0.1] }",
            NOTHING,
            "f:4:57 the nameserver `127.0.0.1` is `capture.dns` itself",
        ),
        (
            "{ listen: 1, loopback_nameservers: \"127.0.0.53:53\" }",
            NOTHING,
            "f:4:43 `loopback_nameservers: \"127.0.0.53:53\"` is not an address",
        ),
        ("{ listen: 1, resolver_users: -x }", NOTHING, "f:4:37 `resolver_users: -x` is not a user"),
        ("{ listen: 1, search: \"*.a\" }", NOTHING, "f:4:29 `search: \"*.a\"` is not a host's name"),
        ("{ listen: 1, virtual_networks: [] }", NOTHING, "f:4:39 `virtual_networks` has no network"),
        (
            "{ listen: 1, virtual_networks: 10.0.0.0/25 }",
            NOTHING,
            "f:4:39 the virtual network `10.0.0.0/25` is too small",
        ),
        (
            "{ listen: 1, virtual_networks: \"fd00::/97\" }",
            NOTHING,
            "f:4:39 the virtual network `fd00::/97` is too small",
        ),
        ("{ listen: 1, virtual_networks: 127.0.0.0/9 }", NOTHING, "f:4:39 the virtual network `127.0.0.0/9` overlaps"),
        ("{ listen: 1, virtual_networks: 0.0.0.0/0 }", NOTHING, "f:4:39 the virtual network `0.0.0.0/0` overlaps"),
        (
            "{ listen: 1, virtual_networks: [10.0.0.0/16, 10.1.0.0/16] }",
            NOTHING,
            "f:4:53 `10.1.0.0/16` is a second network of its family",
        ),
        (
            "{ listen: 1 }",
            "{ exclude_networks: 240.0.0.0/8 }",
            "f:4:8 `exclude_networks` has `240.0.0.0/8`, and `dns` hands out addresses of `240.240.0.0/12`",
        ),
        (
            "{ listen: 1, virtual_networks: 198.18.0.0/15 }",
            "{ only_networks: 10.0.0.0/8 }",
            "f:4:8 `only_networks` leaves out `198.18.0.0/15`",
        ),
    ] {
        let told = load(&file(dns, redirect)).expect_err(dns);
        assert_eq!(told.len(), 1, "{dns}: {told:?}");
        assert!(told[0].starts_with(expected), "{dns}: {told:?}");
    }
}

#[test]
fn addresses_that_nobody_could_reach_are_a_problem() {
    let told = load("capture: { inbound: 15006, dns: { listen: 1 } }").expect_err("no outbound");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("f:1:33 `dns` hands out addresses that captured connections alone reach"), "{told:?}");
}

#[test]
fn virtual_networks_hold_all_hosts_and_no_endpoint() {
    let with = |count: usize, endpoint: &str| {
        let hosts: Vec<String> = (0..count).map(|number| format!("h{number}")).collect();
        format!(
            "{}outbound: {{ services: [{{ name: a, protocol: tcp, hosts: [{}], endpoints: [\"{endpoint}\"], \
             identity: spiffe://td/a }}] }}\n",
            file("{ listen: 1, virtual_networks: 10.0.0.0/24 }", NOTHING),
            hosts.join(", ")
        )
    };
    assert!(load(&with(128, "10.1.0.1:1")).is_ok());
    let told = load(&with(129, "10.1.0.1:1")).expect_err("too many");
    assert_eq!(told, ["f:4:8 the virtual network `10.0.0.0/24` is too small for 129 hosts"]);
    let addresses = with(1, "10.1.0.1:1").replace("protocol: tcp", "protocol: tcp, addresses: 10.0.0.7");
    let told = load(&addresses).expect_err("taken");
    assert_eq!(told, ["f:5:24 service `a` has the address 10.0.0.7 in a virtual network"]);
    let told = load(&with(1, "10.0.0.1:1")).expect_err("hidden");
    assert_eq!(told, ["f:5:24 service `a` has the endpoint 10.0.0.1:1 in a virtual network"]);
}

#[test]
fn hosts_of_tcp_services_need_a_name_capture_or_a_listener() {
    let service = "outbound: { services: [{ name: a, hosts: db.shop, protocol: tcp, identity: spiffe://td/a }] }\n";
    assert!(load(&format!("{}{service}", file("{ listen: 1 }", NOTHING))).is_ok());
    assert!(Config::from_str(Path::new("f"), service).is_err());
}

#[test]
fn we_are_the_loopback_addresses_that_we_listen_on() {
    for (upstream, expected) in [
        ("127.0.0.1:15053", true),
        ("[::1]:15053", true),
        ("[::ffff:127.0.0.1]:15053", true),
        ("0.0.0.0:15053", true),
        ("127.0.0.53:15053", false),
        ("127.0.0.1:53", false),
        ("10.0.0.1:15053", false),
    ] {
        assert_eq!(is_ourselves(upstream.parse().unwrap(), 15053), expected, "{upstream}");
    }
}

#[test]
fn addresses_are_no_names() {
    for (host, expected) in [("a.b", true), ("1.2.3", true), ("1.2.3.4", false), ("[::1]", false), ("::1", false)] {
        assert_eq!(is_a_name(host), expected, "{host}");
    }
}
