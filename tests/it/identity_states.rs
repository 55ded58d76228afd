//! `no identity`, `serving stale`, `expired`: visible, refused by name, never open (DESIGN, promise 4).

use postern::identity::{IdentityState, SourceStatus};
use postern_tests::mesh::WEB;
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Pair, RawApp, RawClient, Sidecar, TcpApp, eventually, ports};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

fn state(sidecar: &Sidecar) -> IdentityState {
    sidecar.shared.identity.load().state(SystemTime::now())
}

#[tokio::test]
async fn f_01_before_the_first_identity_both_ways_are_refused_by_name_and_it_is_not_ready() {
    let app = RawApp::ok().await;
    let mesh = Mesh::start();
    mesh.provider.stop();
    let (inbound, outbound) = (ports::free(), ports::free());
    let port =
        inbound_section(inbound, &app.address.to_string(), &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"));
    let orders = mesh.sidecar_unready("orders", "", &port).await;
    let web = mesh.sidecar_unready("web", "", &outbound_section(outbound, inbound, "protocol: http")).await;
    for sidecar in [&web, &orders] {
        assert_eq!(state(sidecar), IdentityState::NoIdentity);
        assert_eq!(sidecar.missing().await, ["identity"]);
    }
    let reply = H1Client::connect(outbound).await.get("/x").await.unwrap();
    assert_eq!(reply.status, 503);
    let reply = H2Client::connect(outbound).await.get("/x").await.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(web.records_of("request", 2).await[0]["refusal"], "no_identity");
    let mut raw = RawClient::connect(inbound).await;
    raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(raw.until_ended().await.is_empty());
    assert_eq!(orders.records_of("connection", 1).await[0]["refusal"], "no_identity");
    app.assert_nothing_arrived();

    // The agent comes: no restart.
    mesh.provider.restart().unwrap();
    for sidecar in [&web, &orders] {
        sidecar.until_ready().await;
    }
    assert_eq!(H1Client::connect(outbound).await.get("/x").await.unwrap().status, 200);
}

/// SVIDs so short that a test can outlive them, with the agent gone before they are renewed.
struct Expiring {
    mesh: Mesh,
    web: Sidecar,
    orders: Sidecar,
    outbound: SocketAddr,
}

impl Expiring {
    async fn start(app: SocketAddr, protocol: &str) -> Self {
        Self::with(app, protocol, "keep", "keep").await
    }

    /// What becomes of connections at expiry: to `of_web`, who calls, and to `of_orders`, who is called.
    async fn with(app: SocketAddr, protocol: &str, of_web: &str, of_orders: &str) -> Self {
        let mesh = Mesh::with_svid_ttl(Duration::from_secs(4));
        let (inbound, outbound) = (ports::free(), ports::free());
        let lines = format!("protocol: {protocol}\non_expiry: {of_orders}\nallow: [{{ spiffe: {WEB} }}]");
        let orders = mesh.sidecar("orders", &inbound_section(inbound, &app.to_string(), &lines)).await;
        let lines = format!("protocol: {protocol}\non_expiry: {of_web}");
        let web = mesh.sidecar("web", &outbound_section(outbound, inbound, &lines)).await;
        Self { mesh, web, orders, outbound }
    }

    async fn until_expired(&self) {
        for sidecar in [&self.web, &self.orders] {
            eventually("expiry", || (state(sidecar) == IdentityState::Expired).then_some(())).await;
        }
    }
}

#[tokio::test]
async fn f_03_without_agent_it_serves_stale_then_refuses_expired_then_recovers() {
    let app = HttpApp::start().await;
    let it = Expiring::start(app.address, "http").await;
    let mut client = H1Client::connect(it.outbound).await;
    assert_eq!(client.get("/fresh").await.unwrap().status, 200);
    it.mesh.provider.stop();
    it.web.until_identity("a broken stream", |snapshot| matches!(snapshot.source, SourceStatus::Broken { .. })).await;
    assert_eq!(state(&it.web), IdentityState::ServingStale);
    assert_eq!(it.web.missing().await, Vec::<&str>::new(), "stale alone is ready");
    assert_eq!(client.get("/stale").await.unwrap().status, 200);

    it.until_expired().await;
    assert_eq!(it.web.missing().await, ["identity"]);
    let reply = H1Client::connect(it.outbound).await.get("/expired").await.unwrap();
    assert_eq!(reply.status, 503);
    let record = it.web.record("request", |record| record["url.path"] == "/expired").await;
    assert_eq!(record["refusal"], "identity_expired");

    it.mesh.provider.restart().unwrap();
    for sidecar in [&it.web, &it.orders] {
        eventually("a fresh identity", || (state(sidecar) == IdentityState::Fresh).then_some(())).await;
    }
    assert_eq!(H1Client::connect(it.outbound).await.get("/again").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_tunnel_outlives_its_svid_with_keep_and_is_cut_with_cut() {
    let app = TcpApp::echo().await;
    for (of_web, of_orders) in [("keep", "keep"), ("keep", "cut"), ("cut", "keep"), ("cut", "cut")] {
        let it = Expiring::with(app.address, "tcp", of_web, of_orders).await;
        let mut client = RawClient::connect(it.outbound).await;
        client.send("ping").await;
        assert_eq!(client.take(4).await.unwrap(), b"ping");
        it.mesh.provider.stop();
        it.until_expired().await;
        let cutting: Vec<_> = [(&it.web, of_web), (&it.orders, of_orders)]
            .into_iter()
            .filter_map(|(sidecar, on_expiry)| (on_expiry == "cut").then_some(sidecar))
            .collect();
        if !cutting.is_empty() {
            assert!(client.until_ended().await.is_empty());
            let mut ends = Vec::new();
            for sidecar in cutting {
                let record = sidecar.record("connection", |record| record["end"].is_string()).await;
                ends.push(record["end"].clone());
            }
            // Where both cut, the second may find it ended by the first.
            assert!(ends.iter().any(|end| end == "svid_expired"), "{of_web}, {of_orders}: {ends:?}");
        } else {
            eventually("it is counted", || {
                let metrics = it.orders.metrics();
                let kept =
                    metrics.lines().find(|line| line.contains("kept_after_expiry_total") && line.contains("orders"))?;
                kept.ends_with(" 1").then_some(())
            })
            .await;
            client.send("pong").await;
            assert_eq!(client.take(4).await.unwrap(), b"pong");
        }
    }
}

#[tokio::test]
async fn tl_22_http_takes_no_new_request_after_expiry_and_what_is_in_flight_is_cut_soon_after() {
    let app = HttpApp::start().await;
    let it = Expiring::start(app.address, "http").await;
    let mut client = H2Client::connect(it.outbound).await;
    let request = client.request("GET", "/stream").body(postern_tests::client_http::empty()).unwrap();
    let response = postern_tests::within("a head", client.sender.send_request(request)).await.unwrap();
    it.mesh.provider.stop();
    let body = http_body_util::BodyExt::collect(response.into_body());
    assert!(postern_tests::within("the stream is cut", body).await.is_err());
    assert_eq!(state(&it.web), IdentityState::Expired);
    let record = it.orders.record("request", |record| record["url.path"] == "/stream").await;
    assert!(record["end"].is_string(), "{record}");
}

#[tokio::test]
async fn f_08_a_peer_whose_trust_domain_is_unknown_is_refused_by_name() {
    let app = RawApp::ok().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}, {{ spiffe: \"spiffe://guest.example/**\" }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
    let outbound = ports::free();
    // `guest` knows the trust domain of `orders`, and is not known there.
    let guest = pair.mesh.sidecar("guest", &outbound_section(outbound, pair.inbound, "protocol: http")).await;
    let reply = H1Client::connect(outbound).await.get("/x").await.unwrap();
    assert!(matches!(reply.status.as_u16(), 502 | 503), "{reply:?}");
    assert!(guest.records_of("request", 1).await[0]["refusal"].is_string());
    let refused = pair.orders.record("connection", |record| record.get("refusal").is_some()).await;
    assert_eq!(refused["refusal"], "peer_not_verified");
    assert!(refused["refusal.detail"].as_str().is_some_and(|text| text.contains("guest.example")), "{refused}");
    app.assert_nothing_arrived();
}
