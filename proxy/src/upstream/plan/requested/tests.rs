use super::{Requested, address_of};
use crate::policy::Policy;
use crate::telemetry::Metrics;
use crate::upstream::discovery::EndpointSource;
use postern_config::{Config, SpiffeId};
use std::net::SocketAddr;
use std::path::Path;

const SERVICES: &str = "
capture: { outbound: 15001 }
outbound:
  services:
  - { name: plain, hosts: [plain.shop, 192.0.2.9], tls: 'off' }
  - { name: passed, hosts: ['*.passed.shop'], tls: 'off', protocol: tls }
  - { name: placed, hosts: [placed.shop], addresses: [10.1.0.0/16], tls: 'off' }
  - { name: everything, hosts: ['**'], tls: 'off' }
  - { name: mesh, hosts: [mesh.shop], identity: 'spiffe://td/mesh' }
  - { name: template, hosts: ['*.{ns}.svc'], identity: 'spiffe://td/{ns}' }
  - { name: web, hosts: [web.shop], tls: web }
  - { name: own, hosts: [own.shop], listen: '127.0.0.1:1', endpoints: ['10.0.0.1:1'], identity: 'spiffe://td/own' }
";

fn policy() -> Policy {
    let config = Config::from_str(Path::new("f"), SERVICES).expect("right");
    Policy::compile(&config, None, &Metrics::new()).expect("compiled")
}

/// Where a captured connection to `original` goes that names `host`, by the service of that host.
fn goes_to(policy: &Policy, host: &str, original: &str) -> String {
    let original: SocketAddr = original.parse().expect("an address");
    let service = policy.services.by_host(host).expect("declared");
    let requested = Requested { host: Some(host), port: Some(original.port()), original: Some(original) };
    let narrowed = service.narrowed(requested);
    match service.instance(narrowed).map(|plan| plan.source) {
        Some(EndpointSource::Static(addresses)) => addresses[0].to_string(),
        Some(EndpointSource::Dns { host, port, of_template: true }) => format!("the name {host}, {port}"),
        Some(other) => format!("{other:?}"),
        None => "refused".to_owned(),
    }
}

#[test]
fn nw_06_what_proves_nothing_goes_where_the_file_says_and_not_where_it_was_meant_to_go() {
    let policy = policy();
    for (host, original, expected) in [
        // One true name is no way to every address.
        ("plain.shop", "203.0.113.6:80", "the name plain.shop, 80"),
        ("a.passed.shop", "203.0.113.6:443", "the name a.passed.shop, 443"),
        ("any.example", "203.0.113.6:80", "the name any.example, 80"),
        ("placed.shop", "203.0.113.6:80", "the name placed.shop, 80"),
        // The file names it.
        ("placed.shop", "10.1.2.3:8080", "10.1.2.3:8080"),
        ("192.0.2.9", "203.0.113.6:80", "192.0.2.9:80"),
        // Never an address out of `Host`.
        ("192.0.2.7", "203.0.113.6:80", "203.0.113.6:80"),
    ] {
        let reached = goes_to(&policy, host, original);
        assert_eq!(reached, expected, "{host} at {original}");
    }
}

#[test]
fn nw_06_who_proves_who_it_is_may_be_anywhere() {
    let policy = policy();
    for host in ["mesh.shop", "x.shop.svc", "web.shop"] {
        let reached = goes_to(&policy, host, "203.0.113.6:80");
        assert!(reached.starts_with("203.0.113.6:"), "{host}: {reached}");
    }
}

#[test]
fn nw_03_a_host_or_destination_of_a_metadata_service_is_refused() {
    let policy = policy();
    for host in ["169.254.169.254", "127.0.0.1", "100.100.100.200"] {
        let service = policy.services.by_host(host).expect("`**`");
        assert!(service.instance(Requested { host: Some(host), ..Requested::default() }).is_none(), "{host}");
    }
    for original in ["169.254.169.254:80", "[fd00:ec2::254]:80", "[::ffff:169.254.169.254]:80"] {
        for host in ["mesh.shop", "web.shop", "x.shop.svc", "9.9.9.9"] {
            assert_eq!(goes_to(&policy, host, original), "refused", "{host} at {original}");
        }
    }
}

#[test]
fn expects_who_the_host_promises() {
    let policy = policy();
    let expects = |service: &str, host: &str, id: &str| {
        let service = policy.services.by_name(service).expect("declared");
        service.expects(host, &SpiffeId::parse(id).expect("an ID"))
    };
    assert!(expects("mesh", "mesh.shop", "spiffe://td/mesh"));
    assert!(expects("own", "of its own listener", "spiffe://td/own"));
    assert!(!expects("mesh", "mesh.shop", "spiffe://td/other"));
    assert!(expects("template", "a.shop.svc", "spiffe://td/shop"));
    assert!(!expects("template", "a.shop.svc", "spiffe://td/other"));
    assert!(!expects("template", "elsewhere", "spiffe://td/shop"));
    assert!(!expects("plain", "plain.shop", "spiffe://td/mesh"));
}

#[test]
fn nw_04_reads_hosts_that_are_addresses() {
    for (host, expected) in [
        ("10.0.0.1", Some("10.0.0.1")),
        ("[fd77::1]", Some("fd77::1")),
        ("[::ffff:169.254.169.254]", Some("169.254.169.254")),
        ("2852039166", None),
        ("0x7f.1", None),
        ("[fe80::1%eth0]", None),
        ("shop", None),
    ] {
        assert_eq!(address_of(host), expected.map(|text| text.parse().expect("an address")), "{host}");
    }
}
