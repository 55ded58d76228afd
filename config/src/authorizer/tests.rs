use super::{CheckForm, CheckedBody, OnError, OverBody, Reach};
use crate::Config;
use std::path::Path;
use std::time::Duration;

/// Lines of one authorizer, named `opa` and used by the port.
fn load(lines: &[&str]) -> Result<Config, String> {
    let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "authorizers:\n  - name: opa\n{lines}inbound:\n  - port: 80\n    authorize: opa\n    allow: [{{ spiffe: 'spiffe://td/a' }}]\n    \
         routes:\n      - match: {{ path: /a }}\n      - match: {{ path: /health }}\n        authorize: none\n"
    );
    Config::from_str(Path::new("t.yaml"), &text).map_err(|problems| problems.to_string())
}

#[test]
fn what_is_not_written_is_strict() {
    let config = load(&["grpc: 127.0.0.1:9191"]).unwrap();
    let opa = &config.authorizers[0];
    assert_eq!((opa.timeout, opa.on_error, opa.body), (Duration::from_millis(200), OnError::Refuse, None));
    assert_eq!((&opa.form, opa.certificate, opa.context.len()), (&CheckForm::Grpc, false, 0));
    let port = &config.inbound[0];
    assert_eq!(port.authorize.as_deref(), Some("opa"));
    let of_routes: Vec<_> = port.routes.iter().map(|route| route.authorize.as_deref()).collect();
    assert_eq!(of_routes, [Some("opa"), None]);
    assert!(port.is_about_requests(), "what is no request would pass it by");
}

#[test]
fn all_of_it_means_the_same_when_it_is_read_again() {
    for lines in [
        &[
            "grpc: unix:/run/opa.sock",
            "timeout: 1s",
            "on_error: allow",
            "body: { max: 8KiB, over: truncate }",
            "context: { tenant: acme }",
            "certificate: true",
        ][..],
        &[
            "http: '[::1]:8181'",
            "path_prefix: /check/",
            "request_headers: [Cookie]",
            "upstream_headers: x-user",
            "client_headers: [location]",
            "body: { max: 1 }",
        ],
    ] {
        let config = load(lines).unwrap();
        let again = Config::from_str(Path::new("t.yaml"), &config.to_effective_yaml());
        let again = again.unwrap_or_else(|problems| panic!("{problems}"));
        assert!(again.same_as(&config), "{}", config.to_effective_yaml());
    }
    let config =
        load(&["http: 127.0.0.1:1", "path_prefix: /check/", "request_headers: Cookie", "body: { max: 8KiB }"]).unwrap();
    let CheckForm::Http(http) = &config.authorizers[0].form else { panic!("HTTP") };
    assert_eq!((http.path_prefix.as_str(), http.request_headers.as_slice()), ("/check", &["cookie".to_owned()][..]));
    assert_eq!(config.authorizers[0].body, Some(CheckedBody { max: 8192, over: OverBody::Refuse }));
}

#[test]
fn what_makes_no_sense_is_told_with_its_place() {
    for (lines, expected) in [
        (&["timeout: 1s"][..], "it is nowhere to be asked"),
        (&["grpc: 127.0.0.1:1", "http: 127.0.0.1:1"], "two forms"),
        (&["grpc: 192.0.2.1:9191"], "t.yaml:3:11: `grpc: 192.0.2.1:9191` is another host"),
        (&["grpc: 127.0.0.1:1", "timeout: 11s"], "longer than 10s"),
        (&["grpc: 127.0.0.1:1", "path_prefix: /a"], "`path_prefix` is for `http`"),
        (&["http: 127.0.0.1:1", "context: { a: b }"], "`context` is for `grpc`"),
        (&["http: 127.0.0.1:1", "path_prefix: check"], "is not a path"),
        (&["http: 127.0.0.1:1", "upstream_headers: x_spiffe.id"], "not an authorizer's to say"),
        (&["http: 127.0.0.1:1", "upstream_headers: [host]"], "not an authorizer's to say"),
        (&["http: 127.0.0.1:1", "request_headers: 'x-*'"], "is not a header's name"),
        (&["grpc: 127.0.0.1:1", "body: { max: 2MiB }"], "`max` is not from 1 to 1MiB"),
        (&["grpc: 127.0.0.1:1", "body: {}"], "`max` is missing"),
        (&["grpc: 127.0.0.1:1", "on_error: ignore"], "is not known"),
        (&["grpc: service:opa"], "which is not declared"),
    ] {
        let problems = load(lines).expect_err(expected);
        assert!(problems.contains(expected), "{lines:?}: {problems}");
    }
}

#[test]
fn a_service_has_to_be_one_that_is_known_without_a_request() {
    let with = |service: &str| {
        let text = format!(
            "authorizers: [{{ name: opa, grpc: 'service:policy' }}]\noutbound:\n  services:\n    - {service}\n"
        );
        Config::from_str(Path::new("t.yaml"), &text).map_err(|problems| problems.to_string())
    };
    let config = with("{ name: policy, hosts: p, endpoints: { dns: 'p:1' }, identity: 'spiffe://td/opa' }").unwrap();
    assert_eq!(config.authorizers[0].reach, Reach::Service("policy".to_owned()));
    for (service, expected) in [
        ("{ name: policy, hosts: p, identity: 'spiffe://td/opa' }", "is where a request says"),
        (
            "{ name: policy, hosts: p, protocol: tcp, listen: '127.0.0.1:9', endpoints: { dns: 'p:1' }, identity: 'spiffe://td/opa' }",
            "does not speak HTTP",
        ),
        ("{ name: policy, hosts: '{ns}.p', endpoints: { dns: 'p:1' }, identity: 'spiffe://td/{ns}' }", "is a template"),
    ] {
        let problems = with(service).expect_err(expected);
        assert!(problems.contains(expected), "{service}: {problems}");
    }
}

#[test]
fn a_port_names_one_that_is_declared() {
    for (authorizers, expected) in [
        ("", "declare it: `authorizers:"),
        ("authorizers: [{ name: opa, grpc: 127.0.0.1:1 }]\n", "declared are `opa`"),
        ("authorizers: [{ name: opa, grpc: 127.0.0.1:1 }, { name: opa, http: 127.0.0.1:1 }]\n", "used twice"),
    ] {
        let text = format!(
            "{authorizers}inbound: [{{ port: 80, authorize: opaa, allow: [{{ spiffe: 'spiffe://td/a' }}] }}]\n"
        )
        .replace("opaa", if expected == "used twice" { "opa" } else { "opaa" });
        let problems = Config::from_str(Path::new("t.yaml"), &text).expect_err(expected).to_string();
        assert!(problems.contains(expected), "{problems}");
    }
    let tcp = "authorizers: [{ name: opa, grpc: 127.0.0.1:1 }]\n\
               inbound: [{ port: 80, protocol: tcp, authorize: opa, allow: [{ spiffe: 'spiffe://td/a' }] }]\n";
    let problems = Config::from_str(Path::new("t.yaml"), tcp).expect_err("it is for HTTP").to_string();
    assert!(problems.contains("`authorize` is for HTTP"), "{problems}");
}
