mod conditions;
mod tokens;
mod when;

use super::{Asked, ConnectionFacts, Decision, Principal, RequestFacts, RuleSet};
use crate::http::normalize::{Readings, read_path};
use http::Method;
use postern_config::authz::{Principal as Who, Rule, Rules};
use postern_config::{PathPattern, Place, SpiffeId, SpiffePattern};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

fn who(who: &[&str]) -> Who {
    match who {
        ["anonymous"] => Who::Anonymous,
        ["anyone"] => Who::Anyone,
        patterns => Who::Spiffe(patterns.iter().map(|text| SpiffePattern::parse(text).expect("a pattern")).collect()),
    }
}

fn allow(name: &str, caller: &[&str], methods: &[&str], paths: &[&str]) -> Rule {
    Rule {
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        paths: paths.iter().map(|path| PathPattern::parse(path).expect("a pattern")).collect(),
        ..Rule::about(name.to_owned(), who(caller), Place::command_line())
    }
}

fn compile(allow: &[Rule]) -> RuleSet {
    RuleSet::compile(&Rules { allow: allow.to_vec(), ..Rules::default() })
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

fn connection<'a>(principal: &Principal<'a>) -> Asked<'a> {
    Asked {
        principal: *principal,
        source: Some(HERE),
        port: None,
        connection: ConnectionFacts::default(),
        now: 0,
        request: None,
    }
}

fn request<'a>(principal: &Principal<'a>, method: &'a Method, readings: &'a Readings<'a>) -> Asked<'a> {
    let facts =
        RequestFacts { method, host: "orders.shop", readings, headers: None, query: None, token: None, caller: None };
    Asked { request: Some(facts), ..connection(principal) }
}

impl RuleSet {
    fn decide_l4(&self, principal: &Principal<'_>) -> Decision {
        self.decide(&connection(principal))
    }

    fn decide_http(&self, principal: &Principal<'_>, method: &Method, readings: &Readings<'_>) -> Decision {
        self.decide(&request(principal, method, readings))
    }
}

fn readings(path: &str) -> Readings<'_> {
    read_path(path, false).unwrap_or_else(|problem| panic!("{path}: {problem}"))
}

/// The rule that allows, if one does.
fn rule(decision: Decision) -> Option<String> {
    match decision {
        Decision::Allowed { rule } => Some(rule.to_string()),
        Decision::NotAllowed => None,
        other => panic!("{other:?}"),
    }
}

fn check(rules: &RuleSet, who: &str, method: &str, path: &str, expected: Option<&str>) {
    let id = id(who);
    let method = method.parse().expect("a method");
    let decision = rules.decide_http(&Principal::Spiffe(&id), &method, &readings(path));
    assert_eq!(rule(decision).as_deref(), expected, "{who} {method} {path}");
}

const WEB: &str = "spiffe://shop.example/ns/web/sa/frontend";

#[test]
fn cf03_nothing_is_allowed_that_no_rule_allows() {
    let nobody = allow("nobody", &[], &[], &[]);
    for rules in [compile(&[]), compile(&[nobody])] {
        check(&rules, WEB, "GET", "/", None);
        assert_eq!(rule(rules.decide_l4(&Principal::Spiffe(&id(WEB)))), None);
        assert_eq!(rule(rules.decide_l4(&Principal::Anonymous)), None);
    }
}

#[test]
fn names_callers_by_id_pattern_and_trust_domain() {
    let rules = compile(&[
        allow("exact", &[WEB], &[], &["/exact"]),
        allow("segment", &["spiffe://shop.example/ns/web/sa/*"], &[], &["/segment"]),
        allow("below", &["spiffe://shop.example/ns/**"], &[], &["/below"]),
        allow("domain", &["spiffe://shop.example/**", "spiffe://partner.example/**"], &[], &["/domain"]),
    ]);
    for (path, name) in [("/exact", "exact"), ("/segment", "segment"), ("/below", "below"), ("/domain", "domain")] {
        check(&rules, WEB, "GET", path, Some(name));
    }
    let other = "spiffe://shop.example/ns/web/sa/frontend2";
    for (path, name) in [("/exact", None), ("/segment", Some("segment")), ("/domain", Some("domain"))] {
        check(&rules, other, "GET", path, name);
    }
    check(&rules, "spiffe://shop.example/ns/web/sa/a/b", "GET", "/segment", None);
    check(&rules, "spiffe://partner.example/x", "GET", "/domain", Some("domain"));
    check(&rules, "spiffe://partner.example/x", "GET", "/below", None);
    check(&rules, "spiffe://shop.example.evil/ns/web/sa/frontend", "GET", "/domain", None);
}

#[test]
fn pn21_an_id_is_no_regular_expression() {
    let rules = compile(&[allow("cert-manager", &["spiffe://td/ns/a/sa/cert-manager.io"], &[], &[])]);
    check(&rules, "spiffe://td/ns/a/sa/cert-manager.io", "GET", "/", Some("cert-manager"));
    check(&rules, "spiffe://td/ns/a/sa/cert-manager-io", "GET", "/", None);
    check(&rules, "spiffe://td/ns/a/sa/cert-managerXio", "GET", "/", None);
}

#[test]
fn only_rules_that_name_anonymous_match_it() {
    let rules = compile(&[
        allow("everyone-verified", &["spiffe://shop.example/**"], &[], &[]),
        allow("health", &["anonymous"], &["GET"], &["/health"]),
    ]);
    let decide = |path| rule(rules.decide_http(&Principal::Anonymous, &Method::GET, &readings(path)));
    assert_eq!(decide("/health").as_deref(), Some("health"));
    assert_eq!(decide("/orders"), None);
    assert_eq!(rule(rules.decide_l4(&Principal::Anonymous)), None);
    check(&rules, WEB, "POST", "/health", Some("everyone-verified"));
}

#[test]
fn a_rule_about_requests_never_allows_a_connection() {
    let web = id(WEB);
    let decide = |rules: &[Rule]| rule(compile(rules).decide_l4(&Principal::Spiffe(&web)));
    assert_eq!(decide(&[allow("methods", &[WEB], &["GET"], &[])]), None);
    assert_eq!(decide(&[allow("paths", &[WEB], &[], &["/**"])]), None);
    assert_eq!(
        decide(&[allow("methods", &[WEB], &["GET"], &[]), allow("all", &[WEB], &[], &[])]).as_deref(),
        Some("all")
    );
}

#[test]
fn pn24_methods_are_case_sensitive() {
    let rules = compile(&[allow("read", &[WEB], &["GET", "PURGE"], &[])]);
    check(&rules, WEB, "GET", "/", Some("read"));
    check(&rules, WEB, "PURGE", "/", Some("read"));
    for method in ["get", "Get", "HEAD", "POST"] {
        check(&rules, WEB, method, "/", None);
    }
    // What is no method at all must not turn into "any method".
    let rules = compile(&[allow("broken", &[WEB], &["G T"], &[])]);
    check(&rules, WEB, "GET", "/", None);
    assert_eq!(rule(rules.decide_l4(&Principal::Spiffe(&id(WEB)))), None);
}

#[test]
fn every_reading_has_to_be_allowed_by_the_one_rule() {
    let rules = compile(&[
        allow("public", &[WEB], &[], &["/public/**", "/files/{name}"]),
        allow("admin", &[WEB], &["DELETE"], &["/admin"]),
    ]);
    for path in [
        "/public",
        "/public/",
        "/public/x",
        "/public//x",
        "/public/a%2Fb",
        "/public/./x",
        "/public/a;b=c",
        "/files/a",
        "/public/%252e%252e/admin",
    ] {
        check(&rules, WEB, "GET", path, Some("public"));
    }
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/%61dmin",
        "//admin",
        "/public%2f..%2fadmin",
        "/admin;a=b",
        "/public/..;/admin",
        "/files/a%2Fb",
        "/publicity",
        "/administrator",
    ] {
        check(&rules, WEB, "GET", path, None);
        check(&rules, WEB, "DELETE", path, None);
    }
}

#[test]
fn pn12_paths_are_matched_in_their_own_case() {
    let rules = compile(&[allow("admin", &[WEB], &[], &["/admin/**", "/Reports"])]);
    for (path, allowed) in [
        ("/admin/x", Some("admin")),
        ("/ADMIN", None),
        ("/Admin/x", None),
        ("/%41dmin/x", None),
        ("/Reports", Some("admin")),
        ("/reports", None),
        // Read as `/admin` by whoever decodes, and as it stands by others: not every reading is allowed.
        ("/%61dmin", None),
    ] {
        check(&rules, WEB, "GET", path, allowed);
    }
}

#[test]
fn pn13_and_pn22_prefixes_keep_to_segments_and_asterisks_are_data() {
    let rules = compile(&[allow("admin", &[WEB], &[], &["/admin/**", "/v1/{id}/secret"])]);
    for (path, allowed) in [
        ("/admin", true),
        ("/admin/", true),
        ("/admin/x", true),
        ("/administrator", false),
        ("/ADMIN", false),
        ("/v1/*/secret", true),
        ("/v1/a*b/secret", true),
        ("/v1/%2a/secret", true),
        ("/v1/a/b/secret", false),
    ] {
        check(&rules, WEB, "GET", path, allowed.then_some("admin"));
    }
}

#[test]
fn pn15_and_pn28_targets_without_a_path_need_a_rule_that_speaks_of_them() {
    let web = id(WEB);
    let decide = |methods: &[&str], paths: &[&str], method: Method, target: &'static str| {
        let rules = compile(&[allow("rule", &[WEB], methods, paths)]);
        rules.decide_http(&Principal::Spiffe(&web), &method, &Readings::of_no_path(target)).is_allowed()
    };
    assert!(!decide(&[], &[], Method::OPTIONS, "*"));
    assert!(decide(&["OPTIONS"], &[], Method::OPTIONS, "*"));
    assert!(decide(&["OPTIONS"], &["/**"], Method::OPTIONS, "*"));
    for pattern in ["/", "/*", "/{name}", "/public/**"] {
        assert!(!decide(&["OPTIONS"], &[pattern], Method::OPTIONS, "*"), "{pattern}");
        assert!(!decide(&["CONNECT"], &[pattern], Method::CONNECT, ""), "{pattern}");
    }
    assert!(decide(&["CONNECT"], &["/**"], Method::CONNECT, ""));
    assert!(decide(&[], &["/**"], Method::CONNECT, ""));
    assert!(decide(&["CONNECT"], &[], Method::CONNECT, ""));
}

#[test]
fn cf08_each_of_ten_thousand_rules_is_found() {
    let mut rules: Vec<Rule> = (0..10_000)
        .map(|index| allow(&format!("rule-{index}"), &[&format!("spiffe://shop.example/ns/n{index}/sa/*")], &[], &[]))
        .collect();
    let forward = compile(&rules);
    rules.reverse();
    let backward = compile(&rules);
    for index in (0..10_000).step_by(10) {
        let who = format!("spiffe://shop.example/ns/n{index}/sa/x");
        let name = format!("rule-{index}");
        check(&forward, &who, "GET", "/", Some(&name));
        check(&backward, &who, "GET", "/", Some(&name));
    }
}

/// One way to disguise a path without changing where a lenient application finds it.
fn disguise(path: &str, way: usize, at: usize) -> String {
    let slashes: Vec<usize> = path.match_indices('/').map(|(index, _)| index).collect();
    let bytes: Vec<usize> = (1..path.len())
        .filter(|index| path.as_bytes()[*index].is_ascii_alphanumeric() || path.as_bytes()[*index] == b'.')
        .collect();
    let slash = slashes[at % slashes.len()];
    let insert = |text: &str| format!("{}{text}{}", &path[..slash], &path[slash..]);
    match way {
        0 => insert("/"),
        1 => insert("/."),
        2 => insert("/public/.."),
        3 => insert("/%2e"),
        4 => insert("/public/%2E%2e"),
        5 => insert("/public/..;x=%2f"),
        6 if slash > 0 => insert(";a=b"),
        7 if slash > 0 => format!("{}%2f{}", &path[..slash], &path[slash + 1..]),
        8 if slash > 0 => insert("%3Ba"),
        9 => insert("/public%2F.."),
        _ => match bytes.get(at % bytes.len().max(1)) {
            // Not into the digits of a code that is there already: that would be a second round, which nobody decodes.
            Some(index) if !path[..*index].ends_with('%') && !path[..index.saturating_sub(1)].ends_with('%') => {
                format!("{}%{:02x}{}", &path[..*index], path.as_bytes()[*index], &path[index + 1..])
            }
            _ => insert("/./"),
        },
    }
}

/// What a lenient application makes of a path: some of decoding (with `%2F` as `/`), parameters, merging and dots, in some
/// order; dots at least once at the end. Written apart from the code under test, on purpose.
fn application(path: &str, order: &[u8]) -> String {
    let mut path = path.to_owned();
    let mut decoded = false;
    for step in order.iter().chain(&[3]) {
        path = match step {
            0 if !decoded => {
                decoded = true;
                let mut bytes = Vec::new();
                let mut rest = path.as_bytes();
                while let Some((first, tail)) = rest.split_first() {
                    let code = tail
                        .get(..2)
                        .and_then(|code| std::str::from_utf8(code).ok())
                        .and_then(|code| u8::from_str_radix(code, 16).ok());
                    match code {
                        Some(byte) if *first == b'%' => {
                            bytes.push(byte);
                            rest = &tail[2..];
                        }
                        _ => {
                            bytes.push(*first);
                            rest = tail;
                        }
                    }
                }
                String::from_utf8_lossy(&bytes).into_owned()
            }
            1 => path.split('/').map(|segment| segment.split(';').next().unwrap_or("")).collect::<Vec<_>>().join("/"),
            2 => {
                let mut merged = path.clone();
                while merged.contains("//") {
                    merged = merged.replace("//", "/");
                }
                merged
            }
            3 => {
                let mut kept: Vec<&str> = Vec::new();
                for segment in path.split('/').skip(1) {
                    match segment {
                        "." => {}
                        ".." => {
                            kept.pop();
                        }
                        segment => kept.push(segment),
                    }
                }
                format!("/{}", kept.join("/"))
            }
            _ => path,
        };
    }
    path
}

fn is_admin(path: &str) -> bool {
    path.split('/').find(|segment| !segment.is_empty()).is_some_and(|segment| segment == "admin")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// THREATS D, fuzz property (a): no bypass under any number of disguises.
    #[test]
    fn no_disguise_of_admin_is_allowed_as_public(
        start in proptest::sample::select(vec!["/admin/x", "/public/../admin/x", "/public/a/../../admin", "/admin"]),
        ways in proptest::collection::vec((0..14_usize, 0..64_usize), 0..6),
        orders in proptest::collection::vec(proptest::collection::vec(0..4_u8, 0..6), 1..6),
    ) {
        let mut path = start.to_owned();
        for (way, at) in ways {
            path = disguise(&path, way, at);
        }
        let rules = compile(&[allow("public", &["spiffe://shop.example/**"], &[], &["/public/**"])]);
        let web = id(WEB);
        let Ok(read) = read_path(&path, false) else { return Ok(()) };
        if rules.decide_http(&Principal::Spiffe(&web), &Method::GET, &read).is_allowed() {
            for order in orders {
                let found = application(&path, &order);
                prop_assert!(!is_admin(&found), "{} is {} to {:?}; readings {:?}", path, found, order, read);
            }
        }
    }

    /// The same from the other side: any mess that some application finds under /admin.
    #[test]
    fn no_mess_that_reaches_admin_is_allowed_as_public(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "/", "public", "admin", "/..", "/.", "..", "%2e", "%2e%2e", "%2f", "%5c", ";", ";x", "%3b", "%252e", "a", "//",
        ]), 0..12),
        order in proptest::collection::vec(0..4_u8, 0..6),
    ) {
        let path = format!("/public{}", pieces.concat());
        let Ok(read) = read_path(&path, false) else { return Ok(()) };
        let rules = compile(&[allow("public", &["spiffe://shop.example/**"], &[], &["/public/**"])]);
        if rules.decide_http(&Principal::Spiffe(&id(WEB)), &Method::GET, &read).is_allowed() {
            let found = application(&path, &order);
            prop_assert!(!is_admin(&found), "{} is {} to {:?}; readings {:?}", path, found, order, read);
        }
    }

    /// THREATS CF-09: the compiled rules say what a plain loop over the rules says, in any order of the rules.
    #[test]
    fn cf09_decides_as_a_plain_loop(
        rules in proptest::collection::vec((0..WHO.len(), 0..METHODS.len(), 0..PATHS.len()), 0..6),
        who in 0..CALLERS.len(), method in 0..3_usize, path in 0..REQUESTED.len(),
    ) {
        let allows: Vec<Rule> = rules.iter().enumerate()
            .map(|(index, (who, methods, paths))| allow(&format!("allow-{index}"), WHO[*who], METHODS[*methods], PATHS[*paths]))
            .collect();
        let caller = (who > 0).then(|| id(CALLERS[who]));
        let principal = caller.as_ref().map_or(Principal::Anonymous, Principal::Spiffe);
        let method = ["GET", "POST", "get"][method].parse::<Method>().expect("a method");
        let read = readings(REQUESTED[path]);
        let expected = allows.iter().any(|rule| {
            let who = match (&rule.who, &caller) {
                (Who::Anonymous, None) => true,
                (Who::Spiffe(patterns), Some(id)) => patterns.iter().any(|pattern| pattern.matches(id)),
                _ => false,
            };
            let method = rule.methods.is_empty() || rule.methods.iter().any(|allowed| allowed == method.as_str());
            let path = rule.paths.is_empty() || read.iter().all(|reading| rule.paths.iter().any(|pattern| pattern.matches(reading)));
            who && method && path
        });
        prop_assert_eq!(compile(&allows).decide_http(&principal, &method, &read).is_allowed(), expected);
        let reversed: Vec<Rule> = allows.into_iter().rev().collect();
        prop_assert_eq!(compile(&reversed).decide_http(&principal, &method, &read).is_allowed(), expected);
    }
}

const WHO: [&[&str]; 6] = [
    &["anonymous"],
    &[WEB],
    &["spiffe://shop.example/ns/web/sa/*"],
    &["spiffe://shop.example/**"],
    &["spiffe://partner.example/**", WEB],
    &["spiffe://shop.example/*/web/**"],
];
const METHODS: [&[&str]; 3] = [&[], &["GET"], &["POST", "PUT"]];
const PATHS: [&[&str]; 5] = [&[], &["/**"], &["/a/**"], &["/a/{id}"], &["/a", "/b"]];
const CALLERS: [&str; 5] =
    ["", WEB, "spiffe://shop.example/ns/web/sa/back", "spiffe://partner.example/x", "spiffe://shop.example/ns/db"];
const REQUESTED: [&str; 8] = ["/", "/a", "/a/x", "/a/x/y", "/a/x%2Fy", "//a", "/b", "/a/../b"];
