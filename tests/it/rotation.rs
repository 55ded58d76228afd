//! Identities that rotate, and agents that come and go, lose no request (issue 2, "Done when" 2).

use postern::identity::SourceStatus;
use postern_tests::mesh::trust_domain;
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Pair, RawClient, Sidecar, TcpApp, eventually, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Callers that never stop asking, and count.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Keep-alive callers of both versions. Anything but a 200 fails the test.
    async fn start(pair: &Pair) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut callers = Vec::new();
        for _ in 0..2 {
            let mut client = H1Client::connect(pair.outbound).await;
            let (stop, answered) = (stop.clone(), answered.clone());
            callers.push(tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let reply = client.get("/load").await.expect("an answer over HTTP/1.1");
                    assert_eq!(reply.status, 200, "{reply:?}");
                    answered.fetch_add(1, Relaxed);
                }
            }));
        }
        for _ in 0..2 {
            let mut client = H2Client::connect(pair.outbound).await;
            let (stop, answered) = (stop.clone(), answered.clone());
            callers.push(tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let reply = client.get("/load").await.expect("an answer over HTTP/2");
                    assert_eq!(reply.status, 200, "{reply:?}");
                    answered.fetch_add(1, Relaxed);
                }
            }));
        }
        let load = Self { stop, answered, callers };
        load.more().await;
        load
    }

    /// Waits until every caller has had some answers more.
    async fn more(&self) {
        let target = self.answered.load(Relaxed) + 20;
        eventually("more answers", || {
            let failed = self.callers.iter().any(JoinHandle::is_finished);
            (failed || self.answered.load(Relaxed) >= target).then_some(())
        })
        .await;
        assert!(!self.callers.iter().any(JoinHandle::is_finished), "a caller has failed");
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        for caller in self.callers {
            within("a caller ends", caller).await.expect("without a failed request");
        }
        self.answered.load(Relaxed)
    }
}

async fn until_new_leaf(sidecar: &Sidecar, before: [u8; 32]) {
    sidecar
        .until_identity("a new leaf", |snapshot| snapshot.svids.first().is_some_and(|it| it.fingerprint != before))
        .await;
}

#[tokio::test]
async fn f_09_twenty_rotations_of_the_svid_lose_no_request() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let load = Load::start(&pair).await;
    for _ in 0..20 {
        let before = [pair.web.own_fingerprint(), pair.orders.own_fingerprint()];
        pair.mesh.provider.rotate_svids().unwrap();
        until_new_leaf(&pair.web, before[0]).await;
        until_new_leaf(&pair.orders, before[1]).await;
        load.more().await;
    }
    let answered = load.end().await;
    assert!(answered > 400, "{answered}");
    // New handshakes show the new leaf: what reached the application last was vouched for by it.
    let hash: String = pair.web.own_fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    H1Client::connect(pair.outbound).await.get("/last").await.unwrap();
    assert!(app.last().all("x-forwarded-client-cert")[0].contains(&hash));
    assert!(pair.web.records().iter().all(|record| record.get("refusal").is_none()));
}

#[tokio::test]
async fn f_09_two_staged_rotations_of_the_authority_lose_no_request() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let shop = trust_domain("shop.example");
    let load = Load::start(&pair).await;
    for _ in 0..2 {
        pair.mesh.provider.publish_new_authority(&shop).unwrap();
        for sidecar in [&pair.web, &pair.orders] {
            sidecar.until_identity("both authorities", |snapshot| snapshot.bundles[&shop].anchors.len() == 2).await;
        }
        let before = [pair.web.own_fingerprint(), pair.orders.own_fingerprint()];
        pair.mesh.provider.reissue(&shop).unwrap();
        until_new_leaf(&pair.web, before[0]).await;
        until_new_leaf(&pair.orders, before[1]).await;
        // "Wait" of a staged rotation: what was made with the older leaves takes no new request and goes when idle.
        load.more().await;
        eventually("connections of older leaves have gone", || {
            let newest = pair.web.own_fingerprint();
            (app.last().all("x-forwarded-client-cert")[0].contains(&hex(&newest))).then_some(())
        })
        .await;
        load.more().await;
        pair.mesh.provider.remove_old_authorities(&shop).unwrap();
        for sidecar in [&pair.web, &pair.orders] {
            sidecar.until_identity("the new authority alone", |it| it.bundles[&shop].anchors.len() == 1).await;
        }
        load.more().await;
    }
    load.end().await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn f_02_f_04_an_agent_that_stops_and_starts_again_loses_no_request() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let load = Load::start(&pair).await;
    for _ in 0..3 {
        pair.mesh.provider.stop();
        for sidecar in [&pair.web, &pair.orders] {
            sidecar.until_identity("a broken stream", |it| matches!(it.source, SourceStatus::Broken { .. })).await;
            assert_eq!(sidecar.missing().await, Vec::<&str>::new(), "stale alone is ready");
        }
        load.more().await;
        // New handshakes work with what there is.
        assert_eq!(H1Client::connect(pair.outbound).await.get("/stale").await.unwrap().status, 200);
        pair.mesh.provider.restart().unwrap();
        for sidecar in [&pair.web, &pair.orders] {
            sidecar.until_identity("the stream again", |it| it.source == SourceStatus::Connected).await;
        }
        load.more().await;
    }
    load.end().await;
}

#[tokio::test]
async fn f_05_a_flapping_agent_cuts_no_live_connection_and_new_handshakes_are_refused_by_name() {
    let app = TcpApp::echo().await;
    let pair = Pair::tcp(app.address).await;
    let mut live = RawClient::connect(pair.outbound).await;
    live.send("ping").await;
    assert_eq!(live.take(4).await.unwrap(), b"ping");
    for round in 0..3 {
        pair.mesh.provider.withdraw("web").unwrap();
        pair.web.until_identity("denied", |it| matches!(it.source, SourceStatus::Denied { cut: false, .. })).await;
        live.send("pong").await;
        assert_eq!(live.take(4).await.unwrap(), b"pong", "round {round}");
        let mut refused = RawClient::connect(pair.outbound).await;
        assert!(refused.until_ended().await.is_empty());
        pair.mesh.provider.restore("web").unwrap();
        pair.web.until_identity("allowed again", |it| it.source == SourceStatus::Connected).await;
        live.send("ping").await;
        assert_eq!(live.take(4).await.unwrap(), b"ping", "round {round}");
    }
    let records = pair.web.records_of("connection", 3).await;
    assert!(records.iter().all(|record| record["refusal"] == "identity_denied"), "{records:#?}");
}

#[tokio::test]
async fn f_05_live_connections_take_requests_while_the_agent_denies_and_no_new_one_is_made() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut http1 = H1Client::connect(pair.outbound).await;
    let mut http2 = H2Client::connect(pair.outbound).await;
    assert_eq!(http1.get("/1").await.unwrap().status, 200);
    assert_eq!(http2.get("/1").await.unwrap().status, 200);
    for round in 0..3 {
        for workload in ["web", "orders"] {
            pair.mesh.provider.withdraw(workload).unwrap();
        }
        for sidecar in [&pair.web, &pair.orders] {
            sidecar.until_identity("denied", |it| matches!(it.source, SourceStatus::Denied { cut: false, .. })).await;
        }
        assert_eq!(http1.get("/live").await.unwrap().status, 200, "round {round}");
        assert_eq!(http2.get("/live").await.unwrap().status, 200, "round {round}");
        // Its upstream connection is taken: the next request would need a new one.
        let request = http1.request("GET", "/stream").body(postern_tests::client_http::empty()).unwrap();
        let busy = within("a head", http1.sender.send_request(request)).await.unwrap();
        let mut others = Vec::new();
        for _ in 0..2 {
            let reply = H1Client::connect(pair.outbound).await.get("/new").await.unwrap();
            others.push(reply.status.as_u16());
        }
        assert_eq!(others, [503, 503], "round {round}");
        drop((busy, http1));
        for workload in ["web", "orders"] {
            pair.mesh.provider.restore(workload).unwrap();
        }
        for sidecar in [&pair.web, &pair.orders] {
            sidecar.until_identity("allowed again", |it| it.source == SourceStatus::Connected).await;
        }
        http1 = H1Client::connect(pair.outbound).await;
        assert_eq!(http1.get("/back").await.unwrap().status, 200, "round {round}");
    }
    let refused: Vec<_> = pair.web.records().into_iter().filter(|record| record.get("refusal").is_some()).collect();
    assert!(refused.iter().all(|record| record["refusal"] == "identity_denied"), "{refused:#?}");
}

#[tokio::test]
async fn tl_03_a_rotation_retires_what_was_pooled_before_it() {
    let app = HttpApp::start().await;
    let pair = Pair::with(
        Mesh::start(),
        app.address,
        &format!("protocol: http\nallow: [{{ spiffe: {} }}]", postern_tests::mesh::WEB),
        "protocol: http",
    )
    .await;
    let mut client = H1Client::connect(pair.outbound).await;
    client.get("/one").await.unwrap();
    let before = app.last().all("x-forwarded-client-cert");
    let leaf = pair.web.own_fingerprint();
    pair.mesh.provider.rotate_svid("web").unwrap();
    until_new_leaf(&pair.web, leaf).await;
    client.get("/two").await.unwrap();
    assert_ne!(app.last().all("x-forwarded-client-cert"), before, "the older connection takes no new request");
    // It closes when idle, which is found out at the latest with the next sweep.
    within("the older connection ends", async {
        while pair.orders.records().iter().filter(|record| record["kind"] == "connection").count() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
