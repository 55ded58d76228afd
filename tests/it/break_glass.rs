//! Break-glass: a signed override lets in what the rules refuse, until it ends, and nothing else; and says so everywhere.

use postern_tests::mesh::{ORDERS, STRANGER, WEB};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Sidecar, eventually, ports, within};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey as _};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Somebody who may sign, as `openssl dgst -sha256 -sign` does.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        self.0.sign(text.as_bytes()).unwrap()
    }
}

struct Scene {
    orders: Sidecar,
    _stranger: Sidecar,
    calls: SocketAddr,
    app: HttpApp,
    mesh: Mesh,
    signer: Signer,
}

impl Scene {
    async fn start() -> Self {
        let (mesh, app, signer) = (Mesh::start(), HttpApp::start().await, Signer::new());
        let (inbound, calls) = (ports::free(), ports::free());
        std::fs::write(mesh.directory().join("break-glass.pub"), signer.public_pem()).unwrap();
        let section = inbound_section(
            inbound,
            &app.address.to_string(),
            &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"),
        );
        let more = "break_glass: { file: break-glass.yaml, keys: break-glass.pub, longest: 2h }\n";
        let audit = format!("audit: {{ to: {{ file: {} }} }}\n", mesh.directory().join("audit.json").display());
        let orders = mesh.sidecar("orders", &format!("{section}{more}{audit}")).await;
        let stranger = mesh.sidecar("stranger", &outbound_section(calls, inbound, "protocol: http")).await;
        Self { orders, _stranger: stranger, calls, app, mesh, signer }
    }

    fn file(&self) -> PathBuf {
        self.mesh.directory().join("break-glass.yaml")
    }

    fn put(&self, text: &str, signature: &[u8]) {
        let beside = self.mesh.directory().join("break-glass.new");
        std::fs::write(self.mesh.directory().join("break-glass.yaml.sig"), signature).unwrap();
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.file()).unwrap();
    }

    fn open(&self, text: &str) {
        self.put(text, &self.signer.sign(text));
    }

    async fn audited(&self, event: &str) -> Value {
        eventually(event, || {
            self.orders.shared.audit.flush();
            let text = std::fs::read_to_string(self.mesh.directory().join("audit.json")).unwrap_or_default();
            let mut records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            records.find(|record| record["event"] == event)
        })
        .await
    }

    async fn status(&self, path: &str) -> u16 {
        H1Client::connect(self.calls).await.get(path).await.unwrap().status.as_u16()
    }
}

fn moment(seconds_from_now: i64) -> String {
    let at =
        OffsetDateTime::from_unix_timestamp(OffsetDateTime::now_utc().unix_timestamp() + seconds_from_now).unwrap();
    at.format(&Rfc3339).unwrap()
}

fn text(workload: &str, from: i64, until: i64) -> String {
    format!(
        "break_glass:\n  reason: INC-4711\n  author: alice\n  from: {}\n  until: {}\n  workload: {workload}\n  \
         allow: [{{ name: helper, spiffe: {STRANGER}, paths: \"/repair/**\" }}]\n",
        moment(from),
        moment(until)
    )
}

#[tokio::test]
async fn a_signed_override_lets_in_what_it_names_and_is_told_everywhere() {
    let scene = Scene::start().await;
    assert_eq!(scene.status("/repair/a").await, 403);
    scene.open(&text(ORDERS, -60, 3600));
    let opened = scene.audited("break_glass_opened").await;
    assert_eq!((&opened["reason"], &opened["author"]), (&"INC-4711".into(), &"alice".into()));
    assert_eq!((scene.status("/repair/b").await, scene.status("/other").await), (200, 403));
    let record = scene.orders.record("request", |record| record["url.path"] == "/repair/b").await;
    assert_eq!(record["rule"], "break-glass/helper");
    let (status, ready) = scene.orders.ask("GET", "/healthz/ready").await;
    assert!(status == 200 && ready.contains("BREAK-GLASS") && ready.contains("INC-4711 (alice)"), "{ready}");
    let metrics = scene.orders.ask("GET", "/metrics").await.1;
    assert!(metrics.contains("postern_break_glass 1") && metrics.contains("postern_break_glass_used_total 1"));

    // Taken away, it takes along what it let in.
    let mut client = H2Client::connect(scene.calls).await;
    let pending = tokio::spawn(async move { client.get("/repair/hang").await });
    let _ = within("it is on its way", tokio::time::sleep(std::time::Duration::from_millis(50))).await;
    std::fs::remove_file(scene.file()).unwrap();
    scene.audited("break_glass_closed").await;
    let _ = within("the request ends", pending).await.unwrap();
    assert_eq!(scene.status("/repair/c").await, 403);
    assert!(!scene.orders.ask("GET", "/healthz/ready").await.1.contains("BREAK-GLASS"));
    let _ = &scene.app;
}

#[tokio::test]
async fn an_override_that_is_not_signed_not_ours_or_too_long_lets_nobody_in() {
    let scene = Scene::start().await;
    let good = text(ORDERS, -60, 3600);
    for (name, text, signature, expected) in [
        ("unsigned", good.clone(), b"none".to_vec(), "not signed by any"),
        ("signed by a stranger", good.clone(), Signer::new().sign(&good), "not signed by any"),
        (
            "changed after it was signed",
            good.replace("/repair/**", "/**"),
            scene.signer.sign(&good),
            "not signed by any",
        ),
        ("too long", text(ORDERS, -60, 7200), scene.signer.sign(&text(ORDERS, -60, 7200)), "longer than"),
        ("over", text(ORDERS, -60, -30), scene.signer.sign(&text(ORDERS, -60, -30)), "ended at"),
        ("no override", "break_glass: {}\n".to_owned(), scene.signer.sign("break_glass: {}\n"), "has problems"),
    ] {
        scene.put(&text, &signature);
        eventually(name, || {
            scene.orders.shared.audit.flush();
            let log = std::fs::read_to_string(scene.mesh.directory().join("audit.json")).unwrap_or_default();
            let why = log.lines().rev().find(|line| line.contains("break_glass_refused"))?.to_owned();
            why.contains(expected).then_some(())
        })
        .await;
        assert_eq!(scene.status("/repair/a").await, 403, "{name}");
    }
    // For another workload's sidecar, and one that has not begun: taken, and not acting.
    for text in [text(WEB, -60, 3600), text(ORDERS, 3000, 3600)] {
        scene.open(&text);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(scene.status("/repair/a").await, 403);
    }
}

#[tokio::test]
async fn an_override_ends_by_itself() {
    let scene = Scene::start().await;
    scene.open(&text(ORDERS, -60, 4));
    scene.audited("break_glass_opened").await;
    assert_eq!(scene.status("/repair/a").await, 200);
    scene.audited("break_glass_closed").await;
    assert_eq!(scene.status("/repair/b").await, 403);
}
