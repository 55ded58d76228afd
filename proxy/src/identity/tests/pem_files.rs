//! PEM files as a source: torn, late, replaced, wrong.

use super::c_05::encode;
use super::fixtures::Ca;
use super::support::{Follower, identity};
use crate::identity::{DiscardReason, IdentityState, SourceStatus};
use crate::tls::{Role, Strictness, verify_svid};
use postern_config::identity::IdentitySource;
use postern_config::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const A: &str = "spiffe://example.org/a";
const B: &str = "spiffe://example.org/b";

struct Files {
    directory: TempDir,
    bundle_name: &'static str,
}

impl Files {
    fn new(bundle_name: &'static str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), bundle_name }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn write_svid(&self, ca: &Ca, id: &str) {
        let (certificate, key) = ca.leaf(id, SystemTime::now() + Duration::from_secs(3600));
        self.write("svid.pem", pem(&certificate));
        self.write("key.pem", key.serialize_pem());
    }

    fn follow(&self) -> Follower {
        let source = IdentitySource::Files {
            certificate: self.path("svid.pem"),
            key: self.path("key.pem"),
            bundle: self.path(self.bundle_name),
            federated: vec![(other_org(), self.path("other.pem"))],
        };
        Follower::of(&identity(source))
    }
}

fn other_org() -> TrustDomain {
    TrustDomain::parse("other.org").unwrap()
}

fn pem(der: &[u8]) -> String {
    let base64 = encode(der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// A directory with A's identity, followed.
async fn serving() -> (Files, Ca, Ca, Follower) {
    let (files, ca, other) = (Files::new("bundle.pem"), Ca::new("example.org"), Ca::new("other.org"));
    files.write_svid(&ca, A);
    files.write("bundle.pem", pem(&ca.der));
    files.write("other.pem", pem(&other.der));
    let follower = files.follow();
    follower.until("A", |snapshot| is(snapshot, A)).await;
    (files, ca, other, follower)
}

fn is(snapshot: &crate::identity::Snapshot, id: &str) -> bool {
    snapshot.svids.first().is_some_and(|svid| svid.id.as_str() == id)
}

#[tokio::test(start_paused = true)]
async fn reads_an_identity_with_its_bundles_and_follows_rotations() {
    let (files, ca, other, follower) = serving().await;
    let before = follower.store.load();
    assert_eq!(before.svids[0].id, SpiffeId::parse(A).unwrap());
    assert_eq!(before.state(SystemTime::now()), IdentityState::Fresh);
    let (leaf, _key) = other.leaf("spiffe://other.org/x", SystemTime::now() + Duration::from_secs(60));
    let chain = [CertificateDer::from(leaf)];
    verify_svid(&chain, &before.bundles, 0, Role::Server, SystemTime::now(), Strictness::Strict).expect("federated");
    files.write_svid(&ca, B);
    let after = follower.until("B", |snapshot| is(snapshot, B)).await;
    assert!(Arc::ptr_eq(&before.bundles[&other_org()], &after.bundles[&other_org()]), "unchanged");
}

#[tokio::test(start_paused = true)]
async fn waits_for_files_that_are_not_there_yet() {
    let (files, ca) = (Files::new("bundle.pem"), Ca::new("example.org"));
    let follower = files.follow();
    let waiting = follower.until("an answer", |snapshot| named(&snapshot.source, "svid.pem")).await;
    assert_eq!(waiting.state(SystemTime::now()), IdentityState::NoIdentity);
    files.write_svid(&ca, A);
    files.write("bundle.pem", pem(&ca.der));
    // `other.pem` is still missing, which is that domain's loss alone.
    let snapshot = follower.until("A", |snapshot| is(snapshot, A)).await;
    assert_eq!(snapshot.bundles.len(), 1);
    assert_eq!(follower.counters.bundles_refused.load(Ordering::Relaxed), 1);
}

fn named(source: &SourceStatus, file: &str) -> bool {
    matches!(source, SourceStatus::Waiting { reason } | SourceStatus::Broken { reason, .. } if reason.contains(file))
}

#[tokio::test(start_paused = true)]
async fn bad_files_never_replace_good_ones() {
    let (files, ca, _other, follower) = serving().await;
    let before = follower.store.load();
    let (good, good_key) =
        (std::fs::read(files.path("svid.pem")).unwrap(), std::fs::read(files.path("key.pem")).unwrap());
    let (_, another_key) = ca.leaf(A, SystemTime::now() + Duration::from_secs(60));
    let stranger = Ca::new("example.org");
    let cases: [(&str, Vec<u8>, DiscardReason); 7] = [
        ("svid.pem", good[..good.len() / 2].to_vec(), DiscardReason::Unreadable),
        ("svid.pem", Vec::new(), DiscardReason::Unreadable),
        ("key.pem", another_key.serialize_pem().into_bytes(), DiscardReason::KeyMismatch),
        ("key.pem", good_key[..good_key.len() / 2].to_vec(), DiscardReason::Unreadable),
        ("bundle.pem", pem(&stranger.der).into_bytes(), DiscardReason::Unverified),
        ("bundle.pem", b"not PEM".to_vec(), DiscardReason::Unreadable),
        ("svid.pem", pem(&ca.der).into_bytes(), DiscardReason::Unverified),
    ];
    for (name, bad, reason) in cases {
        let (restore, discarded) = (std::fs::read(files.path(name)).unwrap(), follower.counters.discarded(reason));
        files.write(name, bad);
        let broken = follower.until(name, |snapshot| matches!(snapshot.source, SourceStatus::Broken { .. })).await;
        assert_eq!(broken.state(SystemTime::now()), IdentityState::ServingStale, "{name}");
        assert!(Arc::ptr_eq(&before.svids[0], &broken.svids[0]), "{name}");
        assert_eq!(follower.counters.discarded(reason), discarded + 1, "{name} {reason:?}");
        files.write(name, restore);
        let back = follower.until(name, |snapshot| snapshot.source == SourceStatus::Connected).await;
        assert!(Arc::ptr_eq(&before.svids[0], &back.svids[0]), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_file_takes_nothing_away() {
    let (files, _ca, _other, follower) = serving().await;
    std::fs::remove_file(files.path("key.pem")).unwrap();
    let broken = follower.until("said", |snapshot| named(&snapshot.source, "key.pem")).await;
    assert!(is(&broken, A));
    std::fs::create_dir(files.path("key.pem")).unwrap();
    std::fs::remove_file(files.path("svid.pem")).unwrap();
    let broken = follower.until("said", |snapshot| named(&snapshot.source, "svid.pem")).await;
    assert!(is(&broken, A));
}

#[tokio::test(start_paused = true)]
async fn a_torn_write_is_not_judged() {
    let (files, ca, _other, follower) = serving().await;
    let (certificate, key) = ca.leaf(B, SystemTime::now() + Duration::from_secs(3600));
    let (certificate, key) = (pem(&certificate), key.serialize_pem());
    files.write("svid.pem", &certificate[..certificate.len() / 2]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    files.write("svid.pem", &certificate);
    tokio::time::sleep(Duration::from_millis(300)).await;
    files.write("key.pem", &key);
    follower.until("B", |snapshot| is(snapshot, B)).await;
    assert_eq!(follower.counters.discarded_in_all(), 0, "what was torn was never taken for an identity");
}

#[tokio::test(start_paused = true)]
async fn a_broken_federated_file_keeps_the_last_good_bundle_and_our_rotation() {
    let (files, ca, _other, follower) = serving().await;
    let before = follower.store.load();
    files.write("other.pem", "not PEM");
    files.write_svid(&ca, B);
    let after = follower.until("B", |snapshot| is(snapshot, B)).await;
    assert!(Arc::ptr_eq(&before.bundles[&other_org()], &after.bundles[&other_org()]));
    assert!(follower.counters.bundles_refused.load(Ordering::Relaxed) >= 1);
}

/// A SPIFFE bundle as the own one, and C-5 B-12: a lower sequence than the one in use is refused, with an alarm.
#[tokio::test(start_paused = true)]
async fn b_12_a_spiffe_bundle_does_not_go_back_in_sequence() {
    let (files, ca, next) = (Files::new("bundle.json"), Ca::new("example.org"), Ca::new("example.org"));
    let document = |sequence: u64, authorities: &[&Ca]| {
        let keys: Vec<_> =
            authorities.iter().map(|ca| json!({"kty": "EC", "use": "x509-svid", "x5c": [encode(&ca.der)]})).collect();
        json!({"keys": keys, "spiffe_sequence": sequence}).to_string()
    };
    files.write_svid(&ca, A);
    files.write("bundle.json", document(7, &[&ca, &next]));
    let follower = files.follow();
    let anchors = |snapshot: &crate::identity::Snapshot| {
        snapshot.bundles.get(&TrustDomain::parse("example.org").unwrap()).map_or(0, |bundle| bundle.anchors.len())
    };
    follower.until("two authorities", |snapshot| anchors(snapshot) == 2).await;
    files.write("bundle.json", document(6, &[&ca]));
    let refused = follower.until("refused", |snapshot| named(&snapshot.source, "older than the 7")).await;
    assert_eq!(anchors(&refused), 2);
    files.write("bundle.json", document(8, &[&ca]));
    follower.until("newer", |snapshot| anchors(snapshot) == 1).await;
    files.write("bundle.json", "{\"spiffe_sequence\": 9}");
    let refused = follower.until("B-02", |snapshot| named(&snapshot.source, "no `keys`")).await;
    assert_eq!(anchors(&refused), 1);
}

/// SEC 1 is what `openssl ecparam -genkey` writes; a file may have it, the Workload API may not.
#[tokio::test(start_paused = true)]
async fn reads_keys_of_the_older_pem_labels() {
    let (files, ca) = (Files::new("bundle.pem"), Ca::new("example.org"));
    let (certificate, key) = ca.leaf(A, SystemTime::now() + Duration::from_secs(3600));
    let sec1 = encode(&super::e_06::sec1(&key.serialize_der()));
    files.write("svid.pem", pem(&certificate));
    files.write("key.pem", format!("-----BEGIN EC PRIVATE KEY-----\n{sec1}\n-----END EC PRIVATE KEY-----\n"));
    files.write("bundle.pem", pem(&ca.der));
    files.follow().until("A", |snapshot| is(snapshot, A)).await;
}
