//! A new configuration replaces the one before whole or not at all, decides again what lives, and leaves the rest alone.

use http_body_util::BodyExt;
use postern_tests::client_http::empty;
use postern_tests::mesh::{STRANGER, WEB};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, ports, within};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `orders` with an HTTP and an L4 port, and `web` that calls both.
struct Reloading {
    orders: Sidecar,
    _web: Sidecar,
    _mesh: Mesh,
    app: HttpApp,
    echo: TcpApp,
    http: [SocketAddr; 2],
    tcp: [SocketAddr; 2],
}

impl Reloading {
    async fn start() -> Self {
        let (mesh, app, echo) = (Mesh::start(), HttpApp::start().await, TcpApp::echo().await);
        let (http, tcp) = ([ports::free(), ports::free()], [ports::free(), ports::free()]);
        let section = Self::text(http[0], tcp[0], app.address, echo.address, WEB, WEB);
        let orders = mesh.sidecar("orders", &section).await;
        let raw = format!(
            "  - name: raw\n    listen: {}\n    endpoints: [\"{}\"]\n    identity: {}\n    protocol: tcp\n",
            tcp[1],
            tcp[0],
            postern_tests::mesh::ORDERS
        );
        let section = format!("{}{raw}", outbound_section(http[1], http[0], "protocol: http"));
        let web = mesh.sidecar("web", &section).await;
        Self { orders, _web: web, _mesh: mesh, app, echo, http, tcp }
    }

    fn text(
        http: SocketAddr,
        tcp: SocketAddr,
        app: SocketAddr,
        echo: SocketAddr,
        http_caller: &str,
        tcp_caller: &str,
    ) -> String {
        format!(
            "{}  - name: raw\n    port: 9000\n    listen: {tcp}\n    app: {echo}\n    protocol: tcp\n    allow: [{{ spiffe: {tcp_caller} }}]\n",
            inbound_section(http, &app.to_string(), &format!("protocol: http\nallow: [{{ spiffe: {http_caller} }}]"))
        )
    }

    async fn apply(&self, http_caller: &str, tcp_caller: &str) {
        let text = Self::text(self.http[0], self.tcp[0], self.app.address, self.echo.address, http_caller, tcp_caller);
        self.orders.apply(&text).await.unwrap();
    }
}

#[tokio::test]
async fn cf_05_requests_in_flight_and_tunnels_are_decided_again() {
    let it = Reloading::start().await;
    let mut http1 = H1Client::connect(it.http[1]).await;
    let request = http1.request("GET", "/stream").body(empty()).unwrap();
    let in_flight1 = within("a head", http1.sender.send_request(request)).await.unwrap();
    let mut http2 = H2Client::connect(it.http[1]).await;
    let request = http2.request("GET", "/stream").body(empty()).unwrap();
    let in_flight2 = within("a head", http2.sender.send_request(request)).await.unwrap();
    let mut tunnel = RawClient::connect(it.tcp[1]).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");

    // HTTP is taken away, the tunnel is not concerned.
    it.apply(STRANGER, WEB).await;
    assert!(within("the request ends", in_flight1.into_body().collect()).await.is_err());
    assert!(within("the stream ends", in_flight2.into_body().collect()).await.is_err());
    tunnel.send("pong").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"pong");
    assert_eq!(http2.get("/new").await.unwrap().status, 403, "a new request sees the new policy");

    // And then the tunnel, while HTTP comes back.
    it.apply(WEB, STRANGER).await;
    assert!(tunnel.until_ended().await.is_empty());
    let record = it.orders.record("connection", |record| record["end"] == "policy_changed").await;
    assert_eq!(record["listener"], "raw");
    assert_eq!(http2.get("/back").await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_still_allowed_is_not_touched() {
    let it = Reloading::start().await;
    let mut http2 = H2Client::connect(it.http[1]).await;
    let request = http2.request("GET", "/stream").body(empty()).unwrap();
    let mut in_flight = within("a head", http2.sender.send_request(request)).await.unwrap().into_body();
    assert!(within("a chunk", in_flight.frame()).await.unwrap().is_ok());
    let mut http1 = H1Client::connect(it.http[1]).await;
    assert_eq!(http1.get("/one").await.unwrap().status, 200);
    let mut tunnel = RawClient::connect(it.tcp[1]).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");
    it.apply("spiffe://shop.example/ns/web/sa/*", "spiffe://shop.example/ns/web/sa/*").await;
    assert_eq!(http1.get("/two").await.unwrap().status, 200);
    assert_eq!(http2.get("/two").await.unwrap().status, 200);
    tunnel.send("pong").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"pong");
    let silent = tokio::time::timeout(Duration::from_millis(50), in_flight.frame()).await;
    assert!(silent.is_err(), "{silent:?}");
    assert!(it.orders.records().iter().all(|record| record["kind"] != "connection"));
}

#[tokio::test]
async fn listeners_come_and_go_and_the_others_keep_their_connections() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (first, second) = (ports::free(), ports::free());
    let port = |listen: SocketAddr, number: u16| {
        format!(
            "  - name: port-{number}\n    port: {number}\n    listen: {listen}\n    app: {}\n    tls: off\n    protocol: http\n    allow: [{{ anonymous: true }}]\n",
            app.address
        )
    };
    let orders = mesh.sidecar("orders", &format!("inbound:\n{}", port(first, 1))).await;
    let mut kept = H1Client::connect(first).await;
    assert_eq!(kept.get("/1").await.unwrap().status, 200);
    assert!(tokio::net::TcpStream::connect(second).await.is_err());

    orders.apply(&format!("inbound:\n{}{}", port(first, 1), port(second, 2))).await.unwrap();
    let mut added = H1Client::connect(second).await;
    assert_eq!(added.get("/2").await.unwrap().status, 200);
    assert_eq!(kept.get("/3").await.unwrap().status, 200);

    orders.apply(&format!("inbound:\n{}", port(first, 1))).await.unwrap();
    assert_eq!(kept.get("/4").await.unwrap().status, 200);
    postern_tests::eventually("the listener is closed", || {
        std::net::TcpStream::connect_timeout(&second, Duration::from_millis(100)).is_err().then_some(())
    })
    .await;
    // What stood on it is no longer allowed by anything.
    assert!(!added.get("/5").await.is_ok_and(|reply| reply.status == 200));
}

#[tokio::test]
async fn an_address_in_use_rejects_the_whole_reload() {
    let it = Reloading::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = ports::free();
    // The same file takes `web`'s right away: neither comes true.
    let text = Reloading::text(free, taken.local_addr().unwrap(), it.app.address, it.echo.address, STRANGER, STRANGER);
    let error = it.orders.apply(&text).await.unwrap_err();
    assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
    assert_eq!(H1Client::connect(it.http[1]).await.get("/still").await.unwrap().status, 200);
    assert!(tokio::net::TcpStream::connect(free).await.is_err(), "the other new listener is not open either");
    assert!(it.orders.metrics().contains("postern_config_"), "{}", it.orders.metrics());
}

#[tokio::test]
async fn f_16_a_drain_ends_inbound_in_order_and_leaves_outbound_open() {
    let it = Reloading::start().await;
    let mut http1 = RawClient::connect(it.tcp[1]).await;
    http1.send("tunnel").await;
    assert_eq!(http1.take(6).await.unwrap(), b"tunnel");
    let mut in_flight = H2Client::connect(it.http[1]).await;
    let (sender, body) = postern_tests::client_http::channel();
    let request =
        in_flight.request("POST", "/grpc/Chat").header("content-type", "application/grpc").body(body).unwrap();
    let mut response = within("a head", in_flight.sender.send_request(request)).await.unwrap().into_body();

    let mut drained = it.orders.drain(Duration::from_secs(20));
    postern_tests::eventually("it says so", || it.orders.shared.is_draining().then_some(())).await;
    assert_eq!(drained.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty), "work is still under way");
    // The stream in flight finishes.
    sender.send(Ok(http_body::Frame::data("last".into()))).await.unwrap();
    drop(sender);
    let mut bytes = Vec::new();
    while let Some(frame) = within("the rest", response.frame()).await {
        bytes.extend(frame.unwrap().into_data().unwrap_or_default());
    }
    assert_eq!(bytes, b"last");
    http1.end().await;
    within("the drain ends", drained).await.unwrap();
}

#[tokio::test]
async fn f_16_while_draining_responses_close_and_outbound_works() {
    let app = HttpApp::start().await;
    let (mesh, plain, outbound) = (Mesh::start(), ports::free(), ports::free());
    let inbound =
        inbound_section(plain, &app.address.to_string(), "protocol: http\ntls: off\nallow: [{ anonymous: true }]");
    let service = format!("endpoints: [\"{}\"]\ntls: off\nprotocol: http", app.address);
    let section = format!("{inbound}{}", postern_tests::pair::service_section(outbound, &service));
    let orders = mesh.sidecar("orders", &section).await;
    let mut keep_alive = RawClient::connect(plain).await;
    assert_eq!(keep_alive.get("a", "/1").await.status, 200);
    let mut local = RawClient::connect(outbound).await;
    assert_eq!(local.get("a", "/1").await.status, 200);

    let drained = orders.drain(Duration::from_secs(20));
    postern_tests::eventually("it says so", || orders.shared.is_draining().then_some(())).await;
    let missing = async { orders.shared.is_draining() };
    assert!(missing.await);
    let response = keep_alive.get("a", "/2").await;
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert!(keep_alive.until_ended().await.is_empty());
    let response = local.get("a", "/2").await;
    assert_eq!((response.status, response.header("connection")), (200, None), "outbound stays as it is");
    drop(local);
    within("the drain ends", drained).await.unwrap();
}

#[tokio::test]
async fn f_16_at_the_deadline_the_drain_ends_with_work_left() {
    let it = Reloading::start().await;
    let mut tunnel = RawClient::connect(it.tcp[1]).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");
    within("the drain gives up", it.orders.drain(Duration::from_millis(300))).await.unwrap();
    tunnel.send("pong").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"pong");
}

#[tokio::test]
async fn what_the_end_of_the_process_ends_is_recorded_as_that() {
    let it = Reloading::start().await;
    let mut tunnel = RawClient::connect(it.tcp[1]).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");
    let mut stream = RawClient::connect(it.http[1]).await;
    stream.send("GET /stream HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n").await;
    assert_eq!(stream.head().await.unwrap().status, 200);
    let log = it.orders.log.clone();
    it.orders.stop().await;
    let text = std::fs::read_to_string(log).unwrap();
    for kind in ["request", "connection"] {
        let lines: Vec<_> = text.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("\"end\":\"draining\"")), "{text}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_decided_by_the_request_that_made_it() {
    let it = Reloading::start().await;
    let mut client = RawClient::connect(it.http[1]).await;
    client
        .send("GET /upgrade HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(client.head().await.unwrap().status, 101);
    client.send("frame").await;
    assert_eq!(client.take(5).await.unwrap(), b"frame");
    it.apply("spiffe://shop.example/ns/web/sa/*", WEB).await;
    client.send("again").await;
    assert_eq!(client.take(5).await.unwrap(), b"again");
    it.apply(STRANGER, WEB).await;
    assert!(client.until_ended().await.is_empty());
    let record = &it.orders.records_of("request", 1).await[0];
    assert!(record["end"].is_string(), "{record}");
}

#[tokio::test]
async fn a_service_that_leaves_the_file_ends_what_goes_to_it() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (inbound, plain, meshed) = (ports::free(), ports::free(), ports::free());
    let lines = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let _orders = mesh.sidecar("orders", &inbound_section(inbound, &app.address.to_string(), &lines)).await;
    let kept = ports::free();
    let service = |name: &str, listen: SocketAddr, rest: &str| {
        format!("  - name: {name}\n    hosts: [{name}.svc]\n    listen: {listen}\n    protocol: http\n    {rest}\n")
    };
    let to_mesh = format!("endpoints: [\"{inbound}\"]\n    identity: {}", postern_tests::mesh::ORDERS);
    let to_app = format!("endpoints: [\"{}\"]\n    tls: off", app.address);
    let both = format!("{}{}", service("plain", plain, &to_app), service("meshed", meshed, &to_mesh));
    let text = |services: &str| format!("outbound:\n  services:\n{}{services}", service("kept", kept, &to_app));
    let web = mesh.sidecar("web", &text(&both)).await;
    let mut in_flight = Vec::new();
    for listen in [plain, meshed, kept] {
        let mut client = H2Client::connect(listen).await;
        let request = client.request("GET", "/stream").body(empty()).unwrap();
        let response = within("a head", client.sender.send_request(request)).await.unwrap();
        in_flight.push((client, response.into_body()));
    }
    web.apply(&text("")).await.unwrap();
    let (mut kept_client, _kept_body) = in_flight.pop().unwrap();
    for (_client, body) in in_flight {
        assert!(within("a request to a service that is gone ends", body.collect()).await.is_err());
    }
    assert_eq!(kept_client.get("/still").await.unwrap().status, 200);
}

#[tokio::test]
async fn f_16_a_drain_says_goaway_to_http2_callers() {
    let app = HttpApp::start().await;
    let (mesh, listen) = (Mesh::start(), ports::free());
    let section =
        inbound_section(listen, &app.address.to_string(), "protocol: http\ntls: off\nallow: [{ anonymous: true }]");
    let orders = mesh.sidecar("orders", &section).await;
    let mut client = H2Client::connect(listen).await;
    assert_eq!(client.get("/1").await.unwrap().status, 200);
    let drained = orders.drain(Duration::from_secs(20));
    // An idle connection ends in order, at once.
    within("the connection ends", client.connection).await.unwrap().unwrap();
    within("the drain ends", drained).await.unwrap();
}

#[tokio::test]
async fn a_host_that_a_service_loses_ends_what_went_by_it() {
    let (mesh, app, listen) = (Mesh::start(), HttpApp::start().await, ports::free());
    let text = |hosts: &str| {
        let endpoint = format!("endpoints: [\"{}\"], tls: off", app.address);
        format!("outbound:\n  listen: {listen}\n  services:\n  - {{ name: a, hosts: [{hosts}], {endpoint} }}\n")
    };
    let web = mesh.sidecar("web", &text("one.svc, two.svc")).await;
    let mut in_flight = Vec::new();
    for host in ["one.svc", "two.svc"] {
        let mut client = RawClient::connect(listen).await;
        client.send(format!("GET /ticks HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(client.head().await.unwrap().status, 200);
        in_flight.push(client);
    }
    web.apply(&text("one.svc")).await.unwrap();
    let (mut two, mut one) = (in_flight.pop().unwrap(), in_flight.pop().unwrap());
    within("what lost its service ends", two.until_ended()).await;
    let record = web.record("request", |record| record["server.address"] == "two.svc").await;
    assert!(record["end"].is_string(), "{record}");
    one.take(16).await.expect("what still has its service goes on");
}

#[tokio::test]
async fn a_connection_of_the_application_does_not_become_one_of_a_peer() {
    let (mesh, app, listen) = (Mesh::start(), HttpApp::start().await, ports::free());
    let service = format!("endpoints: [\"{}\"]\ntls: off\nprotocol: http", app.address);
    let web = mesh.sidecar("web", &postern_tests::pair::service_section(listen, &service)).await;
    let mut client = H1Client::connect(listen).await;
    assert_eq!(client.get("/before").await.unwrap().status, 200);
    let lines = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";
    web.apply(&inbound_section(listen, &app.address.to_string(), lines)).await.unwrap();
    assert_eq!(client.get("/after").await.unwrap().status, 403);
    assert_eq!(H1Client::connect(listen).await.get("/new").await.unwrap().status, 200);
}

/// An application whose answer has no end; `blocked` is told when nobody takes more of it.
async fn endless(blocked: std::sync::Arc<tokio::sync::Notify>) -> TcpApp {
    TcpApp::start(move |mut stream, _, _| {
        let blocked = blocked.clone();
        async move {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n").await?;
            let chunk = vec![b'x'; 1 << 16];
            while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), stream.write(&chunk)).await {
                written?;
            }
            blocked.notify_one();
            // The proxy lets go of it.
            while stream.write(&chunk).await? > 0 {}
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn a_cut_reaches_a_caller_that_does_not_read() {
    let blocked = std::sync::Arc::new(tokio::sync::Notify::new());
    let (mesh, app, listen) = (Mesh::start(), endless(blocked.clone()).await, ports::free());
    let section = |rule: &str| {
        inbound_section(
            listen,
            &app.address.to_string(),
            &format!("protocol: http\ntls: permissive\nallow: [{{ {rule} }}]"),
        )
    };
    let orders = mesh.sidecar("orders", &section("anonymous: true")).await;
    let mut client = RawClient::connect(listen).await;
    client.send("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 200);
    within("nothing moves any more", blocked.notified()).await;
    orders.apply(&section(&format!("spiffe: {WEB}"))).await.unwrap();
    let record = &orders.records_of("request", 1).await[0];
    assert_eq!(record["end"], "policy_changed", "{record}");
    orders.records_of("connection", 1).await;
    assert_eq!(orders.metric("postern_teardown_seconds_count{cause=\"policy_changed\"}"), 1.0);
}

#[tokio::test]
async fn a_cut_reaches_one_http2_stream_of_a_caller_that_does_not_read() {
    let blocked = std::sync::Arc::new(tokio::sync::Notify::new());
    let (mesh, app, listen) = (Mesh::start(), endless(blocked.clone()).await, ports::free());
    let section = |rule: &str| {
        let lines = format!("protocol: http\napp_http: 1\ntls: permissive\nallow: [{{ {rule} }}]");
        inbound_section(listen, &app.address.to_string(), &lines)
    };
    let orders = mesh.sidecar("orders", &section("anonymous: true")).await;
    let mut client = H2Client::connect(listen).await;
    let request = client.request("GET", "/endless").body(empty()).unwrap();
    let unread = within("a head", client.sender.send_request(request)).await.unwrap();
    within("nothing moves any more", blocked.notified()).await;
    orders.apply(&section(&format!("spiffe: {WEB}"))).await.unwrap();
    let record = &orders.records_of("request", 1).await[0];
    assert_eq!(record["end"], "policy_changed", "{record}");
    assert!(within("the stream breaks off", unread.into_body().collect()).await.is_err());
    assert_eq!(client.get("/x").await.unwrap().status, 403, "the connection lives");
}
