//! What rules may ask for besides who, how and where, and in which order lists of rules speak.

use super::{HERE, WEB, id, readings, who};
use crate::authz::{Asked, ConnectionFacts, Decision, Principal, RequestFacts, RuleSet, Site};
use http::{HeaderMap, HeaderName, Method};
use postern_config::authz::{FieldMatch, Rule, Rules, TextPattern, TimeWindow};
use postern_config::{HostPattern, Network, PathPattern, Place};
use proptest::prelude::*;
use std::sync::Arc;

fn rule(name: &str, caller: &[&str]) -> Rule {
    Rule::about(name.to_owned(), who(caller), Place::command_line())
}

fn paths(patterns: &[&str]) -> Vec<PathPattern> {
    patterns.iter().map(|path| PathPattern::parse(path).expect("a pattern")).collect()
}

fn field(name: &str, values: &[&str]) -> Vec<FieldMatch> {
    let values = values.iter().map(|value| TextPattern::parse(value).expect("a pattern")).collect();
    vec![FieldMatch { name: name.to_owned(), values }]
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let pairs = lines
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value")));
    pairs.collect()
}

struct Request<'a> {
    caller: &'a str,
    path: &'a str,
    host: &'a str,
    headers: Option<HeaderMap>,
    query: Option<&'a str>,
    now: i64,
}

const GET: Request<'static> =
    Request { caller: WEB, path: "/orders/7", host: "orders.shop", headers: None, query: None, now: 0 };

fn decide(rules: &Rules, request: &Request<'_>) -> Decision {
    let (caller, readings) = (id(request.caller), readings(request.path));
    let facts = RequestFacts {
        method: &Method::GET,
        host: request.host,
        readings: &readings,
        headers: request.headers.as_ref(),
        query: request.query,
        token: None,
        caller: None,
    };
    let asked = Asked {
        principal: Principal::Spiffe(&caller),
        source: Some(HERE),
        port: None,
        connection: ConnectionFacts::default(),
        now: request.now,
        request: Some(facts),
    };
    RuleSet::compile(rules).decide(&asked)
}

fn allowing(rule: Rule) -> Rules {
    Rules { allow: vec![rule], ..Rules::default() }
}

/// Everybody is allowed, and `rule` denies.
fn denying(deny: Rule) -> Rules {
    Rules { deny: vec![deny], allow: vec![rule("all", &["spiffe://shop.example/**"])], ..Rules::default() }
}

fn named(name: &str) -> Arc<str> {
    Arc::from(name)
}

#[test]
fn pn_27_what_is_denied_is_not_allowed_and_what_is_required_has_to_be() {
    let all = rule("all", &["spiffe://shop.example/**"]);
    let mut rules = allowing(all);
    assert_eq!(decide(&rules, &GET), Decision::Allowed { rule: named("all") });
    rules.require.push(Rule { source: vec![Network::parse("192.0.2.0/24").unwrap()], ..rule("office", &["anyone"]) });
    assert_eq!(decide(&rules, &GET), Decision::Unmet { rule: named("office") });
    rules.require[0].source = vec![Network::parse("10.0.0.0/8").unwrap()];
    assert_eq!(decide(&rules, &GET), Decision::Allowed { rule: named("all") });
    rules.require.push(rule("ours", &["spiffe://shop.example/ns/web/**"]));
    assert!(decide(&rules, &GET).is_allowed());
    assert_eq!(
        decide(&rules, &Request { caller: "spiffe://shop.example/ns/db/sa/x", ..GET }),
        Decision::Unmet { rule: named("ours") }
    );
    rules.deny.push(rule("stolen", &[WEB]));
    assert_eq!(decide(&rules, &GET), Decision::Denied { rule: named("stolen") });
    rules.allow.clear();
    rules.deny.clear();
    assert_eq!(decide(&rules, &GET), Decision::NotAllowed, "what is required allows nobody");
}

#[test]
fn a_ports_deny_and_require_hold_on_its_routes_and_its_allow_only_where_there_is_no_other() {
    let port = Rules {
        deny: vec![rule("port-deny", &["spiffe://shop.example/ns/bad/**"])],
        require: vec![rule("port-require", &["spiffe://shop.example/**"])],
        allow: vec![rule("port-allow", &["spiffe://shop.example/ns/web/**"])],
    };
    let route = Rules {
        allow: vec![rule("route", &["spiffe://shop.example/ns/bad/**", "spiffe://partner.example/**"])],
        ..Rules::default()
    };
    let compiled = RuleSet::compile_at(&Site::default(), &port, &route);
    for (caller, expected) in [
        ("spiffe://shop.example/ns/bad/sa/x", Decision::Denied { rule: named("port-deny") }),
        ("spiffe://partner.example/x", Decision::Unmet { rule: named("port-require") }),
        (WEB, Decision::NotAllowed),
    ] {
        let id = id(caller);
        let read = readings("/");
        let facts = RequestFacts {
            method: &Method::GET,
            host: "h",
            readings: &read,
            headers: None,
            query: None,
            token: None,
            caller: None,
        };
        let asked = Asked {
            principal: Principal::Spiffe(&id),
            source: Some(HERE),
            port: None,
            connection: ConnectionFacts::default(),
            now: 0,
            request: Some(facts),
        };
        assert_eq!(compiled.decide(&asked), expected, "{caller}");
    }
}

#[test]
fn pn_01_to_06_a_path_is_denied_by_any_of_its_readings_and_allowed_by_all() {
    let deny = denying(Rule { paths: paths(&["/admin/**"]), ..rule("admin", &["anyone"]) });
    let allow = allowing(Rule { paths: paths(&["/public/**"]), ..rule("public", &[WEB]) });
    for path in ["/admin", "/public/../admin", "/%61dmin", "//admin", "/public/..;/admin", "/public%2f..%2fadmin/x"] {
        assert_eq!(decide(&deny, &Request { path, ..GET }), Decision::Denied { rule: named("admin") }, "{path}");
        assert_eq!(decide(&allow, &Request { path, ..GET }), Decision::NotAllowed, "{path}");
    }
    assert!(decide(&deny, &Request { path: "/administrator", ..GET }).is_allowed());
    assert!(decide(&allow, &Request { path: "/public/a%20b", ..GET }).is_allowed());
}

#[test]
fn what_a_callers_id_captures_has_to_be_the_same_in_path_and_host() {
    let tenant = &["spiffe://shop.example/tenant/{tenant}/sa/*"];
    let by_path = allowing(Rule { paths: paths(&["/t/{tenant}/**"]), ..rule("own", tenant) });
    let by_host = allowing(Rule { hosts: vec![HostPattern::parse("{tenant}.shop").unwrap()], ..rule("own", tenant) });
    let acme = "spiffe://shop.example/tenant/acme/sa/web";
    for (path, allowed) in [
        ("/t/acme", true),
        ("/t/acme/orders", true),
        ("/t/other/orders", false),
        ("/t/acme/../other", false),
        ("/t/acm%65", false),
        ("/t/*/orders", false),
        ("/t//orders", false),
    ] {
        assert_eq!(decide(&by_path, &Request { caller: acme, path, ..GET }).is_allowed(), allowed, "{path}");
    }
    for (host, allowed) in [("acme.shop", true), ("other.shop", false), ("acme.shop.evil", false)] {
        assert_eq!(decide(&by_host, &Request { caller: acme, host, ..GET }).is_allowed(), allowed, "{host}");
    }
    assert!(!decide(&by_path, &Request { path: "/t/frontend/x", ..GET }).is_allowed(), "another caller");
}

#[test]
fn a_header_that_comes_twice_allows_by_both_and_denies_by_one() {
    let allow = allowing(Rule { headers: field("x-env", &["prod", "stage-*"]), ..rule("env", &[WEB]) });
    let deny = denying(Rule { headers: field("x-env", &["prod", "stage-*"]), ..rule("env", &["anyone"]) });
    for (lines, allows, denies) in [
        (&[("x-env", "prod")][..], true, true),
        (&[("x-env", "stage-7")], true, true),
        (&[("x-env", "test")], false, false),
        (&[("x-env", "prod"), ("x-env", "test")], false, true),
        (&[("x-env", "prod"), ("x-env", "stage-1")], true, true),
        (&[("x-other", "prod")], false, false),
        // Behind us nobody would see it.
        (&[("x-env", "prod"), ("connection", "close, X-Env")], false, true),
    ] {
        let request = Request { headers: Some(headers(lines)), ..GET };
        assert_eq!(decide(&allow, &request).is_allowed(), allows, "{lines:?}");
        assert_eq!(decide(&deny, &request).is_allowed(), !denies, "{lines:?}");
    }
    // Not kept, they count against the request.
    assert!(!decide(&allow, &GET).is_allowed() && !decide(&deny, &GET).is_allowed());
    assert!(RuleSet::compile(&allow).needs_headers() && RuleSet::compile(&deny).needs_headers());
}

#[test]
fn parameters_of_the_query_are_decoded() {
    let allow = allowing(Rule { query: field("tenant", &["acme"]), ..rule("tenant", &[WEB]) });
    let deny = denying(Rule { query: field("debug", &["*"]), ..rule("debug", &["anyone"]) });
    for (query, allows, denies) in [
        (None, false, false),
        (Some("tenant=acme"), true, false),
        (Some("a=1&tenant=%61cme"), true, false),
        (Some("ten%61nt=acme&x"), true, false),
        (Some("tenant=acme&tenant=other"), false, false),
        (Some("tenant=acme&debug"), true, true),
        (Some("%64ebug=1"), false, true),
        (Some("Tenant=acme"), false, false),
    ] {
        assert_eq!(decide(&allow, &Request { query, ..GET }).is_allowed(), allows, "{query:?}");
        assert_eq!(decide(&deny, &Request { query, ..GET }).is_allowed(), !denies, "{query:?}");
    }
}

#[test]
fn a_rule_fits_at_its_times_and_from_its_networks() {
    let until = TimeWindow { from: None, until: Some(100), days: [true; 7], hours: None, offset_minutes: 0 };
    let timed = allowing(Rule { time: Some(until), ..rule("visit", &[WEB]) });
    assert!(decide(&timed, &Request { now: 99, ..GET }).is_allowed());
    assert!(!decide(&timed, &Request { now: 100, ..GET }).is_allowed());
    for (network, fits) in [("10.0.0.0/8", true), ("10.1.2.3", true), ("10.1.2.4", false), ("::/0", false)] {
        let source = vec![Network::parse(network).unwrap()];
        let allow = allowing(Rule { source, ..rule("near", &[WEB]) });
        assert_eq!(decide(&allow, &GET).is_allowed(), fits, "{network}");
    }
}

#[test]
fn what_cannot_be_a_method_or_header_allows_nothing_and_denies() {
    let odd = |rule: Rule| Rule { methods: vec!["G T".to_owned()], ..rule };
    assert!(!decide(&allowing(odd(rule("odd", &[WEB]))), &GET).is_allowed());
    assert!(!decide(&denying(odd(rule("odd", &["anyone"]))), &GET).is_allowed());
}

#[test]
fn a_rule_about_requests_denies_a_connection_that_is_not_read() {
    let rules = denying(Rule { paths: paths(&["/admin"]), ..rule("admin", &["anyone"]) });
    let caller = id(WEB);
    let asked = Asked {
        principal: Principal::Spiffe(&caller),
        source: Some(HERE),
        port: None,
        connection: ConnectionFacts::default(),
        now: 0,
        request: None,
    };
    assert_eq!(RuleSet::compile(&rules).decide(&asked), Decision::Denied { rule: named("admin") });
}

const CALLERS: [&str; 3] = [WEB, "spiffe://shop.example/tenant/acme/sa/a", "spiffe://partner.example/x"];
const WHO: [&[&str]; 5] = [
    &["anyone"],
    &[WEB],
    &["spiffe://shop.example/**"],
    &["spiffe://shop.example/tenant/{tenant}/sa/*"],
    &["spiffe://partner.example/*", "spiffe://shop.example/ns/web/sa/*"],
];
const PATHS: [&[&str]; 3] = [&["/t/{tenant}/**"], &["/**"], &["/a", "/t/acme/x"]];

proptest! {
    /// THREATS CF-08 and CF-09: compiled lists say what a plain loop says.
    #[test]
    fn cf09_lists_decide_as_plain_loops(
        written in proptest::collection::vec((0..3_u8, 0..WHO.len(), 0..PATHS.len()), 0..8),
        caller in 0..CALLERS.len(),
        path in proptest::sample::select(vec!["/a", "/t/acme/x", "/t/other/x", "/t/acme/../other/x"]),
    ) {
        let mut rules = Rules::default();
        for (index, (list, named, patterns)) in written.iter().enumerate() {
            let who = if *list == 2 { WHO[(*named).max(1)] } else { WHO[*named] };
            let rule = Rule { paths: paths(PATHS[*patterns]), ..rule(&format!("r{index}"), who) };
            [&mut rules.deny, &mut rules.require, &mut rules.allow][usize::from(*list)].push(rule);
        }
        let (caller_id, read) = (id(CALLERS[caller]), readings(path));
        let fits = |rule: &Rule, any: bool| {
            let of_path = |given: &[(String, &str)]| {
                let fits = |reading: &str| rule.paths.iter().any(|pattern| pattern.matches_given(reading, given));
                if any { read.iter().any(fits) } else { read.iter().all(fits) }
            };
            match &rule.who {
                postern_config::Principal::Anyone => of_path(&[]),
                postern_config::Principal::Anonymous => false,
                postern_config::Principal::Spiffe(patterns) => {
                    patterns.iter().any(|pattern| pattern.capture(&caller_id).is_some_and(|given| of_path(&given)))
                }
            }
        };
        let expected = !rules.deny.iter().any(|rule| fits(rule, true))
            && rules.require.iter().all(|rule| fits(rule, false))
            && rules.allow.iter().any(|rule| fits(rule, false));
        let request = Request { caller: CALLERS[caller], path, ..GET };
        prop_assert_eq!(decide(&rules, &request).is_allowed(), expected);
    }
}
