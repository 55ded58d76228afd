//! A shared listener as the application's HTTP proxy (`HTTP_PROXY`, `HTTPS_PROXY`), and TLS of the application's own.

use hyper_util::rt::TokioIo;
use postern::tls::provider;
use postern_tests::client_http::empty;
use postern_tests::mesh::{ORDERS, STRANGER, WEB};
use postern_tests::pair::{inbound_section, service_section};
use postern_tests::{H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, ports};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn echo(mesh: &Mesh) -> (TcpApp, Sidecar, SocketAddr) {
    let (app, listen) = (TcpApp::echo().await, ports::free());
    let lines = format!("protocol: tcp\nallow: [{{ spiffe: {WEB} }}]");
    let orders = mesh.sidecar("orders", &inbound_section(listen, &app.address.to_string(), &lines)).await;
    (app, orders, listen)
}

/// `services`: name, host, protocol, who has to answer.
fn shared(listen: SocketAddr, endpoint: SocketAddr, services: &[(&str, &str, &str, &str)]) -> String {
    let services = services.iter().map(|(name, host, protocol, identity)| {
        format!(
            "  - name: {name}\n    hosts: [{host}]\n    endpoints: [\"{endpoint}\"]\n    identity: {identity}\n    \
             protocol: {protocol}\n"
        )
    });
    format!("outbound:\n  listen: {listen}\n  services:\n{}", services.collect::<String>())
}

#[tokio::test]
async fn connect_opens_a_tunnel_to_a_declared_service_alone() {
    let mesh = Mesh::start();
    let (_app, orders, endpoint) = echo(&mesh).await;
    let listen = ports::free();
    let services = [("orders", "orders.shop.svc", "detect", ORDERS), ("other", "other.shop.svc", "tls", STRANGER)];
    let web = mesh.sidecar("web", &shared(listen, endpoint, &services)).await;

    let mut client = RawClient::connect(listen).await;
    client.send("CONNECT orders.shop.svc:5432 HTTP/1.1\r\nhost: orders.shop.svc:5432\r\n\r\n").await;
    let opened = client.head().await.unwrap();
    let lengths = (opened.header("content-length"), opened.header("transfer-encoding"));
    assert_eq!((opened.status, lengths), (200, (None, None)));
    client.send("through the mesh").await;
    assert_eq!(client.take(16).await.unwrap(), b"through the mesh");
    drop(client);
    let record = web.record("request", |record| record["http.request.method"] == "CONNECT").await;
    assert_eq!((record["service"].as_str(), record["http.response.status_code"].as_u64()), (Some("orders"), Some(200)));
    assert_eq!(record["upstream.spiffe_id"], ORDERS, "{record}");
    let tunnel = orders.record("connection", |record| record["network.protocol.name"] == "tcp").await;
    assert_eq!(tunnel["peer.spiffe_id"], WEB);

    // Over HTTP/2, where it is one stream among others.
    let mut client = H2Client::connect(listen).await;
    let request = http::Request::connect("orders.shop.svc:5432").body(empty()).unwrap();
    client.sender.ready().await.unwrap();
    let opened = client.sender.send_request(request).await.unwrap();
    assert_eq!((opened.status().as_u16(), opened.headers().contains_key("content-length")), (200, false));
    let mut tunnel = TokioIo::new(hyper::upgrade::on(opened).await.unwrap());
    tunnel.write_all(b"through the mesh").await.unwrap();
    let mut echoed = [0; 16];
    tunnel.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"through the mesh");
    drop((tunnel, client));
    orders.records_of("connection", 2).await;

    for (authority, status, refusal) in [
        ("evil.example:443", 403, "unknown_service"),
        ("169.254.169.254:80", 403, "unknown_service"),
        ("other.shop.svc:443", 502, "wrong_upstream_identity"),
    ] {
        let request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
        let mut client = RawClient::connect(listen).await;
        client.send(&request).await;
        let refused = client.head().await.unwrap();
        assert_eq!(refused.status, status, "{authority}");
        assert_eq!(refused.header("connection"), Some("close"), "what follows was meant for a tunnel");
        let host = authority.split(':').next();
        let record = web.record("request", |record| record["server.address"].as_str() == host).await;
        assert_eq!(record["refusal"], refusal, "{record}");
    }
}

/// Only a shared listener is a proxy: a service's own has nothing to choose.
#[tokio::test]
async fn connect_is_refused_at_a_listener_of_one_service() {
    let mesh = Mesh::start();
    let (_app, _orders, endpoint) = echo(&mesh).await;
    let listen = ports::free();
    let lines = format!("endpoints: [\"{endpoint}\"]\nidentity: {ORDERS}\nprotocol: http");
    let _web = mesh.sidecar("web", &service_section(listen, &lines)).await;
    let request = "CONNECT orders.shop.svc:1 HTTP/1.1\r\nhost: orders.shop.svc:1\r\n\r\n";
    assert_eq!(RawClient::connect(listen).await.response_to(request).await.status, 405);
}

/// RFC 9112 §3.2.2: what a client sends that was told of a proxy.
#[tokio::test]
async fn absolute_form_goes_by_its_authority() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let endpoint = ports::free();
    let lines = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let _orders = mesh.sidecar("orders", &inbound_section(endpoint, &app.address.to_string(), &lines)).await;
    let listen = ports::free();
    let services = [("orders", "orders.shop.svc", "http", ORDERS)];
    let _web = mesh.sidecar("web", &shared(listen, endpoint, &services)).await;
    let mut client = RawClient::connect(listen).await;
    let reply = client.response_to("GET http://orders.shop.svc/1 HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n").await;
    assert_eq!(reply.status, 200);
    assert_eq!(H2Client::named(listen, "orders.shop.svc").await.get("/2").await.unwrap().status, 200);
    let reply = RawClient::connect(listen)
        .await
        .response_to("GET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\n\r\n")
        .await;
    assert_eq!((reply.status, app.seen().len()), (403, 2));
}

fn hello(name: &'static str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// `protocol: tls`: found by its server name, and passed on to the letter.
#[tokio::test]
async fn tls_of_the_application_passes_where_a_service_says_so() {
    let mesh = Mesh::start();
    let (_app, _orders, endpoint) = echo(&mesh).await;
    let listen = ports::free();
    let services = [("secure", "secure.shop.svc", "tls", ORDERS), ("plain", "plain.shop.svc", "detect", ORDERS)];
    let web = mesh.sidecar("web", &shared(listen, endpoint, &services)).await;
    let (whole, mut client) = (hello("Secure.shop.svc"), RawClient::connect(listen).await);
    // In two pieces: the name is in the second.
    client.send(&whole[..30]).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    client.send(&whole[30..]).await;
    assert_eq!(client.take(whole.len()).await.unwrap(), whole, "echoed");
    drop(client);
    for (name, refusal) in [("plain.shop.svc", "tls_refused"), ("evil.example", "tls_refused")] {
        let mut client = RawClient::connect(listen).await;
        client.send(hello(name)).await;
        assert!(client.until_ended().await.is_empty(), "{name}");
        let port = client.port();
        let record = web.record("connection", |record| record["network.peer.port"] == port).await;
        assert_eq!(record["refusal"], refusal, "{record}");
        assert!(record["refusal.detail"].as_str().unwrap().contains(name), "{record}");
    }
}

/// A listener of its own needs no server name, but none that the file does not know.
#[tokio::test]
async fn a_tls_service_of_its_own_listener_takes_tls_for_its_hosts_only() {
    let mesh = Mesh::start();
    let (_app, _orders, endpoint) = echo(&mesh).await;
    let listen = ports::free();
    let lines = format!("endpoints: [\"{endpoint}\"]\nidentity: {ORDERS}\nprotocol: tls");
    let web = mesh.sidecar("web", &service_section(listen, &lines)).await;
    let (bytes, mut client) = (hello("orders.shop.svc"), RawClient::connect(listen).await);
    client.send(&bytes).await;
    assert_eq!(client.take(bytes.len()).await.unwrap(), bytes);
    for (sent, refusal) in
        [(hello("evil.example"), "unknown_service"), (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "protocol_refused")]
    {
        let mut client = RawClient::connect(listen).await;
        client.send(sent).await;
        assert!(client.until_ended().await.is_empty());
        let port = client.port();
        let record = web.record("connection", |record| record["network.peer.port"] == port).await;
        assert_eq!(record["refusal"], refusal, "{record}");
    }
}
