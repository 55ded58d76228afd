//! Rules that deny, require and allow, on the wire: the verdict, the rule in the record, and nothing at the application.

use http_body_util::BodyExt;
use postern_tests::client_http::empty;
use postern_tests::mesh::WEB;
use postern_tests::pair::{Pair, inbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, within};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const LINES: &str = "\
protocol: http
deny:
  - { name: no-debugging, paths: \"/debug/**\" }
require:
  - { name: near, source: [127.0.0.0/8, \"::1\"] }
allow:
  - { name: domain, trust_domain: shop.example, methods: [GET] }
routes:
  - name: own
    match: { path: \"/ns/{ns}/**\" }
    allow: [{ name: own-data, spiffe: \"spiffe://shop.example/ns/{ns}/sa/*\", paths: \"/ns/{ns}/**\" }]
  - name: purpose
    match: { path: \"/purpose/**\" }
    deny: [{ headers: { x-purpose: \"test-*\" } }]
    allow: [{ name: said, trust_domain: shop.example, headers: { x-purpose: \"*\" }, query: { tenant: acme } }]
  - name: far
    match: { path: \"/far/**\" }
    require: [{ source: 192.0.2.0/24 }]
  - name: rest
    match: {}
";

#[tokio::test]
async fn each_refusal_names_its_rule_and_nothing_of_it_reaches_the_application() {
    let app = HttpApp::start().await;
    let pair = Pair::with(Mesh::start(), app.address, LINES, "protocol: http").await;
    let section = inbound_section(pair.inbound, &app.address.to_string(), LINES);
    let mut client = H2Client::connect(pair.outbound).await;
    // Path, header, status, refusal, rule.
    let cases = [
        ("/status/200", None, 200, None, Some("domain")),
        ("/debug/vars", None, 403, Some("denied"), Some("no-debugging")),
        ("/debug/../status/200", None, 403, Some("denied"), Some("no-debugging")),
        ("/ns/web/x", None, 200, None, Some("own-data")),
        ("/ns/db/x", None, 403, Some("not_allowed"), None),
        ("/purpose/a?tenant=acme", Some("audit"), 200, None, Some("said")),
        ("/purpose/b?tenant=acme", Some("test-1"), 403, Some("denied"), Some("deny-1")),
        ("/purpose/c?tenant=acme", None, 403, Some("not_allowed"), None),
        ("/purpose/d?tenant=acme&tenant=other", Some("audit"), 403, Some("not_allowed"), None),
        ("/far/a", None, 403, Some("requirement_unmet"), Some("require-1")),
    ];
    for (index, (path, purpose, status, refusal, rule)) in cases.into_iter().enumerate() {
        let mut request = client.request("GET", path);
        if let Some(purpose) = purpose {
            request = request.header("x-purpose", purpose);
        }
        let seen = app.seen().len();
        let reply = client.send(request.body(empty()).unwrap()).await.unwrap();
        assert_eq!(reply.status, status, "{path}");
        let records = pair.orders.records_of("request", index + 1).await;
        let record = &records[index];
        assert_eq!(record.get("refusal").and_then(|it| it.as_str()), refusal, "{path}: {record:#}");
        assert_eq!(record.get("rule").and_then(|it| it.as_str()), rule, "{path}: {record:#}");
        assert_eq!(app.seen().len(), seen + usize::from(refusal.is_none()), "{path}");
        if refusal.is_some() {
            let query = path.find('?').map_or("", |at| &path[at..]);
            let header = format!("x-purpose: {}", purpose.unwrap_or_default());
            let more = ["--header", &header];
            let offline = pair.orders.explains(&section, record, query, if purpose.is_some() { &more } else { &[] });
            let (status, remembered) = explained(&pair.orders, record).await;
            assert_eq!(status, 200, "{remembered}");
            for key in ["refusal", "rule", "route", "nearest", "rules", "caller"] {
                assert_eq!(remembered[key], offline[key], "{key}: {remembered:#} {offline:#}");
            }
            assert_eq!(remembered["policy_digest"], remembered["decided_by_policy"]);
        }
    }
}

/// What the process says about a decision that it made a moment ago.
async fn explained(sidecar: &Sidecar, record: &Value) -> (u16, Value) {
    let id = record["decision"].as_str().unwrap();
    let (status, text) = sidecar.ask("GET", &format!("/decision?id={id}")).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn a_refusal_is_explained_by_its_id_for_as_long_as_it_is_remembered() {
    let app = HttpApp::start().await;
    let lines = |rule: &str| format!("protocol: http\nallow: [{{ spiffe: {WEB}, {rule} }}]");
    let port = lines("methods: [GET], when: \"request.query == 'k=secret'\"");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
    let mut client = H2Client::connect(pair.outbound).await;
    assert_eq!(client.get("/a?k=other").await.unwrap().status, 403);
    assert_eq!(client.get("/a?k=secret").await.unwrap().status, 200);
    let records = pair.orders.records_of("request", 2).await;
    pair.orders.shown(&records[0], "?k=other", &[]);
    let (status, refused) = explained(&pair.orders, &records[0]).await;
    assert_eq!((status, &refused["refusal"]), (200, &json!("not_allowed")), "{refused:#}");
    assert!(refused["nearest"]["lacks"]["when"].as_str().unwrap().contains("k=secret"), "{refused:#}");
    assert_eq!(explained(&pair.orders, &records[1]).await.0, 404, "what was allowed is not remembered");
    for unknown in ["00000000-1", "x", "1-1-1", ""] {
        assert_eq!(explained(&pair.orders, &json!({ "decision": unknown })).await.0, 404, "{unknown}");
    }
    assert_eq!(pair.orders.ask("GET", "/decision").await.0, 400);

    // The policy of now answers, and says that it is another one.
    let section = inbound_section(pair.inbound, &app.address.to_string(), &lines("methods: [GET]"));
    pair.orders.apply(&section).await.unwrap();
    let (_, changed) = explained(&pair.orders, &records[0]).await;
    assert_eq!(changed["decision"], "allowed", "{changed:#}");
    assert_ne!(changed["policy_digest"], changed["decided_by_policy"]);

    // The oldest go.
    pair.orders
        .apply(&inbound_section(pair.inbound, &app.address.to_string(), &lines("methods: [PUT]")))
        .await
        .unwrap();
    for number in 0..300 {
        assert_eq!(client.get(&format!("/b/{number}")).await.unwrap().status, 403);
    }
    let gone = explained(&pair.orders, &records[0]).await.0;
    let latest = pair.orders.record("request", |record| record["url.path"] == "/b/299").await;
    assert_eq!((gone, explained(&pair.orders, &latest).await.0), (404, 200));
}

#[tokio::test]
async fn a_refused_l4_connection_is_explained_by_its_id_too() {
    let app = TcpApp::echo().await;
    let port = "protocol: tcp\nallow: [{ name: other, spiffe: spiffe://shop.example/ns/other/sa/a }]";
    let pair = Pair::with(Mesh::start(), app.address, port, "protocol: tcp").await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("ping").await;
    assert!(client.until_ended().await.is_empty());
    let record = pair.orders.record("connection", |record| record["refusal"] == "not_allowed").await;
    let section = inbound_section(pair.inbound, &app.address.to_string(), port);
    let offline = pair.orders.explains(&section, &record, "", &[]);
    let (status, said) = explained(&pair.orders, &record).await;
    assert_eq!(status, 200, "{said}");
    for key in ["refusal", "rule", "route", "nearest", "rules", "caller", "decision", "mode"] {
        assert_eq!(said[key], offline[key], "{key}: {said:#} {offline:#}");
    }
    assert_eq!(said["nearest"]["rule"], "other");
}

/// RFC 3339, so many seconds from now.
fn in_seconds(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    OffsetDateTime::from_unix_timestamp((now + seconds) as i64).unwrap().format(&Rfc3339).unwrap()
}

#[tokio::test]
async fn when_its_time_is_over_a_rule_lets_go_of_what_lives() {
    let (app, echo) = (HttpApp::start().await, TcpApp::echo().await);
    let allow = |until: &str| format!("allow: [{{ spiffe: {WEB}, time: {{ until: {until} }} }}]");
    let until = in_seconds(3);
    let mesh = Mesh::start();
    let http = Pair::with(mesh, app.address, &format!("protocol: http\n{}", allow(&until)), "protocol: http").await;
    let tcp =
        Pair::with(Mesh::start(), echo.address, &format!("protocol: tcp\n{}", allow(&until)), "protocol: tcp").await;
    let mut client = H1Client::connect(http.outbound).await;
    let request = client.request("GET", "/stream").body(empty()).unwrap();
    let stream = within("a head", client.sender.send_request(request)).await.unwrap();
    let mut tunnel = RawClient::connect(tcp.outbound).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");

    assert!(within("the stream ends", stream.into_body().collect()).await.is_err());
    assert!(tunnel.until_ended().await.is_empty());
    assert!(OffsetDateTime::now_utc() >= OffsetDateTime::parse(&until, &Rfc3339).unwrap(), "not before");
    assert_eq!(H1Client::connect(http.outbound).await.get("/late").await.unwrap().status, 403);
    let late = http.orders.record("request", |record| record["url.path"] == "/late").await;
    let lines = format!("protocol: http\n{}", allow(&until));
    http.orders.explains(&inbound_section(http.inbound, &app.address.to_string(), &lines), &late, "", &[]);
    let record = tcp.orders.record("connection", |record| record["end"] == "policy_changed").await;
    assert_eq!(record["rule"], "allow-1");
}

#[tokio::test]
async fn cf_06_a_policy_that_denies_by_what_was_recorded_cuts_that_and_no_other() {
    let app = HttpApp::start().await;
    let lines = |deny: &str| {
        format!("protocol: http\ndeny: [{{ headers: {{ x-team: {deny} }} }}]\nallow: [{{ spiffe: {WEB} }}]")
    };
    let pair = Pair::with(Mesh::start(), app.address, &lines("nobody"), "protocol: http").await;
    let mut streams = Vec::new();
    for team in ["red", "blue"] {
        let mut client = H2Client::connect(pair.outbound).await;
        let request = client.request("GET", "/stream").header("x-team", team).body(empty()).unwrap();
        let mut body = within("a head", client.sender.send_request(request)).await.unwrap().into_body();
        assert!(within("a chunk", body.frame()).await.unwrap().is_ok());
        streams.push((client, body));
    }
    let section = inbound_section(pair.inbound, &app.address.to_string(), &lines("red"));
    pair.orders.apply(&section).await.unwrap();
    let (_blue, mut blue) = streams.pop().unwrap();
    let (_red, red) = streams.pop().unwrap();
    assert!(within("red ends", red.collect()).await.is_err());
    let silent = tokio::time::timeout(Duration::from_millis(100), blue.frame()).await;
    assert!(silent.is_err(), "{silent:?}");
}
