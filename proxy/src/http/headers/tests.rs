use super::{
    check_framing, check_size, clean_trailers, merge_cookies, requested_upgrade, strip_hop_by_hop, strip_identity,
    strip_response,
};
use crate::refusal::{Refusal, Refused};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Version};
use proptest::prelude::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect("a header name");
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
    }
    headers
}

fn head(version: Version, fields: &[(&str, &str)]) -> Parts {
    let (mut parts, ()) = Request::builder().method("POST").version(version).body(()).expect("a request").into_parts();
    parts.headers = map(fields);
    parts
}

fn check(version: Version, fields: &[(&str, &str)], expected: Result<(), Refusal>) {
    assert_eq!(check_framing(&head(version, fields)).map(drop), expected, "{version:?} {fields:?}");
}

const H10: Version = Version::HTTP_10;
const H11: Version = Version::HTTP_11;
const H2: Version = Version::HTTP_2;
const BAD: Result<(), Refusal> = Err(Refusal::BadRequest);

/// RFC 9113 §6.5.2 counts 32 bytes more than it has for each field; of HTTP/1, the bytes have been counted.
#[test]
fn refuses_a_head_above_its_limits_and_says_which() {
    let bytes = ":path".len() + "/a?b".len() + ":authority".len() + "good".len() + "x12".len() + "yy3".len() + 4 * 32;
    for (version, fields_max, bytes_max, expected) in [
        (H2, 2, bytes, Ok(())),
        (H2, 2, bytes - 1, Err(format!("a head of more than {} bytes", bytes - 1))),
        (H2, 3, bytes, Ok(())),
        (H2, 1, bytes, Err("more than 1 header fields".to_owned())),
        (H11, 2, bytes - 1, Ok(())),
        (H11, 1, bytes, Err("more than 1 header fields".to_owned())),
    ] {
        let mut parts = head(version, &[("x", "12"), ("yy", "3")]);
        parts.uri = "http://good/a?b".parse().expect("a target");
        let found = check_size(&parts, fields_max, bytes_max);
        let expected = expected.map_err(|detail| Refused::new(Refusal::HeadersTooLarge, detail));
        assert_eq!(found, expected, "{version:?}, at most {fields_max} fields and {bytes_max} bytes");
    }
}

#[test]
fn sm01_refuses_length_with_coding() {
    check(H11, &[("content-length", "6"), ("transfer-encoding", "chunked")], BAD);
    check(H11, &[("content-length", "6")], Ok(()));
    check(H11, &[("transfer-encoding", "chunked")], Ok(()));
    check(H11, &[], Ok(()));
}

#[test]
fn sm03_refuses_several_and_malformed_lengths() {
    check(H11, &[("content-length", "3"), ("content-length", "4")], BAD);
    check(H2, &[("content-length", "3"), ("content-length", "3")], BAD);
    for length in ["3, 3", "+3", "-3", "0x3", "3 3", ""] {
        check(H11, &[("content-length", length)], BAD);
    }
    check(H11, &[("content-length", "0003")], Ok(()));
}

#[test]
fn sm05_refuses_codings_other_than_chunked() {
    for coding in [
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "xchunked",
        "\"chunked\"",
        "chunked;q=1",
        "chunked, chunked",
        "identity",
        "",
    ] {
        check(H11, &[("transfer-encoding", coding)], BAD);
    }
    check(H11, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], BAD);
    check(H11, &[("transfer-encoding", "Chunked")], Ok(()));
}

#[test]
fn sm06_refuses_look_alikes_of_framing() {
    for name in ["transfer_encoding", "transfer.encoding", "content_length", "content.length", "content~length"] {
        check(H11, &[(name, "1")], BAD);
    }
    check(H11, &[("content-language", "en"), ("contentxlength", "1")], Ok(()));
}

/// RFC 9110 §9.3.6: what follows the head is the tunnel's, so no length and no coding may claim it.
#[test]
fn refuses_a_connect_with_a_body() {
    for (method, fields, expected) in [
        ("CONNECT", &[][..], Ok(())),
        ("CONNECT", &[("content-length", "0")], Ok(())),
        ("CONNECT", &[("content-length", "1")], BAD),
        ("CONNECT", &[("transfer-encoding", "chunked")], BAD),
        ("POST", &[("content-length", "1")], Ok(())),
        ("POST", &[("transfer-encoding", "chunked")], Ok(())),
    ] {
        let mut parts = head(H11, fields);
        parts.method = method.parse().expect("a method");
        assert_eq!(check_framing(&parts).map(drop), expected, "{method} {fields:?}");
    }
}

#[test]
fn sm07_and_sm18_refuse_codings_outside_http11() {
    check(H10, &[("transfer-encoding", "chunked")], BAD);
    check(H2, &[("transfer-encoding", "chunked")], BAD);
}

#[test]
fn sm15_answers_unknown_expectations() {
    let refused = Err(Refusal::ExpectationRefused);
    check(H11, &[("expect", "100-continue")], Ok(()));
    check(H11, &[("expect", "100-Continue")], Ok(()));
    check(H11, &[("expect", "y 100-continue")], refused);
    check(H11, &[("expect", "100-continue"), ("expect", "100-continue")], refused);
    check(H2, &[("expect", "x")], refused);
    check(H10, &[("expect", "x")], Ok(()));
    assert_eq!(Refusal::ExpectationRefused.status(), 417);
}

#[test]
fn hd25_refuses_blanks_around_values() {
    for value in [" a", "a ", "\ta", "a\t", " "] {
        check(H2, &[("x-a", value)], BAD);
    }
    check(H2, &[("x-a", "a b"), ("x-empty", "")], Ok(()));
}

#[test]
fn refuses_connection_options_that_name_what_is_relied_on() {
    for option in [
        "host",
        "Authorization",
        "content-length",
        "content-type",
        "cookie",
        "x-forwarded-for",
        "X-Forwarded-Proto",
        "x-spiffe-id",
        "x_spiffe_id",
        "client-cert",
        "x-postern-refusal",
        "traceparent",
        "a b",
        "@",
    ] {
        check(H11, &[("connection", &format!("close, {option}"))], BAD);
    }
    for option in ["close", "keep-alive", "Upgrade, HTTP2-Settings", "TE", "x-hop", ", ,", ""] {
        check(H11, &[("connection", option)], Ok(()));
    }
}

#[test]
fn strips_hop_by_hop_fields_and_what_connection_nominates() {
    let mut headers = map(&[
        ("connection", "close, X-Hop"),
        ("connection", "x-other"),
        ("x-hop", "1"),
        ("x-other", "1"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("upgrade", "h2c"),
        ("http2-settings", "x"),
        ("transfer-encoding", "chunked"),
        ("proxy-authorization", "x"),
        ("proxy-authenticate", "x"),
        ("te", "gzip"),
        ("x-stays", "1"),
        ("trailer", "x-sum"),
        ("content-length", "1"),
    ]);
    strip_hop_by_hop(&mut headers);
    assert_eq!(headers, map(&[("x-stays", "1"), ("trailer", "x-sum"), ("content-length", "1")]));
}

#[test]
fn a_nomination_of_what_is_relied_on_is_ignored() {
    let kept =
        [("host", "a"), ("content-length", "1"), ("authorization", "x"), ("set-cookie", "x"), ("x-forwarded-for", "x")];
    let mut headers = map(&kept);
    headers.append(
        "connection",
        HeaderValue::from_static("host, Content-Length, authorization, set-cookie, X-Forwarded-For"),
    );
    strip_hop_by_hop(&mut headers);
    assert_eq!(headers, map(&kept));
}

#[test]
fn keeps_te_trailers_alone() {
    for (value, kept) in [("trailers", true), ("gzip, Trailers", true), ("gzip;q=0.5", false), ("", false)] {
        let mut headers = map(&[("te", value), ("connection", "te")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, if kept { map(&[("te", "trailers")]) } else { HeaderMap::new() }, "{value}");
    }
    let mut headers = map(&[("te", "trailers"), ("te", "gzip")]);
    strip_hop_by_hop(&mut headers);
    assert_eq!(headers, map(&[("te", "trailers")]));
}

fn check_upgrade(version: Version, fields: &[(&str, &str)], expected: Result<Option<&str>, Refusal>) {
    let requested = requested_upgrade(&head(version, fields));
    let expected = expected.map(|protocol| protocol.map(|protocol| HeaderValue::from_str(protocol).expect("a value")));
    assert_eq!(requested, expected, "{version:?} {fields:?}");
}

#[test]
fn finds_the_requested_upgrade() {
    let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    check_upgrade(H11, &websocket, Ok(Some("websocket")));
    check_upgrade(H10, &websocket, Ok(None));
    check_upgrade(H2, &websocket, Ok(None));
    check_upgrade(H11, &[("upgrade", "websocket")], Ok(None));
    check_upgrade(H11, &[("connection", "upgrade")], Ok(None));
    check_upgrade(
        H11,
        &[("connection", "close"), ("connection", "upgrade"), ("upgrade", "a/1"), ("upgrade", "b")],
        Ok(Some("a/1, b")),
    );
    check_upgrade(H11, &[("connection", "upgrade"), ("upgrade", "web socket")], Err(Refusal::BadRequest));
    // It has asked for a tunnel already.
    let mut connect = head(H11, &websocket);
    connect.method = http::Method::CONNECT;
    assert_eq!(requested_upgrade(&connect), Ok(None));
}

#[test]
fn a_checked_head_says_whether_it_has_an_upgrade() {
    for (fields, expected) in [
        (&[][..], false),
        (&[("x", "1"), ("connection", "upgrade")], false),
        (&[("upgrade", "foo")], true),
        (&[("upgrade", "foo"), ("x", "1")], true),
        (&[("x", "1"), ("upgrade", "foo")], true),
    ] {
        let found = check_framing(&head(H11, fields)).map(|checked| checked.has_upgrade);
        assert_eq!(found, Ok(expected), "{fields:?}");
    }
}

#[test]
fn sm20_never_relays_h2c() {
    for protocol in ["h2c", "H2C", "TLS/1.0", "HTTP/2.0", "h2c, h2"] {
        check_upgrade(
            H11,
            &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", protocol), ("content-length", "3")],
            Ok(None),
        );
    }
    check_upgrade(H11, &[("connection", "upgrade"), ("upgrade", "h2c, websocket")], Ok(Some("websocket")));
}

#[test]
fn sm21_refuses_an_upgrade_with_a_body() {
    let upgrade = [("connection", "upgrade"), ("upgrade", "foo")];
    for framing in [("content-length", "3"), ("transfer-encoding", "chunked")] {
        check_upgrade(H11, &[upgrade[0], upgrade[1], framing], Err(Refusal::UpgradeRefused));
    }
    check_upgrade(H11, &[upgrade[0], upgrade[1], ("content-length", "0")], Ok(Some("foo")));
}

#[test]
fn hd10_strips_identity_in_every_spelling() {
    let mut headers = map(&[
        ("x-forwarded-client-cert", "URI=spiffe://a/b"),
        ("x-forwarded-client-cert", "URI=spiffe://a/c"),
        ("X_Forwarded_Client_Cert", "x"),
        ("x-forwarded.client_cert", "x"),
        ("x-spiffe-id", "x"),
        ("x.spiffe.id", "x"),
        ("x_spiffe-id", "x"),
        ("client-cert", "x"),
        ("client_cert", "x"),
        ("Client.Cert", "x"),
        ("client-cert-chain", "x"),
        ("client_cert_chain", "x"),
        ("x-postern-refusal", "x"),
        ("x_postern_decision", "x"),
        ("x-postern-", "x"),
        ("x-forwarded-for", "1"),
        ("x-spiffe-ids", "1"),
        ("client-certs", "1"),
        ("x-postern", "1"),
        ("xspiffeid", "1"),
    ]);
    strip_identity(&mut headers);
    let kept = [
        ("x-forwarded-for", "1"),
        ("x-spiffe-ids", "1"),
        ("client-certs", "1"),
        ("x-postern", "1"),
        ("xspiffeid", "1"),
    ];
    assert_eq!(headers, map(&kept));
}

#[test]
fn hd27_strips_responses() {
    let mut headers = map(&[
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("x-spiffe-id", "x"),
        ("x-postern-refusal", "x"),
        ("x-postern-decision", "x"),
        ("server", "app"),
        ("set-cookie", "a"),
        ("set-cookie", "b"),
    ]);
    strip_response(&mut headers);
    assert_eq!(headers, map(&[("server", "app"), ("set-cookie", "a"), ("set-cookie", "b")]));
}

#[test]
fn trailers_carry_no_framing_routing_or_identity() {
    let mut trailers = map(&[
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("host", "evil"),
        ("authorization", "x"),
        ("cookie", "x"),
        ("content-type", "x"),
        ("content-encoding", "x"),
        ("x-spiffe-id", "x"),
        ("x_forwarded_client_cert", "x"),
        ("connection", "x-a"),
        ("x-a", "1"),
        ("x-forwarded-for", "1"),
        ("te", "trailers"),
        ("content_length", "1"),
        ("expect", "100-continue"),
        ("grpc-status", "0"),
        ("grpc-message", "ok"),
        ("grpc-status-details-bin", "AA"),
        ("x-checksum", "1"),
        ("digest", "x"),
    ]);
    clean_trailers(&mut trailers);
    let kept = [
        ("grpc-status", "0"),
        ("grpc-message", "ok"),
        ("grpc-status-details-bin", "AA"),
        ("x-checksum", "1"),
        ("digest", "x"),
    ];
    assert_eq!(trailers, map(&kept));
}

#[test]
fn hd24_merges_cookie_crumbs() {
    let mut headers = map(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")]);
    merge_cookies(&mut headers);
    assert_eq!(headers, map(&[("cookie", "a=1; b=2; c=3"), ("x", "y")]));
    assert!(headers["cookie"].is_sensitive());
    let mut headers = map(&[("cookie", "a=1")]);
    merge_cookies(&mut headers);
    assert_eq!(headers, map(&[("cookie", "a=1")]));
}

/// What CGI, WSGI, PHP and the like make of a name.
fn variable_name(name: &str) -> String {
    name.chars()
        .map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' })
        .collect()
}

const RESERVED: [&str; 6] = [
    "x_forwarded_client_cert",
    "x_spiffe_id",
    "client_cert",
    "client_cert_chain",
    "x_postern_refusal",
    "x_postern_decision",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_spelling_of_an_identity_header_survives(
        names in proptest::collection::vec((0..RESERVED.len(), proptest::collection::vec((any::<bool>(), 0..9_usize), 32)), 1..8),
    ) {
        let mut headers = HeaderMap::new();
        for (index, spelling) in names {
            let name: String = RESERVED[index].chars().zip(spelling).map(|(character, (upper, separator))| match character {
                '_' => char::from(b"-_.~!'*+|"[separator]),
                letter if upper => letter.to_ascii_uppercase(),
                letter => letter,
            }).collect();
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a token"), HeaderValue::from_static("forged"));
            headers.append("x-stays", HeaderValue::from_static("1"));
        }
        let mut trailers = headers.clone();
        clean_trailers(&mut trailers);
        strip_identity(&mut headers);
        for name in headers.keys().chain(trailers.keys()) {
            prop_assert!(!RESERVED.contains(&variable_name(name.as_str()).as_str()), "{}", name);
        }
        prop_assert!(headers.contains_key("x-stays") && trailers.contains_key("x-stays"));
    }
}

#[test]
fn hd_15_no_header_replaces_the_path_that_was_decided_on() {
    let mut headers = HeaderMap::new();
    for name in
        ["x-original-url", "x_original_url", "x-rewrite-url", "x-envoy-original-path", "x-envoy-original-dst-host"]
    {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("/admin"));
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    super::strip_request(&mut headers, true);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-forwarded-proto"]);
}

/// One walk finds what the parts would: each name alone, each pair, and all together.
#[test]
fn a_request_is_stripped_of_all_that_its_parts_would_strip() {
    const NAMES: &[&str] = &[
        "accept",
        "host",
        "content-length",
        "content-type",
        "cookie",
        "connection",
        "te",
        "trailer",
        "expect",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "http2-settings",
        "proxy-authentication-info",
        "proxy-authenticate",
        "proxy-authorization",
        "transfer-encoding",
        "x-spiffe-id",
        "x_spiffe_id",
        "x-forwarded-client-cert",
        "x.forwarded_client-cert",
        "client-cert",
        "client_cert",
        "client-cert-chain",
        "workload.spiffe.io",
        "x-postern-hops",
        "x_postern_hops",
        "x-postern-refusal",
        "x-original-url",
        "x_rewrite_url",
        "x-envoy-original-path",
        "x-request-id",
        "x",
        "c",
        "t",
        "tea",
        "expected",
        "connections",
        "upgrades",
    ];
    let value = |name: &str| HeaderValue::from_static(if name == "connection" { "keep-alive, x-hop" } else { "1" });
    let all = NAMES.iter().map(|name| vec![*name, *name]).chain([NAMES.to_vec()]);
    let pairs = NAMES.iter().flat_map(|one| NAMES.iter().map(|other| vec![*one, "x-hop", *other]));
    for names in pairs.chain(all) {
        let mut headers = HeaderMap::new();
        for name in &names {
            headers.append(HeaderName::from_static(name), value(name));
        }
        for to_app in [false, true] {
            let (mut together, mut apart) = (headers.clone(), headers.clone());
            let counted = super::strip_request(&mut together, to_app);
            assert_eq!(counted, together.remove("x-postern-hops").is_some(), "{names:?}");
            strip_hop_by_hop(&mut apart);
            strip_identity(&mut apart);
            apart.remove("expect");
            if to_app {
                for name in ["x-original-url", "x_rewrite_url", "x-envoy-original-path"] {
                    apart.remove(name);
                }
            }
            assert_eq!(together, apart, "{names:?}, to the application: {to_app}");
        }
    }
}
