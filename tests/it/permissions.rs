//! Who may do what: rules, routes, plaintext callers, and what each side's record says of a refusal.

use postern_tests::mesh::{PARTNER, STRANGER, WEB};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Pair, RawApp, RawClient, ports};

#[tokio::test]
async fn nothing_is_allowed_that_no_rule_names() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let inbound = ports::free();
    let lines = format!(
        "protocol: http\nallow:\n  - {{ spiffe: {WEB}, methods: [GET], paths: [\"/orders/**\"], name: read }}\n  - {{ spiffe: {PARTNER}, paths: [/status/200], name: probe }}"
    );
    let orders = mesh.sidecar("orders", &inbound_section(inbound, &app.address.to_string(), &lines)).await;
    let mut sidecars = Vec::new();
    let mut requests = 0;
    for (workload, allowed) in [
        ("web", ["GET /orders/1", "GET /orders"].as_slice()),
        ("partner", &["GET /status/200", "POST /status/200"]),
        ("stranger", &[]),
    ] {
        let listen = ports::free();
        sidecars.push(mesh.sidecar(workload, &outbound_section(listen, inbound, "protocol: http")).await);
        let mut http1 = H1Client::connect(listen).await;
        let mut http2 = H2Client::connect(listen).await;
        for asked in
            ["GET /orders/1", "GET /orders", "POST /orders/1", "GET /ordersx", "GET /status/200", "POST /status/200"]
        {
            let (method, path) = asked.split_once(' ').unwrap();
            let expected = if allowed.contains(&asked) { 200 } else { 403 };
            let request = http1.request(method, path).body(postern_tests::client_http::empty()).unwrap();
            assert_eq!(http1.send(request).await.unwrap().status, expected, "{workload}: {asked}");
            let request = http2.request(method, path).body(postern_tests::client_http::empty()).unwrap();
            assert_eq!(http2.send(request).await.unwrap().status, expected, "{workload}: {asked} over HTTP/2");
            requests += 2;
        }
    }
    let records = orders.records_of("request", requests).await;
    for record in &records {
        let is_refused = record["http.response.status_code"] == 403;
        assert_eq!(record.get("refusal").is_some(), is_refused, "{record}");
        assert_eq!(record.get("rule").is_some(), !is_refused, "{record}");
    }
    assert!(records.iter().any(|record| record["peer.spiffe_id"] == STRANGER));
    let ids: std::collections::HashSet<_> = records.iter().map(|record| record["decision"].to_string()).collect();
    assert_eq!(ids.len(), requests, "every decision has an id of its own");
}

#[tokio::test]
async fn the_callees_reason_is_in_the_callers_record_and_the_application_has_the_id_only() {
    let app = HttpApp::start().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {STRANGER} }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
    let reply = H1Client::connect(pair.outbound).await.get("/x").await.unwrap();
    assert_eq!(reply.status, 403);
    let at_callee = pair.orders.records_of("request", 1).await.remove(0);
    let at_caller = pair.web.records_of("request", 1).await.remove(0);
    assert_eq!(at_callee["refusal"], "not_allowed");
    assert_eq!(at_caller.get("refusal"), None, "the caller's side refused nothing");
    assert_eq!(at_caller["refusal.remote"], "not_allowed");
    assert_eq!(at_caller["refusal.remote_decision"], at_callee["decision"]);
    assert_eq!(at_callee["decision"], reply.header("x-postern-decision"));
    let told = format!("{reply:?}");
    assert!(!told.contains("not_allowed") && !told.contains("spiffe://"), "{told}");
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn tl_18_plaintext_callers_are_anonymous_where_permitted_and_only_rules_that_say_so_match() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    for (tls, allow, expected) in [
        ("permissive", "[{ anonymous: true, paths: [/open] }]", 200),
        ("permissive", "[{ spiffe: \"spiffe://shop.example/**\" }]", 403),
        ("off", "[{ anonymous: true, paths: [/open] }]", 200),
    ] {
        let listen = ports::free();
        let lines = format!("protocol: http\ntls: {tls}\nallow: {allow}");
        let orders = mesh.sidecar("orders", &inbound_section(listen, &app.address.to_string(), &lines)).await;
        let mut client = H1Client::connect(listen).await;
        let reply = client.get("/open").await.unwrap();
        assert_eq!(reply.status, expected, "{tls} {allow}");
        assert!(!reply.headers.contains_key("x-postern-refusal"), "an anonymous caller is no sidecar");
        assert_eq!(client.get("/closed").await.unwrap().status, 403, "{tls} {allow}");
        let record = &orders.records_of("request", 2).await[0];
        assert_eq!(record.get("peer.spiffe_id"), None);
    }
}

#[tokio::test]
async fn a_permissive_port_takes_mtls_callers_for_who_they_are() {
    let app = HttpApp::start().await;
    let port = format!("protocol: http\ntls: permissive\nallow: [{{ spiffe: {WEB} }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
    assert_eq!(H1Client::connect(pair.outbound).await.get("/x").await.unwrap().status, 200);
    assert_eq!(app.last().all("x-spiffe-id"), [WEB]);
}

#[tokio::test]
async fn pn_paths_without_an_honest_reading_are_refused_on_both_sides() {
    let app = RawApp::ok().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB}, paths: [\"/ok/**\"] }}]");
    for service in ["protocol: tcp", "protocol: http"] {
        let pair = Pair::with(Mesh::start(), app.address, &port, service).await;
        for (path, expected) in [
            ("/ok/../admin", 403),
            ("/ok/%2e%2e/admin", 403),
            ("/ok/..%2fadmin", 403),
            ("/ok//../../admin", 400),
            ("/../admin", 400),
            ("/ok/%zz", 400),
            ("/ok/%00", 400),
            ("/ok/a\\b", 400),
            ("//admin", 403),
            ("/admin", 403),
        ] {
            let mut client = RawClient::connect(pair.outbound).await;
            let response = client.get("orders.shop.svc", path).await;
            assert!(response.status == expected || response.status == 400, "{service}: {path}: {response:?}");
        }
    }
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn what_was_matched_is_what_goes_on_unchanged() {
    let app = RawApp::ok().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB}, paths: [\"/ok/**\"] }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
    let mut client = RawClient::connect(pair.outbound).await;
    for path in ["/ok/a%2Fb", "/ok/x?y=%zz&z=../..", "/ok/%E4%B8%96", "/ok/a;b=c"] {
        assert_eq!(client.get("orders.shop.svc", path).await.status, 200, "{path}");
        assert!(app.text().contains(&format!("GET {path} HTTP/1.1\r\n")), "{path}: {}", app.text());
    }
}

#[tokio::test]
async fn sm_22_connect_needs_a_route_that_says_so_and_ends_the_connection_if_refused() {
    let app = RawApp::answering_early(|head| {
        Some(if head.contains("good:443") {
            b"HTTP/1.1 200 OK\r\n\r\n".to_vec()
        } else {
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec()
        })
    })
    .await;
    let port = format!(
        "protocol: http\nroutes:\n  - name: proxy\n    match: {{ methods: [CONNECT] }}\n    connect: true\n    allow: [{{ spiffe: {WEB} }}]\n  - name: rest\n    match: {{ path: \"/**\" }}\n    allow: [{{ spiffe: {WEB} }}]"
    );
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("CONNECT good:443 HTTP/1.1\r\nhost: good:443\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 200);
    client.send("bytes of a tunnel").await;
    app.until_text("bytes of a tunnel").await;

    let mut client = RawClient::connect(pair.outbound).await;
    client.send("CONNECT bad:443 HTTP/1.1\r\nhost: bad:443\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&client.until_ended().await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.matches("HTTP/1.1").count() == 1, "{answer:?}");
    assert!(!app.text().contains("smuggled"));
}
