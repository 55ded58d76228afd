//! What is valid and not what it was: told once, refused where the file says so, and left alone where it says nothing.

use postern::identity::Snapshot;
use postern_config::{SpiffeId, TrustDomain};
use postern_tests::client_http::empty;
use postern_tests::mesh::{ORDERS, STRANGER, WEB};
use postern_tests::pair::{inbound_section, service_section};
use postern_tests::{H1Client, HttpApp, Mesh, Reply, Sidecar, eventually, mtls, ports, within};
use serde_json::Value;
use spiffe::WorkloadApiClient;
use std::net::{Ipv4Addr, SocketAddr};

const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// In another network of 24 bits.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 9);

/// The first event `drift` of a sidecar's audit log.
async fn audited(mesh: &Mesh, sidecar: &Sidecar) -> Value {
    eventually("a drift is recorded", || {
        sidecar.shared.audit.flush();
        let text = std::fs::read_to_string(mesh.directory().join("audit.json")).unwrap_or_default();
        let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.find(|record| record["event"] == "drift")
    })
    .await
}

fn audit(mesh: &Mesh) -> String {
    format!("audit: {{ to: {{ file: {} }} }}\n", mesh.directory().join("audit.json").display())
}

fn drifts(sidecar: &Sidecar, kind: &str) -> f64 {
    sidecar.metric(&format!("postern_drift_total{{kind=\"{kind}\"}}"))
}

async fn called_from(from: Ipv4Addr, web: &Sidecar, to: SocketAddr) -> H1Client {
    let stream = mtls::connect_from(web, from, to, &[b"http/1.1"]).await.unwrap();
    H1Client::over(stream, "orders.shop.svc").await
}

async fn get(client: &mut H1Client, path: &str, token: &str) -> Reply {
    let request = client.request("GET", path).header("authorization", format!("Bearer {token}"));
    client.send(request.body(empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_certificate_from_two_networks_at_once_is_told_and_refused_where_the_file_says_so() {
    let (mesh, app, to) = (Mesh::start(), HttpApp::start().await, ports::free());
    let port = inbound_section(to, &app.address.to_string(), &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"));
    let section = |on: &str| format!("{port}{}drift: {{ certificate_from_two_networks: {on} }}\n", audit(&mesh));
    let orders = mesh.sidecar("orders", &section("deny")).await;
    let web = mesh.sidecar("web", "workers: 1\n").await;

    let mut here = called_from(HERE, &web, to).await;
    assert_eq!(here.get("/a").await.unwrap().status, 200);
    let mut beside = called_from(Ipv4Addr::new(127, 0, 0, 77), &web, to).await;
    assert_eq!(beside.get("/a").await.unwrap().status, 200, "of the same network");
    let mut elsewhere = called_from(ELSEWHERE, &web, to).await;
    assert!(elsewhere.get("/b").await.is_err());
    let refused = orders.record("connection", |record| record["refusal"] == "drift_refused").await;
    let detail = refused["refusal.detail"].as_str().unwrap();
    assert!(detail.contains(WEB) && detail.contains("127.0.7.0/24, and lately from 127.0.0.0/24"), "{detail}");
    assert_eq!(refused["peer.spiffe_id"], WEB);
    assert_eq!(drifts(&orders, "certificate_from_two_networks"), 1.0);
    let event = audited(&mesh, &orders).await;
    assert_eq!(
        (&event["drift.kind"], &event["drift.whose"], &event["drift.before"], &event["drift.now"]),
        (&"certificate_from_two_networks".into(), &WEB.into(), &"127.0.0.0/24".into(), &"127.0.7.0/24".into())
    );
    assert_eq!(event["drift.denied"], true);
    let sha256: String = web.own_fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(event["drift.credential.sha256"], sha256);
    assert_eq!(here.get("/c").await.unwrap().status, 200, "who was there first stays");

    orders.apply(&section("event")).await.unwrap();
    let mut elsewhere = called_from(ELSEWHERE, &web, to).await;
    assert_eq!(elsewhere.get("/d").await.unwrap().status, 200);
    assert_eq!(drifts(&orders, "certificate_from_two_networks"), 2.0);
    orders.apply(&section("off")).await.unwrap();
    assert_eq!(called_from(HERE, &web, to).await.get("/e").await.unwrap().status, 200);
    assert_eq!(drifts(&orders, "certificate_from_two_networks"), 2.0);
}

#[tokio::test]
async fn a_token_from_two_networks_or_of_somebody_else_is_told_and_refused_where_the_file_says_so() {
    let (mesh, app, to) = (Mesh::start(), HttpApp::start().await, ports::free());
    let routes = format!(
        "protocol: http\nallow: [{{ spiffe: {WEB} }}]\nroutes:\n\
         - {{ name: own, match: {{ path: /own/** }}, audience: \"{ORDERS}\", binding: peer }}\n\
         - {{ name: any, match: {{ path: /any/** }}, audience: \"{ORDERS}\", binding: bearer }}\n"
    );
    let port = inbound_section(to, &app.address.to_string(), &routes);
    let section = |on: &str| {
        format!(
            "{port}drift: {{ certificate_from_two_networks: off, token_from_two_networks: {on}, token_of_another_subject: {on} }}\n"
        )
    };
    let orders = mesh.sidecar("orders", &section("off")).await;
    let web = mesh.sidecar("web", "workers: 1\n").await;
    orders.until_identity("keys for tokens", |snapshot| !snapshot.token_keys.is_empty()).await;
    let own = token(&mesh, "web").await;
    let other = token(&mesh, "stranger").await;
    let (mut here, mut elsewhere) = (called_from(HERE, &web, to).await, called_from(ELSEWHERE, &web, to).await);

    for client in [&mut here, &mut elsewhere] {
        assert_eq!(get(client, "/any/a", &other).await.status, 200, "nobody looks");
    }
    orders.apply(&section("event")).await.unwrap();
    for client in [&mut here, &mut elsewhere] {
        assert_eq!(get(client, "/own/a", &own).await.status, 200);
    }
    assert_eq!(drifts(&orders, "token_from_two_networks"), 1.0);
    assert_eq!(get(&mut here, "/any/a", &other).await.status, 200);
    assert_eq!(get(&mut here, "/own/a", &other).await.status, 403);
    assert_eq!(drifts(&orders, "token_of_another_subject"), 2.0, "one that its route refuses is told too");

    let (_status, inventory) = orders.ask("GET", "/inventory").await;
    let inventory: Value = serde_json::from_str(&inventory).unwrap();
    let tokens = inventory["caller_tokens"].as_array().unwrap();
    let mut subjects: Vec<_> = tokens.iter().map(|token| token["spiffe_id"].as_str().unwrap()).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, [STRANGER, WEB]);
    assert!(!inventory.to_string().contains(own.rsplit('.').next().unwrap()), "a token in an inventory");

    orders.apply(&section("deny")).await.unwrap();
    // It was last shown from elsewhere.
    assert_eq!(get(&mut elsewhere, "/own/b", &own).await.status, 200);
    for (path, token, detail) in [("/own/b", &own, "lately from"), ("/any/b", &other, STRANGER)] {
        assert_eq!(get(&mut here, path, token).await.status, 403, "{path}");
        let wanted = |record: &Value| {
            record["refusal"] == "drift_refused" && record["refusal.detail"].as_str().unwrap().contains(detail)
        };
        assert_eq!(orders.record("request", wanted).await["url.path"], path);
    }
}

async fn token(mesh: &Mesh, workload: &str) -> String {
    let socket = format!("unix:{}", mesh.provider.socket(workload).unwrap().display());
    let client = WorkloadApiClient::connect_to(socket).await.unwrap();
    within("a token", client.fetch_jwt_token([ORDERS], None)).await.unwrap()
}

#[tokio::test]
async fn an_upstream_with_another_identity_and_a_new_destination_are_told() {
    let (mesh, app, to, calls) = (Mesh::start(), HttpApp::start().await, ports::free(), ports::free());
    let port = inbound_section(to, &app.address.to_string(), &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"));
    let lines = format!("endpoints: [\"{to}\"]\nidentity: spiffe://shop.example/**\nprotocol: http");
    let service = service_section(calls, &lines);
    let section = |on: &str| {
        format!(
            "{service}{}drift: {{ upstream_changed_identity: {on}, new_destination: event, learn: 1ms }}\n",
            audit(&mesh)
        )
    };
    let web = mesh.sidecar("web", &section("deny")).await;
    let orders = mesh.sidecar("orders", &port).await;
    let mut client = H1Client::connect(calls).await;
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    assert_eq!(drifts(&web, "new_destination"), 1.0);
    let event = audited(&mesh, &web).await;
    assert_eq!((&event["drift.kind"], &event["drift.denied"]), (&"new_destination".into(), &false.into()));

    orders.stop().await;
    let stranger = mesh.sidecar("stranger", &port).await;
    let refused = client.get("/b").await.unwrap();
    assert_eq!(refused.status, 502);
    let record = web.record("request", |record| record["refusal"] == "upstream_drift").await;
    let detail = record["refusal.detail"].as_str().unwrap();
    assert!(detail.contains(&format!("answers as {STRANGER}; before: {ORDERS}")), "{detail}");
    assert!(drifts(&web, "upstream_changed_identity") >= 1.0);
    assert!(app.seen().iter().all(|seen| seen.target != "/b"), "no byte of it went there");

    web.apply(&section("event")).await.unwrap();
    let mut client = H1Client::connect(calls).await;
    assert_eq!(client.get("/c").await.unwrap().status, 200);
    assert_eq!(drifts(&web, "new_destination"), 1.0, "it is known");
    drop(stranger);
}

#[tokio::test]
async fn another_identity_of_our_own_is_told() {
    let mesh = Mesh::start();
    let web = mesh.sidecar("web", &audit(&mesh)).await;
    let stranger = mesh.sidecar("stranger", "workers: 1\n").await;
    mesh.provider.publish_new_authority(&TrustDomain::parse("shop.example").unwrap()).unwrap();
    web.until_identity("a staged rotation", |snapshot| {
        snapshot.bundles.values().any(|bundle| bundle.anchors.len() > 1)
    })
    .await;
    let before = web.own_fingerprint();
    mesh.provider.reissue(&TrustDomain::parse("shop.example").unwrap()).unwrap();
    web.until_identity("a renewal", |snapshot| snapshot.svids[0].fingerprint != before).await;
    web.until_settled().await;
    assert_eq!(drifts(&web, "own_svid_changed"), 0.0, "a rotation in stages is what was to be");

    let svids = stranger.shared.identity.load().svids.clone();
    web.shared.identity.publish(|snapshot| Snapshot { svids: svids.clone(), ..snapshot.clone() });
    let event = audited(&mesh, &web).await;
    let expected = (&"own_svid_changed".into(), &WEB.into(), &STRANGER.into());
    assert_eq!((&event["drift.kind"], &event["drift.before"], &event["drift.now"]), expected);
    assert_eq!(SpiffeId::parse(event["drift.whose"].as_str().unwrap()).unwrap().as_str(), STRANGER);
    assert_eq!(drifts(&web, "own_svid_changed"), 1.0);
}
