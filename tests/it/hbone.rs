//! `via: tunnel`: many connections as streams of one mTLS connection, each with a session, a decision and a record of its own.

use bytes::Bytes;
use http::{Method, Request};
use postern::identity::SourceStatus;
use postern_tests::http2_raw::{PING, PREFACE, SETTINGS, frame};
use postern_tests::mesh::{ORDERS, STRANGER, WEB};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, eventually, mtls, ports, within};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `orders` behind a tunnel with an L4 and an HTTP port, and `web` that reaches both through it.
struct Scene {
    mesh: Mesh,
    orders: Sidecar,
    web: Sidecar,
    tcp: SocketAddr,
    http: SocketAddr,
    tunnel: SocketAddr,
    /// Sections of `orders`, to be edited.
    sections: String,
}

const TCP_PORT: u16 = 9000;
const HTTP_PORT: u16 = 8080;

impl Scene {
    async fn start(tcp_app: SocketAddr, http_app: SocketAddr) -> Self {
        Self::with_mesh(Mesh::start(), tcp_app, http_app).await
    }

    /// The same, and `orders` has an audit log in `audit.json`.
    async fn audited(tcp_app: SocketAddr, http_app: SocketAddr) -> Self {
        let mesh = Mesh::start();
        let log = mesh.directory().join("audit.json");
        Self::with(mesh, tcp_app, http_app, &format!("audit: {{ to: {{ file: {} }} }}\n", log.display())).await
    }

    async fn with_mesh(mesh: Mesh, tcp_app: SocketAddr, http_app: SocketAddr) -> Self {
        Self::with(mesh, tcp_app, http_app, "").await
    }

    async fn with(mesh: Mesh, tcp_app: SocketAddr, http_app: SocketAddr, more: &str) -> Self {
        let (tunnel, tcp, http) = (ports::free(), ports::free(), ports::free());
        let sections = format!(
            "workers: 1\ntunnel: {{ listen: {tunnel} }}\ninbound:\n  \
             - {{ name: raw, port: {TCP_PORT}, app: {tcp_app}, protocol: tcp, allow: [{{ spiffe: {WEB} }}] }}\n  \
             - {{ name: orders, port: {HTTP_PORT}, app: {http_app}, protocol: http, allow: [{{ spiffe: {WEB} }}] }}\n{more}"
        );
        let orders = mesh.sidecar("orders", &sections).await;
        let web = mesh.sidecar("web", &callers(tunnel, tcp, http)).await;
        Self { mesh, orders, web, tcp, http, tunnel, sections }
    }

    /// Connections that `orders` accepted, and the streams that they carried, once so many streams have ended.
    async fn streams(&self, count: usize) -> Vec<Value> {
        let is_stream = |record: &Value| record["kind"] == "connection" && record.get("tunnel.connection").is_some();
        eventually("records of streams", || {
            let found: Vec<_> = self.orders.records().into_iter().filter(is_stream).collect();
            (found.len() >= count).then_some(found)
        })
        .await
    }
}

fn callers(tunnel: SocketAddr, tcp: SocketAddr, http: SocketAddr) -> String {
    let service = |name: &str, listen: SocketAddr, protocol: &str, port: u16| {
        format!(
            "  - name: {name}\n    hosts: [{name}.shop.svc]\n    listen: {listen}\n    endpoints: [\"127.0.0.1:{port}\"]\n    \
             identity: {ORDERS}\n    protocol: {protocol}\n    via: tunnel\n    tunnel_port: {}\n",
            tunnel.port()
        )
    };
    let (raw, orders) = (service("raw", tcp, "tcp", TCP_PORT), service("orders", http, "http", HTTP_PORT));
    format!("workers: 1\noutbound:\n  services:\n{raw}{orders}")
}

async fn nobody() -> SocketAddr {
    ports::free()
}

#[tokio::test]
async fn connections_share_one_and_have_records_of_their_own() {
    let app = TcpApp::echo().await;
    let scene = Scene::start(app.address, nobody().await).await;
    let mut clients = Vec::new();
    for index in 0..30 {
        let mut client = RawClient::connect(scene.tcp).await;
        client.send(format!("hello {index:02}")).await;
        assert_eq!(client.take(8).await.unwrap(), format!("hello {index:02}").as_bytes());
        clients.push(client);
    }
    for mut client in clients {
        client.end().await;
        assert_eq!(client.to_end().await.unwrap(), b"", "the application ended too");
    }
    let streams = scene.streams(30).await;
    assert_eq!(streams.len(), 30);
    for stream in &streams {
        assert_eq!(stream["tunnel.connection"], streams[0]["tunnel.connection"], "one connection carried all");
        assert_eq!(stream["listener"], "raw");
        assert_eq!(stream["peer.spiffe_id"], WEB);
        assert_eq!(stream["bytes.received"], 8);
        assert_eq!(stream["bytes.sent"], 8);
        assert_eq!(stream.get("refusal"), None);
    }
    let records = scene.web.records_of("connection", 30).await;
    assert!(records.iter().all(|record| record["peer.spiffe_id"] == ORDERS && record.get("end").is_none()));
}

#[tokio::test]
async fn eight_mebibytes_pass_both_ways_byte_by_byte() {
    const SIZE: usize = 8 << 20;
    let app = TcpApp::echo().await;
    let scene = Scene::start(app.address, nobody().await).await;
    let client = RawClient::connect(scene.tcp).await;
    let sent: Vec<u8> = (0..SIZE).map(|index| (index * 31 + index / 251) as u8).collect();
    let (mut reader, mut writer) = client.stream.into_split();
    let to_send = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&to_send).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    within("everything comes back", reader.read_to_end(&mut received)).await.unwrap();
    writing.await.unwrap();
    assert!(received == sent, "{} of {SIZE} bytes", received.len());
}

#[tokio::test]
async fn ds_12_each_side_of_a_stream_may_end_first() {
    let ends_first = TcpApp::ends_first("greeting").await;
    let scene = Scene::start(ends_first.address, nobody().await).await;
    let mut client = RawClient::connect(scene.tcp).await;
    assert_eq!(client.to_end().await.unwrap(), b"greeting", "the application ended first");
    client.send("still heard").await;
    client.end().await;
    eventually("the rest at the application", || (ends_first.connections()[0] == b"still heard").then_some(())).await;
    assert_eq!(scene.streams(1).await.len(), 1);
}

#[tokio::test]
async fn streams_that_nobody_reads_do_not_hold_up_the_others() {
    // Each sends more than its window, and reads nothing.
    let app = TcpApp::start(|mut stream, _, _| async move {
        let mut question = [0; 1];
        stream.read_exact(&mut question).await?;
        if question == *b"e" {
            return stream.write_all(b"echo").await;
        }
        let mut answer = tokio::io::repeat(b'x').take(4 << 20);
        tokio::io::copy(&mut answer, &mut stream).await.map(drop)
    })
    .await;
    let scene = Scene::start(app.address, nobody().await).await;
    let mut greedy = Vec::new();
    for _ in 0..60 {
        let mut client = RawClient::connect(scene.tcp).await;
        client.send("x").await;
        greedy.push(client);
    }
    for client in &mut greedy {
        assert_eq!(client.take(1).await.unwrap(), b"x", "it is under way");
    }
    for _ in 0..10 {
        let mut client = RawClient::connect(scene.tcp).await;
        client.send("e").await;
        assert_eq!(client.to_end().await.unwrap(), b"echo");
    }
    let connections = scene.orders.connections().await;
    assert_eq!(connections.iter().filter(|it| it.protocol == "hbone").count(), 1, "all by one connection");
}

#[tokio::test]
async fn requests_pass_with_the_callers_identity() {
    let app = HttpApp::start().await;
    let scene = Scene::start(nobody().await, app.address).await;
    let mut http1 = H1Client::connect(scene.http).await;
    assert_eq!(http1.get("/one").await.unwrap().status, 200);
    assert_eq!(app.last().all("x-spiffe-id"), [WEB]);
    let mut http2 = H2Client::connect(scene.http).await;
    assert_eq!(http2.get("/two").await.unwrap().status, 200);
    assert_eq!(app.last().all("x-spiffe-id"), [WEB]);
    let request = scene.orders.record("request", |record| record["url.path"] == "/two").await;
    assert_eq!(request["peer.spiffe_id"], WEB);
    assert!(request["tunnel.connection"].is_u64(), "{request}");
}

#[tokio::test]
async fn an_application_that_is_away_refuses_the_stream_alone() {
    let app = TcpApp::echo().await;
    let scene = Scene::start(nobody().await, nobody().await).await;
    let mut client = RawClient::connect(scene.tcp).await;
    assert_eq!(client.until_ended().await, b"");
    let record = &scene.web.records_of("connection", 1).await[0];
    assert_eq!(record["refusal"], "upstream_unreachable");
    let detail = record["refusal.detail"].as_str().unwrap();
    assert!(detail.contains("app_unreachable, decision "), "{detail}");
    let stream = &scene.streams(1).await[0];
    assert_eq!(stream["refusal"], "app_unreachable");
    assert!(detail.contains(stream["decision"].as_str().unwrap()), "one decision, two records: {detail}");
    // The connection that carried it is as good as before.
    let away = scene.sections.split("app: ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    scene.orders.apply(&scene.sections.replacen(&away, &app.address.to_string(), 1)).await.unwrap();
    let mut client = RawClient::connect(scene.tcp).await;
    client.send("ping").await;
    assert_eq!(client.take(4).await.unwrap(), b"ping");
}

#[tokio::test]
async fn who_is_not_allowed_reaches_nothing() {
    let app = TcpApp::echo().await;
    let scene = Scene::start(app.address, nobody().await).await;
    let (tcp, http) = (ports::free(), ports::free());
    let stranger = scene.mesh.sidecar("stranger", &callers(scene.tunnel, tcp, http)).await;
    let mut client = RawClient::connect(tcp).await;
    client.send("let me in").await;
    assert_eq!(client.until_ended().await, b"");
    assert_eq!(app.connections(), Vec::<Vec<u8>>::new(), "not even a connection");
    let stream = &scene.streams(1).await[0];
    assert_eq!((&stream["refusal"], &stream["peer.spiffe_id"]), (&"not_allowed".into(), &STRANGER.into()));
    let record = &stranger.records_of("connection", 1).await[0];
    assert_eq!(record["refusal"], "peer_refused");
    assert!(record["refusal.detail"].as_str().unwrap().contains("not_allowed"), "{record}");
}

#[tokio::test]
async fn only_declared_ports_can_be_reached_and_only_by_connect() {
    let undeclared = TcpApp::echo().await;
    let app = TcpApp::echo().await;
    let scene = Scene::audited(app.address, nobody().await).await;
    let peer = Peer::of(&scene.web, scene.tunnel).await;
    let own = scene.tunnel.port();
    for (method, target, status) in [
        (Method::CONNECT, format!("127.0.0.1:{}", undeclared.address.port()), 403),
        // Its own tunnel, and the application past its port.
        (Method::CONNECT, format!("127.0.0.1:{own}"), 403),
        (Method::CONNECT, format!("127.0.0.1:{}", app.address.port()), 403),
        (Method::CONNECT, "127.0.0.1".to_owned(), 400),
        (Method::CONNECT, "127.0.0.1:0".to_owned(), 400),
        (Method::GET, format!("http://127.0.0.1:{TCP_PORT}/"), 405),
        (Method::CONNECT, format!("anything.example:{TCP_PORT}"), 200),
    ] {
        let request = Request::builder().method(method.clone()).uri(&target).body(()).unwrap();
        let (answer, mut send) = peer.requests.clone().ready().await.unwrap().send_request(request, false).unwrap();
        let answer = within("an answer", answer).await.unwrap();
        assert_eq!(answer.status(), status, "{method} {target}");
        if status == 200 {
            send.send_data(Bytes::from_static(b"hello"), true).unwrap();
            let mut body = answer.into_body();
            assert_eq!(within("an echo", body.data()).await.unwrap().unwrap(), "hello");
        } else {
            assert!(answer.headers().contains_key("x-postern-refusal"), "{target}");
        }
    }
    eventually("the last echo ended", || (app.connections() == [b"hello"]).then_some(())).await;
    assert_eq!(undeclared.connections(), Vec::<Vec<u8>>::new());
    let refused = |code: &str| {
        let records = scene.orders.records();
        records.iter().filter(|record| record["refusal"] == code && record["kind"] == "connection").count()
    };
    let counts = eventually("a record of each", || {
        let counts = (refused("no_route"), refused("bad_host"), refused("connect_refused"));
        (counts == (3, 2, 1)).then_some(counts)
    });
    counts.await;
    // Whose they were is known.
    scene.orders.shared.audit.flush();
    let text = std::fs::read_to_string(scene.mesh.directory().join("audit.json")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let refused: Vec<_> = records.filter(|record| record["outcome"] == "refused").collect();
    assert_eq!(refused.len(), 6, "{refused:#?}");
    for record in refused {
        assert_eq!((&record["peer.spiffe_id"], &record["own.spiffe_id"]), (&WEB.into(), &ORDERS.into()), "{record:#}");
        assert!(record["tunnel.connection"].is_u64(), "{record:#}");
    }
}

#[tokio::test]
async fn h2_08_frames_that_carry_nothing_end_a_tunnels_connection() {
    let app = TcpApp::echo().await;
    let scene = Scene::start(app.address, nobody().await).await;
    for (what, flood) in [("PING", frame(PING, 0, 0, &[0; 8])), ("SETTINGS", frame(SETTINGS, 0, 0, &[]))] {
        let mut peer = mtls::connect(&scene.web, scene.tunnel, &[b"h2"], "orders.shop.svc").await.unwrap();
        let port = peer.get_ref().0.local_addr().unwrap().port();
        peer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        // It may be cut before all of it has left.
        let _ = peer.write_all(&flood.repeat(20_000)).await;
        let _ = within("the end", peer.read_to_end(&mut Vec::new())).await;
        let record = scene.orders.record("connection", |record| record["network.peer.port"] == port).await;
        assert_eq!(record["end"], "http2_flood", "{what}");
    }
    let mut honest = RawClient::connect(scene.tcp).await;
    honest.send("hello").await;
    assert_eq!(honest.take(5).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_policy_that_refuses_one_port_ends_its_streams_alone() {
    let (app, http) = (TcpApp::echo().await, HttpApp::start().await);
    let scene = Scene::start(app.address, http.address).await;
    let mut raw = RawClient::connect(scene.tcp).await;
    raw.send("ping").await;
    assert_eq!(raw.take(4).await.unwrap(), b"ping");
    let mut requests = H1Client::connect(scene.http).await;
    assert_eq!(requests.get("/before").await.unwrap().status, 200);
    // Only the first: that of the L4 port.
    scene.orders.apply(&scene.sections.replacen(WEB, STRANGER, 1)).await.unwrap();
    assert_eq!(raw.until_ended().await, b"");
    assert_eq!(requests.get("/after").await.unwrap().status, 200, "the other stream lives");
    let cut = scene.orders.record("connection", |record| record["end"] == "policy_changed").await;
    assert_eq!(cut["listener"], "raw");
    let carried: Vec<_> = scene.orders.connections().await.into_iter().filter(|it| it.protocol == "hbone").collect();
    assert_eq!(carried.len(), 1, "and so does what carries it: {carried:?}");
}

#[tokio::test]
async fn an_identity_that_is_withdrawn_ends_every_stream() {
    let app = TcpApp::echo().await;
    let scene = Scene::start(app.address, nobody().await).await;
    let mut client = RawClient::connect(scene.tcp).await;
    client.send("ping").await;
    assert_eq!(client.take(4).await.unwrap(), b"ping");
    let before = [scene.web.own_fingerprint(), scene.orders.own_fingerprint()];
    scene.mesh.replace_authority("shop.example");
    assert_eq!(client.until_ended().await, b"");
    // Whoever hears of it first says why; to the other one the connection is gone.
    let cut = |record: &Value| record["end"] == "authority_removed" && record["bytes.received"] == 4;
    let record = eventually("a stream that was cut", || {
        scene.orders.records().into_iter().chain(scene.web.records()).find(|record| cut(record))
    });
    record.await;
    assert!(matches!(scene.web.shared.identity.load().source, SourceStatus::Connected));
    // And it works again, with the new ones, when both sides have heard of them.
    for (sidecar, before) in [&scene.web, &scene.orders].into_iter().zip(before) {
        sidecar.until_identity("a new SVID", |snapshot| snapshot.svids[0].fingerprint != before).await;
        sidecar.until_settled().await;
    }
    let mut client = RawClient::connect(scene.tcp).await;
    client.send("ping").await;
    assert_eq!(client.take(4).await.unwrap(), b"ping");
}

#[tokio::test]
async fn after_a_rotation_new_streams_have_a_new_connection_and_old_ones_live() {
    let app = TcpApp::echo().await;
    let scene = Scene::start(app.address, nobody().await).await;
    let mut old = RawClient::connect(scene.tcp).await;
    old.send("ping").await;
    assert_eq!(old.take(4).await.unwrap(), b"ping");
    let before = scene.web.own_fingerprint();
    scene.mesh.provider.reissue(&postern_tests::mesh::trust_domain("shop.example")).unwrap();
    scene.web.until_identity("a new SVID", |snapshot| snapshot.svids[0].fingerprint != before).await;
    scene.web.until_settled().await;
    let mut new = RawClient::connect(scene.tcp).await;
    new.send("pong").await;
    assert_eq!(new.take(4).await.unwrap(), b"pong");
    old.send("ping").await;
    assert_eq!(old.take(4).await.unwrap(), b"ping", "the old one lives");
    let carriers =
        |connections: &[postern::admin::ConnectionInfo]| connections.iter().filter(|it| it.protocol == "hbone").count();
    assert_eq!(carriers(&scene.orders.connections().await), 2);
    old.end().await;
    assert_eq!(old.to_end().await.unwrap(), b"");
    // Nobody uses it any more: it is closed, not kept.
    for _ in 0..200 {
        if carriers(&scene.orders.connections().await) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", scene.orders.connections().await);
}

#[tokio::test]
async fn a_tunnel_that_leaves_the_file_ends_with_its_streams() {
    let app = TcpApp::echo().await;
    let scene = Scene::start(app.address, nobody().await).await;
    let mut client = RawClient::connect(scene.tcp).await;
    client.send("ping").await;
    assert_eq!(client.take(4).await.unwrap(), b"ping");
    let without = scene.sections.lines().filter(|line| !line.starts_with("tunnel")).map(|line| format!("{line}\n"));
    scene.orders.apply(&without.collect::<String>()).await.unwrap();
    assert_eq!(client.until_ended().await, b"");
    scene.orders.record("connection", |record| record["end"] == "policy_changed").await;
}

/// A peer that speaks HBONE and is none of ours: h2 over mTLS with `sidecar`'s identity.
struct Peer {
    requests: h2::client::SendRequest<Bytes>,
}

impl Peer {
    async fn of(sidecar: &Sidecar, tunnel: SocketAddr) -> Self {
        use postern::tls::{ClientAlpn, Connect, Strictness, connect};
        let snapshot = sidecar.shared.identity.load();
        let expected = [postern_config::SpiffePattern::parse(ORDERS).unwrap()];
        let tcp = tokio::net::TcpStream::connect(tunnel).await.unwrap();
        let with = Connect {
            snapshot: &snapshot,
            svid: &snapshot.svids[0],
            expected: &expected,
            alpn: ClientAlpn::H2,
            strictness: Strictness::Strict,
            deadline: Duration::from_secs(10),
        };
        let (tls, _) = connect(tcp, with).await.unwrap();
        let (requests, connection) = h2::client::handshake(tls).await.unwrap();
        // Ends with the test.
        tokio::spawn(async move { drop(connection.await) });
        Self { requests }
    }
}
