//! TLS towards the Web PKI: names and roots hold, 1.2 and 1.3, sessions resumed, no roots is an error.

use super::certificates::{
    DIGITAL_SIGNATURE, DNS, Draft, Issuer, Key, SERVER_AUTH, as_pem, extended_key_usage, key_usage, subject_alt_name,
};
use crate::refusal::Refusal;
use crate::tls::{ClientAlpn, Role, TlsError, WebRoots, WebRootsError, WebTls, provider};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, HandshakeKind, ServerConfig, SupportedProtocolVersion};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsAcceptor;

const NAME: &str = "api.example.com";
const DEADLINE: Duration = Duration::from_secs(30);

struct Web {
    config: Arc<ServerConfig>,
    roots: PathBuf,
    _folder: tempfile::TempDir,
}

fn web(versions: &[&'static SupportedProtocolVersion], draft: Draft) -> Web {
    let root = Issuer::root(Draft::authority("Web root", "spiffe://web.example"));
    let key = Key::generate();
    let leaf = root.issue(&draft, &key);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key.private())
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, as_pem(&root.der)).expect("written");
    Web { config: Arc::new(config), roots, _folder: folder }
}

fn client(roots: &Path) -> Result<WebTls, WebRootsError> {
    WebRoots::read(Some(roots)).and_then(WebTls::new)
}

fn named(name: &str) -> Draft {
    Draft::leaf("spiffe://web.example/server")
        .with(key_usage(DIGITAL_SIGNATURE))
        .with(extended_key_usage(&[SERVER_AUTH]))
        .with(subject_alt_name(&[(DNS, name.as_bytes())]))
}

async fn visit(web: &Web, client: &WebTls, name: &str) -> Result<HandshakeKind, TlsError> {
    let (near, far) = duplex(64 * 1024);
    let (server, client) = tokio::join!(
        TlsAcceptor::from(web.config.clone()).accept(near),
        client.connect(far, name, ClientAlpn::H2, DEADLINE)
    );
    let mut client = client?;
    let mut server = server.expect("the server's side");
    server.write_all(b"ticket").await.expect("written");
    server.flush().await.expect("flushed");
    client.read_exact(&mut [0; 6]).await.expect("read");
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    Ok(client.get_ref().1.handshake_kind().expect("done"))
}

#[tokio::test]
async fn speaks_1_2_and_1_3_and_resumes() {
    for version in [&TLS12, &TLS13] {
        let web = web(&[version], named(NAME));
        let client = client(&web.roots).expect("roots");
        let first = visit(&web, &client, NAME).await.expect("connected");
        assert!(matches!(first, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest), "{first:?}");
        assert_eq!(visit(&web, &client, NAME).await.expect("connected"), HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn refuses_wrong_names_unknown_roots_and_expired_leaves() {
    let good = web(&[&TLS13], named(NAME));
    let other = web(&[&TLS13], named(NAME));
    let expired = web(&[&TLS13], named(NAME).valid(-60, -1));
    let table = [
        (&good, &good.roots, "www.example.com"),
        (&good, &other.roots, NAME),
        (&expired, &expired.roots, NAME),
        (&good, &good.roots, "192.0.2.1"),
    ];
    for (server, roots, name) in table {
        let client = client(roots).expect("roots");
        let refused = visit(server, &client, name).await.expect_err("refused");
        assert!(matches!(&refused, TlsError::Handshake(rustls::Error::InvalidCertificate(_))), "{refused:?}");
        assert_eq!(refused.refusal(Role::Client), Refusal::UpstreamNotVerified);
    }
    let client = client(&good.roots).expect("roots");
    let refused = visit(&good, &client, "not a name").await.expect_err("refused");
    assert!(matches!(refused, TlsError::ServerName { .. }), "{refused:?}");
}

/// TL-16: an untrusted chain with a wrong name is refused for its chain.
#[tokio::test]
async fn tl_16_wrong_name_does_not_hide_an_unknown_root() {
    let (good, other) = (web(&[&TLS13], named("www.example.com")), web(&[&TLS13], named(NAME)));
    let client = client(&other.roots).expect("roots");
    let refused = visit(&good, &client, NAME).await.expect_err("refused");
    // The roots have one name: what is wrong is the signature.
    let untrusted = CertificateError::BadSignature;
    assert!(
        matches!(&refused, TlsError::Handshake(rustls::Error::InvalidCertificate(reason)) if *reason == untrusted),
        "{refused:?}"
    );
}

#[test]
fn no_roots_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, b"").expect("written");
    assert!(matches!(client(&empty), Err(WebRootsError::None { .. })));
    let absent = folder.path().join("absent.pem");
    assert!(matches!(client(&absent), Err(WebRootsError::Unreadable { .. })));
}
