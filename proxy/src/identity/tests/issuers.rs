//! Keys of issuers: what is published, what stays, and what is never asked.

use crate::identity::events::Counters;
use crate::identity::issuers::IssuerKeysSource;
use crate::identity::publisher::Publisher;
use crate::identity::{IdentityStore, Snapshot};
use postern_config::identity::BundleUrl;
use postern_config::{IssuerKeysFrom, TokenIssuer};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

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
    (store, IssuerKeysSource::new(Arc::new(issuer), publisher))
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
