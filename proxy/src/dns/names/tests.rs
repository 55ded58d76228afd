use super::{Existence, Meaning, Named, Names, reversed_address};
use postern_config::Config;
use proptest::prelude::{any, prop_assert_eq, proptest};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// Services of a file, and the search list of a pod in the namespace `default`.
const SERVICES: &str = "
capture: { outbound: 15001, dns: { listen: 15053 } }
outbound:
  services:
  - { name: payments, hosts: [payments.shop.svc], protocol: tcp, identity: spiffe://td/payments }
  - { name: redis, hosts: [Redis, cache.example], endpoints: [\"10.0.0.7:6379\"], identity: spiffe://td/redis }
  - { name: both, hosts: [both.shop.svc, both.shop.svc.cluster.local], identity: spiffe://td/both }
  - { name: mesh, hosts: [\"*.{ns}.svc.cluster.local\"], identity: \"spiffe://td/{ns}\" }
  - { name: dbs, hosts: [\"**.db.internal\"], endpoints: [\"10.0.0.8:1\"], identity: spiffe://td/dbs }
  - { name: number, hosts: [10.1.2.3, \"[::1]\"], identity: spiffe://td/n }
";
const SEARCH: [&str; 4] = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "prod.db.internal"];

fn names() -> Names {
    let config = Config::from_str(Path::new("f"), SERVICES).expect("right");
    Names::compile(&config.outbound.services, SEARCH.map(str::to_owned).to_vec())
}

fn named(service: &str, host: &str) -> Named {
    Named { service: Arc::from(service), host: Arc::from(host) }
}

#[test]
fn names_mean_services_expansions_or_nothing() {
    let names = names();
    for (host, expected, why) in [
        ("payments.shop.svc", Meaning::Declared(named("payments", "payments.shop.svc")), "written out"),
        ("redis", Meaning::Declared(named("redis", "redis")), "one label, written in another case"),
        ("cache.example", Meaning::Declared(named("redis", "cache.example")), "another host of a service"),
        ("payments.shop.svc.default.svc.cluster.local", Meaning::Expansion, "the first of the search list"),
        ("payments.shop.svc.svc.cluster.local", Meaning::Expansion, "the second"),
        (
            "redis.default.svc.cluster.local",
            Meaning::Declared(named("redis", "redis")),
            "expansion and pattern at once",
        ),
        ("redis.cluster.local", Meaning::Expansion, "an expansion alone"),
        ("payments.shop.svc.cluster.local", Meaning::Declared(named("payments", "payments.shop.svc")), "so is this"),
        (
            "both.shop.svc.cluster.local",
            Meaning::Declared(named("both", "both.shop.svc.cluster.local")),
            "both are written out",
        ),
        (
            "orders.shop.svc.cluster.local",
            Meaning::OfPattern(named("mesh", "orders.shop.svc.cluster.local"), Existence::Upstream),
            "of a pattern, and the search could have made it up",
        ),
        (
            "example.com.svc.cluster.local",
            Meaning::OfPattern(named("mesh", "example.com.svc.cluster.local"), Existence::Upstream),
            "made up by the search, as it happens",
        ),
        (
            "a.b.db.internal",
            Meaning::OfPattern(named("dbs", "a.b.db.internal"), Existence::ByItself),
            "the service has endpoints, and no search leads here",
        ),
        (
            "example.com.prod.db.internal",
            Meaning::OfPattern(named("dbs", "example.com.prod.db.internal"), Existence::Upstream),
            "the service has endpoints, and a search leads here",
        ),
        ("db.internal", Meaning::Other, "`**` stands for one label at least"),
        ("example.com", Meaning::Other, "nobody declared it"),
        ("payments.shop.svc.elsewhere", Meaning::Other, "no domain of the search list"),
        ("xpayments.shop.svc", Meaning::Other, "another name"),
        ("payments.shop.svc.xcluster.local", Meaning::Other, "a domain begins at a dot"),
        ("cluster.local", Meaning::Other, "a domain alone"),
        ("10.1.2.3", Meaning::Other, "an address is not asked for"),
        ("", Meaning::Other, "the root"),
    ] {
        assert_eq!(names.meaning(host), expected, "{host}: {why}");
    }
}

/// The candidates of a resolver in its order (resolv.conf(5), `ndots`), until one has an address or the search ends.
fn resolve(names: &Names, typed: &str, ndots: usize, upstream: &[&str]) -> Option<String> {
    let expansions = SEARCH.iter().map(|domain| format!("{typed}.{domain}"));
    let as_is = std::iter::once(typed.to_owned());
    let candidates: Vec<String> = match typed.matches('.').count() >= ndots {
        true => as_is.chain(expansions).collect(),
        false => expansions.chain(as_is).collect(),
    };
    candidates.into_iter().find_map(|candidate| match names.meaning(&candidate) {
        Meaning::Declared(named) => Some(named.host.to_string()),
        Meaning::OfPattern(named, Existence::ByItself) => Some(named.host.to_string()),
        Meaning::Expansion => None,
        Meaning::OfPattern(..) | Meaning::Other => upstream.contains(&candidate.as_str()).then_some(candidate),
    })
}

#[test]
fn a_search_ends_at_what_was_meant_whatever_ndots_is() {
    let names = names();
    let upstream = [
        "example.com",
        "orders.shop.svc.cluster.local",
        "web.default.svc.cluster.local",
        // What would hide the declared hosts, if it were asked.
        "cache.example.cluster.local",
        "payments.shop.svc.cluster.local",
    ];
    for (typed, expected) in [
        ("payments.shop.svc", Some("payments.shop.svc")),
        ("redis", Some("redis")),
        ("cache.example", Some("cache.example")),
        ("example.com", Some("example.com")),
        ("orders.shop", Some("orders.shop.svc.cluster.local")),
        ("orders.shop.svc", Some("orders.shop.svc.cluster.local")),
        ("web", Some("web.default.svc.cluster.local")),
        ("payments.shop.svc.cluster.local", Some("payments.shop.svc")),
        ("nobody.example", None),
    ] {
        for ndots in [1, 2, 5, 15] {
            assert_eq!(resolve(&names, typed, ndots, &upstream).as_deref(), expected, "{typed}, ndots:{ndots}");
        }
    }
}

#[test]
fn a_host_of_a_pattern_that_is_written_out_is_not_the_patterns() {
    let names = names();
    assert_eq!(names.service_by_pattern("orders.shop.svc.cluster.local").map(|name| &**name), Some("mesh"));
    assert_eq!(names.service_by_pattern("both.shop.svc.cluster.local"), None);
    assert_eq!(names.service_by_pattern("example.com"), None);
    assert_eq!(names.exact().count(), 5);
}

#[test]
fn names_of_addresses_are_read() {
    for (host, expected) in [
        ("7.0.240.240.in-addr.arpa", Some("240.240.0.7")),
        ("0.240.240.in-addr.arpa", None),
        ("256.0.240.240.in-addr.arpa", None),
        ("1.7.0.240.240.in-addr.arpa", None),
        ("in-addr.arpa", None),
        ("b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa", Some("4321:0:1:2:3:4:567:89ab")),
        ("a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa", None),
        ("bb.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa", None),
        ("g.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa", None),
    ] {
        assert_eq!(reversed_address(host), expected.map(|text| text.parse::<IpAddr>().expect("an address")), "{host}");
    }
}

proptest! {
    #[test]
    fn no_name_panics_and_the_names_of_addresses_are_theirs(text in "[a-z0-9._-]{0,60}", v4 in any::<[u8; 4]>()) {
        names().meaning(&text);
        reversed_address(&text);
        let [a, b, c, d] = v4;
        prop_assert_eq!(reversed_address(&format!("{d}.{c}.{b}.{a}.in-addr.arpa")), Some(IpAddr::from(v4)));
    }
}
