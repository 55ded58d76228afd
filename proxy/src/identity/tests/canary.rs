//! No log line and no `Debug` output has a private key in it, in any spelling.

use super::fake_agent::FakeAgent;
use super::fixtures::{Ca, message};
use super::support::Follower;
use crate::identity::PrivateKeyBytes;
use crate::identity::message::check_svids;
use crate::identity::proto::X509svid;
use crate::tls::Strictness;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tonic::Status;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Captured {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A piece of a key as logs would spell it: hex of both cases, a list of numbers, escaped bytes, base64.
fn spellings(key: &[u8]) -> Vec<String> {
    // The private scalar of a P-256 key in PKCS#8 starts behind `04 20`.
    let start = key.windows(2).position(|pair| pair == [0x04, 0x20]).expect("the scalar") + 2;
    let piece = &key[start..start + 8];
    let mut hex = String::new();
    piece.iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
    let escaped = piece.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    // Aligned to three bytes, so that the groups do not depend on what stands before.
    let aligned = (start / 3 + 1) * 3;
    let base64 = super::c_05::encode(&key[aligned..aligned + 9]);
    vec![hex.to_uppercase(), hex, format!("{piece:?}").trim_matches(['[', ']']).to_owned(), escaped, base64]
}

fn require_absent(text: &str, keys: &[Vec<u8>]) {
    for spelling in keys.iter().flat_map(|key| spellings(key)) {
        assert!(!text.contains(&spelling), "a key leaked as {spelling:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hd_19_tl_28_no_key_is_logged_or_debug_printed() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let (directory, ca) = (tempfile::tempdir().unwrap(), Ca::new("example.org"));
    let socket = directory.path().join("agent.sock");
    let agent = FakeAgent::on_socket(&socket);
    let good = ca.svid("spiffe://example.org/a");
    let next = ca.svid("spiffe://example.org/b");
    let mismatched = X509svid { x509_svid_key: ca.svid("spiffe://example.org/c").x509_svid_key, ..good.clone() };
    let mut malformed = ca.svid("spiffe://example.org/d");
    malformed.x509_svid_key.push(0);
    let keys: Vec<Vec<u8>> = [&good, &next, &mismatched, &malformed].map(|svid| svid.x509_svid_key.clone()).to_vec();

    agent.send(message([good.clone()]));
    let follower = Follower::of_socket(&socket);
    follower.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;
    agent.send(message([mismatched]));
    agent.send(message([malformed]));
    agent.end(&Status::unavailable("again"));
    agent.send(message([next]));
    let snapshot =
        follower.until("the next", |snapshot| snapshot.svids[0].id.as_str() == "spiffe://example.org/b").await;
    let log = captured.text();
    for expected in ["SVID received", "key_mismatch", "malformed_key", &snapshot.svids[0].serial] {
        assert!(log.contains(expected), "the log is there, with {expected}");
    }
    require_absent(&log, &keys);

    let certified = format!("{:?} {:#?}", snapshot.svids[0].certified, snapshot.svids[0].certified.key);
    require_absent(&certified, &keys);
    let bytes = PrivateKeyBytes::pkcs8(good.x509_svid_key.clone());
    assert_eq!(format!("{bytes:?}"), "[redacted]");
    let broken = X509svid { x509_svid_key: good.x509_svid_key[1..].to_vec(), ..good };
    let fault = check_svids(message([broken]), SystemTime::now(), Strictness::Strict).err().expect("a fault");
    require_absent(&format!("{fault:?} {fault}"), &keys);
}

/// The test would find one: what it looks for is what such a line has.
#[test]
fn the_canary_sings() {
    let key = Ca::new("example.org").svid("spiffe://example.org/a").x509_svid_key;
    let mut hex = String::new();
    key.iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
    let escaped: String = key.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    let lines = [hex.to_uppercase(), hex, format!("{key:?}"), escaped, super::c_05::encode(&key)];
    for (line, spelling) in lines.iter().zip(spellings(&key)) {
        assert!(line.contains(&spelling), "{spelling} in {line}");
    }
}
