//! The crate as a whole: examples, round trips, and the promise that all problems are told.

use super::*;
use proptest::prelude::*;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// All but what `include:` leads to, which is a part of another one.
pub(crate) fn examples() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![example("")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory of examples") {
            let path = entry.expect("an example").path();
            let is_included = path.extension().is_some_and(|extension| extension == "d");
            if path.is_dir() && !is_included {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn load(text: &str) -> Result<Config, Problems> {
    Config::from_str(Path::new("test.yaml"), text)
}

#[test]
fn every_example_loads() {
    let names = examples();
    assert_eq!(names.len(), 23, "{names:?}");
    for path in names {
        if let Err(problems) = Config::load(&path) {
            panic!("{problems}");
        }
    }
}

#[test]
fn what_is_in_force_reads_as_the_same() {
    for path in examples() {
        let config = Config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let text = config.to_effective_yaml();
        let again = Config::from_str(&path, &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert!(config.same_as(&again), "{}\n{text}", path.display());
        let json = config.effective_json().to_string();
        assert_eq!(json, again.effective_json().to_string());
        // JSON is YAML: tools that write it need no other library.
        let again = Config::from_str(&path, &json).unwrap_or_else(|problems| panic!("{problems}\n{json}"));
        assert!(config.same_as(&again), "{}\n{json}", path.display());
    }
}

/// `place what` and, behind ` | `, the hint of each problem.
fn problems(text: &str) -> Vec<String> {
    let problems = match load(text) {
        Ok(config) => panic!("loaded: {}", config.to_effective_yaml()),
        Err(problems) => problems,
    };
    let told = problems
        .0
        .iter()
        .map(|problem| format!("{} {} | {}", problem.place, problem.what, problem.hint.as_deref().unwrap_or_default()));
    told.collect()
}

#[test]
fn five_mistakes_are_five_problems_with_their_places() {
    let told = problems(
        r#"
identity:
  permission_denied_grace: 30s
inbound:
  - port: 80800
    listen: 0.0.0.0:15006
    alow:
      - spiffe: spiffe://shop.example/ns/web/sa/web
outbound:
  services:
    - name: payments
      listen: localhost:9001
      endpoints: ["10.0.0.7:15006"]
      connect_timeout: 30
      identity: spiffe://shop.example/ns/shop/sa/payments-*
"#,
    );
    assert_eq!(
        told,
        [
            "test.yaml:5:11 `port: 80800` is not a whole number from 1 to 65535 | write a whole number from 1 to 65535",
            "test.yaml:7:5 unknown key `alow` in an inbound port | did you mean `allow`?",
            "test.yaml:12:15 `listen: localhost:9001` is not an IP address and port | write an IP address \
             (`127.0.0.1:8080`, `[::1]:8080`); names are for `endpoints: { dns: … }`",
            "test.yaml:14:24 `connect_timeout: 30` has no unit | write `30s` for seconds, `30ms` for milliseconds",
            "test.yaml:15:17 `identity: spiffe://shop.example/ns/shop/sa/payments-*` `*` and `{name}` stand for a whole \
             segment, and a name is a-z 0-9 _ beginning with a letter | write an ID such as \
             `spiffe://shop.example/ns/shop/sa/web`, or `…/sa/*`",
        ]
    );
}

/// One of them hides a mandatory key behind a misspelt one, and one leaves the mandatory identity out.
#[test]
fn five_other_mistakes_are_five_problems_as_well() {
    let told = problems(
        "inbound:\n  - prot: 8080\n    protocol: htpp\n    allow:\n      - spiffe: shop.example/ns/web\noutbound:\n  \
         services:\n    - name: payments\n      listen: 127.0.0.1:9001\n      endpoints: [\"10.0.0.7:8443\"]\n\
         drain_timeout: 25 bananas\n",
    );
    let places: Vec<&str> = told.iter().filter_map(|told| told.split(' ').next()).collect();
    assert_eq!(
        places,
        ["test.yaml:2:5", "test.yaml:3:15", "test.yaml:5:17", "test.yaml:8:7", "test.yaml:11:16"],
        "{told:?}"
    );
}

#[test]
fn the_template_of_the_guide_gives_each_namespace_its_identity() {
    let config = Config::load(&example("template.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    let Transport::Mesh { identity, .. } = &config.outbound.services[0].transport else { panic!("a mesh service") };
    let captures = config.outbound.services[0].hosts[0].matches("web.shop.svc.cluster.local").expect("fits");
    let expected = identity[0].expand(&captures).expect("a value for each capture");
    assert!(expected.matches(&SpiffeId::parse("spiffe://shop.example/ns/shop/sa/web").expect("valid")));
    assert!(!expected.matches(&SpiffeId::parse("spiffe://shop.example/ns/other/sa/web").expect("valid")));
}

#[test]
fn what_nobody_wrote_is_the_default() {
    let config = load("{}").expect("a file may say nothing");
    assert_eq!(config.identity, Identity::default());
    assert_eq!(config.telemetry, Telemetry::default());
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.limits, Limits::default());
    let config = load("inbound: [{ port: 8080, allow: [{ spiffe: spiffe://td/a }] }]").expect("loads");
    let port = &config.inbound[0];
    assert_eq!((port.name.as_str(), port.app.to_string().as_str()), ("inbound-8080", "127.0.0.1:8080"));
    assert_eq!(
        (port.tls, port.protocol, port.rules.allow[0].name.as_str()),
        (InboundTls::Strict, Protocol::Detect, "allow-1")
    );
}

#[test]
fn only_what_is_written_counts_not_where() {
    let one = load("workers: 1\ninbound: [{ port: 1, allow: [{ spiffe: spiffe://td/a }] }]").expect("loads");
    let moved = load("\n\ninbound:\n- port: 1\n  allow:\n  - spiffe: [spiffe://td/a]\nworkers: 1").expect("loads");
    let other = load("workers: 1\ninbound: [{ port: 1, allow: [{ spiffe: spiffe://td/b }] }]").expect("loads");
    assert!(one.same_as(&moved) && one != moved);
    assert!(!one.same_as(&other));
    assert_ne!(one.effective_json(), other.effective_json());
}

#[test]
fn whoever_names_no_svid_gets_that_of_the_identity() {
    let config = load(
        "identity: { svid: { hint: internal } }\n\
         inbound:\n- { port: 1, allow: [{ spiffe: spiffe://td/a }] }\n\
         - { port: 2, svid: default, allow: [{ spiffe: spiffe://td/a }] }\n\
         outbound: { services: [{ name: a, hosts: a, identity: spiffe://td/a }] }",
    )
    .unwrap_or_else(|problems| panic!("{problems}"));
    let hint = SvidSelector::Hint("internal".to_owned());
    assert_eq!(config.inbound[0].svid, hint);
    assert_eq!(config.inbound[1].svid, SvidSelector::Default);
    assert!(matches!(&config.outbound.services[0].transport, Transport::Mesh { svid, .. } if *svid == hint));
}

/// Rules of one inbound port; the port begins at 1:11.
#[test]
fn inbound_ports_that_make_no_sense_are_problems() {
    for (port, expected) in [
        ("{ port: 1 }", "1:11 the port allows nobody"),
        ("{ port: 1, allow: [] }", "1:29 the port allows nobody"),
        ("{ port: 0, allow: [{ spiffe: spiffe://td/a }] }", "1:19 `port: 0` is not a whole number from 1 to 65535"),
        ("{ allow: [{ spiffe: spiffe://td/a }] }", "1:11 `port` is missing"),
        ("{ port: 1, routes: [{ match: {} }] }", "1:31 the route has no rules, and neither has its port"),
        ("{ port: 1, routes: [{ match: {}, allow: [] }] }", "1:51 the route allows nobody"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a }], routes: [{ name: a }] }", "1:67 `match` is missing"),
        ("{ port: 1, allow: [{ name: a }] }", "1:30 a rule does not say who may call"),
        ("{ port: 1, allow: [{ anonymous: false }] }", "1:30 a rule does not say who may call"),
        ("{ port: 1, allow: [{ spiffe: [] }] }", "1:40 `spiffe` has nothing that could fit"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, methods: [] }] }", "1:64 `methods` has nothing that could fit"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, methods: get }] }", "1:64 `methods: get` is not a method"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, methods: \"*\" }] }", "1:64 `methods: \"*\"` is no method"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, paths: a }] }", "1:62 `paths: a` does not start with `/`"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, when: nobody }] }", "1:61 `when`: nothing is called `nobody`"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, sni: [] }] }", "1:60 `sni` has nothing that could fit"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, ports: [] }] }", "1:62 `ports` has nothing that could fit"),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, labels: {} }] }", "1:63 `labels` has nothing that could fit"),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, when: captures.ns == 'a' }] }",
            "1:30 `when` asks for `captures.ns`, and nothing captures it",
        ),
        ("{ port: 1, allow: [{ spiffe: \"spiffe://td/{ns}\" }] }", "1:40 `spiffe://td/{ns}` has the capture `{ns}`"),
        (
            "{ port: 1, allow: [{ spiffe: \"spiffe://td/{ns}\", paths: [\"/{ns}\", /x] }] }",
            "1:40 `spiffe://td/{ns}` has the capture `{ns}`, and not every path or host of the rule has it",
        ),
        (
            "{ port: 1, deny: [{ name: x }], allow: [{ spiffe: spiffe://td/a }] }",
            "1:29 a rule of `deny` fits everything",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, trust_domain: td }] }",
            "1:69 a rule names both `spiffe` and `trust_domain`",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, headers: { x-spiffe-id: a } }] }",
            "1:66 a rule cannot ask for the header `x-spiffe-id`",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, headers: { X_Forwarded.Client-Cert: a } }] }",
            "1:66 a rule cannot ask for the header",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, headers: { x-a: 1, X-A: 2 } }] }",
            "1:74 the header `x-a` is asked for twice",
        ),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, headers: {} }] }", "1:64 `headers` has nothing that could fit"),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, query: { a: \"*x*\" } }] }",
            "1:67 `query: \"*x*\"` has `*` at both ends",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, source: 10.0.0.1/8 }] }",
            "1:63 `source: 10.0.0.1/8` has bits set behind its prefix",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, time: { days: [mon, tues] } }] }",
            "1:75 `days: tues` is not known | did you mean `tue`?",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, time: { hours: 08:00 } }] }",
            "1:70 `hours: 08:00` is not two times of day",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, time: { hours: 08:00-08:00 } }] }",
            "1:70 `hours: 08:00-08:00` has no time between its ends",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a, time: { until: 2026-12-24 } }] }",
            "1:70 `until: 2026-12-24` is not a moment as RFC 3339 writes it",
        ),
        ("{ port: 1, allow: [{ spiffe: spiffe://td/a, time: {} }] }", "1:61 `time` fits always"),
        (
            "{ port: 1, deny: [{ name: x, source: 10.0.0.1 }], allow: [{ name: x, spiffe: spiffe://td/a }] }",
            "1:69 the rule name `x` is used twice",
        ),
        (
            "{ port: 1, protocol: tcp, deny: [{ hosts: a }], allow: [{ spiffe: spiffe://td/a }] }",
            "1:44 rule `port-deny-1` is about requests",
        ),
        ("{ port: 1, allow: [{ spiffe: spiffe://td }] }", "1:40 `spiffe: spiffe://td` names a trust domain"),
        ("{ port: 1, allow: [{ anonymous: true }] }", "1:30 rule `allow-1` can never match: the port's `tls: strict`"),
        (
            "{ port: 1, tls: off, allow: [{ spiffe: spiffe://td/a }] }",
            "1:40 rule `allow-1` can never match: with `tls: off` nobody shows",
        ),
        (
            "{ port: 1, tls: off, deny: [{ sni: a.example }], allow: [{ anonymous: true }] }",
            "1:39 rule `port-deny-1` can never match: with `tls: off` nobody asks for a name",
        ),
        (
            "{ port: 1, tls: permissive, allow: [{ spiffe: spiffe://td/a, anonymous: true }] }",
            "1:47 a rule names both `spiffe` and `anonymous`",
        ),
        (
            "{ port: 1, forwarders: [{ spiffe: spiffe://td/a }], allow: [{ spiffe: spiffe://td/a }] }",
            "1:35 `may_speak_for` is missing",
        ),
        (
            "{ port: 1, forwarders: [{ spiffe: spiffe://td/a, may_speak_for: [] }], allow: [{ spiffe: spiffe://td/a }] }",
            "1:75 `may_speak_for` has nothing that could fit",
        ),
        (
            "{ port: 1, forwarders: [{ spiffe: \"spiffe://td/{a}\", may_speak_for: spiffe://td/b }], allow: [{ spiffe: spiffe://td/a }] }",
            "1:45 `spiffe://td/{a}` has a capture, which means nothing here | write `*`",
        ),
        (
            "{ port: 1, tls: off, forwarders: [{ spiffe: spiffe://td/a, may_speak_for: spiffe://td/b }], allow: [{ anonymous: true }] }",
            "1:44 with `tls: off` nobody is known to be a forwarder",
        ),
        (
            "{ port: 1, tls: off, svid: default, allow: [{ anonymous: true }] }",
            "1:38 `svid` has no effect with `tls: off`",
        ),
        (
            "{ port: 1, protocol: tcp, allow: [{ spiffe: spiffe://td/a, methods: GET }] }",
            "1:45 rule `allow-1` is about requests, and the port's protocol is `tcp`",
        ),
        (
            "{ port: 1, protocol: tcp, app_http: 2, allow: [{ spiffe: spiffe://td/a }] }",
            "1:47 `app_http` is for HTTP, and the port's protocol is `tcp`",
        ),
        (
            "{ port: 1, protocol: tcp, allow: [{ spiffe: spiffe://td/a }], request_timeout: 1s }",
            "1:90 `request_timeout` is for HTTP, and the port's protocol is `tcp`",
        ),
        (
            "{ port: 1, protocol: tcp, allow: [{ spiffe: spiffe://td/a }], routes: [{ match: {} }] }",
            "1:81 `routes` is for HTTP, and the port's protocol is `tcp`",
        ),
        (
            "{ port: 1, allow: [{ spiffe: spiffe://td/a }], routes: [{ match: { methods: CONNECT } }] }",
            "1:67 the route names the method CONNECT",
        ),
        (
            "{ port: 1, app: 0.0.0.0:1, allow: [{ spiffe: spiffe://td/a }] }",
            "1:27 `app: 0.0.0.0:1` is not an address to",
        ),
        ("{ port: 1, app: unix:a, allow: [{ spiffe: spiffe://td/a }] }", "1:27 `app: unix:a` is not an absolute path"),
        ("{ port: 1, name: \"a b\", allow: [{ spiffe: spiffe://td/a }] }", "1:28 `name: \"a b\"` is not a name"),
    ] {
        let told = problems(&format!("inbound: [{port}]"));
        assert_eq!(told.len(), 1, "{port}: {told:?}");
        assert!(told[0].starts_with(&format!("test.yaml:{expected}")), "{port}: {told:?}");
    }
}

/// Rules of one service; the service begins at 1:24.
#[test]
fn services_that_make_no_sense_are_problems() {
    for (service, expected) in [
        ("{ hosts: a, identity: spiffe://td/a }", "1:24 `name` is missing"),
        ("{ name: a, hosts: a }", "1:24 `identity` is missing: who must answer?"),
        ("{ name: a, hosts: a, identity: [] }", "1:55 `identity` names nobody: who must answer?"),
        ("{ name: a, identity: spiffe://td/a }", "1:24 nothing can reach the service: it has neither hosts nor a"),
        ("{ name: a, hosts: [], identity: spiffe://td/a }", "1:42 `hosts` has nothing that could fit"),
        (
            "{ name: a, listen: 127.0.0.1:1, identity: spiffe://td/a }",
            "1:24 the service has nowhere to go: it has neither endpoints nor hosts",
        ),
        (
            "{ name: a, hosts: a, protocol: tcp, endpoints: [\"1.2.3.4:5\"], identity: spiffe://td/a }",
            "1:24 nothing can reach the service: a `tcp` connection names no host",
        ),
        (
            "{ name: a, hosts: a, listen: 127.0.0.1:1, protocol: tcp, identity: spiffe://td/a }",
            "1:24 the service has nowhere to go: a `tcp` connection names no host",
        ),
        ("{ name: a, hosts: a, tls: web, identity: spiffe://td/a }", "1:65 `identity` has no effect with `tls: web`"),
        ("{ name: a, hosts: a, tls: off, identity: spiffe://td/a }", "1:65 `identity` has no effect with `tls: off`"),
        ("{ name: a, hosts: a, tls: off, svid: default }", "1:61 `svid` has no effect with `tls: off`"),
        ("{ name: a, hosts: a, roots: r, identity: spiffe://td/a }", "1:52 `roots` has no effect with `tls: mesh`"),
        (
            "{ name: a, listen: 127.0.0.1:1, endpoints: [\"1.2.3.4:5\"], tls: web }",
            "1:24 nothing says which name the server's certificate must have",
        ),
        ("{ name: a, hosts: a, tls: web, server_name: \"*.a\" }", "1:68 `server_name: \"*.a\"` is not a host's name"),
        (
            "{ name: a, hosts: [\"*.{ns}\", b.c], identity: \"spiffe://td/{ns}\" }",
            "1:69 `{ns}` has no value where the host is `b.c`",
        ),
        ("{ name: a, hosts: b, identity: \"spiffe://td/{ns}\" }", "1:55 `{ns}` has no value where the host is `b`"),
        (
            "{ name: a, listen: 127.0.0.1:1, hosts: \"{ns}\", endpoints: { port: 1 }, identity: \"spiffe://td/{ns}\" }",
            "1:105 `identity` has captures, and what arrives at the service's own listener may name no host",
        ),
        ("{ name: a, hosts: a, endpoints: [], identity: spiffe://td/a }", "1:56 `endpoints: […]` has no address"),
        ("{ name: a, hosts: a, endpoints: b, identity: spiffe://td/a }", "1:56 `endpoints: b` is neither a list nor"),
        ("{ name: a, hosts: a, endpoints: {}, identity: spiffe://td/a }", "1:56 `endpoints: {…}` does not say where"),
        (
            "{ name: a, hosts: a, endpoints: { dns: b }, identity: spiffe://td/a }",
            "1:63 `dns: b` is not a host and port",
        ),
        (
            "{ name: a, hosts: a, endpoints: { dns: \"1.2.3.4:5\" }, identity: spiffe://td/a }",
            "1:63 `dns: \"1.2.3.4:5\"` is an address, not a name",
        ),
        (
            "{ name: a, hosts: a, endpoints: [\"0.0.0.0:5\"], identity: spiffe://td/a }",
            "1:57 `0.0.0.0:5` is not an address to connect to",
        ),
        ("{ name: a, hosts: a, tls: meh, identity: spiffe://td/a }", "1:50 `tls: meh` is not known"),
        ("{ name: a, hosts: \"a:80\", identity: spiffe://td/a }", "1:42 `hosts: \"a:80\"` has a port or scheme"),
    ] {
        let told = problems(&format!("outbound: {{ services: [{service}] }}"));
        assert_eq!(told.len(), 1, "{service}: {told:?}");
        assert!(told[0].starts_with(&format!("test.yaml:{expected}")), "{service}: {told:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes of any kind, and bits of real files in any order: a configuration or problems, soon, and never a panic.
    #[test]
    fn no_file_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        parts in proptest::collection::vec((0..7_usize, any::<usize>(), 0..120_usize), 0..6),
    ) {
        let texts: Vec<String> =
            examples().iter().map(|path| std::fs::read_to_string(path).expect("an example")).collect();
        let mut mixed = String::new();
        for (example, start, length) in parts {
            let characters = texts[example].chars();
            mixed.extend(characters.skip(start % texts[example].len()).take(length));
        }
        for text in [String::from_utf8_lossy(&bytes).as_ref(), &mixed] {
            match load(text) {
                Ok(config) => {
                    let again = load(&config.to_effective_yaml());
                    prop_assert!(again.is_ok_and(|again| again.same_as(&config)), "{}", text);
                }
                Err(problems) => prop_assert!(!problems.0.is_empty()),
            }
        }
    }
}

#[test]
fn labels_have_one_value_and_one_place() {
    let read = |section: &str| {
        let text = format!("workload: {section}\ninbound: [{{ port: 1, allow: [{{ spiffe: spiffe://td/a }}] }}]\n");
        Config::from_str(Path::new("f"), &text).map_err(|problems| problems.to_string())
    };
    let config = read("{ labels: { a: b }, labels_file: /l, labels_env: { c: D } }").unwrap();
    assert_eq!(config.workload.labels, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(config.workload.labels_env, [("c".to_owned(), "D".to_owned())]);
    for (section, words) in [
        ("{}", "`workload` says nothing"),
        ("{ labels: { a: [b, c] } }", "the label `a` has more than one value"),
        ("{ labels: { a: b* } }", "the label `a` has more than one value"),
        ("{ labels: { a: b }, labels_env: { a: C } }", "stands in `labels` as well"),
        ("{ labels_env: { a: \"B=C\" } }", "is no variable of the environment"),
    ] {
        let problems = read(section).unwrap_err();
        assert!(problems.contains(words), "{section}: {problems}");
    }
}
