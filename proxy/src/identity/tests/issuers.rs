//! Keys of issuers: what is published, what stays, and what is never asked.

use super::endpoint_scene::{Endpoint, ok, redirect, web_certificate};
use super::support;
use crate::identity::events::Counters;
use crate::identity::issuer_asks::{Askable, IssuerAsks};
use crate::identity::issuers::IssuerKeysSource;
use crate::identity::publisher::Publisher;
use crate::identity::{IdentityStore, IssuerKeys, Snapshot, spawn};
use crate::token::{KeySet, Origin};
use postern_config::identity::{BundleUrl, IdentitySource};
use postern_config::{IssuerKeysFrom, TokenIssuer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

const NAME: &str = "https://issuer.example";
const ONE: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"one","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

fn issuer(keys: IssuerKeysFrom, allow_private_addresses: bool) -> TokenIssuer {
    TokenIssuer {
        name: "ci".to_owned(),
        issuer: NAME.to_owned(),
        keys,
        algorithms: vec!["ES256".to_owned()],
        required_claims: Vec::new(),
        roots: None,
        allow_private_addresses,
    }
}

fn source(issuer: TokenIssuer) -> (Arc<IdentityStore>, IssuerKeysSource) {
    let store = Arc::new(IdentityStore::default());
    let publisher = Publisher { store: store.clone(), counters: Arc::new(Counters::default()) };
    let (source, _ask) = IssuerKeysSource::new(Arc::new(issuer), publisher);
    (store, source)
}

fn key_ids(snapshot: &Snapshot) -> Option<Vec<String>> {
    let keys = snapshot.issuer_keys.get(NAME)?;
    Some(keys.keys().iter().filter_map(|key| key.key_id.clone()).collect())
}

fn ids(ids: &[&str]) -> Option<Vec<String>> {
    Some(ids.iter().map(|&id| id.to_owned()).collect())
}

#[tokio::test]
async fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("jwks.json");
    let (store, mut source) = source(issuer(IssuerKeysFrom::File(path.clone()), false));
    assert!(source.attempt().await.is_err(), "there is no file");
    assert_eq!(key_ids(&store.load()), None);
    let write = |path: &Path, text: &str| std::fs::write(path, text).expect("written");
    write(&path, ONE);
    source.attempt().await.expect("keys");
    assert_eq!(key_ids(&store.load()), ids(&["one"]));
    for broken in ["", "{", r#"{"keys":{}}"#, &" ".repeat(1024 * 1024 + 1)] {
        write(&path, broken);
        assert!(source.attempt().await.is_err());
        assert_eq!(key_ids(&store.load()), ids(&["one"]), "what we have stays");
    }
    write(&path, &ONE.replace("\"one\"", "\"two\""));
    source.attempt().await.expect("keys");
    assert_eq!(key_ids(&store.load()), ids(&["two"]));
    write(&path, r#"{"keys":[]}"#);
    source.attempt().await.expect("no keys revoke everything");
    assert_eq!(key_ids(&store.load()), ids(&[]));
}

/// OpenID Connect Discovery §4.3: who lends a configuration to another could lend it keys.
#[test]
fn the_configuration_has_to_be_of_its_issuer_and_lead_to_https() {
    let url = BundleUrl::parse("https://issuer.example/.well-known/openid-configuration").expect("an address");
    let (_, source) = source(issuer(IssuerKeysFrom::Discovery(url), false));
    let found = |issuer: &str, keys: &str| {
        let document = format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}","x":1}}"#);
        source.keys_address(document.as_bytes()).map(|url| url.to_string()).map_err(|fault| fault.to_string())
    };
    assert_eq!(found(NAME, "https://keys.example/a").as_deref(), Ok("https://keys.example/a"));
    for (issuer, keys) in [
        ("https://issuer.example/", "https://keys.example/a"),
        ("https://other.example", "https://keys.example/a"),
        (NAME, "http://keys.example/a"),
        (NAME, "file:///etc/passwd"),
        (NAME, "https://user@keys.example/a"),
    ] {
        assert!(found(issuer, keys).is_err(), "{issuer} {keys}");
    }
    assert!(source.keys_address(b"[]").is_err());
}

/// It is the address that counts: nothing is connected to that is not public, whatever name leads there.
#[tokio::test]
async fn nw_03_keys_are_not_fetched_from_private_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    for host in ["127.0.0.1", "localhost"] {
        let url = BundleUrl::parse(&format!("https://{host}:{port}/jwks")).expect("an address");
        let (_, mut refused) = source(issuer(IssuerKeysFrom::Url(url.clone()), false));
        let fault = refused.attempt().await.map_err(|fault| crate::identity::publisher::chain(&fault));
        assert!(fault.as_ref().is_err_and(|fault| fault.contains("is not public")), "{fault:?}");
        let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(connected.is_err(), "nobody connected");
        // With the word of the file somebody does, and has to prove who answers.
        let (_, mut allowed) = source(issuer(IssuerKeysFrom::Url(url), true));
        let answer = async {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").await.expect("written");
        };
        let (fault, ()) = tokio::join!(allowed.attempt(), answer);
        let fault = fault.map_err(|fault| crate::identity::publisher::chain(&fault));
        assert!(fault.as_ref().is_err_and(|fault| fault.contains("does not prove who it is")), "{fault:?}");
    }
    let metadata = BundleUrl::parse("https://169.254.169.254/jwks").expect("an address");
    let (_, mut source) = source(issuer(IssuerKeysFrom::Url(metadata), true));
    let fault = source.attempt().await.map_err(|fault| crate::identity::publisher::chain(&fault));
    assert!(fault.is_err_and(|fault| fault.contains("metadata service")));
}

/// A web server for keys, and the file with the root that it is believed by.
async fn endpoint(directory: &Path, answers: &[String]) -> (Endpoint, PathBuf) {
    let (root, tls) = web_certificate("127.0.0.1");
    let roots = directory.join("roots.pem");
    std::fs::write(&roots, root).expect("written");
    (Endpoint::start(tls, answers.to_vec()).await, roots)
}

fn keys_at(endpoint: &Endpoint, roots: &Path) -> TokenIssuer {
    let url = BundleUrl::parse(&endpoint.url("/jwks")).expect("an address");
    TokenIssuer { roots: Some(roots.to_owned()), ..issuer(IssuerKeysFrom::Url(url), true) }
}

/// Each answer that is no key set leaves what we have, and nothing is asked that a redirect names.
#[tokio::test]
async fn jw_19_the_last_good_keys_stay_whatever_the_issuer_answers() {
    let directory = tempfile::tempdir().expect("a directory");
    let (endpoint, roots) = endpoint(directory.path(), &[ok(ONE)]).await;
    let (store, mut source) = source(keys_at(&endpoint, &roots));
    source.attempt().await.expect("keys");
    let unlike = ONE.replace("\"one\"", "\"two\"");
    let faults = [
        (redirect("/elsewhere"), "307"),
        (ok(&format!("{}{unlike}", " ".repeat(1024 * 1024))), "more than"),
        (ok("{"), "cannot be read"),
        (ok(r#"{"keys":[],"keys":[]}"#), "cannot be read"),
        (ok(r#"{"jwks":[]}"#), "no `keys`"),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{unlike}"), "to its end"),
        (format!("HTTP/1.1 203 OK\r\ncontent-length: {}\r\n\r\n{unlike}", unlike.len()), "203"),
        ("SSH-2.0-x\r\n".to_owned(), "HTTP/1.1"),
    ];
    for (answer, why) in faults {
        endpoint.say([answer]);
        let fault = source.attempt().await.map_err(|fault| crate::identity::publisher::chain(&fault));
        assert!(fault.as_ref().is_err_and(|fault| fault.contains(why)), "{why}: {fault:?}");
        assert_eq!(key_ids(&store.load()), ids(&["one"]), "{why}");
    }
    assert!(endpoint.visits().iter().all(|(_, line)| line == "GET /jwks HTTP/1.1"));
    endpoint.say([ok(&unlike)]);
    source.attempt().await.expect("keys");
    assert_eq!(key_ids(&store.load()), ids(&["two"]));
}

/// Virtual time.
#[tokio::test(start_paused = true)]
async fn jw_19_a_slow_issuer_is_given_up_and_keys_end_after_a_day_without_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let (endpoint, roots) = endpoint(directory.path(), &[ok(ONE)]).await;
    let configured = keys_at(&endpoint, &roots);
    let (store, mut source) = source(configured.clone());
    source.attempt().await.expect("keys");
    endpoint.present(web_certificate("127.0.0.1").1);
    assert!(source.attempt().await.is_err(), "of another root");
    let slow = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = slow.local_addr().expect("an address");
    let (root, tls) = web_certificate("127.0.0.1");
    std::fs::write(&roots, root).expect("written");
    tokio::spawn(async move {
        // A byte a second, and never the last one. The second connection waits for ever.
        let (socket, _) = slow.accept().await.expect("a connection");
        let mut stream = TlsAcceptor::from(tls).accept(socket).await.expect("a handshake");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{").await.expect("written");
        while stream.write_all(b" ").await.is_ok() {
            let _ = stream.flush().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        std::future::pending::<()>().await;
        drop(slow);
    });
    let begun = Instant::now();
    let url = format!("https://{address}/jwks");
    let stuck = TokenIssuer { keys: IssuerKeysFrom::Url(BundleUrl::parse(&url).expect("an address")), ..configured };
    // A reload: the keys are an earlier source's, and end all the same.
    let publisher = Publisher { store: store.clone(), counters: Arc::new(Counters::default()) };
    let (mut source, _ask) = IssuerKeysSource::new(Arc::new(stuck), publisher);
    let fault = source.attempt().await.map_err(|fault| crate::identity::publisher::chain(&fault));
    assert!(fault.as_ref().is_err_and(|fault| fault.contains("no whole answer")), "{fault:?}");
    assert!((29..=31).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(key_ids(&store.load()), ids(&["one"]));
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    assert!(source.attempt().await.is_err());
    assert_eq!(key_ids(&store.load()), None, "too old to be believed");
}

/// A configuration that is refused changes nothing: what it does not name is another's, which goes on.
#[tokio::test]
async fn a_source_that_cannot_start_forgets_no_keys() {
    let (store, mut source) = source(issuer(IssuerKeysFrom::File("/none".into()), false));
    let keys = KeySet::parse(ONE.as_bytes(), Origin::Issuer).expect("keys");
    let known = Arc::new(IssuerKeys::from([(NAME.to_owned(), Arc::new(keys))]));
    store.publish(|snapshot| Snapshot { issuer_keys: known, ..snapshot.clone() });
    assert!(source.attempt().await.is_err());
    let nowhere = support::identity(IdentitySource::WorkloadApi { endpoint: None });
    let start = |config| spawn(config, None, store.clone(), Arc::new(Counters::default()));
    assert!(start(&nowhere).is_err());
    assert_eq!(key_ids(&store.load()), ids(&["one"]));
    let files = IdentitySource::Files {
        certificate: "/none".into(),
        key: "/none".into(),
        bundle: "/none".into(),
        federated: Vec::new(),
    };
    let _source = start(&support::identity(files)).expect("it waits for its files");
    assert_eq!(key_ids(&store.load()), None, "one that runs names no issuer");
}

/// Virtual time. Whoever may show a token may ask, and is no burden for the issuer.
#[tokio::test(start_paused = true)]
async fn jw_04_newer_keys_are_asked_for_once_in_thirty_seconds() {
    let directory = tempfile::tempdir().expect("a directory");
    let (endpoint, roots) = endpoint(directory.path(), &[ok(ONE)]).await;
    let store = Arc::new(IdentityStore::default());
    let publisher = Publisher { store, counters: Arc::new(Counters::default()) };
    let (source, ask) = IssuerKeysSource::new(Arc::new(keys_at(&endpoint, &roots)), publisher);
    let running = tokio::spawn(source.run());
    endpoint.visited(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asks = IssuerAsks::default();
    asks.set(Arc::new(Askable::from([(NAME.to_owned(), ask)])));
    let begun = Instant::now();
    for visits in 2..6 {
        for _ in 0..100 {
            asks.ask(NAME);
            asks.ask("https://other.example");
        }
        endpoint.visited(visits).await;
        // Who asks while a fetch is under way has no other one by that.
        asks.ask(NAME);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let visits = endpoint.visits();
    assert!(visits[1].0 - begun < Duration::from_secs(1), "the first is at once: {visits:?}");
    let apart: Vec<_> = visits[1..].windows(2).map(|two| (two[1].0 - two[0].0).as_secs()).collect();
    assert_eq!(apart, [30, 30, 30]);
    assert_eq!(tokio::time::timeout(Duration::from_secs(200), endpoint.visited(6)).await.ok(), None);
    running.abort();
}
