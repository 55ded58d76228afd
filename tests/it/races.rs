//! Trust and policy that change in the middle of a connect or a handshake: what is made from the older state is decided
//! by the newer one before it carries a byte.

use postern_tests::mesh::{ORDERS, PARTNER, STRANGER, WEB, trust_domain};
use postern_tests::pair::{inbound_section, outbound_section, service_section};
use postern_tests::{Gate, H1Client, H2Client, HoldAt, HttpApp, Mesh, RawClient, Sidecar, TcpApp, ports};
use std::net::SocketAddr;

/// `orders` behind a gate, and `caller` in front of it.
struct Gated {
    orders: Sidecar,
    caller: Sidecar,
    gate: Gate,
    outbound: SocketAddr,
    mesh: Mesh,
}

impl Gated {
    async fn start(caller: &str, app: SocketAddr, port: &str, service: &str, at: HoldAt) -> Self {
        let mesh = Mesh::start();
        let (inbound, outbound) = (ports::free(), ports::free());
        let lines = format!("{port}\nallow: [{{ spiffe: [{WEB}, {PARTNER}] }}]");
        let orders = mesh.sidecar("orders", &inbound_section(inbound, &app.to_string(), &lines)).await;
        let gate = Gate::to(inbound, at).await;
        let caller = mesh.sidecar(caller, &outbound_section(outbound, gate.address, &patient(service))).await;
        Self { orders, caller, gate, outbound, mesh }
    }

    /// The caller's service, with another expected identity.
    async fn expect(&self, identity: &str, service: &str) {
        let lines = format!("endpoints: [\"{}\"]\nidentity: {identity}\n{}", self.gate.address, patient(service));
        self.caller.apply(&service_section(self.outbound, &lines)).await.unwrap();
        self.caller.until_settled().await;
    }
}

/// No test may wait for this: a connect that was given up must not look like one that was ended.
fn patient(service: &str) -> String {
    format!("{service}\nconnect_timeout: 60s")
}

#[tokio::test]
async fn cf_05_a_service_that_expects_another_identity_while_a_tunnel_connects() {
    for at in [HoldAt::Connect, HoldAt::ServerFlight] {
        let echo = TcpApp::echo().await;
        let it = Gated::start("web", echo.address, "protocol: tcp", "protocol: tcp", at).await;
        let mut client = RawClient::connect(it.outbound).await;
        client.send("secret").await;
        it.gate.until_held().await;
        it.expect(STRANGER, "protocol: tcp").await;
        it.gate.open();
        assert!(client.until_ended().await.is_empty(), "{at:?}: nothing comes back from who is not expected any more");
        assert!(echo.connections().concat().is_empty(), "{at:?}: and nothing went there");
        let record = it.caller.record("connection", |record| record["direction"] == "outbound").await;
        assert_eq!(record["refusal"], "trust_ended", "{at:?}: {record}");
    }
}

#[tokio::test]
async fn cf_05_a_service_that_still_expects_who_answers_while_a_tunnel_connects() {
    let echo = TcpApp::echo().await;
    let it = Gated::start("web", echo.address, "protocol: tcp", "protocol: tcp", HoldAt::Connect).await;
    let mut client = RawClient::connect(it.outbound).await;
    client.send("hello").await;
    it.gate.until_held().await;
    it.expect(&format!("[{ORDERS}, {STRANGER}]"), "protocol: tcp").await;
    it.gate.open();
    assert_eq!(client.take(5).await.unwrap(), b"hello");
}

#[tokio::test]
async fn cf_05_a_service_that_leaves_the_file_while_a_tunnel_connects() {
    let echo = TcpApp::echo().await;
    let it = Gated::start("web", echo.address, "protocol: tcp", "protocol: tcp", HoldAt::Connect).await;
    let mut client = RawClient::connect(it.outbound).await;
    client.send("secret").await;
    it.gate.until_held().await;
    let other = service_section(ports::free(), &format!("endpoints: [\"{}\"]\ntls: off", echo.address));
    it.caller.apply(&other.replace("name: orders", "name: other")).await.unwrap();
    // At once, not when the connect has come to something.
    assert!(client.until_ended().await.is_empty());
    let record = it.caller.record("connection", |record| record["direction"] == "outbound").await;
    assert_eq!(record["end"], "policy_changed", "{record}");
}

#[tokio::test]
async fn cf_05_a_service_that_expects_another_identity_while_a_request_waits_for_its_connection() {
    for (at, is_http2) in [(HoldAt::Connect, false), (HoldAt::Connect, true), (HoldAt::ServerFlight, false)] {
        let app = HttpApp::start().await;
        let it = Gated::start("web", app.address, "protocol: http", "protocol: http", at).await;
        let asking = tokio::spawn({
            let outbound = it.outbound;
            async move {
                if is_http2 {
                    H2Client::connect(outbound).await.get("/secret").await.unwrap()
                } else {
                    H1Client::connect(outbound).await.get("/secret").await.unwrap()
                }
            }
        });
        it.gate.until_held().await;
        it.expect(STRANGER, "protocol: http").await;
        it.gate.open();
        let reply = asking.await.unwrap();
        assert_eq!(reply.status, 503, "{at:?} HTTP/2 {is_http2}: {reply:?}");
        assert!(app.seen().is_empty(), "{at:?} HTTP/2 {is_http2}");
        let record = &it.caller.records_of("request", 1).await[0];
        assert_eq!(record["refusal"], "trust_ended", "{record}");
    }
}

#[tokio::test]
async fn cf_05_f_33_a_rule_that_goes_while_the_tunnel_to_the_application_connects() {
    let (mesh, echo) = (Mesh::start(), TcpApp::echo().await);
    let gate = Gate::to(echo.address, HoldAt::Connect).await;
    let (inbound, outbound) = (ports::free(), ports::free());
    let text = |caller: &str| {
        let timeouts = "timeouts: { connect_app: 60s }\n";
        let lines = format!("protocol: tcp\nallow: [{{ spiffe: {caller} }}]");
        format!("{timeouts}{}", inbound_section(inbound, &gate.address.to_string(), &lines))
    };
    let orders = mesh.sidecar("orders", &text(WEB)).await;
    let _web = mesh.sidecar("web", &outbound_section(outbound, inbound, "protocol: tcp")).await;
    let mut client = RawClient::connect(outbound).await;
    client.send("secret").await;
    gate.until_held().await;
    orders.apply(&text(STRANGER)).await.unwrap();
    // At once, not when the connect has come to something.
    assert!(client.until_ended().await.is_empty());
    gate.open();
    let record = orders.record("connection", |record| record["direction"] == "inbound").await;
    assert_eq!(record["end"], "policy_changed", "{record}");
    assert!(echo.connections().concat().is_empty());
}

#[tokio::test]
async fn an_own_svid_that_rotates_during_the_handshake_retires_the_connection() {
    let app = HttpApp::start().await;
    let it = Gated::start("web", app.address, "protocol: http", "protocol: tcp", HoldAt::ClientFlight).await;
    let mut client = RawClient::connect(it.outbound).await;
    client.send("GET /1 HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n").await;
    it.gate.until_held().await;
    let before = it.orders.own_fingerprint();
    it.mesh.provider.rotate_svid("orders").unwrap();
    it.orders.until_identity("a new leaf", |snapshot| snapshot.svids[0].fingerprint != before).await;
    it.orders.until_settled().await;
    it.gate.open();
    let response = client.response().await;
    assert_eq!((response.status, response.header("connection")), (200, Some("close")), "it ends in order");
    let record = it.orders.record("connection", |_| true).await;
    assert_eq!(record["end"], "svid_rotated", "{record}");
}

#[tokio::test]
async fn a_trust_domain_that_goes_during_the_handshake_cuts_the_caller() {
    let app = HttpApp::start().await;
    let it = Gated::start("partner", app.address, "protocol: http", "protocol: tcp", HoldAt::ClientFlight).await;
    let mut client = RawClient::connect(it.outbound).await;
    client.send("GET /1 HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n").await;
    it.gate.until_held().await;
    it.mesh.provider.remove_federation("orders", &trust_domain("partner.example")).unwrap();
    it.orders.until_identity("it is gone", |snapshot| !knows(snapshot, "partner.example")).await;
    it.orders.until_settled().await;
    it.gate.open();
    assert!(client.until_ended().await.is_empty());
    assert!(app.seen().is_empty());
    let record = it.orders.record("connection", |record| record["direction"] == "inbound").await;
    assert_eq!(record["end"], "trust_domain_removed", "{record}");
}

#[tokio::test]
async fn a_trust_domain_that_goes_during_the_handshake_refuses_the_answerer() {
    let app = HttpApp::start().await;
    let it = Gated::start("partner", app.address, "protocol: http", "protocol: http", HoldAt::ServerFlight).await;
    let asking = tokio::spawn({
        let outbound = it.outbound;
        async move { H1Client::connect(outbound).await.get("/1").await.unwrap() }
    });
    it.gate.until_held().await;
    it.mesh.provider.remove_federation("partner", &trust_domain("shop.example")).unwrap();
    it.caller.until_identity("it is gone", |snapshot| !knows(snapshot, "shop.example")).await;
    it.caller.until_settled().await;
    it.gate.open();
    assert_eq!(asking.await.unwrap().status, 503);
    assert!(app.seen().is_empty());
    assert_eq!(it.caller.records_of("request", 1).await[0]["refusal"], "trust_ended");
}

fn knows(snapshot: &postern::identity::Snapshot, domain: &str) -> bool {
    snapshot.bundles.contains_key(&trust_domain(domain))
}
