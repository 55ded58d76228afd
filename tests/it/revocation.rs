//! Trust that is taken back before it expires: CRLs, the deny list, the levers, and the guard before them. Each ends what it
//! is about, on live connections too, and nothing else.

use postern::identity::Snapshot;
use postern_tests::client_http::empty;
use postern_tests::mesh::{ORDERS, PARTNER, WEB};
use postern_tests::pair::{Pair, inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, eventually, mtls, ports, within};
use serde_json::Value;
use spiffe::WorkloadApiClient;
use std::net::SocketAddr;
use std::path::Path;

const HOUR: &str = "reason=seen+in+a+core+dump&for=1h";

fn deny_list(entries: &[&str]) -> String {
    let line = |entry: &&str| {
        format!("  - {{ {entry}, reason: seen in a core dump, author: alice, expires: 2126-12-24T00:00:00Z }}\n")
    };
    match entries {
        [] => "deny: []\n".to_owned(),
        entries => format!("deny:\n{}", entries.iter().map(line).collect::<String>()),
    }
}

/// As an editor, or a volume of Kubernetes, replaces a file.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

/// `orders` with an HTTP and an L4 port for `web` and `partner`, who call both.
struct Scene {
    mesh: Mesh,
    orders: Sidecar,
    web: Sidecar,
    _partner: Sidecar,
    web_calls: [SocketAddr; 2],
    partner_calls: [SocketAddr; 2],
    http: SocketAddr,
    _app: HttpApp,
    _echo: TcpApp,
}

impl Scene {
    /// With lines for the sections of `orders`.
    async fn start(mesh: Mesh, lines: &str) -> Self {
        let (app, echo) = (HttpApp::start().await, TcpApp::echo().await);
        let (http, raw) = (ports::free(), ports::free());
        let allow = format!("allow: [{{ spiffe: [{WEB}, {PARTNER}] }}]");
        let section = format!(
            "{}  - {{ name: raw, port: 9000, listen: \"{raw}\", app: \"{}\", protocol: tcp, {allow} }}\n{lines}",
            inbound_section(http, &app.address.to_string(), &format!("protocol: http\n{allow}")),
            echo.address
        );
        let orders = mesh.sidecar("orders", &section).await;
        let (web, web_calls) = caller(&mesh, "web", [http, raw]).await;
        let (partner, partner_calls) = caller(&mesh, "partner", [http, raw]).await;
        Self { mesh, orders, web, _partner: partner, web_calls, partner_calls, http, _app: app, _echo: echo }
    }

    async fn record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.orders.record("connection", wanted).await
    }
}

async fn caller(mesh: &Mesh, workload: &str, to: [SocketAddr; 2]) -> (Sidecar, [SocketAddr; 2]) {
    let calls = [ports::free(), ports::free()];
    let raw = format!(
        "  - {{ name: raw, listen: \"{}\", endpoints: [\"{}\"], identity: {ORDERS}, protocol: tcp }}\n",
        calls[1], to[1]
    );
    (mesh.sidecar(workload, &format!("{}{raw}", outbound_section(calls[0], to[0], "protocol: http"))).await, calls)
}

/// One live exchange of each kind.
struct Live {
    http1: RawClient,
    http2: H2Client,
    upgraded: RawClient,
    raw: RawClient,
}

impl Live {
    async fn open(calls: [SocketAddr; 2]) -> Self {
        let mut http1 = RawClient::connect(calls[0]).await;
        assert_eq!(http1.get("orders.shop.svc", "/a").await.status, 200);
        let mut http2 = H2Client::connect(calls[0]).await;
        assert_eq!(http2.get("/a").await.unwrap().status, 200);
        let mut upgraded = RawClient::connect(calls[0]).await;
        upgraded
            .send("GET /upgrade HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n")
            .await;
        assert_eq!(upgraded.head().await.unwrap().status, 101);
        let mut raw = RawClient::connect(calls[1]).await;
        raw.send("ping").await;
        assert_eq!(raw.take(4).await.unwrap(), b"ping");
        Self { http1, http2, upgraded, raw }
    }

    async fn still_lives(&mut self) {
        assert_eq!(self.http1.get("orders.shop.svc", "/b").await.status, 200);
        assert_eq!(self.http2.get("/b").await.unwrap().status, 200);
        self.upgraded.send("ping").await;
        assert_eq!(self.upgraded.take(4).await.unwrap(), b"ping");
        self.raw.send("pong").await;
        assert_eq!(self.raw.take(4).await.unwrap(), b"pong");
    }

    /// What holds a connection of the mesh open ends; requests get an answer by name from their own side.
    async fn has_ended(&mut self) {
        within("an upgraded connection ends", self.upgraded.until_ended()).await;
        within("an L4 connection ends", self.raw.until_ended()).await;
        assert_ne!(self.http1.get("orders.shop.svc", "/c").await.status, 200);
        assert_ne!(self.http2.get("/c").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_deny_list_ends_what_lives_of_whom_it_names_and_of_nobody_else() {
    let mesh = Mesh::start();
    let list = mesh.directory().join("deny.yaml");
    std::fs::write(&list, deny_list(&[])).unwrap();
    let scene = Scene::start(mesh, &format!("revocation: {{ deny_list: {} }}\n", list.display())).await;
    let (mut web, mut partner) = (Live::open(scene.web_calls).await, Live::open(scene.partner_calls).await);

    replace(&list, &deny_list(&[&format!("spiffe: {PARTNER}")]));
    partner.has_ended().await;
    web.still_lives().await;
    for listener in ["orders", "raw"] {
        let cut = |record: &Value| record["listener"] == listener && record["end"] == "deny_listed";
        assert_eq!(scene.record(cut).await["peer.spiffe_id"], PARTNER);
    }
    let refused = scene.record(|record| record["refusal"] == "peer_not_verified").await;
    let detail = refused["refusal.detail"].as_str().unwrap_or_default();
    assert!(detail.contains("the deny list has") && detail.contains("seen in a core dump (alice)"), "{refused:#}");

    // A broken list changes nothing, and says so.
    replace(&list, "deny: [{ spiffe: web }]\n");
    eventually("the broken list is noticed", || {
        scene.orders.metrics().contains("postern_revocation_loads_refused_total 1").then_some(())
    })
    .await;
    assert_ne!(partner.http1.get("orders.shop.svc", "/d").await.status, 200);
    web.still_lives().await;

    replace(&list, &deny_list(&[]));
    scene.orders.until_identity("nobody is denied", |snapshot| snapshot.revocations.denials.is_empty()).await;
    Live::open(scene.partner_calls).await.still_lives().await;
    web.still_lives().await;
}

#[tokio::test]
async fn certificates_are_denied_by_fingerprint_and_by_serial_number() {
    let scene = Scene::start(Mesh::start(), "").await;
    let svid = |sidecar: &Sidecar| sidecar.shared.identity.load().svids[0].clone();
    let fingerprint: String = svid(&scene.web).fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    let serial = svid(&scene.web).serial.to_uppercase();
    for what in [
        format!("certificate={fingerprint}"),
        format!("serial={serial}"),
        format!("serial={serial}&trust_domain=shop.example"),
    ] {
        let (mut web, mut partner) = (Live::open(scene.web_calls).await, Live::open(scene.partner_calls).await);
        let (status, entry) = scene.orders.ask("POST", &format!("/deny?{what}&{HOUR}")).await;
        assert_eq!(status, 200, "{entry}");
        web.has_ended().await;
        partner.still_lives().await;
        // A new certificate of the same workload is another one.
        scene.mesh.provider.rotate_svid("web").unwrap();
        let number = serde_json::from_str::<Value>(&entry).unwrap()["number"].to_string();
        assert_eq!(scene.orders.ask("POST", &format!("/deny/remove?number={number}")).await.0, 200);
        if what.contains("certificate") {
            break;
        }
    }
    let serial = svid(&scene.web).serial.clone();
    let (status, _) =
        scene.orders.ask("POST", &format!("/deny?serial={serial}&trust_domain=partner.example&{HOUR}")).await;
    assert_eq!(status, 200);
    Live::open(scene.web_calls).await.still_lives().await;
}

#[tokio::test]
async fn a_lever_denies_at_once_lists_and_takes_back() {
    let scene = Scene::start(Mesh::start(), "").await;
    let mut partner = Live::open(scene.partner_calls).await;
    let (status, entry) = scene.orders.ask("POST", &format!("/deny?spiffe={PARTNER}&{HOUR}")).await;
    assert_eq!(status, 200, "{entry}");
    partner.has_ended().await;
    let (_, listed) = scene.orders.ask("GET", "/deny").await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["denied"], &listed[0]["origin"]), (&Value::from(PARTNER), &Value::from("admin socket")));
    assert!(scene.orders.ask("GET", "/metrics").await.1.contains("postern_deny_list_entries 1"));
    assert_eq!(scene.orders.ask("POST", "/deny/remove?number=7").await.0, 404);
    assert_eq!(scene.orders.ask("POST", "/deny/remove?number=1").await.0, 200);
    Live::open(scene.partner_calls).await.still_lives().await;
    assert_eq!(scene.orders.ask("POST", "/deny?spiffe=web&reason=a&for=1h").await.0, 400);
}

#[tokio::test]
async fn an_upstream_that_is_denied_is_left_and_not_called() {
    let scene = Scene::start(Mesh::start(), "").await;
    let mut web = Live::open(scene.web_calls).await;
    assert_eq!(scene.web.ask("POST", &format!("/deny?spiffe={ORDERS}&{HOUR}")).await.0, 200);
    web.has_ended().await;
    let record = scene.web.record("request", |record| record["refusal"] == "upstream_not_verified").await;
    assert!(record["refusal.detail"].as_str().unwrap_or_default().contains("the deny list has"), "{record:#}");
    Live::open(scene.partner_calls).await.still_lives().await;
}

#[tokio::test]
async fn our_own_svid_that_is_denied_is_used_no_more() {
    let scene = Scene::start(Mesh::start(), "").await;
    let mut web = Live::open(scene.web_calls).await;
    assert_eq!(scene.web.ask("POST", &format!("/deny?spiffe={WEB}&{HOUR}")).await.0, 200);
    web.has_ended().await;
    assert_eq!(scene.web.missing().await, ["identity"]);
    let record = scene.web.record("request", |record| record["refusal"] == "identity_denied").await;
    assert!(record["refusal.detail"].as_str().unwrap_or_default().contains("taken back"), "{record:#}");
    assert!(scene.web.ask("GET", "/metrics").await.1.contains("postern_own_svids_taken_back 1"));
}

#[tokio::test]
async fn x_46_a_certificate_that_its_authority_revokes_loses_its_live_connections() {
    let scene = Scene::start(Mesh::start(), "").await;
    let mut partner = Live::open(scene.partner_calls).await;
    // Somebody has a copy of web's key.
    let stolen = mtls::connect(&scene.web, scene.http, &[b"http/1.1"], "orders").await.unwrap();
    let mut thief = RawClient::over(stolen);
    assert_eq!(thief.get("orders.shop.svc", "/a").await.status, 200);
    let copy: Snapshot = (*scene.web.shared.identity.load()).clone();

    scene.mesh.provider.revoke("web").unwrap();
    within("the thief's connection ends", thief.until_ended()).await;
    scene.record(|record| record["peer.spiffe_id"] == WEB && record["end"] == "certificate_revoked").await;
    let again = mtls::connect_as(&copy, scene.http, &[b"http/1.1"], "orders").await;
    if let Ok(stream) = again {
        // A server's verdict comes with the first read of TLS 1.3.
        within("refused", RawClient::over(stream).until_ended()).await;
    }
    let refused = scene.record(|record| record["refusal"] == "peer_not_verified").await;
    assert!(refused["refusal.detail"].as_str().unwrap_or_default().contains("revoked"), "{refused:#}");

    // The workload itself goes on with its new certificate, and others did not notice.
    scene.web.until_identity("a new SVID", |now| now.svids[0].fingerprint != copy.svids[0].fingerprint).await;
    Live::open(scene.web_calls).await.still_lives().await;
    partner.still_lives().await;
    assert!(scene.orders.ask("GET", "/metrics").await.1.contains("postern_crls{state=\"current\"} 1"));
}

#[tokio::test]
async fn a_denied_token_is_refused_and_its_requests_end() {
    let app = HttpApp::start().await;
    let lines = format!(
        "protocol: http\nallow: [{{ spiffe: {WEB} }}]\nroutes: [{{ name: all, match: {{}}, audience: {ORDERS}, binding: bearer }}]"
    );
    let pair = Pair::with(Mesh::start(), app.address, &lines, "protocol: http").await;
    pair.orders.until_identity("keys for tokens", |snapshot| !snapshot.token_keys.is_empty()).await;
    let socket = format!("unix:{}", pair.mesh.provider.socket("stranger").unwrap().display());
    let client = WorkloadApiClient::connect_to(socket).await.unwrap();
    let fetch = async || within("a token", client.fetch_jwt_token([ORDERS], None)).await.unwrap();
    let (first, second) = (fetch().await, fetch().await);
    let mut caller = H2Client::connect(pair.outbound).await;
    let mut send = async |path: &str, token: &str| {
        let request = caller.request("GET", path).header("authorization", format!("Bearer {token}"));
        caller.send(request.body(empty()).unwrap()).await.unwrap().status.as_u16()
    };
    assert_eq!((send("/a", &first).await, send("/a", &second).await), (200, 200));

    let mut slow = H1Client::connect(pair.outbound).await;
    let request = slow.request("GET", "/hang").header("authorization", format!("Bearer {first}"));
    let stalled = tokio::spawn(async move { slow.send(request.body(empty()).unwrap()).await });
    eventually("the request is at the application", || {
        app.seen().iter().any(|seen| seen.target == "/hang").then_some(())
    })
    .await;
    let id = token_id(&first);
    assert_eq!(pair.orders.ask("POST", &format!("/deny?token={id}&{HOUR}")).await.0, 200);
    let ended = within("the request ends", stalled).await.unwrap();
    assert!(ended.is_err() || ended.is_ok_and(|reply| reply.status != 200));
    assert_eq!((send("/b", &first).await, send("/b", &second).await), (401, 200));
    let record = pair.orders.record("request", |record| record["refusal"] == "token_invalid").await;
    assert!(record["refusal.detail"].as_str().unwrap_or_default().starts_with("deny_listed"), "{record:#}");
    // Whom all of them are about.
    let stranger = postern_tests::mesh::STRANGER;
    assert_eq!(pair.orders.ask("POST", &format!("/deny?spiffe={stranger}&{HOUR}")).await.0, 200);
    assert_eq!(send("/c", &second).await, 401);
}

/// `jti` of a token, whose payload nobody here has to verify.
fn token_id(token: &str) -> String {
    let payload = token.split('.').nth(1).unwrap();
    let bits = payload.bytes().map(|byte| {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        ALPHABET.iter().position(|known| *known == byte).unwrap() as u32
    });
    let (mut bytes, mut held, mut count) = (Vec::new(), 0_u32, 0);
    for sextet in bits {
        (held, count) = (held << 6 | sextet, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((held >> count) as u8);
            held &= (1 << count) - 1;
        }
    }
    serde_json::from_slice::<Value>(&bytes).unwrap()["jti"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_guard_holds_what_would_cut_too_much_until_somebody_says_so() {
    let mesh = Mesh::start();
    let list = mesh.directory().join("deny.yaml");
    std::fs::write(&list, deny_list(&[])).unwrap();
    let guard = "guard: { connections: 2, share: 50%, hold: until_told }";
    let scene = Scene::start(mesh, &format!("revocation: {{ deny_list: {}, {guard} }}\n", list.display())).await;
    let (mut web, mut partner) = (Live::open(scene.web_calls).await, Live::open(scene.partner_calls).await);

    // Half of what lives is not more than half.
    replace(&list, &deny_list(&["spiffe: spiffe://shop.example/**"]));
    held(&scene.orders, "deny_list").await;
    web.still_lives().await;
    partner.still_lives().await;
    assert!(scene.orders.metrics().contains("postern_guard_alarms_total{change=\"deny_list\"} 1"));
    // The lever asks back at once.
    let target = format!("/deny?spiffe=spiffe://shop.example/**&{HOUR}");
    let (status, words) = scene.orders.ask("POST", &target).await;
    assert!(status == 409 && words.contains("confirm"), "{status} {words}");
    // What is newer takes the place of what waits.
    replace(&list, &deny_list(&[&format!("spiffe: {}", postern_tests::mesh::STRANGER)]));
    eventually("nothing is held", || {
        (scene.orders.shared.identity.load().revocations.denials.entries().len() == 1).then_some(())
    })
    .await;
    web.still_lives().await;

    replace(&list, &deny_list(&["spiffe: spiffe://shop.example/**"]));
    held(&scene.orders, "deny_list").await;
    let (status, released) = scene.orders.ask("POST", "/held/apply").await;
    assert!(status == 202 && released.contains("deny_list"), "{status} {released}");
    web.has_ended().await;
    assert_eq!(scene.orders.ask("POST", "/held/apply").await.0, 409);
}

/// Waits until the guard holds a change.
async fn held(sidecar: &Sidecar, change: &str) {
    for _ in 0..1000 {
        let (_, held) = sidecar.ask("GET", "/held").await;
        if held.contains(change) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{change} is not held");
}
