//! `mode`: what rules refuse is refused, or let through and told, or never asked.

use postern_tests::mesh::WEB;
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, eventually, ports, within};
use serde_json::Value;
use std::net::SocketAddr;

/// `orders`, and `stranger`, whom no rule allows.
struct Scene {
    orders: Sidecar,
    _stranger: Sidecar,
    calls: SocketAddr,
    inbound: SocketAddr,
    app: SocketAddr,
    mesh: Mesh,
}

impl Scene {
    async fn start(app: SocketAddr, port: &str, service: &str) -> Self {
        let (mesh, inbound, calls) = (Mesh::start(), ports::free(), ports::free());
        let log = mesh.directory().join("audit.json");
        let section = format!(
            "{}audit: {{ to: {{ file: {} }} }}\n",
            inbound_section(inbound, &app.to_string(), port),
            log.display()
        );
        let orders = mesh.sidecar("orders", &section).await;
        let stranger = mesh.sidecar("stranger", &outbound_section(calls, inbound, service)).await;
        Self { orders, _stranger: stranger, calls, inbound, app, mesh }
    }

    async fn apply(&self, port: &str) {
        let log = self.mesh.directory().join("audit.json");
        let section = inbound_section(self.inbound, &self.app.to_string(), port);
        self.orders.apply(&format!("{section}audit: {{ to: {{ file: {} }} }}\n", log.display())).await.unwrap();
    }

    async fn audited(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("a record of the audit log", || {
            self.orders.shared.audit.flush();
            let text = std::fs::read_to_string(self.mesh.directory().join("audit.json")).unwrap_or_default();
            let mut records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            records.find(|record| wanted(record))
        })
        .await
    }
}

#[tokio::test]
async fn an_observed_denial_is_let_through_counted_and_recorded() {
    let app = HttpApp::start().await;
    let lines = format!(
        "protocol: http\nmode: observe\nallow: [{{ spiffe: {WEB} }}]\nroutes:\n\
         - {{ name: seen, match: {{ path: \"/seen/**\" }} }}\n\
         - {{ name: kept, match: {{ path: \"/kept/**\" }}, mode: enforce }}\n\
         - {{ name: open, match: {{ path: \"/open/**\" }}, mode: \"off\", deny: [{{ paths: \"/**\" }}] }}\n"
    );
    let scene = Scene::start(app.address, &lines, "protocol: http").await;
    let mut client = H2Client::connect(scene.calls).await;
    for (path, status, observed) in [
        ("/seen/a", 200, Some("not_allowed")),
        ("/kept/a", 403, None),
        ("/open/a", 200, None),
        // No route takes it.
        ("/else", 200, Some("no_route")),
    ] {
        assert_eq!(client.get(path).await.unwrap().status, status, "{path}");
        let record = scene.orders.record("request", |record| record["url.path"] == path).await;
        assert_eq!(record["observed"].as_str(), observed, "{record:#}");
    }
    assert!(scene.orders.metrics().contains("postern_observed_denials_total{direction=\"inbound\",name=\"orders\"} 2"));
    let decided = scene.audited(|record| record["url.path"] == "/seen/a").await;
    assert_eq!(
        (&decided["outcome"], &decided["mode"], &decided["observed"]),
        (&"observed".into(), &"observe".into(), &"not_allowed".into())
    );
    let decided = scene.audited(|record| record["url.path"] == "/kept/a").await;
    assert_eq!((&decided["outcome"], &decided["mode"]), (&"refused".into(), &"enforce".into()));

    // Whoever asks whether it is ready learns of it.
    let (status, ready) = scene.orders.ask("GET", "/healthz/ready").await;
    assert!(status == 200 && ready.contains("port `orders` only observes"), "{status} {ready}");
    assert!(ready.contains("the rules of route `open` of port `orders` are off"), "{ready}");
}

#[tokio::test]
async fn enforcing_ends_what_was_only_observed() {
    let app = HttpApp::start().await;
    let port = |mode: &str| format!("protocol: http\nmode: {mode}\nallow: [{{ spiffe: {WEB} }}]");
    let scene = Scene::start(app.address, &port("observe"), "protocol: http").await;
    let mut client = H1Client::connect(scene.calls).await;
    let pending = tokio::spawn(async move { client.get("/hang").await });
    eventually("the request is at the application", || (!app.seen().is_empty()).then_some(())).await;
    scene.apply(&port("enforce")).await;
    let ended = within("the request ends", pending).await.unwrap();
    assert!(ended.is_err() || ended.is_ok_and(|reply| reply.status != 200));
    assert_eq!(H1Client::connect(scene.calls).await.get("/a").await.unwrap().status, 403);
    assert!(!scene.orders.ask("GET", "/healthz/ready").await.1.contains("observes"));
}

#[tokio::test]
async fn an_l4_connection_is_observed_too() {
    let echo = TcpApp::echo().await;
    let port = |mode: &str| format!("protocol: tcp\nmode: {mode}\nallow: [{{ spiffe: {WEB} }}]");
    let scene = Scene::start(echo.address, &port("observe"), "protocol: tcp").await;
    let mut client = RawClient::connect(scene.calls).await;
    client.send("ping").await;
    assert_eq!(client.take(4).await.unwrap(), b"ping");
    let decided = scene.audited(|record| record["kind"] == "connection").await;
    assert_eq!((&decided["outcome"], &decided["observed"]), (&"observed".into(), &"not_allowed".into()));
    scene.apply(&port("enforce")).await;
    within("the connection ends", client.until_ended()).await;
    let record = scene.orders.record("connection", |record| record["observed"] == "not_allowed").await;
    assert_eq!(record["end"], "policy_changed");
}
