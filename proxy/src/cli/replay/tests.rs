use super::{Candidate, Difference, Seen, Would, to_text};
use crate::cli::recorded::{self, Recorded, Tally, Was};
use postern_config::Config;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE: &str = r#"
identity: { workload_api: "unix:///a" }
inbound:
  - name: orders
    port: 8080
    listen: 127.0.0.1:15006
    deny: [{ source: 10.9.0.0/16 }]
    allow: [{ spiffe: spiffe://shop.example/web }]
    routes:
      - { name: read, match: { path: "/orders/**", methods: [GET] } }
      - { name: own, match: { path: "/own/**" }, allow: [{ spiffe: spiffe://shop.example/web, headers: { x-a: b } }] }
      - { name: try, match: { path: "/try/**" }, mode: observe, allow: [{ spiffe: spiffe://shop.example/ops }] }
  - name: gated
    port: 8081
    listen: 127.0.0.1:15008
    forwarders: [{ spiffe: spiffe://shop.example/web, may_speak_for: "spiffe://shop.example/user/*" }]
    allow: [{ spiffe: spiffe://shop.example/web, caller: spiffe://shop.example/user/a, paths: "/**" }]
  - { name: raw, port: 9000, listen: "127.0.0.1:15007", protocol: tcp, allow: [{ spiffe: spiffe://shop.example/web }] }
"#;

fn line(kind: &str, more: &str) -> String {
    format!(
        r#"{{"kind":"{kind}","time":"2026-11-22T01:00:00Z","direction":"inbound","peer.spiffe_id":"spiffe://shop.example/web","network.peer.address":"10.0.0.1",{more}}}"#
    )
}

fn request(outcome: &str, method: &str, path: &str, more: &str) -> String {
    line(
        "request",
        &format!(
            r#""listener":"orders","outcome":"{outcome}","http.request.method":"{method}","url.path":"{path}","server.address":"orders.svc"{more}"#
        ),
    )
}

fn forwarded(outcome: &str, caller: &str, more: &str) -> String {
    let caller = format!(r#","caller.spiffe_id":"spiffe://shop.example/{caller}"{more}"#);
    request(outcome, "GET", "/a", &caller).replace("\"orders\"", "\"gated\"")
}

fn read(lines: &[String]) -> (Vec<Recorded>, Tally) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("audit.json");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let mut records = Vec::new();
    let tally = recorded::read(&[path], |record| records.push(record)).unwrap();
    (records, tally)
}

fn differs(text: &str) -> Option<Would> {
    let config = Config::from_str(Path::new("postern.yaml"), FILE).unwrap_or_else(|problems| panic!("{problems}"));
    let (records, _) = read(&[text.to_owned()]);
    let [record] = records.as_slice() else { panic!("{text}: {} records", records.len()) };
    Candidate::compile(&config).differs(record)
}

#[test]
fn only_what_would_be_decided_otherwise_differs() {
    let refuse = |why: &str| Some(Would::Refuse(why.to_owned()));
    for (text, expected) in [
        (request("allowed", "GET", "/orders/7", ""), None),
        (request("refused", "GET", "/orders/7", r#","refusal":"not_allowed""#), Some(Would::Allow)),
        (request("observed", "GET", "/orders/7", r#","observed":"not_allowed""#), Some(Would::Allow)),
        (request("allowed", "POST", "/orders/7", ""), refuse("no_route")),
        (forwarded("allowed", "user/a", ""), None),
        (forwarded("refused", "user/a", r#","refusal":"not_allowed""#), Some(Would::Allow)),
        (forwarded("allowed", "user/b", ""), refuse("not_allowed")),
        (forwarded("allowed", "other", ""), refuse("forwarded_caller_refused")),
        (request("refused", "POST", "/orders/7", r#","refusal":"no_route""#), None),
        (request("allowed", "GET", "/try/7", ""), Some(Would::Observe("not_allowed".to_owned()))),
        (request("allowed", "GET", "/own/7", ""), Some(Would::CannotTell)),
        (
            request("allowed", "GET", "/orders/7", "").replace("10.0.0.1", "10.9.0.1"),
            refuse("denied by rule `port-deny-1`"),
        ),
        (request("allowed", "GET", "/orders/7", "").replace("/web", "/else"), refuse("not_allowed")),
        (request("allowed", "GET", "/orders/7", "").replace("\"orders\"", "\"gone\""), refuse("the port is gone")),
        (line("connection", r#""listener":"raw","outcome":"allowed""#), None),
        (line("connection", r#""listener":"raw","outcome":"allowed""#).replace("/web", "/else"), refuse("not_allowed")),
    ] {
        assert_eq!(differs(&text), expected, "{text}");
    }
}

#[test]
fn what_rules_did_not_decide_is_left_out() {
    let (records, tally) = read(&[
        r#"{"kind":"opened","time":"2026-11-22T01:00:00Z"}"#.to_owned(),
        request("refused", "GET", "/a", r#","refusal":"bad_path""#),
        request("cut", "GET", "/a", ""),
        request("failed", "GET", "/a", r#","refusal":"app_unreachable""#),
        request("allowed", "GET", "/a", ""),
        line("request", r#""listener":"orders","outcome":"allowed""#).replace("inbound", "outbound"),
    ]);
    assert_eq!((records.len(), tally.records, tally.not_by_rules), (2, 2, 2));
}

#[test]
fn says_whom_it_is_about() {
    let key = |peer: &str, would: Would| Difference {
        peer: peer.to_owned(),
        port: "orders".to_owned(),
        route: "read".to_owned(),
        was: Was::Allowed,
        would,
    };
    let seen = |count, example: &str| Seen { count, example: example.to_owned() };
    let differences = BTreeMap::from([
        (key("spiffe://shop.example/a", Would::Refuse("not_allowed".to_owned())), seen(12, "GET /a\u{1b}")),
        (key("spiffe://shop.example/b", Would::CannotTell), seen(1, "a connection")),
    ]);
    let expected = "\
COUNT  CALLER                   PORT    ROUTE  WAS      WOULD                                                SUCH AS
12     spiffe://shop.example/a  orders  read   allowed  refuse: not_allowed                                  GET /a?
1      spiffe://shop.example/b  orders  read   allowed  cannot tell: its rules ask for what is not recorded  a connection
20 decisions by rules, 13 differ; 3 others left out
";
    assert_eq!(to_text(&differences, &Tally { records: 20, not_by_rules: 3 }), expected);
}
