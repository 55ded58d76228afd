use super::{Decision, Reachable, decide};
use crate::dns::DnsPlan;
use crate::dns::forward::Forwarder;
use crate::dns::names::Names;
use crate::dns::virtual_addresses::VirtualAddresses;
use crate::dns::wire::tests::{message, query};
use crate::dns::wire::{Query, kind};
use crate::telemetry::DnsResult;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use postern_config::{Config, Dns};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SERVICES: &str = "
capture: { outbound: 15001, dns: { listen: 15053 } }
outbound:
  services:
  - { name: db, hosts: [db.shop], protocol: tcp, identity: spiffe://td/db }
  - { name: mesh, hosts: [\"*.mesh\"], identity: spiffe://td/mesh }
";

fn plan() -> DnsPlan {
    let config = Config::from_str(Path::new("f"), SERVICES).expect("right");
    let names = Arc::new(Names::compile(&config.outbound.services, vec!["cluster.local".to_owned()]));
    let addresses = Arc::new(VirtualAddresses::compile(&Dns::default_networks(), names.clone(), None));
    let forwarder = Arc::new(Forwarder::new(Vec::new(), NonZeroU32::MIN));
    DnsPlan { names, addresses, ttl: Duration::from_secs(30), forwarder }
}

const BOTH: Reachable = Reachable { v4: true, v6: true };

/// What is answered: the code and the records' types. `None`: it is not decided here.
fn answered(query: &Query, reachable: Reachable) -> Option<(ResponseCode, Vec<RecordType>, DnsResult)> {
    let Decision::Answer(bytes, result) = decide(&plan(), query, reachable) else { return None };
    let parsed = Message::from_vec(&bytes).expect("well-formed");
    let kinds = parsed.answers.iter().map(|record| record.record_type()).collect();
    Some((parsed.metadata.response_code, kinds, result))
}

#[test]
fn declared_hosts_have_addresses_and_nothing_else() {
    const HTTPS: u16 = 65;
    const MX: u16 = 15;
    const TXT: u16 = 16;
    let (declared, expansion) = (DnsResult::Declared, DnsResult::Expansion);
    for (host, kind, expected) in [
        ("db.shop", kind::A, Some((ResponseCode::NoError, vec![RecordType::A], declared))),
        ("db.shop", kind::AAAA, Some((ResponseCode::NoError, vec![RecordType::AAAA], declared))),
        ("db.shop", kind::ANY, Some((ResponseCode::NoError, vec![RecordType::A, RecordType::AAAA], declared))),
        ("db.shop", HTTPS, Some((ResponseCode::NoError, vec![], declared))),
        ("db.shop", MX, Some((ResponseCode::NoError, vec![], declared))),
        ("db.shop", TXT, Some((ResponseCode::NoError, vec![], declared))),
        ("db.shop.cluster.local", kind::A, Some((ResponseCode::NXDomain, vec![], expansion))),
        ("db.shop.cluster.local", kind::AAAA, Some((ResponseCode::NXDomain, vec![], expansion))),
        ("example.com", kind::A, None),
        ("_tcp.db.shop", kind::A, None),
        ("db shop", kind::A, None),
    ] {
        assert_eq!(answered(&query(host, kind), BOTH), expected, "{host} {kind}");
    }
    let mut chaos = message(0, [1, 0, 0, 0], "db.shop", kind::A, &[]);
    *chaos.last_mut().expect("a class") = 3;
    assert_eq!(decide(&plan(), &Query::read(&chaos).expect("a query"), BOTH), Decision::Forward);
}

#[test]
fn an_address_without_a_route_is_not_given_unless_none_has_one() {
    for (v4, v6, of_a, of_aaaa) in [(true, true, 1, 1), (true, false, 1, 0), (false, true, 0, 1), (false, false, 1, 1)]
    {
        let reachable = Reachable { v4, v6 };
        for (kind, expected) in [(kind::A, of_a), (kind::AAAA, of_aaaa)] {
            let (code, found, _) = answered(&query("db.shop", kind), reachable).expect("answered");
            assert_eq!((code, found.len()), (ResponseCode::NoError, expected), "{reachable:?} {kind}");
        }
    }
}

#[test]
fn a_pattern_s_host_is_looked_for_once_and_then_known() {
    let plan = plan();
    let asked = query("web.mesh", kind::A);
    let Decision::Assign(named, _) = decide(&plan, &asked, BOTH) else { panic!("not to be assigned") };
    assert_eq!((&*named.service, &*named.host), ("mesh", "web.mesh"));
    plan.addresses.assign(&named.host).expect("room");
    assert!(matches!(decide(&plan, &asked, BOTH), Decision::Answer(_, DnsResult::Declared)));
}

#[test]
fn the_name_of_a_virtual_address_is_its_host() {
    let plan = plan();
    let [a, b, c, d] = plan.addresses.of("db.shop").and_then(|found| found.v4).expect("declared").octets();
    let reverse = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
    for (host, kind, expected) in [
        (reverse.as_str(), kind::PTR, Some((ResponseCode::NoError, vec![RecordType::PTR], DnsResult::Declared))),
        (&reverse, kind::A, Some((ResponseCode::NoError, vec![], DnsResult::Declared))),
        ("1.0.240.240.in-addr.arpa", kind::PTR, Some((ResponseCode::NXDomain, vec![], DnsResult::Declared))),
        ("1.0.0.10.in-addr.arpa", kind::PTR, None),
    ] {
        assert_eq!(answered(&query(host, kind), BOTH), expected, "{host}");
    }
}
