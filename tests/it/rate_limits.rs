//! `rate_limit` of ports and routes, on the wire.

use http::StatusCode;
use postern_tests::client_http::{empty, full};
use postern_tests::mesh::WEB;
use postern_tests::pair::{Pair, inbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh};

/// So few that none comes back while a test runs.
fn lines(burst: u32) -> String {
    format!(
        "protocol: http\nallow: [{{ spiffe: {WEB} }}]\nrate_limit: {{ requests: 5, per: 1h, burst: {burst} }}\nroutes:\n  \
         - {{ name: dear, match: {{ path: /dear }}, rate_limit: {{ requests: 1, per: 1h, by: everyone }} }}\n  \
         - {{ name: rest, match: {{}} }}"
    )
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let app = HttpApp::start().await;
    let pair = Pair::with(Mesh::start(), app.address, &lines(5), "protocol: http").await;
    // Several connections of one caller, and both versions, count together.
    let mut http1 = H1Client::connect(pair.outbound).await;
    let mut http2 = H2Client::connect(pair.outbound).await;
    assert_eq!(http1.get("/dear").await.unwrap().status, 200);
    let reply = http1.get("/dear").await.unwrap();
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = reply.header("retry-after").parse().unwrap();
    assert!((3500..=3601).contains(&seconds), "{seconds}");
    // Both had passed the port's limit: three of five are left of it.
    for expected in [200, 200, 200, 429] {
        let request = http2.request("GET", "/status/200").body(empty()).unwrap();
        assert_eq!(http2.send(request).await.unwrap().status, expected);
    }
    let request = http2.request("POST", "/grpc").header("content-type", "application/grpc");
    let reply = http2.send(request.body(full("")).unwrap()).await.unwrap();
    assert_eq!((reply.status, reply.header("grpc-status")), (StatusCode::OK, "8"));
    let record = pair.orders.record("request", |record| record["refusal"] == "rate_limited").await;
    assert!(record["refusal.detail"].as_str().unwrap().contains("route dear"), "{record:#}");
    assert_eq!(record["rule"], "allow-1", "the rules had allowed it");
    let seen = app.seen().len();
    assert_eq!(http1.get("/status/200").await.unwrap().status, 429);
    assert_eq!(app.seen().len(), seen, "nothing of it arrived");
    let refused = "postern_refusals_total{direction=\"inbound\",name=\"orders\",code=\"rate_limited\"}";
    assert!(pair.orders.metric(refused) >= 3.0);

    // A file that says the same of it lets nobody begin anew; another limit is another.
    let section = inbound_section(pair.inbound, &app.address.to_string(), &lines(5));
    pair.orders.apply(&format!("{section}    request_timeout: 1m\n")).await.unwrap();
    assert_eq!(http1.get("/status/200").await.unwrap().status, 429);
    pair.orders.apply(&inbound_section(pair.inbound, &app.address.to_string(), &lines(9))).await.unwrap();
    assert_eq!(http1.get("/status/200").await.unwrap().status, 200);
}

#[tokio::test]
async fn what_the_rules_refuse_costs_nothing() {
    let app = HttpApp::start().await;
    let port =
        format!("protocol: http\nallow: [{{ spiffe: {WEB}, methods: [GET] }}]\nrate_limit: {{ requests: 1, per: 1h }}");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
    let mut client = H2Client::connect(pair.outbound).await;
    for _ in 0..3 {
        let request = client.request("DELETE", "/orders").body(empty()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, 403);
    }
    for expected in [200, 429] {
        let request = client.request("GET", "/status/200").body(empty()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, expected);
    }
}
