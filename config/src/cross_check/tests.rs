use crate::Config;
use std::path::Path;

/// The problems of `text`, without hints.
fn problems(text: &str) -> Vec<String> {
    match Config::from_str(Path::new("f"), text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(|problem| format!("{} {}", problem.place, problem.what)).collect(),
    }
}

fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text), expected, "{text}");
}

#[test]
fn names_and_ports_are_unique() {
    check(
        "inbound:\n\
         - { name: a, port: 1, allow: [{ spiffe: spiffe://td/a }] }\n\
         - { name: a, port: 2, allow: [{ spiffe: spiffe://td/a }] }\n\
         - { port: 2, allow: [{ spiffe: spiffe://td/a }] }\n",
        &[
            "f:3:3 the inbound port name `a` is used twice; it stands at f:2:3 already",
            "f:4:3 port 2 is written twice; it stands at f:3:3 already",
        ],
    );
    check(
        "outbound:\n  services:\n\
         \x20 - { name: a, hosts: [a], identity: spiffe://td/a }\n\
         \x20 - { name: a, hosts: [b], identity: spiffe://td/a }\n",
        &["f:4:5 the service name `a` is used twice; it stands at f:3:5 already"],
    );
    check(
        "inbound:\n- port: 1\n  allow:\n  - { name: a, spiffe: spiffe://td/a }\n  - { name: a, spiffe: spiffe://td/b }\n  \
         routes:\n  - { name: r, match: { path: /a } }\n  - { name: r, match: { path: /b } }\n",
        &[
            "f:5:5 the rule name `a` is used twice; it stands at f:4:5 already",
            "f:8:5 the route name `r` is used twice; it stands at f:7:5 already",
        ],
    );
}

#[test]
fn two_listeners_do_not_share_an_address() {
    let service = |listen: &str| {
        format!(
            "outbound: {{ listen: 127.0.0.1:15001, services: [{{ name: a, listen: \"{listen}\", \
             endpoints: [\"10.0.0.7:1\"], identity: spiffe://td/a }}] }}"
        )
    };
    check(&service("127.0.0.1:9000"), &[]);
    check(&service("127.0.0.2:15001"), &[]);
    check(&service("[::1]:15001"), &[]);
    check(&service("127.0.0.1:0"), &[]);
    let taken =
        "service `a` listens on 127.0.0.1:15001, which outbound.listen takes already (127.0.0.1:15001, at f:1:21)";
    check(&service("127.0.0.1:15001"), &[&format!("f:1:68 {taken}")]);
    check(
        &service("127.0.0.1:15020"),
        &["f:1:68 service `a` listens on 127.0.0.1:15020, which telemetry.metrics takes already \
           (0.0.0.0:15020, the default)"],
    );
    check(
        "telemetry: { metrics: \"[::]:9000\", readiness: \"0.0.0.0:9000\" }",
        &["f:1:47 telemetry.readiness listens on 0.0.0.0:9000, which telemetry.metrics takes already \
           ([::]:9000, at f:1:23)"],
    );
    check("telemetry: { metrics: off, readiness: off }\nadmin: { listen: 127.0.0.1:15020 }", &[]);
}

#[test]
fn two_listeners_do_not_share_a_socket() {
    let service = |listen: &str| {
        format!(
            "outbound: {{ listen: [127.0.0.1:15001, \"unix:/run/a.sock\"], services: [{{ name: a, listen: \"{listen}\", \
             endpoints: [\"10.0.0.7:1\"], identity: spiffe://td/a }}] }}\nadmin: {{ socket: /run/admin.sock }}"
        )
    };
    check(&service("unix:/run/b.sock"), &[]);
    check(
        &service("unix:///run/a.sock"),
        &["f:1:90 service `a` listens on unix:/run/a.sock, which outbound.listen takes already (unix:/run/a.sock, at \
           f:1:39)"],
    );
    check(
        &service("unix:/run/admin.sock"),
        &[
            "f:2:18 admin.socket listens on unix:/run/admin.sock, which service `a` takes already (unix:/run/admin.sock, \
           at f:1:90)",
        ],
    );
    check(&service("unix:run/b.sock"), &["f:1:90 `listen: \"unix:run/b.sock\"` is not an absolute path"]);
    check(&service("unix:/run/"), &["f:1:90 `listen: \"unix:/run/\"` names a directory"]);
}

#[test]
fn outbound_listeners_are_for_this_host_unless_said() {
    let text = |open: &str| {
        format!(
            "outbound:\n  {open}\n  services:\n  - {{ name: a, listen: 0.0.0.0:9000, endpoints: [\"10.0.0.7:1\"], \
             identity: spiffe://td/a }}"
        )
    };
    let problem = "f:4:24 service `a` listens on 0.0.0.0:9000, where other hosts could use this workload's identity";
    check(&text("default: deny"), &[problem]);
    check(&text("open_listeners: false"), &[problem]);
    check(&text("open_listeners: true"), &[]);
}

#[test]
fn a_proxy_does_not_call_itself() {
    let inbound = |listen: &str, app: &str| {
        format!(
            "inbound: [{{ port: 8080, listen: \"{listen}\", app: \"{app}\", allow: [{{ spiffe: spiffe://td/a }}] }}]"
        )
    };
    check(&inbound("0.0.0.0:15006", "127.0.0.1:8080"), &[]);
    check(&inbound("10.0.0.1:8080", "127.0.0.1:8080"), &[]);
    for (listen, app) in
        [("0.0.0.0:8080", "127.0.0.1:8080"), ("127.0.0.1:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080")]
    {
        let expected = format!("f:1:33 listening on {listen} takes the address of the application itself ({app})");
        check(&inbound(listen, app), &[&expected]);
    }
    check(
        "outbound: { services: [{ name: a, listen: 127.0.0.1:9, endpoints: [\"127.0.0.1:9\"], identity: spiffe://td/a }] }",
        &["f:1:24 service `a` would connect to an outbound listener of this file, 127.0.0.1:9"],
    );
    check(
        "inbound: [{ port: 8080, app: \"unix:/run/a.sock\", allow: [{ spiffe: spiffe://td/a }] }]\n\
         outbound: { listen: \"unix:/run/a.sock\" }",
        &["f:1:11 the application of `inbound-8080` would be an outbound listener of this file, unix:/run/a.sock"],
    );
}

/// THREATS PN-27.
#[test]
fn ties_between_routes_are_refused_whatever_their_order() {
    let routes = |one: &str, other: &str| {
        format!(
            "inbound:\n- port: 1\n  allow: [{{ spiffe: spiffe://td/a }}]\n  routes:\n  - match: {{ {one} }}\n  - match: {{ {other} }}\n"
        )
    };
    for (one, other, ties) in [
        ("path: /a", "path: /b", false),
        ("path: /a", "path: /a", true),
        ("path: /a", "path: /a/", false),
        ("path: /a/*", "path: \"/*/a\"", true),
        ("path: /a/**", "path: /a/b", false),
        ("path: /a/**", "path: /a/**", true),
        ("path: /a/**", "path: /a/b/**", false),
        ("path: /a, methods: [GET]", "path: /a, methods: [PUT]", false),
        ("path: /a, methods: [GET, PUT]", "path: /a, methods: [PUT]", true),
        ("path: /a, methods: [GET]", "path: /a", false),
        ("path: /a, hosts: [x]", "path: /a, hosts: [y]", false),
        ("path: /a, hosts: [x]", "path: /a, hosts: [y, x]", true),
        ("path: /a, hosts: [x]", "path: /a", false),
        ("path: /a, hosts: [\"*.x\"]", "path: /a, hosts: [\"{a}.x\"]", true),
        ("path: /a, hosts: [\"*.b.c\"]", "path: /a, hosts: [\"a.*.c\"]", true),
        ("path: /a, hosts: [\"*.b.c\"]", "path: /b, hosts: [\"a.*.c\"]", false),
    ] {
        for (one, other) in [(one, other), (other, one)] {
            let expected: &[&str] = if ties {
                &[
                    "f:6:5 route `route-2` and route `route-1` (at f:5:5) fit the same requests, and neither is more specific",
                ]
            } else {
                &[]
            };
            check(&routes(one, other), expected);
        }
    }
}

#[test]
fn ties_between_hosts_of_services_are_refused() {
    let services = |one: &str, other: &str| {
        format!(
            "outbound:\n  services:\n  - {{ name: a, hosts: [{one}], identity: spiffe://td/a }}\n  - {{ name: b, \
             hosts: [{other}], identity: spiffe://td/b }}\n"
        )
    };
    for (one, other) in [("x.y", "x.y"), ("\"*.y\"", "\"{n}.y\""), ("\"**.y\"", "\"**.y\""), ("\"*.b.c\"", "\"a.*.c\"")]
    {
        let expected = format!(
            "f:4:5 host `{}` of service `b` and a host of service `a` (at f:3:5) fit the same requests, and neither is \
             more specific",
            other.trim_matches('"')
        );
        check(&services(one, other), &[&expected]);
    }
    for (one, other) in [("x.y", "z.y"), ("\"*.y\"", "x.y"), ("\"**.y\"", "\"*.y\""), ("\"**\"", "\"**.y\"")] {
        check(&services(one, other), &[]);
    }
    check(
        "outbound: { services: [{ name: a, hosts: [\"*.y\", \"{n}.y\"], identity: spiffe://td/a }] }",
        &["f:1:24 service `a` has two hosts that fit the same requests, one of them `{n}.y`"],
    );
}

/// THREATS CF-08: ten thousand of anything are read; in pairs they would take minutes.
#[test]
fn cf_08_many_services_are_checked() {
    let mut text = "outbound:\n  services:\n".to_owned();
    for number in 0..10_000 {
        text.push_str(&format!("  - {{ name: s{number}, hosts: [s{number}.svc], identity: spiffe://td/a }}\n"));
    }
    check(&text, &[]);
}
