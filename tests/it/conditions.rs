//! Conditions, server names and labels on the wire, and what a change of them does to what lives.

use http_body_util::BodyExt;
use postern_tests::client_http::empty;
use postern_tests::mesh::WEB;
use postern_tests::pair::{Pair, inbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, mtls, within};
use std::time::Duration;

const LINES: &str = "\
protocol: http
deny:
  - { name: no-agents, when: \"request.headers['x-agent'] != ''\" }
allow:
  - name: env
    spiffe: \"spiffe://shop.example/ns/{ns}/sa/*\"
    when: >-
      captures.ns == workload.labels.team &&
      (request.method == 'GET' || request.url_path.matches('^/put/[0-9]+$'))
routes:
  - name: undecided
    match: { path: \"/undecided/**\" }
  - name: named
    match: { path: \"/named/**\" }
    deny: [{ name: nobody, when: \"false\" }]
    allow: [{ name: asked, trust_domain: shop.example, sni: orders.shop.svc }]
  - name: rest
    match: {}
";

fn labelled(lines: &str) -> String {
    lines.replace("deny:\n  - { name: no-agents, when: \"request.headers['x-agent'] != ''\" }\n", "")
}

#[tokio::test]
async fn a_condition_decides_and_each_refusal_is_explained() {
    let app = HttpApp::start().await;
    let lines = labelled(LINES).replace("workload.labels.team", "'web'");
    let pair = Pair::with(Mesh::start(), app.address, &lines, "protocol: http").await;
    let section = inbound_section(pair.inbound, &app.address.to_string(), &lines);
    let mut client = H2Client::connect(pair.outbound).await;
    let cases = [
        ("GET", "/a", 200, None, Some("env")),
        ("PUT", "/put/7", 200, None, Some("env")),
        ("PUT", "/put/x", 403, Some("not_allowed"), None),
        ("PUT", "/put/%37", 403, Some("not_allowed"), None),
        // Sidecars ask for no name.
        ("GET", "/named/a", 403, Some("not_allowed"), None),
    ];
    for (index, (method, path, status, refusal, rule)) in cases.into_iter().enumerate() {
        let request = client.request(method, path).body(empty()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, status, "{path}");
        let record = pair.orders.records_of("request", index + 1).await.remove(index);
        assert_eq!(record.get("refusal").and_then(|it| it.as_str()), refusal, "{path}: {record:#}");
        assert_eq!(record.get("rule").and_then(|it| it.as_str()), rule, "{path}: {record:#}");
        if refusal.is_some() {
            let explained = pair.orders.explains(&section, &record, "", &[]);
            let key = if path.starts_with("/named") { "sni" } else { "when" };
            assert!(explained["nearest"]["lacks"][key].is_string(), "{explained:#}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_decided_is_refused_counted_and_said() {
    let app = HttpApp::start().await;
    let lines = LINES.replace("workload.labels.team", "'web'");
    let pair = Pair::with(Mesh::start(), app.address, &lines, "protocol: http").await;
    let section = inbound_section(pair.inbound, &app.address.to_string(), &lines);
    let mut client = H2Client::connect(pair.outbound).await;
    assert_eq!(client.get("/a").await.unwrap().status, 403);
    let record = pair.orders.records_of("request", 1).await.remove(0);
    assert_eq!((&record["refusal"], &record["rule"]), (&"denied".into(), &"no-agents".into()));
    let why = "the `when` of rule `no-agents` could not be decided: there is no `x-agent`";
    assert_eq!(record["refusal.detail"], why);
    pair.orders.explains(&section, &record, "", &[]);
    let sample = "postern_conditions_failed_total{direction=\"inbound\",name=\"orders\"}";
    assert!((pair.orders.metric(sample) - 1.0).abs() < f64::EPSILON);
    // The rule says that it was not meant so.
    let request = client.request("GET", "/a").header("x-agent", "").body(empty()).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_caller_that_asks_for_the_name_is_known_by_it() {
    let app = HttpApp::start().await;
    let lines = labelled(LINES).replace("workload.labels.team", "'web'");
    let pair = Pair::with(Mesh::start(), app.address, &lines, "protocol: http").await;
    for (name, status) in [("orders.shop.svc", 200), ("Orders.Shop.SVC", 200), ("other.shop.svc", 403)] {
        let tls = mtls::connect(&pair.web, pair.inbound, &[b"http/1.1"], name).await.unwrap();
        let mut client = H1Client::over(tls, "orders.shop.svc").await;
        assert_eq!(client.get("/named/status/200").await.unwrap().status, status, "{name}");
    }
}

#[tokio::test]
async fn cf_06_a_condition_about_headers_is_asked_again_of_what_lives() {
    let app = HttpApp::start().await;
    let lines = |team: &str| {
        format!(
            "protocol: http\ndeny: [{{ when: \"has(request.headers.x_team) || request.headers['x-team'] == '{team}'\" }}]\nallow: [{{ spiffe: {WEB} }}]"
        )
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

#[tokio::test]
async fn labels_are_read_with_the_policy_and_without_them_nothing_changes() {
    let app = HttpApp::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("labels");
    std::fs::write(&file, "team=\"web\"\n").unwrap();
    let pair = Pair::with(
        Mesh::start(),
        app.address,
        &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"),
        "protocol: http",
    )
    .await;
    let section = format!(
        "workload: {{ labels_file: {} }}\n{}",
        file.display(),
        inbound_section(pair.inbound, &app.address.to_string(), &labelled(LINES))
    );
    pair.orders.apply(&section).await.unwrap();
    let digest = pair.orders.shared.policy().load().digest.clone();
    let mut client = H2Client::connect(pair.outbound).await;
    assert_eq!(client.get("/a").await.unwrap().status, 200);

    // A file that is not there, or says no labels: the last good state stays.
    std::fs::remove_file(&file).unwrap();
    let refused = pair.orders.apply(&section).await.unwrap_err();
    assert!(refused.contains("labels_file"), "{refused}");
    assert_eq!(client.get("/a").await.unwrap().status, 200);

    std::fs::write(&file, "team=\"db\"\n").unwrap();
    pair.orders.apply(&section).await.unwrap();
    assert_eq!(client.get("/a").await.unwrap().status, 403);
    assert_ne!(*pair.orders.shared.policy().load().digest, *digest, "another policy has another digest");
    let record = pair.orders.record("request", |record| record["refusal"] == "not_allowed").await;
    let explained = pair.orders.explains(&section, &record, "", &["--label", "team=db"]);
    let wants = explained["nearest"]["lacks"]["when"].as_str().unwrap();
    assert!(wants.contains("captures = {ns: web}") && wants.contains("workload.labels = {team: db}"), "{wants}");
}
