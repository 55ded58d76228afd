//! The worked example `multi-cloud.yaml`, run as it stands but for its addresses and files: who of two clouds and of CI may what,
//! and by which rule.

use crate::tidy::root;
use postern::cli::audit::{VerifyArgs, examine};
use postern::identity::Snapshot;
use postern_tests::client_http::empty;
use postern_tests::mesh::{PARTNER, WEB};
use postern_tests::pair::outbound_section;
use postern_tests::properties::signers::Signer;
use postern_tests::{H2Client, HttpApp, Mesh, Sidecar, eventually, ports};
use serde_json::{Value, json};
use std::path::Path;
use std::time::SystemTime;

const ISSUER: &str = "https://ci.shop.example";

/// The service of the example, and its callers from both clouds.
struct Scene {
    orders: Sidecar,
    _callers: [Sidecar; 2],
    web: H2Client,
    partner: H2Client,
    app: HttpApp,
    ci: Signer,
    mesh: Mesh,
}

/// The example without the sections that the harness writes itself: the sockets of the agent and of `admin`.
fn sections(directory: &Path, addresses: &[(&str, String)]) -> String {
    let example = std::fs::read_to_string(root().join("config/examples/multi-cloud.yaml")).unwrap();
    let (_sockets, rest) = example.split_once("\nissuers:").unwrap();
    let files = [
        "/etc/postern/ci-jwks.json",
        "/etc/postern/deny.yaml",
        "/var/log/postern/audit.json",
        "/mnt/seals/orders.json",
    ];
    let moved = |path: &str| directory.join(path.rsplit_once('/').unwrap().1).display().to_string();
    let files = files.map(|path| (path, moved(path)));
    let mut text = format!("issuers:{rest}");
    for (from, to) in files.iter().chain(addresses) {
        assert_eq!(text.matches(from).count(), 1, "the example has {from} once");
        text = text.replace(from, to);
    }
    text
}

impl Scene {
    async fn start() -> Self {
        let (mesh, app, ci) = (Mesh::start(), HttpApp::start().await, Signer::p256());
        let (inbound, web_calls, partner_calls) = (ports::free(), ports::free(), ports::free());
        let directory = mesh.directory();
        std::fs::write(directory.join("ci-jwks.json"), json!({ "keys": [ci.jwk("ci-1")] }).to_string()).unwrap();
        std::fs::write(directory.join("deny.yaml"), "deny: []\n").unwrap();
        let addresses = [
            ("listen: 0.0.0.0:15006", format!("listen: {inbound}\n    app: {}", app.address)),
            ("listen: 127.0.0.1:9001", format!("listen: {}", ports::free())),
        ];
        let orders = mesh.sidecar("orders", &sections(directory, &addresses)).await;
        let call = |from| outbound_section(from, inbound, "protocol: http");
        let callers =
            [mesh.sidecar("web", &call(web_calls)).await, mesh.sidecar("partner", &call(partner_calls)).await];
        let has_keys = |snapshot: &Snapshot| snapshot.issuer_keys.contains_key(ISSUER);
        orders.until_identity("keys of the CI system", has_keys).await;
        let (web, partner) = (H2Client::connect(web_calls).await, H2Client::connect(partner_calls).await);
        Self { orders, _callers: callers, web, partner, app, ci, mesh }
    }

    /// `what` is a method and a path, which no other request of the test has; `line` a header, or empty.
    async fn ask(&mut self, caller: &str, what: &str, line: &str) -> (u16, Value) {
        let (method, path) = what.split_once(' ').unwrap();
        let client = if caller == "web" { &mut self.web } else { &mut self.partner };
        let mut request = client.request(method, path);
        if let Some((name, value)) = line.split_once(": ") {
            request = request.header(name, value);
        }
        let status = client.send(request.body(empty()).unwrap()).await.unwrap().status.as_u16();
        let record = self.orders.record("request", |record| record["url.path"] == path).await;
        let keys = format!("ci={}", self.mesh.directory().join("ci-jwks.json").display());
        let shown = ["--token-keys", &keys, "--header", line];
        self.orders.shown(&record, "", if line.is_empty() { &[] } else { &shown });
        (status, record)
    }

    async fn decided(&mut self, caller: &str, what: &str, line: &str, status: u16, refusal: &str, rule: &str) {
        let seen = self.app.seen().len();
        let (answer, record) = self.ask(caller, what, line).await;
        let told = (answer, record["refusal"].as_str().unwrap_or(""), record["rule"].as_str().unwrap_or(""));
        assert_eq!(told, (status, refusal, rule), "{caller} {what} {line}: {record:#}");
        assert_eq!(self.app.seen().len(), seen + usize::from(refusal.is_empty()), "{caller} {what}");
        assert_eq!(record["peer.spiffe_id"], if caller == "web" { WEB } else { PARTNER });
    }

    /// The header with a token by `signer` for a job on the main branch, with `claim` instead of that one.
    fn job(signer: &Signer, claim: &str, value: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": ISSUER, "aud": "https://deploy.shop.example", "sub": "repo:shop/orders", "iat": now, "exp": now + 300,
            "repository_owner": "shop", "repository": "shop/orders", "ref": "refs/heads/main", "environment": "production",
        });
        claims[claim] = json!(value);
        let token = signer.token(r#"{"alg":"ES256","kid":"ci-1"}"#, &claims.to_string());
        format!("authorization: Bearer {token}")
    }
}

#[tokio::test]
async fn tenant_purpose_and_cloud_decide_and_each_refusal_has_its_rule() {
    let mut scene = Scene::start().await;
    for (caller, what, line, status, refusal, rule) in [
        ("web", "POST /tenants/web/1", "", 200, "", "own-tenant"),
        ("web", "GET /tenants/billing/2", "", 403, "not_allowed", ""),
        ("partner", "GET /tenants/billing/3", "", 200, "", "own-tenant-from-the-other-cloud"),
        ("partner", "POST /tenants/billing/4", "", 403, "not_allowed", ""),
        ("partner", "GET /tenants/web/5", "", 403, "not_allowed", ""),
        ("web", "GET /tenants/web/6", "x-agent: helper", 200, "", "own-tenant"),
        ("web", "POST /tenants/web/7", "x-agent: helper", 403, "denied", "agents-only-read"),
        ("web", "GET /customers/8", "x-purpose: billing", 200, "", "for-our-purpose"),
        ("web", "GET /customers/9", "", 403, "requirement_unmet", "purpose-said"),
        ("web", "GET /customers/10", "x-purpose: marketing", 403, "not_allowed", ""),
        ("partner", "GET /customers/11", "x-purpose: billing", 403, "not_allowed", ""),
        ("partner", "GET /catalogue/12", "", 200, "", "both-clouds"),
        ("web", "GET /elsewhere/13", "", 403, "no_route", ""),
    ] {
        scene.decided(caller, what, line, status, refusal, rule).await;
    }
    // What is tried lets through, and says what it would have done.
    let (status, record) = scene.ask("partner", "GET /search/14", "").await;
    assert_eq!((status, record["observed"].as_str()), (200, Some("not_allowed")), "{record:#}");
}

#[tokio::test]
async fn a_ci_job_deploys_by_its_token_and_only_by_way_of_the_frontend() {
    let mut scene = Scene::start().await;
    let job = |claim: &str, value: &str| Scene::job(&scene.ci, claim, value);
    let good = job("run_id", "1");
    let of_another_key = Scene::job(&Signer::p256(), "run_id", "1");
    let refused = [
        ("web", "POST /deploy/2", job("ref", "refs/heads/feature"), 403, "not_allowed"),
        ("web", "POST /deploy/3", job("environment", "stage"), 403, "not_allowed"),
        ("web", "POST /deploy/4", job("repository_owner", "other"), 401, "token_invalid"),
        ("web", "POST /deploy/5", job("aud", "https://elsewhere.example"), 401, "token_invalid"),
        ("web", "POST /deploy/6", of_another_key, 401, "token_invalid"),
        ("web", "POST /deploy/7", String::new(), 401, "token_missing"),
        ("partner", "POST /deploy/8", good.clone(), 403, "token_not_bound"),
    ];
    scene.decided("web", "POST /deploy/1", &good, 200, "", "release-jobs").await;
    let seen = scene.app.last();
    assert!(seen.headers.get("authorization").is_none(), "the application sees no token");
    assert_eq!(seen.headers["x-job-subject"], "repo:shop/orders");
    for (caller, what, token, status, refusal) in refused {
        scene.decided(caller, what, &token, status, refusal, "").await;
    }
}

#[tokio::test]
async fn the_other_cloud_is_denied_at_once_and_every_decision_is_in_an_intact_log() {
    let mut scene = Scene::start().await;
    scene.decided("partner", "GET /catalogue/1", "", 200, "", "both-clouds").await;
    let list = scene.mesh.directory().join("deny.yaml");
    let why = "reason: their cloud is broken into, author: alice, expires: 2126-12-24T00:00:00Z";
    let entries = format!("deny: [{{ spiffe: \"spiffe://partner.example/**\", {why} }}]\n");
    std::fs::write(list.with_extension("new"), entries).unwrap();
    std::fs::rename(list.with_extension("new"), &list).unwrap();
    let cut = scene.orders.record("connection", |record| record["end"] == "deny_listed").await;
    assert_eq!(cut["peer.spiffe_id"], PARTNER);
    let request = scene.partner.request("GET", "/catalogue/2").body(empty()).unwrap();
    let status = scene.partner.send(request).await.unwrap().status;
    assert!(status.is_server_error(), "{status}");
    scene.decided("web", "GET /catalogue/3", "", 200, "", "both-clouds").await;

    let log = scene.mesh.directory().join("audit.json");
    let records = eventually("both decisions, and the handshake that was refused", || {
        scene.orders.shared.audit.flush();
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let has = |key: &str, value: &str| records.iter().any(|record| record[key] == value);
        let all = has("url.path", "/catalogue/1") && has("url.path", "/catalogue/3");
        (all && has("refusal", "peer_not_verified")).then_some(records)
    })
    .await;
    assert!(records.iter().all(|record| record["url.path"] != "/catalogue/2"), "nothing was decided about it");
    drop(scene.orders);
    let examined = examine(&VerifyArgs { files: vec![log], whole: true, ..VerifyArgs::default() });
    let report = examined.unwrap_or_else(|error| panic!("{error}")).report;
    assert_eq!(report.findings, [], "{report:?}");
}
