use super::{Addresses, GUESTS_MAX, KEPT_SECONDS, VirtualAddresses};
use crate::dns::names::Names;
use postern_config::{Config, Dns, Network};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// One service for each host, and a pattern.
fn names<'h>(hosts: impl IntoIterator<Item = &'h str>) -> Arc<Names> {
    let mut text = "capture: { outbound: 1, dns: { listen: 2 } }\noutbound:\n  services:\n".to_owned();
    for (number, host) in hosts.into_iter().enumerate() {
        let named = host.replace(['*', '.'], "-");
        text += &format!("  - {{ name: s{number}-{named}, hosts: [\"{host}\"], identity: spiffe://td/a }}\n");
    }
    let config = Config::from_str(Path::new("f"), &text).expect("right");
    Arc::new(Names::compile(&config.outbound.services, Vec::new()))
}

fn compile(hosts: &[&str], previous: Option<&VirtualAddresses>) -> VirtualAddresses {
    VirtualAddresses::compile(&Dns::default_networks(), names(hosts.iter().copied()), previous)
}

fn small() -> Vec<Network> {
    vec![Network::parse("10.0.0.0/24").expect("a network")]
}

#[test]
fn an_address_follows_from_its_host() {
    let one = compile(&["a.example", "b.example"], None);
    let other = compile(&["b.example", "c.example", "a.example"], None);
    for host in ["a.example", "b.example"] {
        let addresses = one.of(host).expect("declared");
        assert_eq!(Some(addresses), other.of(host));
        assert!(addresses.v4.is_some() && addresses.v6.is_some());
    }
    // What an application remembers from an earlier release has to stay right.
    let addresses: Vec<String> = one.of("a.example").expect("declared").iter().map(|it| it.to_string()).collect();
    assert_eq!(addresses, ["240.244.116.249", "fd1c:ca81:406d:0:e796:8062:2de0:b541"]);
}

#[test]
fn an_address_means_its_host_and_service() {
    let addresses = compile(&["a.example", "b.example"], None);
    for (host, service) in [("a.example", "s0-a-example"), ("b.example", "s1-b-example")] {
        for address in addresses.of(host).expect("declared").iter() {
            let found = addresses.service_of(address).expect("known");
            assert_eq!((&*found.0, &*found.1), (service, host));
            assert!(addresses.is_virtual(address));
        }
    }
    let v4 = addresses.of("a.example").and_then(|found| found.v4).expect("a v4 address");
    assert!(addresses.service_of(IpAddr::V6(v4.to_ipv6_mapped())).is_some());
    for other in ["10.0.0.1", "240.240.0.1", "fd1c:ca81:406d::1"] {
        assert_eq!(addresses.service_of(other.parse().expect("an address")), None, "{other}");
    }
    assert!(addresses.is_virtual("240.240.0.1".parse().expect("an address")));
    assert!(!addresses.is_virtual("10.0.0.1".parse().expect("an address")));
    assert_eq!(addresses.of("c.example"), None);
}

#[test]
fn two_hosts_that_want_one_address_get_two_and_keep_them() {
    let hosts: Vec<String> = (0..128).map(|number| format!("h{number}.example")).collect();
    let all = VirtualAddresses::compile(&small(), names(hosts.iter().map(String::as_str)), None);
    let distinct: HashSet<IpAddr> = hosts.iter().flat_map(|host| all.of(host).expect("declared").iter()).collect();
    assert_eq!(distinct.len(), hosts.len());
    let ends = ["10.0.0.0", "10.0.0.255"].map(|text| text.parse::<IpAddr>().expect("an address"));
    assert!(ends.iter().all(|end| !distinct.contains(end)));

    // The same again, whatever the order; and after a reload each host has what it had, with fewer or more beside it.
    let again = VirtualAddresses::compile(&small(), names(hosts.iter().rev().map(String::as_str)), None);
    let fewer = VirtualAddresses::compile(&small(), names(hosts.iter().skip(64).map(String::as_str)), Some(&all));
    let more = VirtualAddresses::compile(&small(), names(hosts.iter().map(String::as_str)), Some(&fewer));
    for (number, host) in hosts.iter().enumerate() {
        assert_eq!(again.of(host), all.of(host));
        if number >= 64 {
            assert_eq!((fewer.of(host), more.of(host)), (all.of(host), all.of(host)));
        }
    }
}

#[test]
fn other_networks_give_other_addresses() {
    let before = compile(&["a.example"], None);
    let after = VirtualAddresses::compile(&small(), names(["a.example"]), Some(&before));
    let addresses = after.of("a.example").expect("declared");
    assert_eq!(addresses.v6, None);
    assert!(addresses.v4.is_some_and(|address| small()[0].contains(IpAddr::V4(address))));
}

#[test]
fn a_pattern_s_host_has_an_address_when_it_is_asked_for() {
    let addresses = compile(&["*.shop", "a.example"], None);
    let host: Arc<str> = Arc::from("web.shop");
    assert_eq!(addresses.of_guest(&host), None);
    let given = addresses.assign(&host).expect("room");
    assert_eq!((addresses.assign(&host), addresses.of_guest(&host)), (Some(given), Some(given)));
    for address in given.iter() {
        let found = addresses.service_of(address).expect("known");
        assert_eq!((&*found.0, &*found.1), ("s0---shop", "web.shop"));
    }

    // It keeps it over a reload, also while the older policy is still in use; and without its pattern it means nothing.
    let reloaded = compile(&["a.example", "*.shop"], Some(&addresses));
    let v4 = IpAddr::V4(given.v4.expect("a v4 address"));
    assert_eq!(reloaded.service_of(v4).map(|found| found.0.to_string()).as_deref(), Some("s1---shop"));
    assert_eq!(compile(&["a.example"], Some(&reloaded)).service_of(v4), None);
}

#[test]
fn a_host_that_is_written_out_takes_its_place_back() {
    let all: Vec<String> = (0..100).map(|number| format!("h{number}.example")).collect();
    let before = VirtualAddresses::compile(&small(), names(["*.shop"]), None);
    let guest: Arc<str> = Arc::from("web.shop");
    let address = IpAddr::V4(before.assign(&guest).and_then(|given| given.v4).expect("room"));
    let hosts = all.iter().map(String::as_str).chain(["*.shop"]);
    let after = VirtualAddresses::compile(&small(), names(hosts), Some(&before));
    let given = after.assign(&guest).and_then(|given| given.v4).expect("room");
    match after.by_address.get(&address) {
        Some(_) => assert_ne!(IpAddr::V4(given), address),
        None => assert_eq!(IpAddr::V4(given), address),
    }
    assert_eq!(after.service_of(IpAddr::V4(given)).map(|found| found.1), Some(guest));
}

#[test]
fn a_full_table_gives_up_what_nobody_used_and_nothing_else() {
    let addresses = compile(&["**.shop"], None);
    let host = |number: usize| -> Arc<str> { Arc::from(format!("h{number}.shop")) };
    for number in 0..GUESTS_MAX {
        assert!(addresses.assign_at(&host(number), 0).is_some());
    }
    let late = host(GUESTS_MAX);
    assert_eq!(addresses.assign_at(&late, KEPT_SECONDS), None);
    assert_eq!(addresses.counts(), (0, GUESTS_MAX));
    let used = addresses.assign_at(&host(7), KEPT_SECONDS).expect("there");
    assert!(addresses.assign_at(&late, KEPT_SECONDS + 1).is_some());
    assert_eq!(addresses.of_guest(&host(7)), Some(used));
    assert!(addresses.counts().1 < GUESTS_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn addresses_are_in_their_networks_and_mean_one_host_each(
        prefix in 8_u8..=24,
        first in any::<[u8; 4]>(),
        hosts in proptest::collection::hash_set("[a-z]{1,8}\\.[a-z]{1,3}", 1..60),
    ) {
        let mask = u32::MAX << (32 - prefix);
        let network = IpAddr::from((u32::from_be_bytes(first) & mask).to_be_bytes());
        let networks = [Network::parse(&format!("{network}/{prefix}")).expect("a network")];
        let addresses = VirtualAddresses::compile(&networks, names(hosts.iter().map(String::as_str)), None);
        for host in &hosts {
            let Addresses { v4: Some(v4), v6: None } = addresses.of(host).expect("declared") else { panic!("{host}") };
            prop_assert!(networks[0].contains(IpAddr::V4(v4)));
            let (_, found) = addresses.service_of(IpAddr::V4(v4)).expect("known");
            prop_assert_eq!(&*found, host.as_str());
        }
    }
}
