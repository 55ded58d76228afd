//! What is told of single values and keys.

use crate::Config;
use std::path::Path;

/// The only problem of `text`, with its hint.
fn problem(text: &str) -> String {
    let problems = Config::from_str(Path::new("f"), text).expect_err(text).0;
    assert_eq!(problems.len(), 1, "{text}: {problems:?}");
    let hint = problems[0].hint.as_deref().unwrap_or("none");
    format!("{} {} ({hint})", problems[0].place, problems[0].what)
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (text, expected) in [
        ("workes: 2", "f:1:1 unknown key `workes` in the file (did you mean `workers`?)"),
        ("drain-timeout: 2s", "f:1:1 unknown key `drain-timeout` in the file (did you mean `drain_timeout`?)"),
        ("timeouts: { conect: 1s }", "f:1:13 unknown key `conect` in `timeouts` (did you mean `connect`?)"),
        ("admin: { Socket: /a }", "f:1:10 unknown key `Socket` in `admin` (did you mean `socket`?)"),
        (
            "admin: { x: 1 }",
            "f:1:10 unknown key `x` in `admin` (known keys are `socket`, `listen`, `uids`, `read`, `operate`, `revoke`)",
        ),
    ] {
        assert_eq!(problem(text), expected);
    }
}

#[test]
fn a_misspelt_key_is_not_missing_as_well() {
    let text = "outbound: { services: [{ name: a, hosts: [a], identiy: spiffe://td/a }] }";
    assert_eq!(problem(text), "f:1:47 unknown key `identiy` in a service (did you mean `identity`?)");
}

#[test]
fn wrong_values_are_told_with_what_to_write() {
    for (text, expected) in [
        ("workers: two", "f:1:10 `workers: two` is not a whole number from 1 to 4294967295 (write"),
        ("workers: 0", "f:1:10 `workers: 0` is not a whole number from 1"),
        ("workers: -1", "f:1:10 `workers: -1` is not a whole number from 1"),
        ("workers: 2000", "f:1:10 `workers: 2000` is more than 1024"),
        ("workers: [1]", "f:1:10 `workers: […]` is not a whole number"),
        ("workers:", "f:1:1 `workers` has no value (write a value behind `workers:`, or remove the key)"),
        ("workers: ~", "f:1:1 `workers` has no value"),
        ("identity: { compat: yes }", "f:1:21 `compat: yes` is not known (write one of `true`, `false`)"),
        ("drain_timeout: 5", "f:1:16 `drain_timeout: 5` has no unit (write `5s` for seconds, `5ms` for milliseconds)"),
        ("drain_timeout: 5 s", "f:1:16 `drain_timeout: 5 s` has an unknown unit (write a number with its unit"),
        ("drain_timeout: 0s", "f:1:16 `drain_timeout: 0s` would end everything at once"),
        ("limits: { header_bytes: 64KB }", "f:1:25 `header_bytes: 64KB` has an unknown unit (write bytes:"),
        ("limits: { header_bytes: 1KiB }", "f:1:25 `header_bytes` is 1024 bytes, and not from 8KiB to 1MiB"),
        ("limits: { headers: 0 }", "f:1:20 `headers: 0` is not a whole number from 1"),
        ("inbound: 5", "f:1:10 `inbound: 5` is not a list (write `- `"),
        ("inbound: [5]", "f:1:11 `inbound: 5` is not a mapping, and an inbound port is one"),
        ("telemetry: on", "f:1:12 `telemetry: on` is not a mapping"),
        ("telemetry: { metrics: false }", "f:1:23 `metrics: false` is not an address (write `off`)"),
        (
            "telemetry: { metrics: 15020 }",
            "f:1:23 `metrics: 15020` is not an IP address and port (write the address too",
        ),
        ("telemetry: { metrics: \":15020\" }", "f:1:23 `metrics: \":15020\"` is not an IP address and port (write the"),
        ("telemetry: { metrics: 1.2.3.4 }", "f:1:23 `metrics: 1.2.3.4` is not an IP address and port (add a port"),
        ("telemetry: { log: 5 }", "f:1:19 `log: 5` is not text (write it in quotes: \"5\")"),
        ("telemetry: { log: \"\" }", "f:1:19 `log: \"\"` is empty"),
        ("telemetry: { log_format: jsn }", "f:1:26 `log_format: jsn` is not known (did you mean `json`? Known are"),
        ("telemetry: { access_log: { fil: /x } }", "f:1:28 unknown key `fil` in `access_log` (did you mean `file`?)"),
        ("admin: { listen: 0.0.0.0:15000 }", "f:1:18 `admin.listen: 0.0.0.0:15000` can be reached from other hosts"),
        ("admin: { uids: [1000] }", "f:1:16 `uids` says who may use the admin socket, and there is none"),
        (
            "identity: { workload_api: unix:p }",
            "f:1:27 `workload_api: unix:p` has no absolute path (Workload Endpoint §4)",
        ),
        ("identity: { svid: first }", "f:1:19 `svid: first` is not known"),
        ("identity: { svid: {} }", "f:1:19 `svid: {…}` does not choose in exactly one way"),
        ("identity: { svid: { id: spiffe://td/a, hint: x } }", "f:1:19 `svid: {…}` does not choose in exactly one way"),
        ("identity: { svid: { id: td/a } }", "f:1:25 `id: td/a` does not start with `spiffe://`"),
        ("identity: { files: { certificate: a, key: b } }", "f:1:20 `bundle` is missing (name the PEM file with the"),
        (
            "identity: { workload_api: \"unix:///a\", files: { certificate: a, key: b, bundle: c } }",
            "f:1:47 `files` and `workload_api` are both written",
        ),
        (
            "identity: { files: { certificate: a, key: b, bundle: c, federated: { A.example: d } } }",
            "f:1:70 `A.example` has a character other than a-z",
        ),
        (
            "identity: { federation: [{ trust_domain: p.example, url: \"http://p.example/\", profile: https_web }] }",
            "f:1:58 `url: \"http://p.example/\"` has a scheme other than `https` (SPIFFE Federation §5.2.1.1)",
        ),
        (
            "identity: { federation: [{ trust_domain: p.example, url: \"https://p.example/\" }] }",
            "f:1:26 `profile` is missing (write `https_web` or `https_spiffe`; neither is assumed)",
        ),
        (
            "identity: { federation: [{ trust_domain: p.example, url: \"https://p.example/\", profile: https_web, \
             spiffe_id: spiffe://p.example/x }] }",
            "f:1:111 `spiffe_id` belongs to the profile `https_spiffe` alone",
        ),
        (
            "identity: { federation: [{ trust_domain: p.example, url: \"https://p.example/\", profile: https_spiffe, \
             spiffe_id: spiffe://p.example/x }] }",
            "f:1:26 `bootstrap` is missing, and `https_spiffe` needs it",
        ),
        (
            "identity: { federation: [{ trust_domain: p.example, url: \"https://a/\", profile: https_web }, \
             { trust_domain: p.example, url: \"https://b/\", profile: https_web }] }",
            "f:1:110 `p.example` has another bundle endpoint already",
        ),
        (
            "identity: { federation: [{ trust_domain: p.example, url: \"https://a/\", profile: https_web, keep: k }, \
             { trust_domain: q.example, url: \"https://b/\", profile: https_web, keep: k }] }",
            "f:1:175 `p.example` keeps its bundle in the same file",
        ),
        (
            "identity: { files: { certificate: a, key: b, bundle: c, federated: { p.example: d } }, \
             federation: [{ trust_domain: p.example, url: \"https://a/\", profile: https_web }] }",
            "f:1:117 `p.example` is among the `federated` files as well",
        ),
        (
            "identity: { federation: [{ spiffe_id: spiffe://p.example, trust_domain: p.example, url: \"https://a/\", \
             profile: https_spiffe, bootstrap: b }] }",
            "f:1:39 `spiffe://p.example` is a trust domain, and no endpoint's certificate has such an ID",
        ),
        ("capture: {}", "f:1:10 `capture` captures neither direction"),
        ("capture: { mode: tproxy, outbound: 15001 }", "f:1:18 `mode` is about inbound connections"),
        ("capture: { inbound: 0 }", "f:1:21 `inbound: 0` is not a whole number from 1 to 65535"),
        (
            "capture: { inbound: 15006, redirect: { exclude_networks: 10.0.0.1/8 } }",
            "f:1:58 `exclude_networks: 10.0.0.1/8` has bits set behind its prefix",
        ),
        ("capture: { inbound: 1, redirect: { mark: 0 } }", "f:1:42 `mark: 0` is not a mark"),
        (
            "capture: { inbound: 1, redirect: { exempt_users: \"a b\" } }",
            "f:1:50 `exempt_users: \"a b\"` is not a user",
        ),
        (
            "capture: { inbound: 1, redirect: { exclude_interfaces: \"eth0; drop\" } }",
            "f:1:56 `exclude_interfaces: \"eth0; drop\"` is not an interface",
        ),
        ("capture: { outbound: 15020 }", "f:1:22 capture.outbound"),
        (
            "outbound: { services: [{ name: a, hosts: a, identity: spiffe://td/a, users: [] }] }",
            "f:1:77 `users` names nobody",
        ),
        (
            "outbound: { services: [{ name: a, hosts: a, identity: spiffe://td/a, users: \"a:b\" }] }",
            "f:1:77 `users: \"a:b\"` is not a user",
        ),
        ("outbound: { default: allow }", "f:1:22 `default: allow` would let through what nobody named"),
        ("5", "f:1:1 `5` is not a mapping, and the file is one"),
    ] {
        let told = problem(text);
        assert!(told.starts_with(expected), "{text}\n  told     {told}\n  expected {expected}");
    }
}

/// Told text is one line, however hostile the file.
#[test]
fn what_is_shown_is_short_and_printable() {
    let told = problem(&format!("workers: \"a\\e[31m\\n{}\"", "x".repeat(500)));
    assert!(told.contains("a\\u{1b}[31m\\nxxx") && told.contains('…') && told.len() < 300, "{told}");
}
