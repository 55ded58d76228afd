//! Trust that ends, ends on live connections, and only on those (issue 2, "Done when" 4).

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use postern::identity::proto::X509svidRequest;
use postern::identity::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use postern_tests::client_http::{channel, empty};
use postern_tests::mesh::{PARTNER, WEB, trust_domain};
use postern_tests::pair::{inbound_section, outbound_section, service_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, ports, within};
use std::future::Future;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What must end within, measured from the event by the sidecar itself; generous, because debug builds share two cores.
const TEARDOWN_BOUND_SECONDS: f64 = 5.0;

/// Callers from two trust domains at one `orders` with an HTTP and an L4 port.
struct Callers {
    mesh: Mesh,
    orders: Sidecar,
    web: Caller,
    partner: Caller,
    _app: HttpApp,
    _tcp: TcpApp,
}

struct Caller {
    _sidecar: Sidecar,
    http: SocketAddr,
    tcp: SocketAddr,
}

impl Callers {
    async fn start() -> Self {
        let (app, tcp) = (HttpApp::start().await, TcpApp::echo().await);
        let mesh = Mesh::start();
        let (http_port, tcp_port) = (ports::free(), ports::free());
        let allow = format!("allow: [{{ spiffe: [{WEB}, {PARTNER}] }}]");
        let section = format!(
            "{}  - name: raw\n    port: 9000\n    listen: {tcp_port}\n    app: {}\n    protocol: tcp\n    {allow}\n",
            inbound_section(http_port, &app.address.to_string(), &format!("protocol: http\n{allow}")),
            tcp.address
        );
        let orders = mesh.sidecar_with("orders", "permission_denied_grace: 100ms", &section).await;
        let web = Caller::start(&mesh, "web", http_port, tcp_port).await;
        let partner = Caller::start(&mesh, "partner", http_port, tcp_port).await;
        Self { mesh, orders, web, partner, _app: app, _tcp: tcp }
    }
}

impl Caller {
    async fn start(mesh: &Mesh, workload: &str, http_port: SocketAddr, tcp_port: SocketAddr) -> Self {
        let (http, tcp) = (ports::free(), ports::free());
        let raw = format!(
            "  - name: raw\n    listen: {tcp}\n    endpoints: [\"{tcp_port}\"]\n    identity: {}\n    protocol: tcp\n",
            postern_tests::mesh::ORDERS
        );
        let section = format!("{}{raw}", outbound_section(http, http_port, "protocol: http"));
        let sidecar = mesh.sidecar_with(workload, "permission_denied_grace: 100ms", &section).await;
        Self { _sidecar: sidecar, http, tcp }
    }

    /// One connection of every kind, all at work or just idle.
    async fn connections(&self) -> Live {
        let mut idle = H1Client::connect(self.http).await;
        assert_eq!(idle.get("/idle").await.unwrap().status, 200);

        let mut in_flight = H1Client::connect(self.http).await;
        let request = in_flight.request("GET", "/stream").body(empty()).unwrap();
        let mut http1_body = within("a response", in_flight.sender.send_request(request)).await.unwrap().into_body();
        assert_eq!(within("a chunk", http1_body.frame()).await.unwrap().unwrap().data_ref().unwrap(), "first");

        let mut http2 = H2Client::connect(self.http).await;
        let (http2_sender, body) = channel();
        let request = http2.request("POST", "/grpc/Chat").header("content-type", "application/grpc");
        let response = http2.sender.send_request(request.body(body).unwrap());
        let mut http2_body = within("a response", response).await.unwrap().into_body();
        http2_sender.send(Ok(Frame::data(Bytes::from_static(b"hello")))).await.unwrap();
        assert_eq!(within("a message", http2_body.frame()).await.unwrap().unwrap().data_ref().unwrap(), "hello");

        let mut tunnel = RawClient::connect(self.tcp).await;
        tunnel.send("ping").await;
        assert_eq!(tunnel.take(4).await.unwrap(), b"ping");

        let mut upgrading = H1Client::connect(self.http).await;
        let request =
            upgrading.request("GET", "/upgrade").header("connection", "upgrade").header("upgrade", "websocket");
        let response = within("101", upgrading.sender.send_request(request.body(empty()).unwrap())).await.unwrap();
        assert_eq!(response.status(), 101);
        let mut upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        upgraded.write_all(b"frame").await.unwrap();
        let mut frame = [0; 5];
        within("an echo", upgraded.read_exact(&mut frame)).await.unwrap();

        Live { idle, _in_flight: in_flight, http1_body, http2, http2_sender, http2_body, tunnel, upgraded }
    }
}

/// One connection of every kind.
struct Live {
    idle: H1Client,
    _in_flight: H1Client,
    http1_body: hyper::body::Incoming,
    http2: H2Client,
    http2_sender: tokio::sync::mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>,
    http2_body: hyper::body::Incoming,
    tunnel: RawClient,
    upgraded: TokioIo<hyper::upgrade::Upgraded>,
}

impl Live {
    /// What carries something ends, without an orderly end that could be taken for a whole answer.
    async fn assert_all_end(mut self, ends_idle: bool) {
        let broken = |frame: Option<Result<Frame<Bytes>, hyper::Error>>| frame.is_some_and(|frame| frame.is_err());
        assert!(broken(within("the HTTP/1 response breaks off", self.http1_body.frame()).await));
        assert!(broken(within("the HTTP/2 response breaks off", self.http2_body.frame()).await));
        within("the tunnel ends", self.tunnel.until_ended()).await;
        let mut byte = [0];
        let read = within("the upgraded connection ends", self.upgraded.read(&mut byte)).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        if ends_idle {
            drop(within("the idle connection ends", &mut self.idle.connection).await);
        }
    }

    async fn assert_all_live(&mut self) {
        assert_eq!(self.idle.get("/still").await.unwrap().status, 200);
        self.http2_sender.send(Ok(Frame::data(Bytes::from_static(b"again")))).await.unwrap();
        let frame = within("a message", self.http2_body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), "again");
        assert_eq!(self.http2.get("/still").await.unwrap().status, 200);
        self.tunnel.send("pong").await;
        assert_eq!(self.tunnel.take(4).await.unwrap(), b"pong");
        self.upgraded.write_all(b"again").await.unwrap();
        let mut frame = [0; 5];
        within("an echo", self.upgraded.read_exact(&mut frame)).await.unwrap();
        assert!(still_silent(self.http1_body.frame()).await, "the response in flight is still open");
    }
}

async fn still_silent(event: impl Future) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(20), event).await.is_err()
}

/// The slowest teardown that the sidecar has counted, as the upper bound of its bucket, and how many there were.
fn slowest_teardown(sidecar: &Sidecar, cause: &str) -> (f64, u64) {
    let metrics = sidecar.metrics();
    let of_cause = format!("cause=\"{cause}\"");
    let number = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
    let lines = || metrics.lines().filter(|line| line.contains(&of_cause));
    let count = lines().find(|line| line.starts_with("postern_teardown_seconds_count")).map_or(0.0, number);
    let slowest = lines()
        .filter(|line| line.starts_with("postern_teardown_seconds_bucket"))
        .filter(|line| number(line) >= count)
        .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok())
        .fold(f64::INFINITY, f64::min);
    (slowest, count as u64)
}

#[tokio::test]
async fn tl_22_an_authority_that_is_removed_ends_what_it_vouched_for_and_nothing_else() {
    let callers = Callers::start().await;
    let (live, mut other) = (callers.partner.connections().await, callers.web.connections().await);
    // Staged as for a peer whose SVIDs do not follow: its authority goes while its connections stand.
    callers.mesh.replace_authority("partner.example");
    live.assert_all_end(false).await;
    other.assert_all_live().await;

    let (slowest, count) = slowest_teardown(&callers.orders, "authority_removed");
    // The idle connection of the application shares its way with the request in flight.
    assert_eq!(count, 4);
    assert!(slowest <= TEARDOWN_BOUND_SECONDS, "the slowest took {slowest} s");
    let cut = callers.orders.record("connection", |record| record["end"] == "authority_removed").await;
    assert_eq!(cut["peer.spiffe_id"], PARTNER);
    // With its new SVID the peer comes back.
    let mut again = H1Client::connect(callers.partner.http).await;
    assert_eq!(again.get("/again").await.unwrap().status, 200);
}

#[tokio::test]
async fn tl_22_f_08_a_trust_domain_that_is_no_longer_federated_is_cut_and_nothing_else() {
    let callers = Callers::start().await;
    let (live, mut other) = (callers.partner.connections().await, callers.web.connections().await);
    callers.mesh.provider.remove_federation("orders", &trust_domain("partner.example")).unwrap();
    live.assert_all_end(false).await;
    other.assert_all_live().await;
    let cut = callers.orders.record("connection", |record| record["end"] == "trust_domain_removed").await;
    assert_eq!(cut["peer.spiffe_id"], PARTNER);
    let mut refused = H1Client::connect(callers.partner.http).await;
    let reply = refused.get("/again").await.unwrap();
    assert!(matches!(reply.status.as_u16(), 502 | 503), "{reply:?}");
}

#[tokio::test]
async fn an_identity_that_is_withdrawn_ends_the_workloads_own_connections() {
    let callers = Callers::start().await;
    let (live, mut other) = (callers.web.connections().await, callers.partner.connections().await);
    callers.mesh.provider.withdraw("web").unwrap();
    live.assert_all_end(false).await;
    other.assert_all_live().await;
    let mut refused = H1Client::connect(callers.web.http).await;
    let reply = refused.get("/again").await.unwrap();
    assert_eq!(reply.status, 503);
    assert!(!reply.header("x-postern-decision").is_empty());

    // It comes back without a restart.
    callers.mesh.provider.restore("web").unwrap();
    callers
        .web
        ._sidecar
        .until_identity("the identity is back", |it| it.source == postern::identity::SourceStatus::Connected)
        .await;
    assert_eq!(refused.get("/back").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_identity_that_is_withdrawn_ends_inbound_connections_of_every_caller() {
    let callers = Callers::start().await;
    let (one, other) = (callers.web.connections().await, callers.partner.connections().await);
    callers.mesh.provider.withdraw("orders").unwrap();
    one.assert_all_end(false).await;
    other.assert_all_end(false).await;
    let (slowest, count) = slowest_teardown(&callers.orders, "identity_withdrawn");
    assert!(count == 8 && slowest <= TEARDOWN_BOUND_SECONDS, "{count} in {slowest} s");
}

#[tokio::test]
async fn an_idle_inbound_connection_is_cut_too() {
    let mesh = Mesh::start();
    let app = HttpApp::start().await;
    let (inbound, outbound) = (ports::free(), ports::free());
    let port =
        inbound_section(inbound, &app.address.to_string(), &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"));
    let orders = mesh.sidecar_with("orders", "permission_denied_grace: 100ms", &port).await;
    let lines = format!("endpoints: [\"{inbound}\"]\nidentity: {}\nprotocol: tcp", postern_tests::mesh::ORDERS);
    let _web = mesh.sidecar("web", &service_section(outbound, &lines)).await;
    // Bytes as they are inside mTLS: the HTTP/1.1 connection that idles is the one that `orders` accepted.
    let mut client = RawClient::connect(outbound).await;
    assert_eq!(client.get("orders.shop.svc", "/x").await.status, 200);
    mesh.provider.withdraw("orders").unwrap();
    assert!(client.until_ended().await.is_empty());
    let record = orders.record("connection", |record| record["end"] == "identity_withdrawn").await;
    assert_eq!(record["requests"], 1);
}

/// What the provider tells `workload` now.
async fn message_of(mesh: &Mesh, workload: &str) -> postern::identity::proto::X509svidResponse {
    let socket = mesh.provider.socket(workload).unwrap();
    let endpoint = tonic::transport::Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
    let mut client = SpiffeWorkloadApiClient::new(endpoint.connect().await.unwrap());
    let mut request = tonic::Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    let mut messages = client.fetch_x509svid(request).await.unwrap().into_inner();
    within("a message", messages.message()).await.unwrap().expect("a first message")
}

#[tokio::test]
async fn a_message_without_the_svid_withdraws_it_at_once() {
    let callers = Callers::start().await;
    let live = callers.web.connections().await;
    // The stream is open and the message valid: nothing to wait for, no grace.
    let message = message_of(&callers.mesh, "stranger").await;
    callers.mesh.provider.push_raw("orders", message).unwrap();
    live.assert_all_end(false).await;
    let cut = callers.orders.record("connection", |record| record["end"] == "identity_withdrawn").await;
    assert_eq!(cut["own.spiffe_id"], postern_tests::mesh::ORDERS);
    // It answers as somebody else now, whom `web` does not expect.
    let reply = H1Client::connect(callers.web.http).await.get("/again").await.unwrap();
    assert_eq!(reply.status, 502);
}

#[tokio::test]
async fn f_07_a_message_that_is_broken_changes_nothing() {
    let callers = Callers::start().await;
    let mut live = callers.web.connections().await;
    let good = message_of(&callers.mesh, "orders").await;
    let broken = |change: fn(&mut postern::identity::proto::X509svid)| {
        let mut message = good.clone();
        message.svids.iter_mut().for_each(change);
        message
    };
    for message in [
        broken(|svid| svid.x509_svid_key.clear()),
        broken(|svid| svid.bundle.clear()),
        broken(|svid| svid.x509_svid.truncate(40)),
        broken(|svid| svid.spiffe_id = "spiffe://shop.example/someone/else".to_owned()),
    ] {
        callers.mesh.provider.push_raw("orders", message).unwrap();
    }
    // What comes after them is taken: the stream was not given up for it.
    let before = callers.orders.own_fingerprint();
    callers.mesh.provider.rotate_svid("orders").unwrap();
    callers.orders.until_identity("a new leaf", |snapshot| snapshot.svids[0].fingerprint != before).await;
    live.assert_all_live().await;
}
