//! HTTP/2 connections that are there to cost us (THREATS, H2 rows). Each ends with a healthy one beside it.

use postern_tests::http2_raw::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR,
    GOAWAY, HEADERS, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, field, frame, get, head, post,
};
use postern_tests::pair::{inbound_section, service_section};
use postern_tests::{H2Client, H2Raw, HttpApp, Mesh, RawClient, Sidecar, TcpApp, eventually, ports};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PLAIN: &str = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";

/// A sidecar in the clear with an application that speaks HTTP/2.
struct Scene {
    orders: Sidecar,
    app: HttpApp,
    to: SocketAddr,
    _mesh: Mesh,
}

impl Scene {
    async fn start(rest: &str) -> Self {
        let (mesh, app, to) = (Mesh::start(), HttpApp::start().await, ports::free());
        let section = format!("{}{rest}\n", inbound_section(to, &app.address.to_string(), PLAIN));
        let orders = mesh.sidecar("orders", &section).await;
        Self { orders, app, to, _mesh: mesh }
    }

    /// Somebody else is served, now and after what was done to `row`.
    async fn is_healthy(&self, row: &str) {
        let mut honest = H2Client::connect(self.to).await;
        assert_eq!(honest.get("/bytes/10").await.unwrap().body.len(), 10, "{row}");
    }

    async fn end_of(&self, port: u16) -> String {
        let record = self.orders.record("connection", |record| record["network.peer.port"] == port).await;
        record["end"].as_str().unwrap_or_default().to_owned()
    }

    fn ends(&self, cause: &str) -> f64 {
        let sample = format!("postern_ends_total{{direction=\"inbound\",name=\"orders\",cause=\"{cause}\"}}");
        self.orders.metric(&sample)
    }
}

fn resident_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

#[tokio::test]
async fn h2_01_rapid_resets_end_the_connection_calmly() {
    let scene = Scene::start("").await;
    let mut client = H2Raw::connect(scene.to).await;
    let flood: Vec<u8> =
        (0..20_000).flat_map(|count| [get(2 * count + 1, "/hang"), reset(2 * count + 1, CANCEL)].concat()).collect();
    client.send(flood).await;
    assert!(matches!(client.goaway().await, Some(ENHANCE_YOUR_CALM) | None));
    assert!(scene.app.seen().len() <= 256, "{} at the application", scene.app.seen().len());
    let end = scene.end_of(client.0.port()).await;
    assert!(end.contains("excessive load"), "{end}");
    scene.is_healthy("H2-01").await;
}

#[tokio::test]
async fn h2_01_resets_that_come_slowly_end_the_connection_too() {
    let scene = Scene::start("limits: { h2_early_resets: 20 }").await;
    let mut client = H2Raw::connect(scene.to).await;
    for count in 0..40 {
        // Each has reached the application before it is given up: the library does not count those.
        client.send(get(2 * count + 1, "/hang")).await;
        let app = &scene.app;
        eventually("it arrives, or the connection is over", || {
            (app.seen().len() > count as usize || scene.orders.metrics().contains("http2_resets")).then_some(())
        })
        .await;
        client.send(reset(2 * count + 1, CANCEL)).await;
    }
    assert_eq!(scene.end_of(client.0.port()).await, "http2_resets");
    assert_eq!(scene.ends("http2_resets"), 1.0);
    let seen = scene.app.take_seen().len();
    assert!(seen <= 23, "{seen} at the application");
    scene.is_healthy("H2-01").await;
}

#[tokio::test]
async fn h2_01_callers_that_give_up_now_and_then_stay() {
    let scene = Scene::start("limits: { h2_early_resets: 5 }").await;
    let mut client = H2Raw::connect(scene.to).await;
    for round in 0..20 {
        let (answered, given_up) = (4 * round + 1, 4 * round + 3);
        client.send(get(answered, "/bytes/1")).await;
        assert_eq!(client.answer(answered).await, Ok(200), "round {round}");
        client.send([get(given_up, "/hang"), reset(given_up, CANCEL)].concat()).await;
    }
    client.send(get(1001, "/bytes/1")).await;
    assert_eq!(client.answer(1001).await, Ok(200));
}

#[tokio::test]
async fn h2_03_resets_that_a_caller_makes_us_send_end_the_connection() {
    let after = |stream: u32| {
        [
            ("an update of nothing", frame(WINDOW_UPDATE, 0, stream, &[0; 4])),
            ("an update of too much", frame(WINDOW_UPDATE, 0, stream, &0x7FFF_FFFF_u32.to_be_bytes()).repeat(2)),
            ("data behind the end", frame(DATA, 0, stream, b"x")),
            ("a head behind the end", get(stream, "/hang")),
            ("a short priority", frame(PRIORITY, 0, stream, &[0; 4])),
            ("a priority over itself", frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat())),
        ]
    };
    let scene = Scene::start("").await;
    for kind in 0..after(1).len() {
        let mut client = H2Raw::connect(scene.to).await;
        let what = after(1)[kind].0;
        for stream in (1..10_000).step_by(2) {
            let before = scene.app.seen().len();
            client.send([get(stream, "/hang"), after(stream)[kind].1.clone()].concat()).await;
            if stream % 200 == 199 && scene.app.seen().len() == before {
                tokio::task::yield_now().await;
            }
        }
        let end = client.goaway().await;
        assert!(end.is_none_or(|code| code != 0), "{what}: {end:?}");
        assert!(scene.app.take_seen().len() <= 600, "{what}: too much at the application");
        scene.is_healthy(what).await;
        scene.app.take_seen();
    }
}

#[tokio::test]
async fn h2_04_a_head_that_never_ends_ends_the_connection() {
    let scene = Scene::start("").await;
    for piece in [&b""[..], b"\x20"] {
        let mut client = H2Raw::connect(scene.to).await;
        client.send(frame(HEADERS, END_STREAM, 1, &block(&head("GET", "/evil")))).await;
        client.send(frame(CONTINUATION, 0, 1, piece).repeat(10_000)).await;
        assert!(matches!(client.goaway().await, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR | 9) | None), "{piece:?}");
        assert!(!scene.end_of(client.0.port()).await.is_empty());
    }
    assert!(scene.app.seen().is_empty());
    scene.is_healthy("H2-04").await;
}

#[tokio::test]
async fn h2_04_a_head_that_comes_slowly_has_its_deadline() {
    let scene = Scene::start("timeouts: { request_headers: 1s }").await;
    let mut client = H2Raw::connect(scene.to).await;
    client.send(frame(HEADERS, END_STREAM, 1, &block(&head("GET", "/evil")))).await;
    assert!(client.until(|_| false).await.is_none(), "the connection ends");
    assert_eq!(scene.end_of(client.0.port()).await, "header_timeout");
    assert!(scene.app.seen().is_empty());
    scene.is_healthy("H2-04").await;
}

#[tokio::test]
async fn h2_06_cookie_crumbs_count_before_they_are_one() {
    let scene = Scene::start("").await;
    let mut client = H2Raw::connect(scene.to).await;
    // One literal that is indexed, and then one byte each (RFC 7541 §6.1).
    let crumbs = [&[0x60, 1, b'a'][..], &[0xBE; 5000]].concat();
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &[block(&head("GET", "/evil")), crumbs].concat())).await;
    assert_ne!(client.answer(1).await, Ok(200));
    assert!(scene.app.seen().is_empty());
    scene.is_healthy("H2-06").await;
}

#[tokio::test]
async fn h2_07_data_frames_without_data_end_the_connection_and_small_ones_do_not() {
    let scene = Scene::start("").await;
    let mut client = H2Raw::connect(scene.to).await;
    client.send(post(1, "/evil")).await;
    client.send(frame(DATA, 0, 1, &[]).repeat(20_000)).await;
    assert!(client.goaway().await.is_none_or(|code| code != 0));
    assert!(!scene.end_of(client.0.port()).await.is_empty());
    assert!(scene.app.take_seen().is_empty(), "nothing whole");
    // A caller of many small messages, as gRPC has them.
    let mut client = H2Raw::connect(scene.to).await;
    client.send(post(1, "/small")).await;
    for _ in 0..300 {
        client.send(frame(DATA, 0, 1, b"x").repeat(10)).await;
        tokio::task::yield_now().await;
    }
    client.send(frame(DATA, END_STREAM, 1, b"x")).await;
    assert_eq!(client.answer(1).await, Ok(200));
    assert_eq!(scene.app.last().body.len(), 3001);
    scene.is_healthy("H2-07").await;
}

#[tokio::test]
async fn h2_08_frames_that_carry_nothing_end_the_connection() {
    let scene = Scene::start("limits: { h2_control_frames: 200 }").await;
    let floods = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 1])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(0xFE, 0, 0, b"what")),
    ];
    for (what, flood) in &floods {
        let mut client = H2Raw::connect(scene.to).await;
        client.send(flood.repeat(5000)).await;
        client.0.until_ended().await;
        assert_eq!(scene.end_of(client.0.port()).await, "http2_flood", "{what}");
        scene.is_healthy(what).await;
    }
    assert_eq!(scene.ends("http2_flood"), floods.len() as f64);
}

#[tokio::test]
async fn h2_08_answers_that_nobody_reads_are_bounded_and_have_a_deadline() {
    // So many are allowed that only the unread answers can end it.
    let scene = Scene::start("limits: { h2_control_frames: 4000000000 }\ntimeouts: { write_stall: 1s }").await;
    let before = resident_mebibytes();
    for what in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
        let mut client = RawClient::connect_with_small_window(scene.to).await;
        client.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        client.send_until_stuck(&what.repeat(50_000)).await;
        assert_eq!(scene.end_of(client.port()).await, "write_stall");
    }
    assert!(resident_mebibytes() < before + 128, "{before} MiB before, {} MiB after", resident_mebibytes());
    assert_eq!(scene.ends("write_stall"), 2.0);
    scene.is_healthy("H2-08").await;
}

#[tokio::test]
async fn h2_10_answers_that_nobody_takes_are_bounded_and_have_a_deadline() {
    let scene = Scene::start("timeouts: { write_stall: 2s }").await;
    let mut client = RawClient::connect(scene.to).await;
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    client.send([PREFACE, &no_window].concat()).await;
    let before = resident_mebibytes();
    for count in 0..100_u32 {
        client.send(get(2 * count + 1, "/ticks")).await;
    }
    let records = scene.orders.records_of("request", 100).await;
    assert!(records.iter().all(|record| record["end"] == "write_stall"), "{:#?}", records[0]);
    assert_eq!(scene.ends("write_stall"), 100.0, "streams, and not their connection");
    assert!(resident_mebibytes() < before + 64, "{before} MiB before, {} MiB after", resident_mebibytes());
    scene.is_healthy("H2-10").await;
}

#[tokio::test]
async fn h2_11_settings_and_updates_that_are_wrong_end_the_connection_with_the_right_code() {
    let scene = Scene::start("").await;
    let cases = [
        ("initial window 2^31", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), FLOW_CONTROL_ERROR),
        ("frame size 1", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), PROTOCOL_ERROR),
        ("frame size 2^24", frame(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0]), PROTOCOL_ERROR),
        ("five bytes", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0]), FRAME_SIZE_ERROR),
        ("an ACK with payload", frame(SETTINGS, ACK, 0, &[0, 4, 0, 0, 0, 0]), FRAME_SIZE_ERROR),
        ("windows above 2^31", frame(WINDOW_UPDATE, 0, 0, &0x7FFF_FFFF_u32.to_be_bytes()), FLOW_CONTROL_ERROR),
        ("an update of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        ("a ping of seven", frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        ("a head on stream 0", get(0, "/evil"), PROTOCOL_ERROR),
        ("a head on an even stream", get(2, "/evil"), PROTOCOL_ERROR),
        ("a push", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL_ERROR),
    ];
    for (what, bytes, code) in cases {
        let mut client = H2Raw::connect(scene.to).await;
        client.send(bytes).await;
        let end = client.goaway().await;
        // The library has one code for every value that is wrong.
        assert!(end == Some(code) || end == Some(PROTOCOL_ERROR), "{what}: {end:?}");
        assert!(scene.app.seen().is_empty(), "{what}");
        scene.is_healthy(what).await;
        scene.app.take_seen();
    }
}

/// An application that says `bytes` as soon as it has read the preface, whatever it is asked.
async fn says(bytes: Vec<u8>) -> TcpApp {
    TcpApp::start(move |mut stream, _, _| {
        let bytes = bytes.clone();
        async move {
            let mut buffer = [0; 4096];
            stream.read_exact(&mut buffer[..24]).await?;
            stream.write_all(&bytes).await?;
            while stream.read(&mut buffer).await? > 0 {}
            Ok(())
        }
    })
    .await
}

async fn plain_client(mesh: &Mesh, app: SocketAddr) -> (Sidecar, SocketAddr) {
    let listen = ports::free();
    let lines = format!("endpoints: [\"{app}\"]\ntls: off\nprotocol: http");
    // One worker: a service has a connection for each.
    (mesh.sidecar("web", &format!("{}workers: 1\n", service_section(listen, &lines))).await, listen)
}

#[tokio::test]
async fn h2_11_h2_15_an_upstream_that_breaks_the_protocol_is_a_bad_gateway() {
    let mesh = Mesh::start();
    let cases = [
        ("no preface", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ("initial window 2^31", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("frame size 1", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        (
            "windows above 2^31",
            [frame(SETTINGS, 0, 0, &[]), frame(WINDOW_UPDATE, 0, 0, &0x7FFF_FFFF_u32.to_be_bytes())].concat(),
        ),
        (
            "a push",
            [frame(SETTINGS, 0, 0, &[]), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82, 0x84, 0x86])].concat(),
        ),
        ("an answer to nothing", [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS, 99, &[0x88])].concat()),
        ("a flood", [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8]).repeat(50_000)].concat()),
        ("GOAWAY at once", [frame(SETTINGS, 0, 0, &[]), frame(GOAWAY, 0, 0, &[0; 8])].concat()),
    ];
    for (what, bytes) in cases {
        let app = says(bytes).await;
        let (web, listen) = plain_client(&mesh, app.address).await;
        let mut client = H2Client::connect(listen).await;
        let begun = Instant::now();
        let reply = client.get("/x").await.unwrap();
        assert!(matches!(reply.status.as_u16(), 502..=504), "{what}: {reply:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        let record = &web.records_of("request", 1).await[0];
        assert!(record["refusal"].as_str().is_some_and(|code| code.starts_with("upstream")), "{what}: {record}");
        assert!(app.connections().len() <= 6, "{what}: {} connections", app.connections().len());
    }
}

#[tokio::test]
async fn h2_12_streams_above_the_limit_are_refused_one_by_one() {
    let scene = Scene::start("limits: { h2_streams: 2 }").await;
    let mut client = H2Raw::connect(scene.to).await;
    // Until it knows of our limit, a caller may open more (RFC 9113 §5.1.2).
    client.until(|frame| frame.kind == SETTINGS).await.expect("our settings");
    client.send(frame(SETTINGS, ACK, 0, &[])).await;
    client.send([get(1, "/hang"), get(3, "/hang"), get(5, "/evil")].concat()).await;
    assert_eq!(client.answer(5).await, Err(Some(REFUSED_STREAM)));
    client.send([reset(1, CANCEL), reset(3, CANCEL)].concat()).await;
    client.send(get(7, "/bytes/1")).await;
    assert_eq!(client.answer(7).await, Ok(200));
    // The last stream that there can be, and one after it.
    client.send(get(0x7FFF_FFFF, "/bytes/1")).await;
    assert_eq!(client.answer(0x7FFF_FFFF).await, Ok(200));
    client.send(get(9, "/evil")).await;
    assert!(client.goaway().await.is_some());
    assert!(!scene.app.seen().iter().any(|seen| seen.target.contains("evil")));
    let record = scene.orders.record("connection", |record| record["network.peer.port"] == client.0.port()).await;
    assert_eq!(record["http2.streams_refused"], 1, "{record}");
    scene.is_healthy("H2-12").await;
}

#[tokio::test]
async fn h2_13_a_connection_that_does_not_get_past_its_preface_is_ended() {
    let scene = Scene::start("timeouts: { request_headers: 1s, http_idle: 2s }").await;
    let begun = [
        (&PREFACE[..1], ""),
        (&PREFACE[..18], ""),
        (PREFACE, "header_timeout"),
        (&[PREFACE, &frame(SETTINGS, 0, 0, &[])[..5]].concat()[..], "header_timeout"),
        (&[PREFACE, &frame(SETTINGS, 0, 0, &[])[..]].concat()[..], "idle"),
    ]
    .map(|(bytes, end)| (bytes.to_vec(), end));
    for (bytes, end) in begun {
        let mut client = RawClient::connect(scene.to).await;
        client.send(&bytes).await;
        client.until_ended().await;
        let found = scene.end_of(client.port()).await;
        assert_eq!(found, end, "{} bytes", bytes.len());
    }
    assert!(scene.app.seen().is_empty());
    scene.is_healthy("H2-13").await;
}

/// An HTTP/2 application, frame by frame: answers stream 1 of its first connection, and leaves when `waits_for` more have
/// come, saying that it has looked at none of them. Everybody after that is served.
async fn leaves_after(waits_for: usize, seen: Arc<Mutex<Vec<u32>>>) -> TcpApp {
    let connections = Arc::new(AtomicUsize::new(0));
    TcpApp::start(move |mut stream, _, _| {
        let (seen, first) = (seen.clone(), connections.fetch_add(1, Relaxed) == 0);
        async move {
            let mut buffer = vec![0; 24];
            stream.read_exact(&mut buffer).await?;
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
            let mut waiting = 0;
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await?;
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                stream.read_exact(&mut payload).await?;
                let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                match head[3] {
                    HEADERS if first && id > 1 => {
                        seen.lock().unwrap().push(id);
                        waiting += 1;
                        if waiting == waits_for {
                            let last = [&1_u32.to_be_bytes()[..], &[0; 4]].concat();
                            stream.write_all(&frame(GOAWAY, 0, 0, &last)).await?;
                            return stream.shutdown().await;
                        }
                    }
                    HEADERS => stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &[0x88])).await?,
                    SETTINGS if head[4] & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
                    _ => {}
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn h2_15_streams_that_a_goaway_has_not_looked_at_go_elsewhere_once() {
    let (mesh, seen) = (Mesh::start(), Arc::new(Mutex::new(Vec::new())));
    let app = leaves_after(2, seen.clone()).await;
    let (web, listen) = plain_client(&mesh, app.address).await;
    let mut client = H2Client::connect(listen).await;
    assert_eq!(client.get("/first").await.unwrap().status, 200);
    let (mut one, mut other) = (H2Client::connect(listen).await, H2Client::connect(listen).await);
    let (one, other) = tokio::join!(one.get("/second"), other.get("/third"));
    assert_eq!((one.unwrap().status, other.unwrap().status), (200.try_into().unwrap(), 200.try_into().unwrap()));
    assert_eq!(seen.lock().unwrap().len(), 2, "each was sent once to the connection that left");
    let records = web.records_of("request", 3).await;
    assert!(records.iter().all(|record| record["http.response.status_code"] == 200), "{records:#?}");
}

#[tokio::test]
async fn a_table_of_headers_that_grows_without_end_stays_small() {
    // RFC 7541 §4.2: the peer may not make the table larger than we said; entries that do not fit throw out the others.
    let scene = Scene::start("").await;
    let mut client = H2Raw::connect(scene.to).await;
    let before = resident_mebibytes();
    for count in 0..2000_u32 {
        let name = format!("x-{count}");
        let mut indexed = field(&name, &[b'v'; 100]);
        indexed[0] = 0x40;
        let fields = [block(&head("GET", "/bytes/1")), indexed].concat();
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 2 * count + 1, &fields)).await;
        assert_eq!(client.answer(2 * count + 1).await, Ok(200));
    }
    assert!(resident_mebibytes() < before + 32);
}
