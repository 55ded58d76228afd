//! Callers that cost more than they should: slow ones, many of them, greedy ones (THREATS, DS rows).

use postern_tests::client_http::channel;
use postern_tests::mesh::{STRANGER, WEB};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{
    H1Client, H2Client, HttpApp, Mesh, Pair, RawApp, RawClient, Sidecar, eventually, mtls, ports, within,
};
use std::io::{Read as _, Seek as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PLAIN: &str = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";

async fn orders(mesh: &Mesh, app: SocketAddr, lines: &str, rest: &str) -> (Sidecar, SocketAddr) {
    let listen = ports::free();
    let section = format!("{}{rest}\n", inbound_section(listen, &app.to_string(), lines));
    (mesh.sidecar("orders", &section).await, listen)
}

fn ends(orders: &Sidecar, cause: &str) -> f64 {
    orders.metric(&format!("postern_ends_total{{direction=\"inbound\",name=\"orders\",cause=\"{cause}\"}}"))
}

fn refusals(orders: &Sidecar, code: &str) -> f64 {
    orders.metric(&format!("postern_refusals_total{{direction=\"inbound\",name=\"orders\",code=\"{code}\"}}"))
}

#[tokio::test]
async fn ds_02_a_body_that_does_not_come_has_its_deadline() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let (orders, listen) =
        orders(&mesh, app.address, &format!("{PLAIN}\napp_http: 1"), "timeouts: { body_idle: 1s }").await;
    let mut client = RawClient::connect(listen).await;
    client.send("POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nx").await;
    let response = client.response().await;
    assert_eq!((response.status, response.header("connection")), (408, Some("close")), "{response:?}");
    let mut http2 = H2Client::connect(listen).await;
    let (sender, body) = channel();
    let request = http2.request("POST", "/slow").body(body).unwrap();
    let reply = http2.send(request).await.unwrap();
    assert_eq!(reply.status, 408);
    drop(sender);
    let records = orders.records_of("request", 2).await;
    assert!(records.iter().all(|record| record["refusal"] == "body_timeout"), "{records:#?}");
    assert_eq!((ends(&orders, "body_idle"), refusals(&orders, "body_timeout")), (2.0, 2.0));
    assert!(!app.text().contains("\r\n0\r\n\r\n"), "no clean end: {}", app.text());
    assert_eq!(RawClient::connect(listen).await.get("a", "/honest").await.status, 200);
}

#[tokio::test]
async fn ds_02_bodies_that_come_at_all_and_calls_that_may_wait_have_their_time() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (_orders, listen) = orders(&mesh, app.address, PLAIN, "timeouts: { body_idle: 1s, stream_idle: 3s }").await;
    let mut http1 = H1Client::connect(listen).await;
    let (sender, body) = channel();
    let request = http1.request("POST", "/slowly").body(body).unwrap();
    let slowly = tokio::spawn(async move { http1.send(request).await });
    // Streams of gRPC may be silent for hours, and once there is an answer the caller may take its time.
    let mut grpc = H2Client::connect(listen).await;
    let (grpc_sender, body) = channel();
    let request = grpc.request("POST", "/grpc").header("content-type", "application/grpc").body(body).unwrap();
    let calling = tokio::spawn(async move { grpc.send(request).await });
    for _ in 0..8 {
        sender.send(Ok(http_body::Frame::data("x".into()))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop((sender, grpc_sender));
    assert_eq!(slowly.await.unwrap().unwrap().status, 200);
    assert_eq!(calling.await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn ds_02_an_answer_that_is_not_taken_has_its_deadline() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (orders, listen) = orders(&mesh, app.address, PLAIN, "timeouts: { write_stall: 1s }").await;
    let mut client = RawClient::connect(listen).await;
    client.send("GET /bytes/50000000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let record = orders.record("request", |record| record["url.path"] == "/bytes/50000000").await;
    assert_eq!(record["end"], "write_stall", "{record}");
    assert_eq!(ends(&orders, "write_stall"), 1.0);
    // One that reads slowly, but reads, gets all of it.
    let mut slow = RawClient::connect(listen).await;
    slow.send("GET /bytes/20000000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    slow.head().await.unwrap();
    for _ in 0..20 {
        slow.take(1_000_000).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(ends(&orders, "write_stall"), 1.0);
}

#[tokio::test]
async fn a_request_of_which_nothing_moves_has_its_deadline() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (orders, listen) = orders(&mesh, app.address, PLAIN, "timeouts: { stream_idle: 1s }").await;
    assert_eq!(H1Client::connect(listen).await.get("/hang").await.unwrap().status, 504);
    assert!(H2Client::connect(listen).await.get("/stream").await.is_err());
    assert_eq!(ends(&orders, "stream_idle"), 2.0);
}

#[tokio::test]
async fn ds_04_a_flood_of_handshakes_leaves_who_is_served_alone_and_is_counted_exactly() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let strict = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let (orders, listen) =
        orders(&mesh, app.address, &strict, "limits: { handshakes: 20 }\ntimeouts: { handshake: 60s }\nworkers: 1")
            .await;
    let outbound = ports::free();
    let web = mesh.sidecar("web", &outbound_section(outbound, listen, "protocol: http")).await;
    let mut served = H1Client::connect(outbound).await;
    assert_eq!(served.get("/before").await.unwrap().status, 200);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut stalled = Vec::new();
    for _ in 0..60 {
        let mut garbage = RawClient::connect(listen).await;
        garbage.send_what_is_taken("GET / HTTP/1.1\r\n\r\n").await;
        let mut begun = RawClient::connect(listen).await;
        begun.send_what_is_taken(hello).await;
        stalled.push((garbage, begun));
        let asked = Instant::now();
        assert_eq!(served.get("/during").await.unwrap().status, 200);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
    // New callers that mean it get in: the oldest of those that stall make room.
    drop(mtls::connect(&web, listen, &[], "any.example").await.expect("a handshake"));
    eventually("the flood is over", || (ends(&orders, "over_limit") >= 41.0).then_some(())).await;
    assert_eq!(refusals(&orders, "plaintext_refused"), 60.0);
    drop(stalled);
    assert_eq!(served.get("/after").await.unwrap().status, 200);
}

#[tokio::test]
async fn ds_06_updates_of_keys_without_end_end_the_connection() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let strict = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let (orders, listen) = orders(&mesh, app.address, &strict, "").await;
    let web = mesh.sidecar("web", "").await;
    let mut tls = mtls::connect(&web, listen, &[], "any.example").await.unwrap();
    let port = tls.get_ref().0.local_addr().unwrap().port();
    let mut is_over = false;
    for _ in 0..2000 {
        tls.get_mut().1.refresh_traffic_keys().unwrap();
        if tls.flush().await.is_err() {
            is_over = true;
            break;
        }
    }
    let mut rest = Vec::new();
    is_over |= within("an end", tls.read_to_end(&mut rest)).await.is_err();
    assert!(is_over, "it was ended by an alert, or a reset: {rest:?}");
    orders.record("connection", |record| record["network.peer.port"] == port).await;
    // A few, with something between them, are what a long-lived connection does.
    let mut tls = mtls::connect(&web, listen, &[], "any.example").await.unwrap();
    for _ in 0..50 {
        tls.get_mut().1.refresh_traffic_keys().unwrap();
        tls.write_all(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        within("an answer", tls.read_exact(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        let mut rest = [0; 1024];
        within("its rest", tls.read(&mut rest)).await.unwrap();
    }
}

#[tokio::test]
async fn ds_09_requests_above_the_limit_are_refused_at_once_and_the_others_served() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (orders, listen) = orders(&mesh, app.address, PLAIN, "limits: { requests: 2 }\nworkers: 1").await;
    // HTTP/2 says when a caller has left.
    let (mut one, mut two) = (H2Client::connect(listen).await, H2Client::connect(listen).await);
    let one = tokio::spawn(async move { one.get("/hang").await });
    let _two = tokio::spawn(async move { two.get("/hang").await });
    eventually("both are at the application", || (app.seen().len() == 2).then_some(())).await;
    let mut three = RawClient::connect(listen).await;
    let asked = Instant::now();
    let response = three.get("a", "/evil").await;
    assert_eq!((response.status, response.header("connection")), (503, None), "{response:?}");
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert_eq!(refusals(&orders, "over_limit"), 1.0);
    assert_eq!(orders.records_of("request", 1).await[0]["refusal"], "over_limit");
    one.abort();
    // A place that is free again is given again, on the same connection.
    orders.record("request", |record| record["end"] == "caller_closed").await;
    assert_eq!(three.get("a", "/bytes/2").await.status, 200);
    assert!(!app.seen().iter().any(|seen| seen.target.contains("evil")));
}

#[tokio::test]
async fn ds_16_a_greedy_peer_leaves_the_others_their_share() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let lines = format!("protocol: http\nallow: [{{ spiffe: [{WEB}, {STRANGER}] }}]");
    let rest = "limits: { requests: 10, requests_per_caller: 3 }\nworkers: 1";
    let (orders, listen) = orders(&mesh, app.address, &lines, rest).await;
    let (of_web, of_stranger) = (ports::free(), ports::free());
    let _web = mesh.sidecar("web", &outbound_section(of_web, listen, "protocol: http")).await;
    let _stranger = mesh.sidecar("stranger", &outbound_section(of_stranger, listen, "protocol: http")).await;
    let mut held = Vec::new();
    for count in 0..3 {
        // On connections of their own: the share is the caller's, and no connection's.
        let mut client = RawClient::connect(of_web).await;
        client.send("GET /hang HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n").await;
        held.push(client);
        eventually("it is at the application", || (app.seen().len() > count).then_some(())).await;
    }
    assert_eq!(H1Client::connect(of_web).await.get("/more").await.unwrap().status, 503);
    assert_eq!(H1Client::connect(of_stranger).await.get("/bytes/1").await.unwrap().status, 200);
    let refused = orders.record("request", |record| record["refusal"] == "over_limit").await;
    assert_eq!(refused["peer.spiffe_id"], WEB, "{refused}");
}

#[tokio::test]
async fn ds_13_what_callers_say_makes_no_new_series() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let lines = format!("protocol: http\nallow: [{{ spiffe: {WEB}, paths: [\"/ok/**\"] }}]");
    let pair = Pair::with(mesh, app.address, &lines, "protocol: http").await;
    let series = |sidecar: &Sidecar| sidecar.metrics().lines().filter(|line| !line.starts_with('#')).count();
    let mut client = RawClient::connect(pair.outbound).await;
    let ask = async |client: &mut RawClient, number: usize| {
        let path = if number.is_multiple_of(2) { "ok" } else { "denied" };
        let letters = |count: usize| "ABCDEFGHIJ".chars().nth(count % 10).unwrap();
        let method: String = [number / 100, number / 10, number].map(letters).iter().collect();
        let request =
            format!("M{method} /{path}/{number} HTTP/1.1\r\nhost: h{number}.example\r\nuser-agent: u{number}\r\n\r\n");
        client.response_to(&request).await
    };
    for number in 0..2 {
        ask(&mut client, number).await;
    }
    let before = (series(&pair.orders), series(&pair.web));
    for number in 2..302 {
        ask(&mut client, number).await;
    }
    assert_eq!((series(&pair.orders), series(&pair.web)), before);
}

#[tokio::test]
async fn ds_15_when_memory_is_scarce_no_new_connection_is_taken_and_live_ones_go_on() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let (orders, listen) = orders(&mesh, app.address, PLAIN, "").await;
    let mut live = RawClient::connect(listen).await;
    assert_eq!(live.get("a", "/before").await.status, 200);
    let section = inbound_section(listen, &app.address.to_string(), PLAIN);
    orders.apply(&format!("{section}limits: {{ memory: 1MiB }}\n")).await.unwrap();
    eventually("pressure", || (orders.metric("postern_memory_pressure ") == 1.0).then_some(())).await;
    let mut refused = RawClient::connect(listen).await;
    assert!(refused.until_ended().await.is_empty());
    let record = orders.record("connection", |record| record["refusal"] == "over_limit").await;
    assert!(record["refusal.detail"].as_str().is_some_and(|detail| detail.contains("limits.memory")), "{record}");
    assert_eq!(live.get("a", "/during").await.status, 200);
    orders.apply(&section).await.unwrap();
    eventually("no pressure", || (orders.metric("postern_memory_pressure ") == 0.0).then_some(())).await;
    assert_eq!(RawClient::connect(listen).await.get("a", "/after").await.status, 200);
}

/// Set for the process that this test starts, with few descriptors, to be the test.
const FEW_DESCRIPTORS: &str = "POSTERN_TEST_FEW_DESCRIPTORS";

#[tokio::test]
async fn ds_08_f_14_without_descriptors_callers_are_told_and_who_is_served_goes_on() {
    if std::env::var_os(FEW_DESCRIPTORS).is_none() {
        let test = "exhaustion::ds_08_f_14_without_descriptors_callers_are_told_and_who_is_served_goes_on";
        let exe = std::env::current_exe().unwrap();
        let command = format!("ulimit -n 160; exec {} --exact {test} --nocapture", exe.display());
        let output = tokio::process::Command::new("sh").arg("-c").arg(command).env(FEW_DESCRIPTORS, "1").output().await;
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        return;
    }
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let (orders, listen) = orders(&mesh, app.address, PLAIN, "limits: { connections: 5000 }").await;
    let mut served = RawClient::connect(listen).await;
    assert_eq!(served.get("a", "/before").await.status, 200);
    let mut stat = std::fs::File::open("/proc/self/stat").unwrap();
    // Both ends are in this process: it is full soon.
    let mut clients = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(listen) {
        clients.push(stream);
        assert!(clients.len() < 1000);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Leave some for what the test itself needs: the accepting side takes them.
    clients.truncate(clients.len() - 2);
    for _ in 0..20 {
        if let Ok(stream) = std::net::TcpStream::connect(listen) {
            clients.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    eventually("it is noticed", || {
        orders
            .metrics()
            .lines()
            .any(|line| line.strip_prefix("postern_descriptor_exhaustion_total ").is_some_and(|count| count != "0"))
            .then_some(())
    })
    .await;
    assert_eq!(served.get("a", "/during").await.status, 200, "on its pooled connection to the application");
    let before = cpu_ticks(&mut stat);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = cpu_ticks(&mut stat) - before;
    assert!(used < 60, "{used} hundredths of CPU in a second");
    drop(clients);
    let mut after = RawClient::connect(listen).await;
    assert_eq!(after.get("a", "/after").await.status, 200);
}

/// Hundredths of a second. `stat` was opened when there were descriptors.
fn cpu_ticks(stat: &mut std::fs::File) -> u64 {
    let mut text = String::new();
    stat.rewind().unwrap();
    stat.read_to_string(&mut text).unwrap();
    let stat = text;
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn hd_08_nothing_depends_on_the_server_name() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let lines = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let (orders, listen) = orders(&mesh, app.address, &lines, "").await;
    let web = mesh.sidecar("web", "").await;
    for server_name in ["orders.shop.svc", "evil.example"] {
        let mut tls = mtls::connect(&web, listen, &[b"http/1.1"], server_name).await.unwrap();
        tls.write_all(b"GET /a HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        within("an answer", tls.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    let records = orders.records_of("request", 2).await;
    assert!(records.iter().all(|record| !record.to_string().contains("evil")), "{records:#?}");
}

#[tokio::test]
async fn tl_26_who_agrees_on_http_2_and_speaks_http_1_is_closed() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let lines = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let (orders, listen) = orders(&mesh, app.address, &lines, "timeouts: { request_headers: 1s }").await;
    let web = mesh.sidecar("web", "").await;
    let mut tls = mtls::connect(&web, listen, &[b"h2"], "any.example").await.unwrap();
    tls.write_all(b"GET /evil HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // In order or not.
    let _ = within("an end", tls.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
    // And one that says its preface a byte a second (H2-13).
    let mut tls = mtls::connect(&web, listen, &[b"h2"], "any.example").await.unwrap();
    let port = tls.get_ref().0.local_addr().unwrap().port();
    tls.write_all(b"PRI").await.unwrap();
    let _ = within("an end", tls.read_to_end(&mut answer)).await;
    let record = orders.record("connection", |record| record["network.peer.port"] == port).await;
    assert_eq!(record["end"], "header_timeout", "{record}");
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn tl_25_data_before_the_handshake_is_over_is_not_taken() {
    // RFC 8446 §4.2.10 offers early data with a ticket; none is handed out, so there is nothing to send it with.
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let lines = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let (_orders, listen) = orders(&mesh, app.address, &lines, "").await;
    let web = mesh.sidecar("web", "").await;
    let mut tls = mtls::connect(&web, listen, &[b"http/1.1"], "any.example").await.unwrap();
    tls.write_all(b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within("an answer", tls.read_to_end(&mut answer)).await.unwrap();
    let state = tls.get_ref().1;
    assert_eq!((state.tls13_tickets_received(), state.is_early_data_accepted()), (0, false));
}
