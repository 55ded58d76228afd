use super::{HostPattern, PathPattern, SpiffePattern};
use crate::spiffe_id::SpiffeId;
use proptest::prelude::*;

fn spiffe_matches(pattern: &str, id: &str) -> bool {
    SpiffePattern::parse(pattern).expect(pattern).matches(&SpiffeId::parse(id).expect(id))
}

#[test]
fn spiffe_patterns_match_by_segment() {
    for (pattern, id, expected) in [
        ("spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", true),
        ("spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/B", false),
        ("spiffe://td/ns/a/sa/*", "spiffe://td/ns/a/sa/b", true),
        ("spiffe://td/ns/a/sa/*", "spiffe://td/ns/a/sa", false),
        ("spiffe://td/ns/a/sa/*", "spiffe://td/ns/a/sa/b/c", false),
        ("spiffe://td/ns/*/sa/b", "spiffe://td/ns/a/sa/b", true),
        ("spiffe://td/**", "spiffe://td/a", true),
        ("spiffe://td/**", "spiffe://td/a/b/c", true),
        ("spiffe://td/**", "spiffe://td", false),
        ("spiffe://td/**", "spiffe://td.evil/a", false),
        ("spiffe://td/**", "spiffe://other/a", false),
        ("spiffe://td/a/**", "spiffe://td/a", false),
        ("spiffe://td/a/**", "spiffe://td/a/b", true),
        ("spiffe://td/a/**", "spiffe://td/ab/c", false),
        // PN-21: a dot is a dot.
        ("spiffe://td/ns/a/sa/cert-manager.io", "spiffe://td/ns/a/sa/cert-manager.io", true),
        ("spiffe://td/ns/a/sa/cert-manager.io", "spiffe://td/ns/a/sa/cert-manager-io", false),
        ("spiffe://td/ns/a/sa/cert-manager.io", "spiffe://td/ns/a/sa/cert-managerXio", false),
        // A capture that nobody replaced matches nothing.
        ("spiffe://td/ns/{ns}/sa/b", "spiffe://td/ns/a/sa/b", false),
    ] {
        assert_eq!(spiffe_matches(pattern, id), expected, "{pattern} {id}");
    }
}

#[test]
fn refuses_other_spiffe_patterns() {
    for (pattern, words) in [
        ("", "does not start"),
        ("spiffe://", "no trust domain"),
        ("SPIFFE://td/a", "does not start"),
        ("spiffe://*/a", "trust domain"),
        ("spiffe://**", "trust domain"),
        ("spiffe://{td}/a", "trust domain"),
        ("spiffe://td.*/a", "trust domain"),
        ("spiffe://TD/a", "trust domain"),
        ("spiffe://td", "names a trust domain"),
        ("spiffe://td/", "empty path segment"),
        ("spiffe://td//**", "empty path segment"),
        ("spiffe://td/a//b", "empty path segment"),
        ("spiffe://td/a/../b", "`..`"),
        ("spiffe://td/**/b", "before its end"),
        ("spiffe://td/web-*", "whole segment"),
        ("spiffe://td/x{ns}", "whole segment"),
        ("spiffe://td/{Ns}", "whole segment"),
        ("spiffe://td/{}", "whole segment"),
        ("spiffe://td/a b", "character"),
        ("spiffe://td/a?x", "character"),
    ] {
        let error = SpiffePattern::parse(pattern).expect_err(pattern);
        assert!(error.contains(words), "{pattern}: {error}");
    }
}

#[test]
fn captures_become_one_segment_or_nothing() {
    let pattern = SpiffePattern::parse("spiffe://td/ns/{ns}/sa/{sa}/**").expect("valid");
    assert_eq!(pattern.captures(), ["ns", "sa"]);
    assert_eq!(pattern.trust_domain_name(), "td");
    let expanded = pattern.expand(&vec![("ns".into(), "shop"), ("sa".into(), "web-1")]).expect("values fit");
    assert_eq!(expanded.to_string(), "spiffe://td/ns/shop/sa/web-1/**");
    assert!(expanded.matches(&SpiffeId::parse("spiffe://td/ns/shop/sa/web-1/x").expect("valid")));
    for value in ["*", "**", "a/b", "", ".", "..", "{x}", "a%2fb"] {
        let captures = vec![("ns".into(), value), ("sa".into(), "web")];
        assert_eq!(pattern.expand(&captures), None, "{value}");
    }
    assert_eq!(pattern.expand(&vec![("ns".into(), "shop")]), None);
}

#[test]
fn hosts_match_by_label() {
    for (pattern, host, expected) in [
        ("payments.shop.svc", "payments.shop.svc", Some("")),
        ("Payments.Shop.svc.", "payments.shop.svc", Some("")),
        ("payments.shop.svc", "xpayments.shop.svc", None),
        ("*.shop.svc", "payments.shop.svc", Some("")),
        ("*.shop.svc", "a.payments.shop.svc", None),
        ("*.shop.svc", "shop.svc", None),
        ("*.shop.svc", ".shop.svc", None),
        ("*.{ns}.svc.cluster.local", "web.shop.svc.cluster.local", Some("ns=shop")),
        ("{name}.{ns}.svc", "web.shop.svc", Some("name=web ns=shop")),
        ("**.example", "a.b.example", Some("")),
        ("**.example", "a.example", Some("")),
        ("**.example", "example", None),
        ("**.example", "a..example", None),
        ("**.{ns}.svc", "a.b.shop.svc", Some("ns=shop")),
        ("**", "anything.at.all", Some("")),
        ("**", "", None),
        ("**", "[::1]", None),
        ("*", "[::1]", None),
        ("[::1]", "[::1]", Some("")),
        ("[0:0::1]", "[::1]", Some("")),
        ("10.0.0.7", "10.0.0.7", Some("")),
    ] {
        let found = HostPattern::parse(pattern).expect(pattern).matches(host).map(|captures| {
            captures.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        });
        assert_eq!(found.as_deref(), expected, "{pattern} {host}");
    }
}

#[test]
fn refuses_other_hosts() {
    for (pattern, words) in [
        ("", "empty"),
        (".", "empty"),
        ("a..b", "empty label"),
        (".a", "empty label"),
        ("**..", "empty label"),
        ("a.**", "behind its beginning"),
        ("api-*.shop", "whole segment"),
        ("{ns}.{ns}.svc", "twice"),
        ("a:8080", "port"),
        ("http://a", "port or scheme"),
        ("[::1", "IPv6"),
        ("[::1]:80", "IPv6"),
        ("a b", "character"),
        ("bücher.example", "character"),
        ("a/b", "character"),
        (&"a".repeat(64), "63 bytes"),
        (&"a.".repeat(127), "253 bytes"),
    ] {
        let error = match HostPattern::parse(pattern) {
            Ok(_) if pattern.len() == 254 => continue, // 253 bytes and the final dot: the longest name there is
            other => other.expect_err(pattern),
        };
        assert!(error.contains(words), "{pattern}: {error}");
    }
    assert!(HostPattern::parse(&"a.".repeat(128)).is_err());
}

#[test]
fn hosts_rank_by_what_is_written() {
    let ranked = ["**", "**.svc", "*.svc", "**.shop.svc", "*.*.shop.svc", "{a}.b.shop.svc", "a.b.shop.svc"];
    let ranks: Vec<u64> = ranked.iter().map(|text| HostPattern::parse(text).expect(text).specificity()).collect();
    assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]), "{ranks:?}");
}

#[test]
fn paths_match_by_segment() {
    for (pattern, path, expected) in [
        ("/orders", "/orders", true),
        ("/orders", "/orders/", false),
        ("/orders/", "/orders/", true),
        ("/orders/", "/orders", false),
        ("/", "/", true),
        ("/", "/a", false),
        ("/orders/{id}/items", "/orders/7/items", true),
        ("/orders/{id}/items", "/orders//items", false),
        ("/orders/*/items", "/orders/7/8/items", false),
        // PN-13.
        ("/admin/**", "/admin", true),
        ("/admin/**", "/admin/", true),
        ("/admin/**", "/admin/x/y", true),
        ("/admin/**", "/administrator", false),
        ("/admin/**", "/Admin", false),
        // PN-22: a request's `*` is data.
        ("/v1/{id}/secret", "/v1/*/secret", true),
        ("/v1/{id}/secret", "/v1/a*b/secret", true),
        ("/v1/{id}/secret", "/v1/%2a/secret", true),
        ("/v1/x/secret", "/v1/*/secret", false),
        ("/{tenant}/**", "/acme", true),
        ("/{tenant}/**", "/", false),
        ("/**", "/", true),
        ("/**", "/a/b", true),
        ("/**", "*", true),
        ("/café", "/café", true),
        ("/orders", "orders", false),
    ] {
        assert_eq!(PathPattern::parse(pattern).expect(pattern).matches(path), expected, "{pattern} {path}");
    }
}

#[test]
fn refuses_other_paths() {
    for (pattern, words) in [
        ("", "does not start"),
        ("orders", "does not start"),
        ("*", "does not start"),
        ("/a//b", "`//`"),
        ("//**", "`//`"),
        ("/a//**", "`//`"),
        ("/a/./b", "`..`"),
        ("/..", "`..`"),
        ("/**/b", "before its end"),
        ("/a*", "whole segment"),
        ("/*.json", "whole segment"),
        ("/a?x=1", "query"),
        ("/a#f", "query"),
        ("/a%2Fb", "`%`"),
        ("/a;b", "`;`"),
        ("/a\\b", "character"),
        ("/a\0", "character"),
        ("/a b", "character"),
    ] {
        let error = PathPattern::parse(pattern).expect_err(pattern);
        assert!(error.contains(words), "{pattern}: {error}");
    }
}

#[test]
fn paths_rank_exact_before_template_before_prefix() {
    let ranked = ["/**", "/a/**", "/a/{b}/**", "/a/b/**", "/{a}", "/a/{b}", "/a", "/a/b"];
    let ranks: Vec<u64> = ranked.iter().map(|text| PathPattern::parse(text).expect(text).specificity()).collect();
    assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]), "{ranks:?}");
}

fn segments(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(of), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_panics(text in "\\PC{0,60}", id in "spiffe://[a-z*{}./]{0,20}") {
        for text in [&text, &id] {
            if let Ok(pattern) = SpiffePattern::parse(text) {
                prop_assert_eq!(SpiffePattern::parse(&pattern.to_string()), Ok(pattern));
            }
            if let Ok(pattern) = HostPattern::parse(text) {
                let _ = pattern.matches(text);
                prop_assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
            }
            if let Ok(pattern) = PathPattern::parse(text) {
                let _ = pattern.matches(text);
                prop_assert_eq!(PathPattern::parse(&pattern.to_string()), Ok(pattern));
            }
        }
    }

    #[test]
    fn an_exact_pattern_matches_itself_only(one in segments(&["a", "b", "a.b"]), other in segments(&["a", "b", "a.b"])) {
        let one = format!("spiffe://td/{}", one.join("/"));
        let other = format!("spiffe://td/{}", other.join("/"));
        prop_assert_eq!(spiffe_matches(&one, &other), one == other);
    }

    #[test]
    fn what_matches_two_hosts_overlaps(
        one in segments(&["a", "b", "*"]), one_open: bool, other in segments(&["a", "b", "*"]), other_open: bool,
        host in segments(&["a", "b", "c"]),
    ) {
        let pattern = |labels: Vec<&str>, open: bool| {
            let text = format!("{}{}", if open { "**." } else { "" }, labels.join("."));
            HostPattern::parse(&text).expect("made of valid labels")
        };
        let (one, other, host) = (pattern(one, one_open), pattern(other, other_open), host.join("."));
        prop_assert_eq!(one.could_overlap(&other), other.could_overlap(&one));
        if one.matches(&host).is_some() && other.matches(&host).is_some() {
            prop_assert!(one.could_overlap(&other), "{} {} {}", one, other, host);
        }
    }

    #[test]
    fn what_matches_two_paths_overlaps(
        one in segments(&["a", "b", "*"]), one_open: bool, other in segments(&["a", "b", "*"]), other_open: bool,
        path in segments(&["a", "b", "c"]),
    ) {
        let pattern = |parts: Vec<&str>, open: bool| {
            let text = format!("/{}{}", parts.join("/"), if open { "/**" } else { "" });
            PathPattern::parse(&text).expect("made of valid segments")
        };
        let (one, other, path) = (pattern(one, one_open), pattern(other, other_open), format!("/{}", path.join("/")));
        prop_assert_eq!(one.could_overlap(&other), other.could_overlap(&one));
        if one.matches(&path) && other.matches(&path) {
            prop_assert!(one.could_overlap(&other), "{} {} {}", one, other, path);
        }
    }
}
