use super::{Form, read_again, read_target};
use crate::refusal::Refusal;
use http::request::Parts;
use http::{Method, Request, Version};

fn head(version: Version, method: &str, target: &str, hosts: &[&[u8]]) -> Parts {
    let mut builder = Request::builder().version(version).method(method).uri(target);
    for host in hosts {
        builder = builder.header("host", *host);
    }
    builder.body(()).unwrap_or_else(|error| panic!("{target}: {error}")).into_parts().0
}

#[derive(Debug)]
struct Expected<'a>(&'a str, Option<u16>, &'a str, Form);

fn check(parts: &Parts, expected: Result<Expected<'_>, Refusal>) {
    let read = read_target(parts, Some(80), None);
    match (&read, &expected) {
        (Ok(target), Ok(expected)) => {
            assert_eq!(
                (target.host.as_ref(), target.port, target.path, target.form),
                (expected.0, expected.1, expected.2, expected.3)
            );
        }
        (Err(refusal), Err(expected)) => assert_eq!(refusal, expected, "{parts:?}"),
        _ => panic!("{parts:?}: {read:?}, expected {expected:?}"),
    }
}

fn check_host(host: &str, expected: Option<(&str, Option<u16>)>) {
    let parts = head(Version::HTTP_11, "GET", "/a?b", &[host.as_bytes()]);
    let expected = expected.map(|(host, port)| Expected(host, port, "/a", Form::Origin)).ok_or(Refusal::BadHost);
    check(&parts, expected);
}

#[test]
fn hd01_refuses_several_hosts() {
    for hosts in [[b"good".as_slice(), b"good"], [b"good", b"evil"]] {
        check(&head(Version::HTTP_11, "GET", "/", &hosts), Err(Refusal::BadHost));
    }
    check_host("good, evil", None);
    check_host("good,good", None);
}

#[test]
fn hd02_refuses_http11_without_host() {
    check(&head(Version::HTTP_11, "GET", "/", &[]), Err(Refusal::BadHost));
    check(&head(Version::HTTP_11, "GET", "http://good/", &[]), Err(Refusal::BadHost));
    check_host("", None);
}

#[test]
fn hd02_http10_without_host_needs_a_stand_in() {
    let parts = head(Version::HTTP_10, "GET", "/", &[]);
    check(&parts, Err(Refusal::BadHost));
    let target = read_target(&parts, None, Some("orders.shop:8080")).expect("the stand-in is a host");
    assert_eq!((target.host.as_ref(), target.port), ("orders.shop", Some(8080)));
    // Its own word comes first, and a newer version gets no stand-in.
    let parts = head(Version::HTTP_10, "GET", "/", &[b"good"]);
    assert_eq!(read_target(&parts, None, Some("other")).map(|target| target.host.into_owned()), Ok("good".to_owned()));
    for version in [Version::HTTP_11, Version::HTTP_2] {
        assert_eq!(read_target(&head(version, "GET", "/", &[]), None, Some("other")), Err(Refusal::BadHost));
    }
}

#[test]
fn hd03_refuses_malformed_hosts() {
    for host in [
        "a/b@c#d",
        "u@good",
        "u:p@good",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:x",
        "[fe80::1%eth0]",
        "[good]",
        "good:98777",
        "good:65536",
        "good:9000:80",
        "good.:1.2",
        ".",
        "..",
        "good..",
        ".good",
        "a..b",
        "good:+80",
        "good:-1",
        "good:0",
        "good:000080",
        "good%2e",
        "go od",
        "good\t",
        "g\u{f6}\u{f6}d",
        "good;a",
        "good?",
        "*",
        "*.good",
        "good\\evil",
        ":80",
    ] {
        check_host(host, None);
    }
    check_host(&"a".repeat(254), None);
    check(&head(Version::HTTP_11, "GET", "/", &[b"g\xfcd"]), Err(Refusal::BadHost));
}

#[test]
fn hd04_strips_the_default_and_the_empty_port() {
    check_host("good:80", Some(("good", None)));
    check_host("good:", Some(("good", None)));
    check_host("good:443", Some(("good", Some(443))));
    check_host("good:8443", Some(("good", Some(8443))));
    check_host("good:0080", Some(("good", None)));
    check_host("[::1]:8080", Some(("[::1]", Some(8080))));
}

#[test]
fn hd05_lowers_case_and_strips_one_trailing_dot() {
    check_host("GOOD", Some(("good", None)));
    check_host("gOOd.", Some(("good", None)));
    check_host("good.:80", Some(("good", None)));
    check_host("[2001:DB8::0:1]", Some(("[2001:db8::1]", None)));
    check_host("10.0.0.7", Some(("10.0.0.7", None)));
    check_host("my_service-1.NS", Some(("my_service-1.ns", None)));
}

#[test]
fn hd06_h2_authority_and_host_have_to_agree() {
    let h2 = |hosts: &[&[u8]]| head(Version::HTTP_2, "GET", "http://good/a", hosts);
    check(&h2(&[]), Ok(Expected("good", None, "/a", Form::Origin)));
    check(&h2(&[b"GOOD.:80"]), Ok(Expected("good", None, "/a", Form::Origin)));
    check(&h2(&[b"evil"]), Err(Refusal::BadHost));
    check(&h2(&[b"good:81"]), Err(Refusal::BadHost));
    check(&h2(&[b""]), Err(Refusal::BadHost));
    check(&h2(&[b"good", b"good"]), Err(Refusal::BadHost));
}

#[test]
fn hd07_h2_without_authority_uses_the_one_host() {
    let h2 = |hosts: &[&[u8]]| head(Version::HTTP_2, "GET", "/a", hosts);
    check(&h2(&[b"good"]), Ok(Expected("good", None, "/a", Form::Origin)));
    check(&h2(&[]), Err(Refusal::BadHost));
    check(&h2(&[b"good", b"good"]), Err(Refusal::BadHost));
}

#[test]
fn pn18_absolute_form_and_host_have_to_agree() {
    let absolute = |target: &str, host: &str| head(Version::HTTP_11, "GET", target, &[host.as_bytes()]);
    check(&absolute("http://good/admin", "good"), Ok(Expected("good", None, "/admin", Form::Absolute)));
    check(&absolute("http://good:80/admin?x", "GOOD"), Ok(Expected("good", None, "/admin", Form::Absolute)));
    check(&absolute("http://evil/admin", "good"), Err(Refusal::BadHost));
    check(&absolute("http://good:8443/", "good:8443"), Ok(Expected("good", Some(8443), "/", Form::Absolute)));
    // Only the Host of a CONNECT may leave the port out.
    check(&absolute("http://good:8443/", "good"), Err(Refusal::BadHost));
    check(&absolute("http://good/", "good:8443"), Err(Refusal::BadHost));
    check(&absolute("http://good@evil:80/admin", "evil"), Err(Refusal::BadHost));
    check(&absolute("http://u@good/", "good"), Err(Refusal::BadHost));
    check(&absolute("http://h?x=/admin", "h"), Ok(Expected("h", None, "/", Form::Absolute)));
    check(&absolute("ftp://good/", "good"), Err(Refusal::BadRequest));
}

#[test]
fn pn07_a_fragment_is_neither_matched_nor_forwarded() {
    let parts = head(Version::HTTP_11, "GET", "/public#/../admin", &[b"good"]);
    check(&parts, Ok(Expected("good", None, "/public", Form::Origin)));
}

#[test]
fn pn15_the_asterisk_is_for_options_only() {
    check(&head(Version::HTTP_11, "OPTIONS", "*", &[b"good"]), Ok(Expected("good", None, "*", Form::Asterisk)));
    for method in ["GET", "POST"] {
        check(&head(Version::HTTP_11, method, "*", &[b"good"]), Err(Refusal::BadPath));
    }
    for target in ["*", "/", "/admin", "http://good/"] {
        check(&head(Version::HTTP_11, "PRI", target, &[b"good"]), Err(Refusal::BadRequest));
    }
    let parts = head(Version::HTTP_11, "OPTIONS", "*", &[b"good"]);
    let target = read_target(&parts, None, None).expect("it is a target");
    assert_eq!(target.readings(false).map(|readings| readings.raw().to_owned()), Ok("*".to_owned()));
}

#[test]
fn pn28_connect_names_an_authority_and_no_path() {
    let connect = |version, target: &str, hosts: &[&[u8]]| {
        let mut parts = head(version, "GET", "/", hosts);
        parts.method = Method::CONNECT;
        parts.uri = target.parse().expect("a target");
        parts
    };
    check(&connect(Version::HTTP_11, "good:80", &[b"good:80"]), Ok(Expected("good", Some(80), "", Form::Authority)));
    check(&connect(Version::HTTP_11, "good:80", &[b"good"]), Ok(Expected("good", Some(80), "", Form::Authority)));
    check(&connect(Version::HTTP_2, "good:80", &[]), Ok(Expected("good", Some(80), "", Form::Authority)));
    check(&connect(Version::HTTP_11, "good:80", &[b"evil:80"]), Err(Refusal::BadHost));
    check(&connect(Version::HTTP_11, "good:80", &[b"good:81"]), Err(Refusal::BadHost));
    check(&connect(Version::HTTP_11, "good:80", &[]), Err(Refusal::BadHost));
    check(&connect(Version::HTTP_2, "good", &[]), Err(Refusal::BadHost));
    check(&connect(Version::HTTP_11, "/", &[b"good"]), Err(Refusal::BadHost));
    check(&connect(Version::HTTP_2, "http://good/chat", &[]), Ok(Expected("good", None, "/chat", Form::Origin)));
    // What nobody can ask for need not be refused.
    assert!(http::Uri::builder().authority("good:80").path_and_query("/admin").build().is_err());
    assert!("good:80/admin".parse::<http::Uri>().is_err());
    let parts = connect(Version::HTTP_2, "good:80", &[]);
    let target = read_target(&parts, None, None).expect("it is a target");
    assert_eq!(target.readings(false).map(|readings| readings.raw().to_owned()), Ok(String::new()));
    assert_eq!(target.authority(), "good:80");
}

#[test]
fn sm19_refuses_other_schemes() {
    check(&head(Version::HTTP_2, "GET", "file://good/a", &[]), Err(Refusal::BadRequest));
}

#[test]
fn pn16_refuses_targets_without_a_leading_slash() {
    let mut parts = head(Version::HTTP_11, "GET", "/", &[b"good"]);
    parts.uri = "good:80".parse().expect("an authority");
    check(&parts, Err(Refusal::BadPath));
}

#[test]
fn a_target_is_read_again_as_it_was_read_before() {
    for (method, target) in [
        (Method::GET, "/a/%2e%2e/b"),
        (Method::GET, "http://good/a;b"),
        (Method::OPTIONS, "*"),
        (Method::CONNECT, "good:80"),
    ] {
        let mut parts = head(Version::HTTP_11, "GET", "/", &[b"good"]);
        parts.uri = target.parse().expect("a target");
        parts.method = method;
        let read = read_target(&parts, None, None).expect("it is a target").readings(false);
        assert!(read.is_ok());
        assert_eq!(read_again(&parts.method, &parts.uri, false), read);
    }
    for (method, target) in
        [(Method::GET, "*"), (Method::CONNECT, "*"), (Method::GET, "good:80"), (Method::OPTIONS, "good:80")]
    {
        assert!(read_again(&method, &target.parse().expect("a target"), false).is_err(), "{method} {target}");
    }
}
