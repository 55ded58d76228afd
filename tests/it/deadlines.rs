//! Callers that say nothing, or say it slowly, do not stay (THREATS, DS rows).

use postern_tests::mesh::WEB;
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawApp, RawClient, Sidecar, ports, within};
use std::net::SocketAddr;
use std::time::Duration;

const PLAIN: &str = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";

async fn orders(mesh: &Mesh, app: SocketAddr, lines: &str, rest: &str) -> (Sidecar, SocketAddr) {
    let listen = ports::free();
    let section = format!("{}{rest}\n", inbound_section(listen, &app.to_string(), lines));
    (mesh.sidecar("orders", &section).await, listen)
}

#[tokio::test]
async fn ds_03_a_handshake_that_does_not_come_is_ended_at_its_deadline() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let strict = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let (orders, listen) = orders(&mesh, app.address, &strict, "timeouts: { handshake: 200ms }").await;
    // Nothing; one byte; the beginning of a ClientHello.
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = RawClient::connect(listen).await;
        client.send(bytes).await;
        client.until_ended().await;
    }
    let records = orders.records_of("connection", 3).await;
    assert!(records.iter().all(|record| record["refusal"] == "tls_handshake_timeout"), "{records:#?}");
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn ds_02_a_head_that_does_not_end_is_ended_at_its_deadline() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let (orders, listen) = orders(&mesh, app.address, PLAIN, "timeouts: { request_headers: 1s }").await;
    // On a new connection, and behind a request that was answered.
    for before in [0, 1] {
        let mut client = RawClient::connect(listen).await;
        for _ in 0..before {
            assert_eq!(client.get("a", "/honest").await.status, 200);
        }
        client.send("GET /slow HTTP/1.1\r\nhost: a\r\nx: ").await;
        let answer = client.until_ended().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
    }
    let records = orders.records_of("connection", 2).await;
    assert!(records.iter().all(|record| record["end"] == "header_timeout"), "{records:#?}");
    assert!(!app.text().contains("slow"));
}

#[tokio::test]
async fn a_request_that_takes_longer_than_its_route_gives_it_is_refused_with_504_or_breaks_off() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let lines = "protocol: http\ntls: off\nallow: [{ anonymous: true }]\nrequest_timeout: 400ms\n\
                 routes: [{ name: slow, match: { path: /stream }, request_timeout: 1h }, { name: rest, match: {} }]";
    let (orders, listen) = orders(&mesh, app.address, lines, "").await;
    let mut patient = H1Client::connect(listen).await;
    let slow = tokio::spawn(async move { patient.get("/stream").await });
    for path in ["/hang", "/ticks"] {
        let by_http1 = H1Client::connect(listen).await.get(path).await.map(|reply| reply.status);
        let by_http2 = H2Client::connect(listen).await.get(path).await.map(|reply| reply.status);
        match path {
            "/hang" => {
                assert_eq!((by_http1.unwrap(), by_http2.unwrap()), (504.try_into().unwrap(), 504.try_into().unwrap()))
            }
            _ => assert!(by_http1.is_err() && by_http2.is_err(), "the end is missing"),
        }
    }
    assert!(!slow.is_finished(), "its route gives it an hour");
    let records = orders.records_of("request", 4).await;
    let refused = records.iter().filter(|record| record["refusal"] == "upstream_timeout").count();
    let ended = records.iter().filter(|record| record["end"] == "request_timeout").count();
    assert_eq!((refused, ended), (2, 2), "{records:#?}");
}

#[tokio::test]
async fn a_caller_with_short_requests_now_and_then_is_neither_slow_nor_idle() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let rest = "timeouts: { request_headers: 1s, http_idle: 2s }";
    let (_orders, listen) = orders(&mesh, app.address, PLAIN, rest).await;
    let mut client = RawClient::connect(listen).await;
    let mut http2 = postern_tests::H2Client::connect(listen).await;
    // Each is over long before the next sweep looks.
    for count in 0..12 {
        assert_eq!(client.get("a", "/x").await.status, 200, "request {count}");
        assert_eq!(http2.get("/x").await.unwrap().status, 502, "request {count}: the application speaks no HTTP/2");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

#[tokio::test]
async fn ds_01_a_connection_that_says_nothing_is_ended() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let rest = "timeouts: { request_headers: 1s, detect: 1s }";
    let (orders, listen) = orders(&mesh, app.address, PLAIN, rest).await;
    for bytes in ["", "P", "GET"] {
        let mut client = RawClient::connect(listen).await;
        client.send(bytes).await;
        client.until_ended().await;
    }
    orders.records_of("connection", 3).await;
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn idle_connections_end_at_their_deadline_and_busy_ones_do_not() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (orders, listen) = orders(&mesh, app.address, PLAIN, "timeouts: { http_idle: 1s }").await;
    let mut busy = RawClient::connect(listen).await;
    busy.send("GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(busy.head().await.unwrap().status, 200);
    let mut idle = RawClient::connect(listen).await;
    assert_eq!(idle.get("a", "/x").await.status, 200);
    assert!(idle.until_ended().await.is_empty());
    let records = orders.records_of("connection", 1).await;
    assert_eq!(records[0]["end"], "idle");
    assert_eq!(busy.take(3).await.unwrap(), b"5\r\n", "still there");
    assert!(!orders.metrics().contains("postern_teardown_seconds"), "no trust has ended");
}

#[tokio::test]
async fn ds_09_connections_above_the_limit_are_closed_and_the_others_served() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let (orders, listen) = orders(&mesh, app.address, PLAIN, "limits: { connections: 2 }").await;
    let (mut one, mut two) = (RawClient::connect(listen).await, RawClient::connect(listen).await);
    assert_eq!(one.get("a", "/1").await.status, 200);
    assert_eq!(two.get("a", "/2").await.status, 200);
    let mut three = RawClient::connect(listen).await;
    assert!(three.until_ended().await.is_empty());
    let record = orders.record("connection", |record| record["refusal"] == "over_limit").await;
    assert_eq!(
        (&record["listener"], &record["network.peer.port"]),
        (&"orders".into(), &three.port().into()),
        "{record}"
    );
    assert!(record["decision"].is_string(), "{record}");
    let refusals = "postern_refusals_total{direction=\"inbound\",name=\"orders\",code=\"over_limit\"}";
    assert_eq!((orders.metric(refusals), orders.metric("postern_connections_over_limit_total")), (1.0, 1.0));
    assert_eq!(one.get("a", "/4").await.status, 200);
    // A place that is free again is given again.
    drop(two);
    orders.records_of("connection", 2).await;
    let served = async {
        // The record is written a moment before the place is given back.
        loop {
            let mut four = RawClient::connect(listen).await;
            four.send_what_is_taken("GET /5 HTTP/1.1\r\nhost: a\r\n\r\n").await;
            if let Ok(response) = four.try_response().await {
                return response.status;
            }
        }
    };
    assert_eq!(within("a place", served).await, 200);
}

#[tokio::test]
async fn f_21_an_upstream_that_accepts_and_says_nothing_is_a_gateway_failure() {
    let mesh = Mesh::start();
    let silent = postern_tests::TcpApp::start(|stream, _, _| async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop(stream);
        Ok(())
    })
    .await;
    let listen = ports::free();
    let section = outbound_section(listen, silent.address, "protocol: http");
    let web = mesh.sidecar("web", &format!("{section}timeouts: {{ handshake: 200ms }}\n")).await;
    let mut client = RawClient::connect(listen).await;
    let response = client.get("orders.shop.svc", "/x").await;
    assert!(matches!(response.status, 502..=504), "{response:?}");
    assert!(web.records_of("request", 1).await[0]["refusal"].is_string());
}
