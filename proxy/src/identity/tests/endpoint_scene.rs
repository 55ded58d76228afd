//! A bundle endpoint whose certificate and answers change while it runs, and a workload that federates with it.

use super::c_05::encode;
use super::fixtures::Ca;
use super::support::{Follower, identity};
use crate::identity::Snapshot;
use crate::tls::provider;
use postern_config::identity::{BundleEndpoint, BundleUrl, EndpointProfile, Identity, IdentitySource};
use postern_config::{SpiffeId, TrustDomain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::version::TLS13;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// Virtual: several polls.
pub(super) const POLLS: Duration = Duration::from_secs(3600);
pub(super) const SERVER: &str = "spiffe://partner.example/spire/server";

/// An HTTPS server whose certificate and answers are exchanged while it runs.
#[derive(Clone)]
pub(super) struct Endpoint {
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
    pub(super) async fn start(tls: Arc<ServerConfig>, answers: impl IntoIterator<Item = String>) -> Self {
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

    pub(super) fn present(&self, tls: Arc<ServerConfig>) {
        self.state.lock().unwrap().tls = tls;
    }

    pub(super) fn say(&self, answers: impl IntoIterator<Item = String>) {
        self.state.lock().unwrap().answers = answers.into_iter().collect();
    }

    pub(super) fn visits(&self) -> Vec<(Instant, String)> {
        self.state.lock().unwrap().visits.clone()
    }

    /// Waits for so many requests in all.
    pub(super) async fn visited(&self, times: usize) -> Vec<(Instant, String)> {
        let mut counted = self.count.subscribe();
        let waiting = counted.wait_for(|count| *count >= times);
        tokio::time::timeout(Duration::from_secs(7 * 24 * 3600), waiting).await.expect("so many visits").unwrap();
        self.visits()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }
}

pub(super) fn tls(ca: &Ca, id: &str) -> Arc<ServerConfig> {
    let (leaf, key) = ca.leaf(id, SystemTime::now() + Duration::from_secs(30 * 24 * 3600));
    server(CertificateDer::from(leaf), &key)
}

fn server(leaf: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .unwrap();
    Arc::new(config)
}

pub(super) fn document(authorities: &[&Ca], more: serde_json::Value) -> String {
    let keys: Vec<_> =
        authorities.iter().map(|ca| json!({"use": "x509-svid", "kty": "EC", "x5c": [encode(&ca.der)]})).collect();
    let mut document = json!({ "keys": keys });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document.to_string()
}

pub(super) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

pub(super) fn redirect(to: &str) -> String {
    format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
}

pub(super) fn unavailable() -> String {
    "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".to_owned()
}

/// A workload of example.org that federates with partner.example.
pub(super) struct Scene {
    directory: TempDir,
    pub(super) partner: Ca,
    pub(super) federation: BundleEndpoint,
    pub(super) own: Ca,
}

impl Scene {
    pub(super) fn new(url: &str) -> Self {
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

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn config(&self) -> Identity {
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

    pub(super) fn follow(&self) -> Follower {
        Follower::of(&self.config())
    }
}

pub(super) fn partner_domain() -> TrustDomain {
    TrustDomain::parse("partner.example").unwrap()
}

/// The DER of the partner's authorities that are in use; `None`: the partner is unknown.
pub(super) fn authorities(snapshot: &Snapshot) -> Option<Vec<Vec<u8>>> {
    let bundle = snapshot.bundles.get(&partner_domain())?;
    Some(bundle.anchors.iter().map(|anchor| anchor.der.to_vec()).collect())
}

pub(super) fn is(snapshot: &Snapshot, expected: &[&Ca]) -> bool {
    authorities(snapshot) == Some(expected.iter().map(|ca| ca.der.clone()).collect())
}

pub(super) fn failures(follower: &Follower) -> u64 {
    follower.counters.fetches()[&partner_domain()].failed
}

pub(super) async fn failed(follower: &Follower, times: u64) -> String {
    let waiting = async {
        while failures(follower) < times {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), waiting).await.expect("a failure");
    follower.counters.fetches()[&partner_domain()].last_error.clone().unwrap_or_default()
}

/// A root as PEM, and a server with its certificate for `address`.
pub(super) fn web_certificate(address: &str) -> (String, Arc<ServerConfig>) {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress(address.parse().unwrap())];
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    (root_certificate.pem(), server(leaf.der().clone(), &key))
}
