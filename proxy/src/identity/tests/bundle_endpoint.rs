//! Conformance C-5, the bundle-endpoint client: real TLS and HTTP on loopback, polls in virtual time.

use super::c_05::encode;
use super::fixtures::Ca;
use super::support::{Follower, identity};
use crate::identity::{Counters, IdentityStore, Snapshot, spawn};
use crate::tls::provider;
use postern_config::identity::{BundleEndpoint, BundleUrl, EndpointProfile, Identity, IdentitySource};
use postern_config::{SpiffeId, TrustDomain};
use rustls::ServerConfig;
use rustls::version::TLS13;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// Virtual: several polls.
const POLLS: Duration = Duration::from_secs(3600);
const SERVER: &str = "spiffe://partner.example/spire/server";

/// An HTTPS server whose certificate and answers are exchanged while it runs.
#[derive(Clone)]
struct Endpoint {
    port: u16,
    state: Arc<Mutex<State>>,
    count: Arc<watch::Sender<usize>>,
}

struct State {
    tls: Arc<ServerConfig>,
    /// The last one is given for ever.
    answers: VecDeque<String>,
    visits: Vec<(Instant, String)>,
}

impl Endpoint {
    async fn start(tls: Arc<ServerConfig>, answers: impl IntoIterator<Item = String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { tls, answers: answers.into_iter().collect(), visits: Vec::new() };
        let endpoint = Self { port, state: Arc::new(Mutex::new(state)), count: Arc::default() };
        let served = endpoint.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().answer(stream));
            }
        });
        endpoint
    }

    async fn answer(self, stream: tokio::net::TcpStream) {
        let tls = self.state.lock().unwrap().tls.clone();
        let Ok(mut stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_closed) => return,
            }
        }
        let answer = {
            let mut state = self.state.lock().unwrap();
            let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
            state.visits.push((Instant::now(), line));
            if state.answers.len() > 1 { state.answers.pop_front() } else { state.answers.front().cloned() }
        };
        self.count.send_modify(|count| *count += 1);
        let _ = stream.write_all(answer.unwrap().as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    fn present(&self, tls: Arc<ServerConfig>) {
        self.state.lock().unwrap().tls = tls;
    }

    fn say(&self, answers: impl IntoIterator<Item = String>) {
        self.state.lock().unwrap().answers = answers.into_iter().collect();
    }

    fn visits(&self) -> Vec<(Instant, String)> {
        self.state.lock().unwrap().visits.clone()
    }

    /// Waits for so many requests in all.
    async fn visited(&self, times: usize) -> Vec<(Instant, String)> {
        let mut counted = self.count.subscribe();
        let waiting = counted.wait_for(|count| *count >= times);
        tokio::time::timeout(Duration::from_secs(7 * 24 * 3600), waiting).await.expect("so many visits").unwrap();
        self.visits()
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }
}

fn tls(ca: &Ca, id: &str) -> Arc<ServerConfig> {
    let (leaf, key) = ca.leaf(id, SystemTime::now() + Duration::from_secs(30 * 24 * 3600));
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(leaf)], key)
        .unwrap();
    Arc::new(config)
}

fn document(authorities: &[&Ca], more: serde_json::Value) -> String {
    let keys: Vec<_> =
        authorities.iter().map(|ca| json!({"use": "x509-svid", "kty": "EC", "x5c": [encode(&ca.der)]})).collect();
    let mut document = json!({ "keys": keys });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document.to_string()
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
}

fn unavailable() -> String {
    "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".to_owned()
}

/// A workload of example.org that federates with partner.example.
struct Scene {
    directory: TempDir,
    partner: Ca,
    federation: BundleEndpoint,
    own: Ca,
}

impl Scene {
    fn new(url: &str) -> Self {
        let (directory, partner) = (tempfile::tempdir().unwrap(), Ca::new("partner.example"));
        let bootstrap = directory.path().join("bootstrap.json");
        std::fs::write(&bootstrap, document(&[&partner], json!({}))).unwrap();
        let federation = BundleEndpoint {
            trust_domain: partner_domain(),
            url: BundleUrl::parse(url).unwrap(),
            profile: EndpointProfile::HttpsSpiffe { id: SpiffeId::parse(SERVER).unwrap(), bootstrap },
            follow_redirects: true,
            keep: None,
        };
        Self { directory, partner, federation, own: Ca::new("example.org") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> Identity {
        let (leaf, key) = self.own.leaf("spiffe://example.org/a", SystemTime::now() + Duration::from_secs(3600));
        let pem = |der: &[u8]| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", encode(der));
        std::fs::write(self.path("svid.pem"), pem(&leaf)).unwrap();
        std::fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(self.path("bundle.pem"), pem(&self.own.der)).unwrap();
        let source = IdentitySource::Files {
            certificate: self.path("svid.pem"),
            key: self.path("key.pem"),
            bundle: self.path("bundle.pem"),
            federated: Vec::new(),
        };
        Identity { federation: vec![self.federation.clone()], ..identity(source) }
    }

    fn follow(&self) -> Follower {
        Follower::of(&self.config())
    }
}

fn partner_domain() -> TrustDomain {
    TrustDomain::parse("partner.example").unwrap()
}

/// The DER of the partner's authorities that are in use; `None`: the partner is unknown.
fn authorities(snapshot: &Snapshot) -> Option<Vec<Vec<u8>>> {
    let bundle = snapshot.bundles.get(&partner_domain())?;
    Some(bundle.anchors.iter().map(|anchor| anchor.der.to_vec()).collect())
}

fn is(snapshot: &Snapshot, expected: &[&Ca]) -> bool {
    authorities(snapshot) == Some(expected.iter().map(|ca| ca.der.clone()).collect())
}

fn failures(follower: &Follower) -> u64 {
    follower.counters.fetches()[&partner_domain()].failed
}

async fn failed(follower: &Follower, times: u64) -> String {
    let waiting = async {
        while failures(follower) < times {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), waiting).await.expect("a failure");
    follower.counters.fetches()[&partner_domain()].last_error.clone().unwrap_or_default()
}

/// Seconds from one visit to the next.
fn gaps(visits: &[(Instant, String)]) -> Vec<f64> {
    visits.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect()
}

/// 300, 60 (clamped), 300, 300 s, each up to a tenth earlier but never under a minute.
#[tokio::test(start_paused = true)]
async fn b_13_polls_as_the_bundle_advises() {
    for (hint, least, most) in [
        (json!({"spiffe_refresh_hint": 0}), 270.0, 301.0),
        (json!({"spiffe_refresh_hint": 1}), 60.0, 61.0),
        (json!({"spiffe_refresh_hint": 300}), 270.0, 301.0),
        (json!({}), 270.0, 301.0),
        (json!({"spiffe_refresh_hint": u64::MAX}), 77_760.0, 86_401.0),
    ] {
        let mut scene = Scene::new("https://unused/");
        let body = ok(&document(&[&scene.partner], hint.clone()));
        let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [body]).await;
        scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
        let follower = scene.follow();
        let visits = endpoint.visited(4).await;
        assert!(gaps(&visits).iter().all(|gap| (least..most).contains(gap)), "{hint}: {:?}", gaps(&visits));
        assert!(is(&follower.store.load(), &[&scene.partner]));
    }
}

/// The endpoint has to be exactly whom the relationship names.
#[tokio::test(start_paused = true)]
async fn b_17_another_identity_of_the_same_domain_is_refused() {
    let mut scene = Scene::new("https://unused/");
    let other = tls(&scene.partner, "spiffe://partner.example/ns/web/sa/frontend");
    let endpoint = Endpoint::start(other, [ok(&document(&[&scene.partner], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let follower = scene.follow();
    let error = failed(&follower, 1).await;
    assert!(error.contains("which is not the expected spiffe://partner.example/spire/server"), "{error}");
    assert_eq!(authorities(&follower.store.load()), None, "the bootstrap bundle vouches for nobody but the endpoint");
    assert_eq!(endpoint.visits(), [], "nothing was asked");
    endpoint.present(tls(&scene.partner, SERVER));
    follower.until_within(POLLS, "the right one", |snapshot| is(snapshot, &[&scene.partner])).await;
}

/// An authority of another trust domain does not vouch for the endpoint, whatever ID it signs.
#[tokio::test(start_paused = true)]
async fn an_endpoint_of_another_authority_is_refused() {
    let mut scene = Scene::new("https://unused/");
    let stranger = Ca::new("partner.example");
    let endpoint = Endpoint::start(tls(&stranger, SERVER), [ok(&document(&[&stranger], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let follower = scene.follow();
    failed(&follower, 2).await;
    assert_eq!((authorities(&follower.store.load()), endpoint.visits().len()), (None, 0));
}

/// Each fetch believes the one before it (SPIFFE Federation §5.2.2.4), also after a restart.
#[tokio::test(start_paused = true)]
async fn b_18_follows_a_self_serving_rotation() {
    let mut scene = Scene::new("https://unused/");
    let (next, last) = (Ca::new("partner.example"), Ca::new("partner.example"));
    let endpoint =
        Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&scene.partner, &next], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.keep = Some(scene.path("kept.json"));
    let follower = scene.follow();
    follower.until_within(POLLS, "both", |snapshot| is(snapshot, &[&scene.partner, &next])).await;
    endpoint.present(tls(&next, SERVER));
    endpoint.say([ok(&document(&[&next], json!({})))]);
    follower
        .until_within(POLLS, "the second fetch, signed by the fetched one alone", |snapshot| is(snapshot, &[&next]))
        .await;
    endpoint.say([ok(&document(&[&last], json!({"spiffe_sequence": 9})))]);
    follower.until_within(POLLS, "one that replaces it", |snapshot| is(snapshot, &[&last])).await;
    wait_for(&scene.path("kept.json"), &last).await;
    drop(follower);

    // The next process: the bootstrap bundle vouches no more, the kept one does.
    endpoint.present(tls(&last, SERVER));
    endpoint.say([unavailable()]);
    let follower = scene.follow();
    follower.until_within(POLLS, "the kept one, before any answer", |snapshot| is(snapshot, &[&last])).await;
    let error = failed(&follower, 1).await;
    assert!(error.contains("503"), "TLS was believed: {error}");
    endpoint.say([ok(&document(&[&last, &next], json!({"spiffe_sequence": 10})))]);
    follower.until_within(POLLS, "what the endpoint says now", |snapshot| is(snapshot, &[&last, &next])).await;
}

async fn wait_for(kept: &Path, ca: &Ca) {
    let wanted = encode(&ca.der);
    let waiting = async {
        while !std::fs::read_to_string(kept).is_ok_and(|text| text.contains(&wanted)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("kept");
}

/// How an operator mends a relationship that lost its trust: another bootstrap file. What the former led to is not
/// believed any more, nor is its sequence, and not after a restart either.
#[tokio::test(start_paused = true)]
async fn another_bootstrap_file_goes_before_what_was_fetched() {
    let mut scene = Scene::new("https://unused/");
    let first = ok(&document(&[&scene.partner], json!({"spiffe_sequence": 7})));
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [first]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.keep = Some(scene.path("kept.json"));
    let follower = scene.follow();
    follower.until_within(POLLS, "the first", |snapshot| is(snapshot, &[&scene.partner])).await;
    wait_for(&scene.path("kept.json"), &scene.partner).await;
    let anew = Ca::new("partner.example");
    endpoint.present(tls(&anew, SERVER));
    endpoint.say([ok(&document(&[&anew], json!({"spiffe_sequence": 1})))]);
    failed(&follower, 2).await;
    assert!(is(&follower.store.load(), &[&scene.partner]), "what was fetched stays");
    std::fs::write(scene.path("bootstrap.json"), document(&[&anew], json!({}))).unwrap();
    follower.until_within(POLLS, "mended", |snapshot| is(snapshot, &[&anew])).await;
    wait_for(&scene.path("kept.json"), &anew).await;
    drop(follower);

    let third = Ca::new("partner.example");
    std::fs::write(scene.path("bootstrap.json"), document(&[&third], json!({}))).unwrap();
    let follower = scene.follow();
    failed(&follower, 1).await;
    assert_eq!(authorities(&follower.store.load()), None, "what was kept goes back to another bootstrap bundle");
}

/// To `http`, to somebody else, to nowhere; and the next poll begins at the configured address again.
#[tokio::test(start_paused = true)]
async fn b_19_redirects_keep_the_rules_and_are_not_remembered() {
    let mut scene = Scene::new("https://unused/");
    let bundle = ok(&document(&[&scene.partner], json!({})));
    let elsewhere = Endpoint::start(tls(&scene.partner, "spiffe://partner.example/other"), [bundle.clone()]).await;
    let moved = Endpoint::start(tls(&scene.partner, SERVER), [bundle]).await;
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [redirect("http://127.0.0.1:9/bundle")]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/first")).unwrap();
    let follower = scene.follow();
    let error = failed(&follower, 1).await;
    assert!(error.contains("has a scheme other than `https`"), "{error}");

    endpoint.say([redirect(&elsewhere.url("/"))]);
    let error = failed(&follower, 2).await;
    assert!(error.contains("the peer is spiffe://partner.example/other, which is not the expected"), "{error}");
    assert_eq!(elsewhere.visits(), []);

    endpoint.say([redirect("/first")]);
    let error = failed(&follower, 3).await;
    assert!(error.contains("more than 5 redirects"), "{error}");

    endpoint.say([redirect(&moved.url("/second?x=1"))]);
    follower.until_within(POLLS, "the bundle", |snapshot| is(snapshot, &[&scene.partner])).await;
    let polls = moved.visited(2).await;
    assert!(polls.iter().all(|(_, line)| line == "GET /second?x=1 HTTP/1.1"), "{polls:?}");
    assert!(endpoint.visits().iter().all(|(_, line)| line == "GET /first HTTP/1.1"));
    let asked: Vec<Instant> = endpoint.visits().iter().map(|(at, _)| *at).collect();
    assert!(polls.iter().all(|(at, _)| asked.iter().any(|asked| asked <= at && *at - *asked < Duration::from_secs(5))));
}

#[tokio::test(start_paused = true)]
async fn redirects_can_be_refused() {
    let mut scene = Scene::new("https://unused/");
    let moved = Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&scene.partner], json!({})))]).await;
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [redirect(&moved.url("/"))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.follow_redirects = false;
    let follower = scene.follow();
    let error = failed(&follower, 1).await;
    assert!(error.contains("`follow_redirects` is false"), "{error}");
    assert_eq!(moved.visits(), []);
}

/// After a failure, the next interval; `retry-after` and haste change nothing (SPIFFE Federation §6.2).
#[tokio::test(start_paused = true)]
async fn b_20_a_failing_endpoint_is_asked_again_at_the_next_interval() {
    let mut scene = Scene::new("https://unused/");
    let good = ok(&document(&[&scene.partner], json!({"spiffe_refresh_hint": 600})));
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [good, unavailable()]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let follower = scene.follow();
    let visits = endpoint.visited(4).await;
    assert!(gaps(&visits).iter().all(|gap| (540.0..602.0).contains(gap)), "{:?}", gaps(&visits));
    assert!(is(&follower.store.load(), &[&scene.partner]), "what was fetched stays");
    let fetches = follower.counters.fetches()[&partner_domain()].clone();
    assert_eq!(fetches.succeeded, 1);
    assert!(fetches.last_error.is_some_and(|error| error.contains("503")));
}

/// What is not a whole, newer bundle changes nothing; an empty one takes the trust away.
#[tokio::test(start_paused = true)]
async fn bad_documents_change_nothing_and_an_empty_one_revokes() {
    let mut scene = Scene::new("https://unused/");
    let stranger = Ca::new("partner.example");
    let first = ok(&document(&[&scene.partner], json!({"spiffe_sequence": 5})));
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [first]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let follower = scene.follow();
    follower.until_within(POLLS, "the first", |snapshot| is(snapshot, &[&scene.partner])).await;
    let torn = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"keys\": []".to_owned();
    let unreadable = json!({"keys": [{"use": "x509-svid", "kty": "EC", "x5c": [encode(b"no certificate")]}]});
    let bad = [
        (ok("<html>"), "no SPIFFE bundle"),
        (ok("{}"), "no `keys`"),
        (torn, "cannot be read to its end"),
        (ok(&unreadable.to_string()), "none of the bundle's authorities can be read"),
        (ok(&document(&[&stranger], json!({"spiffe_sequence": 4}))), "older than the 5"),
    ];
    for (times, (answer, expected)) in (1..).zip(bad) {
        endpoint.say([answer]);
        let error = failed(&follower, times).await;
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(is(&follower.store.load(), &[&scene.partner]), "{expected}");
    }
    endpoint.say([ok(&document(&[], json!({"spiffe_sequence": 6})))]);
    follower.until_within(POLLS, "nobody vouches", |snapshot| is(snapshot, &[])).await;
}

/// SPIFFE Federation §6.3, and what the identity source says of that trust domain in the meantime.
#[tokio::test(start_paused = true)]
async fn a_relationship_that_ends_takes_its_bundle_with_it() {
    let mut scene = Scene::new("https://unused/");
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&scene.partner], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let (store, counters) = (Arc::new(IdentityStore::default()), Arc::<Counters>::default());
    let source = spawn(&scene.config(), None, store.clone(), counters.clone()).unwrap();
    let follower = Follower::from_parts(store.clone(), counters.clone(), source);
    let both = |snapshot: &Snapshot| is(snapshot, &[&scene.partner]) && !snapshot.svids.is_empty();
    follower.until_within(POLLS, "both", both).await;
    // The source rotates our SVID; the fetched bundle is not its to remove.
    let before = follower.store.load().svids[0].serial.clone();
    let config = scene.config();
    let after = follower.until_within(POLLS, "rotated", |snapshot| snapshot.svids[0].serial != before).await;
    assert!(is(&after, &[&scene.partner]));

    drop(follower);
    let ended = Identity { federation: Vec::new(), ..config };
    let source = spawn(&ended, None, store.clone(), counters.clone()).unwrap();
    let follower = Follower::from_parts(store, counters, source);
    assert_eq!(authorities(&follower.store.load()), None, "at once");
    assert!(follower.counters.fetches().is_empty());
}

/// Our own trust domain's bundle comes from the source that gives our SVID, and from nowhere else.
#[tokio::test(start_paused = true)]
async fn our_own_trust_domain_is_not_fetched() {
    let mut scene = Scene::new("https://unused/");
    let stranger = Ca::new("example.org");
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&stranger], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.trust_domain = TrustDomain::parse("example.org").unwrap();
    let follower = scene.follow();
    follower.until_within(POLLS, "our SVID", |snapshot| !snapshot.svids.is_empty()).await;
    endpoint.visited(3).await;
    let snapshot = follower.store.load();
    let own = &snapshot.bundles[&TrustDomain::parse("example.org").unwrap()];
    assert_eq!(own.anchors.len(), 1);
    assert_eq!(own.anchors[0].der.as_ref(), scene.own.der);
}
