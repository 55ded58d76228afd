//! The doors as a caller sees them: real sockets, bytes in, bytes out.

use super::{AdminState, AllowedUids, Condition, ConfigStatus, ConnectionInfo, Readiness, bind_unix_socket};
use crate::audit::AuditLog;
use crate::capture::{CloseAsked, closing};
use crate::identity::tokens::OwnTokens;
use crate::identity::{AuthorityId, IdentityStore, Snapshot, SourceStatus, Svid};
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::revocation::{Gate, Levers};
use crate::shared::Shared;
use crate::telemetry::{AccessLog, LogHandle, Metrics};
use crate::upstream::discovery::Discovery;
use arc_swap::ArcSwap;
use postern_config::{Admin, Config, SpiffeId};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Nothing here takes longer on a machine that is not broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn svid(name: &str, not_after: SystemTime) -> Arc<Svid> {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    Arc::new(Svid {
        id: SpiffeId::parse(&format!("spiffe://shop.example/{name}")).unwrap(),
        hint: None,
        certified: Arc::new(rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], signing)),
        not_before: SystemTime::UNIX_EPOCH,
        not_after,
        serial: "0a".to_owned(),
        fingerprint: [1; 32],
        authority: AuthorityId([2; 32]),
        issued: Vec::new(),
        rendered: Default::default(),
    })
}

/// A state like a running proxy's; `drains` counts calls of `/drain`.
fn state() -> (Arc<AdminState>, Arc<AtomicUsize>) {
    let identity = Arc::new(IdentityStore::default());
    let drains = Arc::new(AtomicUsize::new(0));
    let of_state = drains.clone();
    let metrics = Arc::new(Metrics::new());
    let own_tokens = OwnTokens::new(tokio::runtime::Handle::current(), metrics.identity_counters());
    let config = Config::from_str(Path::new("postern.yaml"), "workers: 1\n").unwrap();
    let policy = Policy::compile(&config, None, &metrics).unwrap();
    let discovery = Arc::new(Discovery::new(tokio::runtime::Handle::current()));
    let shared =
        Shared::new(identity.clone(), policy, metrics.clone(), AccessLog::off(), discovery, own_tokens.clone());
    let shared = Arc::new(shared);
    let gate = Arc::new(Gate::new(shared.clone(), Vec::new(), config.revocation.guard));
    let state = AdminState {
        levers: Arc::new(Levers::new(shared, gate.clone())),
        gate,
        break_glass: Default::default(),
        seen: Default::default(),
        metrics,
        own_tokens,
        readiness: Arc::new(Readiness::new(identity.clone())),
        identity,
        log: LogHandle::detached(),
        effective_config: ArcSwap::from_pointee("{\"inbound\":[]}".to_owned()),
        connections: Box::new(|| {
            Box::pin(async { vec![ConnectionInfo { id: 7, direction: "inbound", ..ConnectionInfo::default() }] })
        }),
        tokens: Box::new(|| Box::pin(async { Vec::new() })),
        explain: Box::new(|_| Box::pin(std::future::ready(None))),
        drain: Box::new(move || {
            of_state.fetch_add(1, Ordering::SeqCst);
        }),
        access_log: AccessLog::off(),
        audit: AuditLog::off(),
        started_at: SystemTime::now(),
        config_status: ArcSwap::from_pointee(ConfigStatus::default()),
    };
    (Arc::new(state), drains)
}

async fn with_identity(state: &AdminState) {
    let later = SystemTime::now() + Duration::from_secs(3600);
    state.identity.publish(|_| Snapshot {
        svids: vec![svid("web", later)],
        source: SourceStatus::Connected,
        ..Snapshot::empty()
    });
}

async fn tcp<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpListener, Arc<AdminState>, CloseAsked) -> F,
    state: &Arc<AdminState>,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody asks to close it.
    let (_closer, asked) = closing();
    tokio::spawn(serve(listener, state.clone(), asked));
    address
}

fn serve_socket(listener: tokio::net::UnixListener, allowed: AllowedUids, state: Arc<AdminState>) {
    let (_closer, asked) = closing();
    tokio::spawn(super::serve_socket(listener, Arc::new(ArcSwap::from_pointee(allowed)), state, asked));
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    answer
}

async fn ask(address: std::net::SocketAddr, method: &str, path: &str, headers: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\n{headers}\r\n");
    talk(TcpStream::connect(address).await.unwrap(), &request).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}")).parse().unwrap()
}

fn body(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn readiness_names_what_is_missing_and_why() {
    let (state, _) = state();
    let address = tcp(super::serve_readiness, &state).await;
    let answer = ask(address, "GET", "/healthz/ready", "Host: pod\r\n").await;
    assert_eq!(status(&answer), 503);
    let missing = body(&answer)["missing"].clone();
    let names: Vec<_> = missing.as_array().unwrap().iter().map(|one| one["condition"].as_str().unwrap()).collect();
    assert_eq!(names, ["identity", "configuration", "listeners"]);
    assert!(missing[0]["reason"].as_str().unwrap().contains("no identity has been received yet"));

    with_identity(&state).await;
    state.readiness.set(Condition::Configuration, Ok(()));
    state.readiness.set(Condition::Listeners, Ok(()));
    let answer = ask(address, "GET", "/healthz/ready", "Host: pod\r\n").await;
    assert_eq!((status(&answer), body(&answer)["ready"].clone()), (200, true.into()));
}

#[tokio::test]
async fn metrics_are_of_the_moment_of_the_scrape() {
    let (state, _) = state();
    let port = state.metrics.inbound("orders");
    port.refused(Refusal::NotAllowed);
    with_identity(&state).await;
    let address = tcp(super::serve_metrics, &state).await;
    let answer = ask(address, "GET", "/metrics", "Host: x\r\n").await;
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    for line in [
        r#"postern_refusals_total{direction="inbound",name="orders",code="not_allowed"} 1"#,
        r#"postern_identity_state{state="fresh"} 1"#,
        r#"postern_svid_expiry_seconds{svid="spiffe://shop.example/web",hint=""} 359"#,
    ] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    assert_eq!(status(&ask(address, "GET", "/config", "Host: x\r\n").await), 404);
}

#[tokio::test]
async fn tcp_is_read_only() {
    let (state, drains) = state();
    let address = tcp(super::serve_tcp_readonly, &state).await;
    for path in ["/state", "/config", "/identities", "/connections", "/log", "/metrics", "/version"] {
        assert_eq!(status(&ask(address, "GET", path, "Host: localhost\r\n").await), 200, "{path}");
    }
    assert_eq!(status(&ask(address, "POST", "/drain", "Host: localhost\r\n").await), 404);
    assert_eq!(status(&ask(address, "POST", "/log?filter=trace", "Host: localhost\r\n").await), 405);
    assert_eq!((drains.load(Ordering::SeqCst), state.log.current().as_str()), (0, "info"));
}

/// THREATS NW-08: a web page that resolves its own name to 127.0.0.1.
#[tokio::test]
async fn refuses_what_a_browser_would_send_after_dns_rebinding() {
    let (state, _) = state();
    let address = tcp(super::serve_tcp_readonly, &state).await;
    for (headers, expected) in [
        ("Host: evil.example\r\n", 403),
        ("Host: evil.example:15000\r\n", 403),
        ("Host: localhost.evil.example\r\n", 403),
        ("Host: localhost\r\nHost: evil.example\r\n", 403),
        ("Host: localhost\r\nOrigin: http://evil.example\r\n", 403),
        ("", 403),
        ("Host: localhost:15000\r\n", 200),
        ("Host: [::1]:15000\r\n", 200),
    ] {
        assert_eq!(status(&ask(address, "GET", "/config", headers).await), expected, "{headers:?}");
    }
    let absolute = ask(address, "GET", "http://evil.example/config", "Host: localhost\r\n").await;
    assert_eq!(status(&absolute), 403);
}

async fn ask_socket(path: &Path, method: &str, target: &str) -> String {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: postern\r\n\r\n");
    talk(UnixStream::connect(path).await.unwrap(), &request).await
}

#[tokio::test]
async fn the_socket_shows_everything_and_takes_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let (state, drains) = state();
    state.metrics.inbound("orders").refused(Refusal::NoIdentity);
    with_identity(&state).await;
    let (listener, _file) = bind_unix_socket(&path).unwrap();
    serve_socket(listener, AllowedUids::new(&Admin::default()), state.clone());

    let shown = body(&ask_socket(&path, "GET", "/state").await);
    assert_eq!(shown["identity"]["state"], "fresh");
    assert_eq!(shown["ports"][0]["refusals"]["no_identity"], 1);
    let shown = body(&ask_socket(&path, "GET", "/identities").await);
    assert_eq!(shown["svids"][0]["spiffe_id"], "spiffe://shop.example/web");
    assert_eq!(body(&ask_socket(&path, "GET", "/connections").await)[0]["id"], 7);

    assert_eq!(status(&ask_socket(&path, "POST", "/log?filter=nonsense=loud").await), 400);
    assert_eq!(status(&ask_socket(&path, "POST", "/log").await), 400);
    assert_eq!(status(&ask_socket(&path, "POST", "/drain").await), 202);
    assert_eq!(drains.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_socket_refuses_users_who_are_not_listed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let (state, drains) = state();
    let somebody_else = super::socket::own_uid().wrapping_add(4242);
    let (listener, _file) = bind_unix_socket(&path).unwrap();
    serve_socket(listener, AllowedUids::only(&[somebody_else]), state);
    for (method, target) in [("GET", "/state"), ("POST", "/drain"), ("GET", "/nothing")] {
        let answer = ask_socket(&path, method, target).await;
        assert_eq!(status(&answer), 403, "{method} {target}");
        assert!(!answer.contains("version"), "{answer}");
    }
    assert_eq!(drains.load(Ordering::SeqCst), 0);
}

/// THREATS F-29: callers that send nothing are thrown out, and meanwhile a hundred more are answered in turn.
#[tokio::test]
async fn silent_and_many_scrapers_are_harmless() {
    let (state, _) = state();
    let address = tcp(super::serve_metrics, &state).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut scrapes = tokio::task::JoinSet::new();
    for _ in 0..100 {
        scrapes.spawn(async move { status(&ask(address, "GET", "/metrics", "Host: x\r\n").await) });
    }
    while let Some(scraped) = scrapes.join_next().await {
        assert_eq!(scraped.unwrap(), 200);
    }
    for mut stream in silent {
        let mut nothing = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut nothing)).await.expect("thrown out");
    }
}

/// THREATS HD-19: a key has no way out through an endpoint, in any notation.
#[tokio::test]
async fn no_endpoint_shows_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let (state, _) = state();
    let secret = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&secret).unwrap();
    let der = secret.serialize_der();
    let key = rustls_pki_types::PrivateKeyDer::try_from(der.clone()).unwrap();
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], signing);
    let canary = Arc::into_inner(svid("canary", SystemTime::now() + Duration::from_secs(60))).unwrap();
    let canary = Arc::new(Svid { certified: Arc::new(certified), ..canary });
    let shown_in_logs = format!("{:?}", canary.certified);
    state.identity.publish(|_| Snapshot { svids: vec![canary], ..Snapshot::empty() });
    let (listener, _file) = bind_unix_socket(&path).unwrap();
    serve_socket(listener, AllowedUids::new(&Admin::default()), state);

    let mut shown = shown_in_logs;
    for target in ["/state", "/config", "/identities", "/connections", "/metrics", "/version", "/healthz/ready"] {
        shown += &ask_socket(&path, "GET", target).await;
    }
    assert!(shown.contains("spiffe://shop.example/canary"));
    // The scalar of a P-256 key stands at bytes 36 to 68 of its PKCS #8.
    let scalar = &der[36..68];
    let hex: String = scalar.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = scalar.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let base64: String = secret.serialize_pem().lines().nth(1).unwrap().to_owned();
    for notation in [hex.clone(), hex.to_uppercase(), list, base64] {
        assert!(!shown.contains(&notation), "a key in {shown}");
    }
}
