//! Streams of HTTP/2 as requests, answers and tunnels: what looks whole, what does not, and who is pinged.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use hyper_util::rt::TokioIo;
use postern_tests::client_http::{channel, empty};
use postern_tests::http2_raw::PING;
use postern_tests::mesh::WEB;
use postern_tests::pair::service_section;
use postern_tests::{
    H1Client, H2Client, H2Raw, HttpApp, Mesh, Pair, RawApp, RawClient, Sidecar, TcpApp, eventually, ports,
};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Agrees to CONNECT, and sends back what comes through the tunnel until that ends.
async fn agreeing_over_http2() -> TcpApp {
    TcpApp::start(|stream, _, _| async move {
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut answer = respond.send_response(Response::new(()), false).unwrap();
                while let Some(Ok(bytes)) = body.data().await {
                    let _ = body.flow_control().release_capacity(bytes.len());
                    answer.send_data(bytes, false).unwrap();
                }
                answer.send_data(Bytes::new(), true).unwrap();
            });
        }
        Ok(())
    })
    .await
}

/// The same over HTTP/1.1.
async fn agreeing_over_http1() -> TcpApp {
    TcpApp::start(|mut stream: TcpStream, _, _| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await?;
        write.shutdown().await
    })
    .await
}

const CONNECT_ALLOWED: &str = "match: { methods: [CONNECT] }\n    connect: true";

#[tokio::test]
async fn connect_is_carried_from_either_version_to_either() {
    const WORDS: &[u8] = b"through the tunnel";
    for (caller, app_http) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let app = if app_http == 1 { agreeing_over_http1().await } else { agreeing_over_http2().await };
        let port = format!(
            "protocol: http\napp_http: {app_http}\nroutes:\n  - name: proxy\n    {CONNECT_ALLOWED}\n    allow: [{{ spiffe: {WEB} }}]"
        );
        let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
        let said = if caller == 1 {
            let mut client = RawClient::connect(pair.outbound).await;
            client.send("CONNECT good:443 HTTP/1.1\r\nhost: good:443\r\n\r\n").await;
            assert_eq!(client.head().await.unwrap().status, 200, "{caller} to {app_http}");
            client.send(WORDS).await;
            let said = client.take(WORDS.len()).await.unwrap();
            client.end().await;
            [said, client.to_end().await.unwrap()].concat()
        } else {
            let mut client = H2Client::connect(pair.outbound).await;
            let request = Request::connect("good:443").body(empty()).unwrap();
            client.sender.ready().await.unwrap();
            let response = client.sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200, "{caller} to {app_http}");
            let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
            tunnel.write_all(WORDS).await.unwrap();
            let mut said = vec![0; WORDS.len()];
            tunnel.read_exact(&mut said).await.unwrap();
            tunnel.shutdown().await.unwrap();
            tunnel.read_to_end(&mut said).await.unwrap();
            said
        };
        assert_eq!(said, WORDS, "{caller} to {app_http}");
        let record = pair.orders.record("request", |record| record["http.request.method"] == "CONNECT").await;
        let bytes = (record["http.request.body.size"].as_u64(), record["http.response.body.size"].as_u64());
        assert_eq!(record["http.response.status_code"], 200, "{record}");
        assert_eq!(bytes, (Some(WORDS.len() as u64), Some(WORDS.len() as u64)), "{record}");
    }
}

/// RFC 9113 §8.1 lets a server reset a stream so behind a whole response.
#[tokio::test]
async fn an_answer_of_which_bytes_are_missing_never_looks_whole() {
    let app = TcpApp::start(|stream, _, _| async move {
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let mut answer = Response::builder();
            if request.uri().path() == "/length" {
                answer = answer.header("content-length", 10);
            }
            let mut send = respond.send_response(answer.body(()).unwrap(), false).unwrap();
            let is_whole = request.uri().path() == "/whole";
            send.send_data(Bytes::from_static(b"three"), is_whole).unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                send.send_reset(h2::Reason::NO_ERROR);
            });
        }
        Ok(())
    })
    .await;
    let port = format!("protocol: http\napp_http: 2\nallow: [{{ spiffe: {WEB} }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
    for (path, is_whole) in [("/length", false), ("/none", false), ("/whole", true)] {
        let mut http1 = H1Client::connect(pair.outbound).await;
        let mut http2 = H2Client::connect(pair.outbound).await;
        assert_eq!(http1.get(path).await.is_ok(), is_whole, "{path}");
        assert_eq!(http2.get(path).await.is_ok(), is_whole, "{path}");
    }
    let records = pair.orders.records_of("request", 6).await;
    assert_eq!(records.iter().filter(|record| record["end"].is_string()).count(), 4, "{records:#?}");
}

/// Answers when it is told to; says how many streams it has seen, and how many of them were reset meanwhile.
struct Waiting {
    app: TcpApp,
    seen: Arc<AtomicUsize>,
    reset: Arc<AtomicUsize>,
    go: watch::Sender<bool>,
}

impl Waiting {
    /// `answers_early`: with a head at once.
    async fn start(streams_max: u32, answers_early: bool) -> Self {
        let (seen, reset) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (go, told) = watch::channel(false);
        let (of_app, resets_of_app) = (seen.clone(), reset.clone());
        let app = TcpApp::start(move |stream, _, _| {
            let (seen, reset, told) = (of_app.clone(), resets_of_app.clone(), told.clone());
            async move {
                let mut builder = h2::server::Builder::new();
                let handshake = builder.max_concurrent_streams(streams_max).handshake::<_, Bytes>(stream);
                let mut connection = handshake.await.map_err(io::Error::other)?;
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    seen.fetch_add(1, Relaxed);
                    let (reset, mut told) = (reset.clone(), told.clone());
                    tokio::spawn(async move {
                        // Its body is not read.
                        let _request = request;
                        let mut early = answers_early.then(|| respond.send_response(Response::new(()), false).unwrap());
                        tokio::select! {
                            _ = poll_fn(|context| match &mut early {
                                Some(send) => send.poll_reset(context),
                                None => respond.poll_reset(context),
                            }) => {
                                reset.fetch_add(1, Relaxed);
                            }
                            _ = told.wait_for(|told| *told) => {
                                respond.send_response(Response::new(()), true).unwrap();
                            }
                        }
                    });
                }
                Ok(())
            }
        })
        .await;
        Self { app, seen, reset, go }
    }
}

async fn caller_of(app: SocketAddr, lines: &str) -> (Mesh, Sidecar, SocketAddr) {
    let (mesh, listen) = (Mesh::start(), ports::free());
    let service = format!("endpoints: [\"{app}\"]\ntls: off\nprotocol: http\n{lines}");
    let web = mesh.sidecar("web", &format!("workers: 1\n{}", service_section(listen, &service))).await;
    (mesh, web, listen)
}

/// More than windows hold.
const MUCH: usize = 4 << 20;

#[tokio::test]
async fn f_27_an_upload_that_is_reset_ends_at_the_application_whether_it_has_answered_or_not() {
    for answers_early in [false, true] {
        let waiting = Waiting::start(100, answers_early).await;
        let (_mesh, web, listen) = caller_of(waiting.app.address, "").await;
        let stream = TcpStream::connect(listen).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://orders.shop.svc/up").body(()).unwrap();
        let (answer, mut body) = requests.ready().await.unwrap().send_request(request, false).unwrap();
        body.send_data(Bytes::from(vec![b'x'; MUCH]), false).unwrap();
        eventually("it has begun", || (waiting.seen.load(Relaxed) == 1).then_some(())).await;
        let answer = if answers_early { Ok(answer.await.unwrap()) } else { Err(answer) };
        tokio::time::sleep(Duration::from_millis(100)).await;
        body.send_reset(h2::Reason::CANCEL);
        eventually("the application knows", || (waiting.reset.load(Relaxed) == 1).then_some(())).await;
        let records = web.records_of("request", 1).await;
        assert!(records[0]["refusal"].is_null(), "{records:#?}");
        drop(answer);
    }
}

/// h2 sends what was given to it once there is room, also what nobody wants any more: a burst of streams and resets.
#[tokio::test]
async fn streams_that_a_server_has_no_room_for_wait_with_us() {
    let waiting = Waiting::start(2, false).await;
    let (_mesh, web, listen) = caller_of(waiting.app.address, "limits: { connections: 1 }").await;
    let (mut clients, mut sending) = (Vec::new(), Vec::new());
    for number in 0..30 {
        let mut client = H2Client::connect(listen).await;
        let request = client.request("GET", &format!("/{number}")).body(empty()).unwrap();
        sending.push(tokio::spawn(client.sender.send_request(request)));
        clients.push(client);
        let there = (number + 1).min(2);
        eventually("the first two are there", || (waiting.seen.load(Relaxed) == there).then_some(())).await;
    }
    let metric = "postern_requests_active{direction=\"outbound\",name=\"orders\"}";
    eventually("all wait", || (web.metric(metric) == 30.0).then_some(())).await;
    // All but the last two give up: those first that wait, so that none of them gets a turn meanwhile.
    sending.drain(2..28).for_each(|sending| sending.abort());
    web.records_of("request", 26).await;
    sending.drain(..2).for_each(|sending| sending.abort());
    eventually("the last two are there", || (waiting.seen.load(Relaxed) == 4).then_some(())).await;
    waiting.go.send(true).unwrap();
    for sending in sending {
        assert_eq!(sending.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(waiting.seen.load(Relaxed), 4, "nobody has asked for more");
}

#[tokio::test]
async fn f_27_an_upload_that_its_caller_resets_never_looks_whole() {
    for reason in [h2::Reason::NO_ERROR, h2::Reason::CANCEL] {
        let app = RawApp::ok().await;
        let port = format!("protocol: http\napp_http: 1\nallow: [{{ spiffe: {WEB} }}]");
        let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
        let stream = TcpStream::connect(pair.outbound).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://orders.shop.svc/up").body(()).unwrap();
        let (_answer, mut body) = requests.ready().await.unwrap().send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"half of it"), false).unwrap();
        app.until_text("half of it").await;
        body.send_reset(reason);
        pair.orders.records_of("request", 1).await;
        assert!(!app.text().contains("\r\n0\r\n\r\n"), "{reason:?}: {}", app.text());
    }
}

const SOON: &str = "timeouts: { h2_ping: 50ms, h2_ping_answer: 100ms }\n";

#[tokio::test]
async fn a_caller_that_answers_no_ping_is_gone() {
    let (mesh, app, listen) = (Mesh::start(), HttpApp::start().await, ports::free());
    let service = format!("endpoints: [\"{}\"]\ntls: off\nprotocol: http", app.address);
    let web = mesh.sidecar("web", &format!("{SOON}{}", service_section(listen, &service))).await;
    let mut silent = H2Raw::connect(listen).await;
    assert!(silent.until(|frame| frame.kind == PING).await.is_some());
    assert!(silent.until(|_| false).await.is_none());
    let record = web.record("connection", |record| record["end"].is_string()).await;
    assert_eq!(record["end"], "unresponsive", "{record}");
}

/// Servers of gRPC end connections that ping them while nothing moves.
#[tokio::test]
async fn an_application_is_not_pinged() {
    let (mesh, app, listen) = (Mesh::start(), HttpApp::start().await, ports::free());
    let (seen, target) = (Arc::new(Mutex::new(Vec::new())), app.address);
    let of_relay = seen.clone();
    let relay = TcpApp::start(move |stream: TcpStream, _, _| {
        let seen = of_relay.clone();
        async move {
            let (mut from, mut to) = stream.into_split();
            let (mut answers, mut requests) = TcpStream::connect(target).await?.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to).await });
            let mut buffer = [0; 4096];
            loop {
                let length = from.read(&mut buffer).await?;
                if length == 0 {
                    return Ok(());
                }
                seen.lock().unwrap().extend_from_slice(&buffer[..length]);
                requests.write_all(&buffer[..length]).await?;
            }
        }
    })
    .await;
    let service = format!("endpoints: [\"{}\"]\ntls: off\nprotocol: http", relay.address);
    let _web = mesh.sidecar("web", &format!("{SOON}{}", service_section(listen, &service))).await;
    let mut client = H2Client::connect(listen).await;
    let (sender, body) = channel();
    let request = client.request("POST", "/x").body(body).unwrap();
    client.sender.ready().await.unwrap();
    let _sending = tokio::spawn(client.sender.send_request(request));
    sender.send(Ok(Frame::data(Bytes::from_static(b"a beginning")))).await.unwrap();
    eventually("it has begun", || {
        seen.lock().unwrap().windows(11).any(|window| window == b"a beginning").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let seen = seen.lock().unwrap();
    // Behind the preface: a length of three bytes, a kind, flags, a stream.
    let (mut rest, mut kinds) = (&seen[24..], Vec::new());
    while let Some(&[a, b, c, kind, ..]) = rest.first_chunk::<9>() {
        kinds.push(kind);
        rest = rest.get(9 + u32::from_be_bytes([0, a, b, c]) as usize..).unwrap_or_default();
    }
    assert!(kinds.len() > 2 && !kinds.contains(&PING), "{kinds:?}");
}
