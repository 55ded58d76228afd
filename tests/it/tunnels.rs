//! L4 through a pair: bytes, ends, deadlines, and how the protocol is found.

use postern_tests::mesh::WEB;
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{HttpApp, Mesh, Pair, RawApp, RawClient, TcpApp, ports};
use std::time::{Duration, Instant};

#[tokio::test]
async fn eight_mebibytes_pass_both_ways_byte_by_byte() {
    const SIZE: usize = 8 << 20;
    let app = TcpApp::echo().await;
    let pair = Pair::tcp(app.address).await;
    let client = RawClient::connect(pair.outbound).await;
    let sent: Vec<u8> = (0..SIZE).map(|index| (index * 31 + index / 251) as u8).collect();
    let (mut reader, mut writer) = client.stream.into_split();
    let to_send = sent.clone();
    let writing = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writer, &to_send).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut writer).await.unwrap();
    });
    let mut received = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut received);
    postern_tests::within("everything comes back", reading).await.unwrap();
    writing.await.unwrap();
    assert!(received == sent, "{} of {SIZE} bytes", received.len());
    for sidecar in [&pair.web, &pair.orders] {
        let record = &sidecar.records_of("connection", 1).await[0];
        assert_eq!(record["network.protocol.name"], "tcp");
        assert_eq!(record.get("refusal"), None);
    }
}

#[tokio::test]
async fn ds_12_f_28_each_side_may_end_first() {
    let echo = TcpApp::echo().await;
    let pair = Pair::tcp(echo.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("question").await;
    client.end().await;
    assert_eq!(client.to_end().await.unwrap(), b"question", "the caller ended first");

    let ends_first = TcpApp::ends_first("greeting").await;
    let pair = Pair::tcp(ends_first.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    assert_eq!(client.to_end().await.unwrap(), b"greeting", "the application ended first");
    client.send("still heard").await;
    client.end().await;
    let app = &ends_first;
    postern_tests::eventually("the rest at the application", || (app.connections()[0] == b"still heard").then_some(()))
        .await;
    pair.orders.records_of("connection", 1).await;
}

#[tokio::test]
async fn ds_11_a_server_that_speaks_first_does_not_wait() {
    let app = TcpApp::banner("220 ready\r\n").await;
    // Declared: no wait at all. Detection would take 10 s here.
    let port = format!("protocol: tcp\nallow: [{{ spiffe: {WEB} }}]");
    let slow = "\ntimeouts: { detect: 10s }\n";
    let mesh = Mesh::start();
    let (inbound, outbound) = (ports::free(), ports::free());
    let _orders =
        mesh.sidecar("orders", &format!("{}{slow}", inbound_section(inbound, &app.address.to_string(), &port))).await;
    let _web = mesh.sidecar("web", &format!("{}{slow}", outbound_section(outbound, inbound, "protocol: tcp"))).await;
    let started = Instant::now();
    let mut client = RawClient::connect(outbound).await;
    assert_eq!(client.take(11).await.unwrap(), b"220 ready\r\n");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    client.send("QUIT").await;
    assert_eq!(client.take(4).await.unwrap(), b"QUIT");
}

#[tokio::test]
async fn ds_11_detection_waits_once_for_a_silent_caller_and_remembers() {
    const DETECT: Duration = Duration::from_secs(3);
    let app = TcpApp::banner("220 ready\r\n").await;
    let port = format!("protocol: detect\nallow: [{{ spiffe: {WEB} }}]");
    // One worker each: what was learned is a worker's own.
    let (inbound, outbound) = (ports::free(), ports::free());
    let mesh = Mesh::start();
    let section = inbound_section(inbound, &app.address.to_string(), &port);
    let _orders = mesh.sidecar("orders", &format!("{section}\nworkers: 1\ntimeouts: {{ detect: 3s }}\n")).await;
    let section = outbound_section(outbound, inbound, "protocol: detect");
    let _web = mesh.sidecar("web", &format!("{section}\nworkers: 1\ntimeouts: {{ detect: 3s }}\n")).await;

    let started = Instant::now();
    let mut client = RawClient::connect(outbound).await;
    assert_eq!(client.take(11).await.unwrap(), b"220 ready\r\n");
    assert!(started.elapsed() >= DETECT, "the first waits: {:?}", started.elapsed());
    let started = Instant::now();
    let mut client = RawClient::connect(outbound).await;
    assert_eq!(client.take(11).await.unwrap(), b"220 ready\r\n");
    assert!(started.elapsed() < DETECT, "the second does not: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_silent_caller_does_not_have_the_next_ones_requests_taken_for_a_stream() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (inbound, outbound) = (ports::free(), ports::free());
    let lines = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let orders = mesh.sidecar("orders", &inbound_section(inbound, &app.address.to_string(), &lines)).await;
    let section = outbound_section(outbound, inbound, "protocol: detect");
    let web = mesh.sidecar("web", &format!("{section}\nworkers: 1\ntimeouts: {{ detect: 2s }}\n")).await;
    // Such as a pool that connects ahead; it is believed to be a stream when `orders` sees its connection.
    let mut silent = RawClient::connect(outbound).await;
    let timeouts = "postern_detect_timeouts_total{direction=\"outbound\",name=\"orders\"}";
    postern_tests::eventually("it is given up", || (web.metric(timeouts) == 1.0).then_some(())).await;
    postern_tests::eventually("and connected", || {
        let opened = "postern_connections_active{direction=\"inbound\",name=\"orders\"}";
        (orders.metric(opened) == 1.0).then_some(())
    })
    .await;
    // Whose bytes come a moment after its connection: only who was believed to be a stream is one by then.
    let mut next = RawClient::connect(outbound).await;
    let accepted = "postern_connections_opened_total{direction=\"outbound\",name=\"orders\"}";
    postern_tests::eventually("it is accepted", || (web.metric(accepted) == 2.0).then_some(())).await;
    assert_eq!(next.get("orders.shop.svc", "/x").await.status, 200);
    web.records_of("request", 1).await;
    // And the silent one is served, when it speaks.
    assert_eq!(silent.get("orders.shop.svc", "/y").await.status, 200);
    assert_eq!(app.last().target, "/y");
}

#[tokio::test]
async fn detection_tells_http_from_other_bytes() {
    let http = HttpApp::start().await;
    let port = format!("protocol: detect\nallow: [{{ spiffe: {WEB} }}]");
    let pair = Pair::with(Mesh::start(), http.address, &port, "protocol: detect").await;
    let mut client = RawClient::connect(pair.outbound).await;
    assert_eq!(client.get("orders.shop.svc", "/x").await.status, 200);
    assert_eq!(http.last().all("x-spiffe-id"), [WEB], "it was seen as HTTP on both sides");

    let echo = TcpApp::echo().await;
    let pair = Pair::with(Mesh::start(), echo.address, &port, "protocol: detect").await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("EHLO there\r\n").await;
    assert_eq!(client.take(12).await.unwrap(), b"EHLO there\r\n");
}

#[tokio::test]
async fn opaque_bytes_do_not_get_past_rules_about_requests() {
    let app = RawApp::ok().await;
    for lines in [
        format!("protocol: detect\nallow: [{{ spiffe: {WEB}, methods: [GET] }}]"),
        format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"),
    ] {
        let pair = Pair::with(Mesh::start(), app.address, &lines, "protocol: tcp").await;
        let mut client = RawClient::connect(pair.outbound).await;
        client.send("EHLO there\r\n").await;
        assert!(client.until_ended().await.is_empty());
        let record = &pair.orders.records_of("connection", 1).await[0];
        assert_eq!(record["refusal"], "protocol_refused", "{lines}");
    }
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn hd_10_http_that_does_not_begin_as_http_does_not_reach_the_application() {
    let app = RawApp::ok().await;
    let port = format!("protocol: detect\nallow: [{{ spiffe: {WEB} }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    for beginning in ["\r\nGET / HTTP/1.1", "GET  / HTTP/1.1", "!GET\t/ HTTP/1.1"] {
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(format!("{beginning}\r\nhost: a\r\nx-spiffe-id: forged\r\n\r\n")).await;
        assert!(client.until_ended().await.is_empty(), "{beginning:?}");
    }
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn a_silent_caller_is_closed_where_rules_are_about_requests() {
    let app = RawApp::ok().await;
    let (inbound, outbound) = (ports::free(), ports::free());
    let mesh = Mesh::start();
    let lines = format!("protocol: detect\nallow: [{{ spiffe: {WEB}, methods: [GET] }}]");
    let section = inbound_section(inbound, &app.address.to_string(), &lines);
    let orders = mesh.sidecar("orders", &format!("{section}\ntimeouts: {{ detect: 100ms }}\n")).await;
    let _web = mesh.sidecar("web", &outbound_section(outbound, inbound, "protocol: tcp")).await;
    let mut client = RawClient::connect(outbound).await;
    assert!(client.until_ended().await.is_empty());
    assert_eq!(orders.records_of("connection", 1).await[0]["refusal"], "detect_timeout");
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn a_tunnel_is_decided_by_who_calls() {
    let app = TcpApp::echo().await;
    let port = "protocol: tcp\nallow: [{ spiffe: spiffe://shop.example/ns/nobody/sa/x }]";
    let pair = Pair::with(Mesh::start(), app.address, port, "protocol: tcp").await;
    let mut client = RawClient::connect(pair.outbound).await;
    assert!(client.until_ended().await.is_empty());
    let record = &pair.orders.records_of("connection", 1).await[0];
    assert_eq!((&record["refusal"], &record["peer.spiffe_id"]), (&"not_allowed".into(), &WEB.into()));
    assert!(app.connections().is_empty(), "the application was not even connected to");
}

#[tokio::test]
async fn idle_and_half_closed_tunnels_end_at_their_deadlines() {
    let app = TcpApp::echo().await;
    let lingers = TcpApp::ends_first("bye").await;
    for (app, timeouts, end) in [(&app, "tcp_idle: 200ms", "idle"), (&lingers, "half_close_linger: 200ms", "linger")] {
        let (inbound, outbound) = (ports::free(), ports::free());
        let mesh = Mesh::start();
        let port = format!("protocol: tcp\nallow: [{{ spiffe: {WEB} }}]");
        let section = inbound_section(inbound, &app.address.to_string(), &port);
        let orders = mesh.sidecar("orders", &format!("{section}\ntimeouts: {{ {timeouts} }}\n")).await;
        let _web = mesh.sidecar("web", &outbound_section(outbound, inbound, "protocol: tcp")).await;
        let mut client = RawClient::connect(outbound).await;
        client.until_ended().await;
        if end == "linger" {
            // The application's end was passed on; ours is still open, and the linger ends it on the other side.
            assert!(client.stream.peer_addr().is_ok());
        }
        let record = &orders.records_of("connection", 1).await[0];
        assert!(record["end"].as_str().is_some_and(|text| text.contains(end)), "{record}");
    }
}
