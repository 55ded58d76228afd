//! Tokens of issuers that are no trust domain, through a running sidecar, with an HTTPS server that has their keys.

use crate::oracle_jwt::cases::World;
use http_body_util::BodyExt;
use postern::identity::Snapshot;
use postern::token::{KeySet, Origin};
use postern_tests::client_http::empty;
use postern_tests::mesh::{ORDERS, WEB, trust_domain};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::properties::signers::Signer;
use postern_tests::{H2Client, HttpApp, Mesh, Sidecar, eventually, ports, within};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::version::TLS13;
use serde_json::{Value, json};
use spiffe::WorkloadApiClient;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const AUDIENCE: &str = "svc";

/// A web server whose answers are exchanged while it runs, by path. Others are 404.
#[derive(Clone)]
struct Web {
    address: SocketAddr,
    /// PEM.
    root: String,
    answers: Arc<Mutex<HashMap<String, String>>>,
    visits: Arc<Mutex<Vec<String>>>,
}

impl Web {
    async fn start() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &root).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let web = Self { address, root: root.pem(), answers: Arc::default(), visits: Arc::default() };
        let (served, acceptor) = (web.clone(), TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (served, acceptor) = (served.clone(), acceptor.clone());
                tokio::spawn(async move { served.answer(acceptor, tcp).await });
            }
        });
        web
    }

    /// Whoever leaves early misses the rest.
    async fn answer(self, acceptor: TlsAcceptor, tcp: tokio::net::TcpStream) {
        let Ok(mut stream) = acceptor.accept(tcp).await else { return };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let path = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
        self.visits.lock().unwrap().push(path.clone());
        let answer = self.answers.lock().unwrap().get(&path).cloned();
        let answer = answer.unwrap_or_else(|| "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned());
        drop(stream.write_all(answer.as_bytes()).await);
        drop(stream.shutdown().await);
    }

    fn say(&self, path: &str, body: &str) {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.say_raw(path, answer);
    }

    fn say_raw(&self, path: &str, answer: String) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn visits(&self, path: &str) -> usize {
        self.visits.lock().unwrap().iter().filter(|visited| *visited == path).count()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

fn keys(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Two sidecars, and issuers that the one before the application knows.
struct Scene {
    orders: Sidecar,
    _web: Sidecar,
    mesh: Mesh,
    app: HttpApp,
    inbound: SocketAddr,
    client: H2Client,
    seen: usize,
    world: World,
}

impl Scene {
    /// `issuers` are items of a list; a route for each of `routes`, whose path is `/NAME/**` and which takes tokens of those.
    async fn start(mesh: Mesh, issuers: &str, routes: &[(&str, &str)]) -> Self {
        let app = HttpApp::start().await;
        let (inbound, outbound) = (ports::free(), ports::free());
        let text = sections(inbound, app.address, issuers, routes);
        let orders = mesh.sidecar("orders", &text).await;
        let web = mesh.sidecar("web", &outbound_section(outbound, inbound, "protocol: http")).await;
        let client = H2Client::connect(outbound).await;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Self { orders, _web: web, mesh, app, inbound, client, seen: 0, world: World::new(now) }
    }

    fn token(&self, signer: &Signer, algorithm: &str, kid: &str, issuer: &str) -> String {
        let claims = self.world.claims_with("iss", json!(issuer));
        signer.token(&json!({"alg": algorithm, "kid": kid}).to_string(), &claims)
    }

    fn request(&self, path: &str, token: &str) -> http::Request<postern_tests::client_http::Body> {
        let request = self.client.request("GET", path).header("authorization", format!("Bearer {token}"));
        request.body(empty()).unwrap()
    }

    async fn status(&mut self, path: &str, token: &str) -> u16 {
        let request = self.request(path, token);
        self.seen += 1;
        self.client.send(request).await.unwrap().status.as_u16()
    }

    /// The code of the rule that it breaks.
    async fn refused(&mut self, path: &str, token: &str, code: &str) {
        assert_eq!(self.status(path, token).await, 401, "{path}: {code}");
        let record = &self.orders.records_of("request", self.seen).await[self.seen - 1];
        assert_eq!(record["refusal"], "token_invalid", "{record:#}");
        let detail = record["refusal.detail"].as_str().unwrap_or_default();
        assert!(detail.starts_with(&format!("{code}:")), "{path}: {detail}, expected {code}");
    }

    async fn until_keys(&self, issuers: usize) {
        let of_all = |snapshot: &Snapshot| snapshot.issuer_keys.len() == issuers && !snapshot.token_keys.is_empty();
        self.orders.until_identity("keys of the issuers", of_all).await;
    }

    /// The first key of `issuer`, and no other.
    async fn until_key(&self, issuer: &str, kid: &str) {
        let has = |snapshot: &Snapshot| {
            let set = snapshot.issuer_keys.get(issuer);
            set.is_some_and(|set| set.keys().iter().all(|key| key.key_id.as_deref() == Some(kid)))
        };
        self.orders.until_identity(kid, has).await;
    }
}

fn sections(inbound: SocketAddr, app: SocketAddr, issuers: &str, routes: &[(&str, &str)]) -> String {
    let route = |(name, taken): &(&str, &str)| {
        format!(
            "  - {{ name: {name}, match: {{ path: \"/{name}/**\" }}, audience: {AUDIENCE}, binding: bearer, \
             token: {{ issuers: [{taken}] }} }}\n"
        )
    };
    let routes: String = routes.iter().map(route).collect();
    let lines = format!("protocol: http\nallow: [{{ trust_domain: shop.example }}]\nroutes:\n{routes}");
    format!("issuers:\n{issuers}\n{}", inbound_section(inbound, &app.to_string(), &lines))
}

/// RFC 8725 §3.8: every key has the same `kid`, and each verifies its own issuer's tokens alone.
#[tokio::test]
async fn jw_09_each_issuers_keys_wherever_they_are_vouch_for_its_own_tokens_alone() {
    let (mesh, web) = (Mesh::start(), Web::start().await);
    let (roots, file) = (mesh.directory().join("roots.pem"), mesh.directory().join("jwks.json"));
    std::fs::write(&roots, &web.root).unwrap();
    let (found, ci, cluster) = (web.url("/realm"), "https://ci.example/", "kubernetes/serviceaccount");
    let fetched = format!("roots: {}, allow_private_addresses: true", roots.display());
    let issuers = format!(
        "- {{ name: found, issuer: '{found}', {fetched} }}
- {{ name: ci, issuer: '{ci}', jwks_url: '{}', algorithms: ES256, required_claims: {{ owner: shop }}, {fetched} }}
- {{ name: cluster, issuer: {cluster}, jwks_file: {} }}",
        web.url("/ci"),
        file.display()
    );
    let signers = [Signer::p256(), Signer::p256(), Signer::p256()];
    let rsa = Signer::rsa();
    let configuration =
        json!({"issuer": found, "jwks_uri": web.url("/realm/keys"), "response_types_supported": ["id_token"]});
    web.say("/realm/.well-known/openid-configuration", &configuration.to_string());
    web.say("/realm/keys", &keys(&[signers[0].jwk("k1"), rsa.jwk("rsa")]));
    web.say("/ci", &keys(&[signers[1].jwk("k1"), rsa.jwk("rsa")]));
    std::fs::write(&file, keys(&[signers[2].jwk("k1")])).unwrap();
    let routes = [("all", "found, ci, cluster"), ("found", "found"), ("both", "ci, spiffe"), ("mesh", "spiffe")];
    let mut scene = Scene::start(mesh, &issuers, &routes).await;
    scene.until_keys(3).await;

    let claims = |issuer: &str| {
        let mut claims = scene.world.claims();
        claims["iss"] = json!(issuer);
        // Whatever it looks like, it is no workload.
        claims["sub"] = json!(WEB);
        claims["owner"] = json!("shop");
        claims
    };
    let all: Vec<_> =
        [found.as_str(), ci, cluster].into_iter().map(|issuer| (issuer.to_owned(), claims(issuer))).collect();
    let header = r#"{"alg":"ES256","kid":"k1"}"#;
    for (of, (issuer, claims)) in all.iter().enumerate() {
        for (by, signer) in signers.iter().enumerate() {
            let token = signer.token(header, &claims.to_string());
            if by == of {
                assert_eq!(scene.status("/all/a", &token).await, 200, "{issuer}");
            } else {
                scene.refused("/all/a", &token, "signature_invalid").await;
            }
        }
    }
    // Of another issuer than the route takes, of none that is known, and of one whose name differs in a byte.
    let own = |index: usize, claims: &Value| signers[index].token(header, &claims.to_string());
    scene.refused("/found/a", &own(1, &all[1].1), "issuer_unknown").await;
    for unknown in ["https://ci.example", "https://CI.example/", "https://evil.example/"] {
        let mut claims = all[1].1.clone();
        claims["iss"] = json!(unknown);
        scene.refused("/all/a", &own(1, &claims), "issuer_unknown").await;
    }
    // Algorithms and claims are the configuration's choice: RFC 8725 §3.1, §3.8.
    let by_rsa = |claims: &Value| rsa.token(r#"{"alg":"RS256","kid":"rsa"}"#, &claims.to_string());
    assert_eq!(scene.status("/all/a", &by_rsa(&all[0].1)).await, 200);
    scene.refused("/all/a", &by_rsa(&all[1].1), "algorithm_not_allowed").await;
    for owner in [json!("other"), json!(["shopping"]), Value::Null] {
        let mut claims = all[1].1.clone();
        claims["owner"] = owner;
        scene.refused("/all/a", &own(1, &claims), "claim_wrong").await;
    }
    let mut claims = all[0].1.clone();
    claims["aud"] = json!("other");
    scene.refused("/all/a", &own(0, &claims), "audience_wrong").await;

    // The mesh's keys vouch for no issuer, and an issuer's for no workload.
    let socket = format!("unix:{}", scene.mesh.provider.socket("web").unwrap().display());
    let agent = WorkloadApiClient::connect_to(socket).await.unwrap();
    let svid = within("a token", agent.fetch_jwt_token([AUDIENCE], None)).await.unwrap();
    assert_eq!(scene.status("/both/a", &svid).await, 200);
    assert_eq!(scene.status("/mesh/a", &svid).await, 200);
    assert_eq!(scene.status("/found/a", &svid).await, 401);
    scene.refused("/mesh/a", &own(0, &all[0].1), "key_unknown").await;
    let of_mesh = Signer::p256();
    let set = KeySet::parse(keys(&[of_mesh.jwk("k1")]).as_bytes(), Origin::WorkloadApi).unwrap();
    let token_keys = Arc::new(HashMap::from([(trust_domain("shop.example"), Arc::new(set))]));
    scene.orders.shared.identity.publish(|snapshot| Snapshot { token_keys, ..snapshot.clone() });
    let workload = scene.world.claims_with("sub", json!(ORDERS));
    assert_eq!(scene.status("/mesh/a", &of_mesh.token(header, &workload)).await, 200);
    scene.refused("/both/a", &signers[1].token(header, &workload), "signature_invalid").await;
    scene.refused("/both/a", &of_mesh.token(header, &all[1].1.to_string()), "signature_invalid").await;
    scene.refused("/found/a", &of_mesh.token(header, &all[0].1.to_string()), "signature_invalid").await;
    let (_, identities) = scene.orders.ask("GET", "/identities").await;
    let identities: Value = serde_json::from_str(&identities).unwrap();
    assert_eq!(identities["issuers"][0]["name"], "ci", "{identities:#}");
    assert_eq!((&identities["issuers"][0]["keys"], &identities["issuers"][0]["failed"]), (&json!(2), &json!(0)));
}

/// The request that brings it is refused, and causes one fetch; a flood of others causes none.
#[tokio::test]
async fn jw_04_an_unknown_key_is_fetched_for_the_next_request_and_not_for_each() {
    let (mesh, web) = (Mesh::start(), Web::start().await);
    let roots = mesh.directory().join("roots.pem");
    std::fs::write(&roots, &web.root).unwrap();
    let issuers = format!(
        "- {{ name: ci, issuer: 'https://ci', jwks_url: '{}', roots: {}, allow_private_addresses: true }}",
        web.url("/ci"),
        roots.display()
    );
    let (old, new) = (Signer::p256(), Signer::p256());
    web.say("/ci", &keys(&[old.jwk("old")]));
    let mut scene = Scene::start(mesh, &issuers, &[("ci", "ci"), ("mesh", "spiffe")]).await;
    scene.until_keys(1).await;
    let by_old = scene.token(&old, "ES256", "old", "https://ci");
    let by_new = scene.token(&new, "ES256", "new", "https://ci");
    assert_eq!(scene.status("/ci/a", &by_old).await, 200);
    web.say("/ci", &keys(&[old.jwk("old"), new.jwk("new")]));
    // Elsewhere it is nobody's token, and moves nobody.
    scene.refused("/mesh/a", &by_new, "no_bundle").await;
    assert_eq!(web.visits("/ci"), 1);
    let begun = Instant::now();
    scene.refused("/ci/a", &by_new, "key_unknown").await;
    let both = |snapshot: &Snapshot| snapshot.issuer_keys["https://ci"].keys().len() == 2;
    scene.orders.until_identity("both keys", both).await;
    assert_eq!(scene.status("/ci/a", &by_new).await, 200);
    assert_eq!(scene.status("/ci/a", &by_old).await, 200);
    for index in 0..50 {
        let unknown = scene.token(&new, "ES256", &format!("newer-{index}"), "https://ci");
        scene.refused("/ci/a", &unknown, "key_unknown").await;
    }
    // One in thirty seconds, on a slow machine too.
    let allowed = 2 + begun.elapsed().as_secs() / 30;
    assert!(web.visits("/ci") as u64 <= allowed, "{} visits", web.visits("/ci"));
    assert!(scene.orders.metric(r#"postern_issuer_keys{issuer="ci"}"#) > 1.0);
}

#[tokio::test]
async fn jw_17_an_issuers_key_that_goes_ends_requests_in_flight_and_no_others() {
    let mesh = Mesh::start();
    let file = mesh.directory().join("jwks.json");
    let (old, new) = (Signer::p256(), Signer::p256());
    std::fs::write(&file, keys(&[old.jwk("old"), new.jwk("new")])).unwrap();
    let issuers = |more: &str| format!("- {{ name: ci, issuer: ci, jwks_file: {}{more} }}", file.display());
    let routes = [("stream", "ci")];
    let mut scene = Scene::start(mesh, &issuers(""), &routes).await;
    scene.until_keys(1).await;
    let mut streams = Vec::new();
    for (signer, kid) in [(&old, "old"), (&new, "new")] {
        let request = scene.request("/stream", &scene.token(signer, "ES256", kid, "ci"));
        let mut body = within("a head", scene.client.sender.send_request(request)).await.unwrap().into_body();
        assert!(within("a chunk", body.frame()).await.unwrap().is_ok(), "{kid}");
        streams.push(body);
    }
    std::fs::write(&file, keys(&[new.jwk("new")])).unwrap();
    scene.until_key("ci", "new").await;
    let of_new = streams.pop().unwrap();
    assert!(within("the one by the old key ends", streams.pop().unwrap().collect()).await.is_err());
    let record = scene.orders.record("request", |record| record["end"] == "authority_removed").await;
    assert_eq!(record["token.issuer"], "ci");
    scene.seen += 1;
    let by_old = scene.token(&old, "ES256", "old", "ci");
    scene.refused("/stream", &by_old, "key_unknown").await;
    // A claim that is asked for from now on cuts as well.
    let narrower = sections(scene.inbound, scene.app.address, &issuers(", required_claims: { owner: shop }"), &routes);
    scene.orders.apply(&narrower).await.unwrap();
    assert!(within("the one without the claim ends", of_new.collect()).await.is_err());
}

/// Each issuer has good keys once, and then answers with what is none. Two have never had any.
#[tokio::test]
async fn jw_19_without_new_keys_the_last_good_ones_stay_and_without_any_nobody_is_believed() {
    let (mesh, web) = (Mesh::start(), Web::start().await);
    let roots = mesh.directory().join("roots.pem");
    std::fs::write(&roots, &web.root).unwrap();
    let fetched = |name: &str, more: &str| {
        let url = web.url(&format!("/{name}"));
        format!("- {{ name: {name}, issuer: '{url}', roots: {}{more} }}\n", roots.display())
    };
    let names = ["redirect", "huge", "torn", "away", "lent"];
    let key = Signer::p256();
    let (set, other) = (keys(&[key.jwk("k1")]), keys(&[key.jwk("k2")]));
    let discovery = |name: &str| format!("/{name}/.well-known/openid-configuration");
    let configuration = |of: &str, keys: &str| json!({"issuer": web.url(of), "jwks_uri": web.url(keys)}).to_string();
    let mut issuers = String::new();
    for name in names {
        issuers.push_str(&fetched(name, ", allow_private_addresses: true"));
        web.say(&discovery(name), &configuration(&format!("/{name}"), &format!("/{name}/keys")));
        web.say(&format!("/{name}/keys"), &set);
    }
    issuers.push_str(&fetched("inside", ""));
    issuers.push_str(&fetched("none", ", allow_private_addresses: true"));
    web.say(&discovery("none"), &configuration("/redirect", "/redirect/keys"));
    let all = format!("{}, inside, none", names.join(", "));
    let mut scene = Scene::start(mesh, &issuers, &[("all", &all)]).await;
    scene.until_keys(names.len()).await;

    let found = |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    web.say_raw("/redirect/keys", found(&web.url("/elsewhere")));
    web.say("/elsewhere", &other);
    web.say("/huge/keys", &format!("{}{other}", " ".repeat(1024 * 1024)));
    web.say("/torn/keys", &other[..other.len() - 1]);
    web.say_raw("/away/keys", "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned());
    web.say(&discovery("lent"), &configuration("/redirect", "/elsewhere"));
    for name in names {
        let token = |kid| scene.token(&key, "ES256", kid, &web.url(&format!("/{name}")));
        let (good, unknown) = (token("k1"), token("k2"));
        scene.refused("/all/a", &unknown, "key_unknown").await;
        let failed = format!(r#"postern_issuer_fetches_total{{issuer="{name}",result="failure"}}"#);
        eventually(name, || (scene.orders.metric(&failed) > 0.0).then_some(())).await;
        scene.refused("/all/a", &unknown, "key_unknown").await;
        assert_eq!(scene.status("/all/a", &good).await, 200, "{name}");
        assert!(scene.orders.metric(&format!(r#"postern_issuer_keys{{issuer="{name}"}}"#)) > 0.0);
    }
    assert_eq!(web.visits("/elsewhere"), 0, "nothing is asked that another names");
    for name in ["inside", "none"] {
        let token = scene.token(&key, "ES256", "k1", &web.url(&format!("/{name}")));
        scene.refused("/all/a", &token, "issuer_without_keys").await;
        assert!(scene.orders.metric(&format!(r#"postern_issuer_keys{{issuer="{name}"}}"#)) < 1.0);
    }
    assert_eq!(web.visits(&discovery("inside")), 0, "private addresses are not asked unless the file says so");
    assert!(web.visits(&discovery("none")) > 0);
}
