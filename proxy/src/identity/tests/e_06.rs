//! Conformance C-6: the Workload API client against a scripted agent. Time is virtual: nothing here waits.

use super::fake_agent::FakeAgent;
use super::fixtures::{Ca, federated, message};
use super::support::{Follower, identity};
use crate::identity::proto::{X509BundlesResponse, X509svid, X509svidResponse};
use crate::identity::{
    Counters, DiscardReason, IdentityState, IdentityStore, NoSvid, Snapshot, SourceStatus, spawn_bundles_only,
};
use crate::tls::{Role, Strictness, SvidError, verify_svid};
use postern_config::TrustDomain;
use postern_config::identity::{Endpoint, IdentitySource, SvidSelector};
use rustls_pki_types::CertificateDer;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Status;

const A: &str = "spiffe://example.org/a";
const B: &str = "spiffe://example.org/b";

struct Scene {
    directory: TempDir,
    agent: FakeAgent,
    follower: Follower,
    ca: Ca,
}

impl Scene {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// An agent that serves `message`, followed until it is applied.
    async fn serving(ca: Ca, message: X509svidResponse) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let agent = FakeAgent::on_socket(&socket);
        agent.send(message);
        let scene = Self { directory, agent, follower: Follower::of_socket(&socket), ca };
        scene.follower.until("the first identity", |snapshot| !snapshot.svids.is_empty()).await;
        scene
    }

    async fn serving_a() -> Self {
        let ca = Ca::new("example.org");
        let first = message([ca.svid(A)]);
        Self::serving(ca, first).await
    }

    /// Sends what must be discarded, then B as a barrier: until B, it is A.
    async fn discards(&self, what: &str, bad: X509svidResponse, reason: DiscardReason) {
        let counters = &self.follower.counters;
        let before = self.follower.store.load();
        let (discarded, of_reason) = (counters.discarded_in_all(), counters.discarded(reason));
        self.agent.send(bad);
        self.agent.send(message([self.ca.svid(B)]));
        let after = self.follower.until(what, |snapshot| snapshot.generation > before.generation).await;
        assert_eq!(default_id(&after), B, "{what}");
        assert_eq!(counters.discarded(reason), of_reason + 1, "{what}");
        assert_eq!(counters.discarded_in_all(), discarded + 1, "{what}");
        self.agent.send(message([self.ca.svid(A)]));
        self.follower.until("back at A", |snapshot| default_id(snapshot) == A).await;
    }
}

fn default_id(snapshot: &Snapshot) -> String {
    snapshot.select(&SvidSelector::Default, SystemTime::now()).map(|svid| svid.id.to_string()).unwrap_or_default()
}

/// Whether `snapshot` lets in a peer of `ca`.
fn judge(snapshot: &Snapshot, ca: &Ca, id: &str) -> Result<(), SvidError> {
    let (leaf, _key) = ca.leaf(id, SystemTime::now() + Duration::from_secs(60));
    let chain = [CertificateDer::from(leaf)];
    verify_svid(&chain, &snapshot.bundles, 1, Role::Client, SystemTime::now(), Strictness::Strict).map(|_peer| ())
}

#[tokio::test(start_paused = true)]
async fn e_06_01_every_rpc_carries_the_header_exactly_once() {
    let scene = Scene::serving_a().await;
    scene.agent.end(&Status::unavailable("again"));
    scene.agent.called(2).await;
    let store = Arc::new(IdentityStore::default());
    let _bundles = spawn_bundles_only(Endpoint::Unix(scene.socket()), store, Arc::default());
    scene.agent.called(3).await;
    assert!(scene.agent.headers().iter().all(|values| values == &["true"]), "{:?}", scene.agent.headers());
}

/// There is no `Endpoint` of these, so there is nothing to send an RPC to.
#[test]
fn e_06_03_what_is_no_endpoint_is_an_error_at_start() {
    let wrong = [
        "unix://h/p",
        "unix:p",
        "unix:///",
        "unix:///p?q",
        "unix:///p#f",
        "tcp://localhost:1",
        "tcp://1.2.3.4",
        "tcp://1.2.3.4:1/",
        "tcp://u@1.2.3.4:1",
        "http://1.2.3.4:1",
        "",
    ];
    for text in wrong {
        assert!(Endpoint::parse(text).is_err(), "{text:?}");
    }
    for right in ["unix:///p", "unix:/p", "tcp://1.2.3.4:1", "tcp://[::1]:1"] {
        assert!(Endpoint::parse(right).is_ok(), "{right:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn e_06_04_connects_to_tcp_endpoints() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        if std::net::TcpListener::bind(address).is_err() {
            eprintln!("SKIPPED: this machine has no {address}");
            continue;
        }
        let (agent, ca) = (FakeAgent::new(), Ca::new("example.org"));
        agent.send(message([ca.svid(A)]));
        let endpoint = Some(Endpoint::Tcp(agent.on_tcp(address).await));
        let follower = Follower::of(&identity(IdentitySource::WorkloadApi { endpoint }));
        follower.until(address, |snapshot| default_id(snapshot) == A).await;
    }
}

#[tokio::test(start_paused = true)]
async fn e_06_05_configuration_wins_over_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let (configured, environment) =
        (directory.path().join("configured.sock"), directory.path().join("environment.sock"));
    let (ours, other, ca) =
        (FakeAgent::on_socket(&configured), FakeAgent::on_socket(&environment), Ca::new("example.org"));
    ours.send(message([ca.svid(A)]));
    other.send(message([ca.svid(B)]));
    let config = identity(IdentitySource::WorkloadApi { endpoint: Some(Endpoint::Unix(configured)) });
    let follower = Follower::with_environment(&config, Some(Endpoint::Unix(environment.clone()))).unwrap();
    follower.until("the configured agent", |snapshot| default_id(snapshot) == A).await;
    assert_eq!(other.calls(), 0);
    let unset = identity(IdentitySource::WorkloadApi { endpoint: None });
    let follower = Follower::with_environment(&unset, Some(Endpoint::Unix(environment))).unwrap();
    follower.until("the environment's agent", |snapshot| default_id(snapshot) == B).await;
    assert!(Follower::with_environment(&unset, None).is_err(), "neither: an error at start");
}

#[tokio::test(start_paused = true)]
async fn e_06_06_retries_when_unavailable_with_growing_jittered_gaps() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let agent = FakeAgent::on_socket(&socket);
    let ca = Ca::new("example.org");
    agent.fail_next((0..3).map(|_| Status::unavailable("rate limited")));
    agent.send(message([ca.svid(A)]));
    let follower = Follower::of_socket(&socket);
    follower.until("ready", |snapshot| default_id(snapshot) == A).await;
    let gaps = agent.gaps();
    assert_eq!(gaps.len(), 3);
    // Full jitter: each is anywhere below its ceiling; the ceilings double. A few milliseconds are the call itself.
    for (gap, ceiling) in gaps.iter().zip([100, 200, 400]) {
        assert!(*gap <= Duration::from_millis(ceiling + 20), "{gaps:?}");
    }
    assert_eq!(follower.counters.reconnects.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn e_06_08_denied_at_start_becomes_ready_later() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let agent = FakeAgent::on_socket(&socket);
    agent.fail_next((0..5).map(|_| Status::permission_denied("no identity issued")));
    let follower = Follower::of_socket(&socket);
    let denied = follower.until("denied", |snapshot| matches!(snapshot.source, SourceStatus::Denied { .. })).await;
    assert_eq!(denied.state(SystemTime::now()), IdentityState::NoIdentity);
    let ca = Ca::new("example.org");
    agent.send(message([ca.svid(A)]));
    let ready = follower.until("ready", |snapshot| default_id(snapshot) == A).await;
    assert_eq!(ready.source, SourceStatus::Connected);
}

#[tokio::test(start_paused = true)]
async fn e_06_09_a_stream_that_ends_denied_takes_the_svid_away_at_once() {
    let scene = Scene::serving_a().await;
    scene.agent.fail_next((0..1000).map(|_| Status::permission_denied("no identity issued")));
    let start = Instant::now();
    scene.agent.end(&Status::permission_denied("no identity issued"));
    let denied =
        scene.follower.until("denied", |snapshot| matches!(snapshot.source, SourceStatus::Denied { .. })).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(denied.select(&SvidSelector::Default, SystemTime::now()).err(), Some(NoSvid::Denied));
    assert_eq!(denied.source, SourceStatus::Denied { since: since(&denied), cut: false }, "live connections stay");
    let cut =
        scene.follower.until("cut", |snapshot| matches!(snapshot.source, SourceStatus::Denied { cut: true, .. })).await;
    assert!(start.elapsed() >= Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(since(&cut), since(&denied), "the same denial");
}

fn since(snapshot: &Snapshot) -> SystemTime {
    match snapshot.source {
        SourceStatus::Denied { since, .. } => since,
        _ => panic!("not denied"),
    }
}

/// F-05, and the ruling: agents say `PermissionDenied` in passing.
#[tokio::test(start_paused = true)]
async fn an_agent_that_denies_for_ten_seconds_cuts_nothing() {
    let scene = Scene::serving_a().await;
    for _flap in 0..5 {
        scene.agent.fail_next((0..1000).map(|_| Status::permission_denied("in passing")));
        scene.agent.end(&Status::permission_denied("in passing"));
        scene.follower.until("denied", |snapshot| matches!(snapshot.source, SourceStatus::Denied { .. })).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        scene.agent.fail_no_more();
        let next = scene.follower.until("decided", |snapshot| !undecided(snapshot)).await;
        assert_eq!(next.source, SourceStatus::Connected, "and not cut");
    }
    assert_eq!(default_id(&scene.follower.store.load()), A);
}

/// An agent that gives the identity back for no more than a moment is heard: it has not denied it for the whole grace.
#[tokio::test(start_paused = true)]
async fn an_identity_given_back_for_three_seconds_is_taken_back() {
    let scene = Scene::serving_a().await;
    for flap in 0..30 {
        scene.agent.fail_next((0..1000).map(|_| Status::permission_denied("in passing")));
        scene.agent.end(&Status::permission_denied("in passing"));
        scene.follower.until("denied", |snapshot| matches!(snapshot.source, SourceStatus::Denied { .. })).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        scene.agent.fail_no_more();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(scene.follower.store.load().source, SourceStatus::Connected, "flap {flap}");
    }
}

fn undecided(snapshot: &Snapshot) -> bool {
    matches!(snapshot.source, SourceStatus::Denied { cut: false, .. })
}

/// What the agent took, only a valid message gives back: not its crash.
#[tokio::test(start_paused = true)]
async fn a_denied_identity_stays_denied_while_the_agent_is_down() {
    let scene = Scene::serving_a().await;
    scene.agent.end(&Status::permission_denied("no identity issued"));
    scene.agent.fail_next([Status::unavailable("restarting")]);
    scene.agent.die();
    scene.follower.until("denied", |snapshot| matches!(snapshot.source, SourceStatus::Denied { .. })).await;
    let cut =
        scene.follower.until("cut", |snapshot| matches!(snapshot.source, SourceStatus::Denied { cut: true, .. })).await;
    assert_eq!(cut.select(&SvidSelector::Default, SystemTime::now()).err(), Some(NoSvid::Denied));
}

#[tokio::test(start_paused = true)]
async fn e_06_11_a_message_with_a_mandatory_field_empty_is_discarded() {
    let scene = Scene::serving_a().await;
    let without = |change: fn(&mut X509svid)| {
        let mut svid = scene.ca.svid(B);
        change(&mut svid);
        message([svid])
    };
    let empty = DiscardReason::MandatoryFieldEmpty;
    scene.discards("svids", message([]), empty).await;
    scene.discards("spiffe_id", without(|svid| svid.spiffe_id.clear()), empty).await;
    scene.discards("x509_svid", without(|svid| svid.x509_svid.clear()), empty).await;
    scene.discards("x509_svid_key", without(|svid| svid.x509_svid_key.clear()), empty).await;
    scene.discards("bundle", without(|svid| svid.bundle.clear()), empty).await;
    let mut second = scene.ca.svid(B);
    second.bundle.clear();
    scene.discards("one of two", message([scene.ca.svid(B), second]), empty).await;
    assert_eq!(scene.agent.calls(), 1, "the stream was never given up");
}

#[tokio::test(start_paused = true)]
async fn e_06_12_the_default_is_the_first_of_the_message() {
    let scene = Scene::serving_a().await;
    let (a, b) = (scene.ca.svid(A), scene.ca.svid(B));
    scene.agent.send(message([a.clone(), b.clone()]));
    let first = scene.follower.until("two", |snapshot| snapshot.svids.len() == 2).await;
    assert_eq!(default_id(&first), A);
    scene.agent.send(message([b, a]));
    let second = scene.follower.until("swapped", |snapshot| default_id(snapshot) == B).await;
    assert!(Arc::ptr_eq(&first.svids[0], &second.svids[1]), "the SVIDs themselves did not change");
}

#[tokio::test(start_paused = true)]
async fn e_06_13_of_two_svids_with_one_hint_the_first_is_used() {
    let scene = Scene::serving_a().await;
    let hinted = |id: &str, hint: &str| X509svid { hint: hint.to_owned(), ..scene.ca.svid(id) };
    let long = "x".repeat(1025);
    scene.agent.send(message([
        scene.ca.svid("spiffe://example.org/c"),
        hinted(B, "internal"),
        hinted(A, "internal"),
        hinted("spiffe://example.org/d", &long),
    ]));
    let snapshot = scene.follower.until("four", |snapshot| snapshot.svids.len() == 4).await;
    let select = |hint: &str| snapshot.select(&SvidSelector::Hint(hint.to_owned()), SystemTime::now());
    assert_eq!(select("internal").unwrap().id.as_str(), B);
    assert!(matches!(select(&long), Err(NoSvid::NotSelected(_))), "a hint of more than 1024 bytes is none");
    assert!(matches!(select("other"), Err(NoSvid::NotSelected(_))));
}

#[tokio::test(start_paused = true)]
async fn e_06_15_a_federated_bundle_that_is_absent_is_gone() {
    let (ca, foreign) = (Ca::new("example.org"), Ca::new("other.org"));
    let svid = ca.svid(A);
    let scene = Scene::serving(ca, federated(message([svid.clone()]), "other.org", &foreign.der)).await;
    let with = scene.follower.store.load();
    judge(&with, &foreign, "spiffe://other.org/x").expect("the control");
    scene.agent.send(message([svid]));
    let without = scene.follower.until("gone", |snapshot| snapshot.bundles.len() == 1).await;
    assert!(matches!(judge(&without, &foreign, "spiffe://other.org/x"), Err(SvidError::NoBundle { .. })));
    assert!(Arc::ptr_eq(&with.svids[0], &without.svids[0]));
    judge(&without, &scene.ca, B).expect("our own domain is untouched");
}

#[tokio::test(start_paused = true)]
async fn e_06_16_a_malformed_federated_bundle_does_not_hold_up_our_rotation() {
    let (ca, foreign) = (Ca::new("example.org"), Ca::new("other.org"));
    let first = message([ca.svid(A)]);
    let scene = Scene::serving(ca, first).await;
    let broken = &foreign.der[..foreign.der.len() - 1];

    // Never known: refused.
    scene.agent.send(federated(message([scene.ca.svid(B)]), "other.org", broken));
    let snapshot = scene.follower.until("rotated", |snapshot| default_id(snapshot) == B).await;
    assert!(matches!(judge(&snapshot, &foreign, "spiffe://other.org/x"), Err(SvidError::NoBundle { .. })));
    assert_eq!(scene.follower.counters.bundles_refused.load(Ordering::Relaxed), 1, "alarm");
    // Known: the last good one of that domain stays, and so does its `Arc`.
    scene.agent.send(federated(message([scene.ca.svid(A)]), "other.org", &foreign.der));
    let good = scene.follower.until("known", |snapshot| snapshot.bundles.len() == 2).await;
    scene.agent.send(federated(message([scene.ca.svid(B)]), "other.org", broken));
    let kept = scene.follower.until("rotated again", |snapshot| default_id(snapshot) == B).await;
    judge(&kept, &foreign, "spiffe://other.org/x").expect("the last good bundle stays");
    let name = TrustDomain::parse("other.org").unwrap();
    assert!(Arc::ptr_eq(&good.bundles[&name], &kept.bundles[&name]));
    // Well-formed, but nothing in it may vouch: everyone of that domain is refused.
    let (leaf, _key) = foreign.leaf("spiffe://other.org/x", SystemTime::now() + Duration::from_secs(60));
    for unusable in [leaf.as_slice(), &[]] {
        scene.agent.send(federated(message([scene.ca.svid(A)]), "other.org", unusable));
        let empty = scene.follower.until("rotated to A", |snapshot| default_id(snapshot) == A).await;
        assert!(matches!(judge(&empty, &foreign, "spiffe://other.org/x"), Err(SvidError::EmptyBundle { .. })));
        scene.agent.send(federated(message([scene.ca.svid(B)]), "other.org", &foreign.der));
        scene.follower.until("good again", |snapshot| default_id(snapshot) == B).await;
    }
}

#[tokio::test(start_paused = true)]
async fn e_06_17_tl_20_what_does_not_fit_together_is_discarded_whole() {
    let scene = Scene::serving_a().await;
    let ca = &scene.ca;
    let with = |change: &dyn Fn(&mut X509svid)| {
        let mut svid = ca.svid(B);
        change(&mut svid);
        // After a good one, so that half of it could have been applied.
        message([ca.svid(B), svid])
    };
    let stranger = Ca::new("example.org");
    let key = || ca.svid(B).x509_svid_key;
    let cases: Vec<(&str, X509svidResponse, DiscardReason)> = vec![
        ("key of another leaf", with(&|svid| svid.x509_svid_key = key()), DiscardReason::KeyMismatch),
        ("spiffe_id of another", with(&|svid| svid.spiffe_id = A.to_owned()), DiscardReason::IdMismatch),
        ("spiffe_id not an ID", with(&|svid| svid.spiffe_id = "a".to_owned()), DiscardReason::MalformedId),
        (
            "key cut off",
            with(&|svid| {
                svid.x509_svid_key.pop();
            }),
            DiscardReason::MalformedKey,
        ),
        ("bytes after the key", with(&|svid| svid.x509_svid_key.push(0)), DiscardReason::MalformedKey),
        ("key as SEC 1", with(&|svid| svid.x509_svid_key = sec1(&svid.x509_svid_key)), DiscardReason::MalformedKey),
        (
            "key as PEM",
            with(&|svid| svid.x509_svid_key = b"-----BEGIN PRIVATE KEY-----".to_vec()),
            DiscardReason::MalformedKey,
        ),
        ("bytes after the leaf", with(&|svid| svid.x509_svid.push(0x30)), DiscardReason::MalformedChain),
        (
            "CA before the leaf",
            with(&|svid| svid.x509_svid.splice(0..0, svid.bundle.clone()).for_each(drop)),
            DiscardReason::Unverified,
        ),
        (
            "another's bundle",
            message([X509svid { bundle: stranger.der.clone(), ..ca.svid(B) }]),
            DiscardReason::Unverified,
        ),
        ("two bundles of one domain", with(&|svid| svid.bundle = stranger.der.clone()), DiscardReason::BundlesDiffer),
        (
            "bundle cut off",
            message([X509svid { bundle: ca.der[..100].to_vec(), ..ca.svid(B) }]),
            DiscardReason::MalformedBundle,
        ),
        ("expired", message([ca.svid_until(B, SystemTime::now() - Duration::from_secs(1))]), DiscardReason::Unverified),
        ("no path", message([ca.svid("spiffe://example.org")]), DiscardReason::Unverified),
    ];
    for (what, bad, reason) in cases {
        scene.discards(what, bad, reason).await;
    }
    assert_eq!(scene.agent.calls(), 1, "the stream was never given up");
}

/// The SEC 1 key within a PKCS#8 one: the content of its last OCTET STRING.
pub(super) fn sec1(pkcs8: &[u8]) -> Vec<u8> {
    let start = pkcs8.windows(2).rposition(|pair| pair == [0x02, 0x01]).expect("the version of SEC 1");
    let start = (0..start).rev().find(|at| pkcs8[*at] == 0x30).expect("its SEQUENCE");
    pkcs8[start..].to_vec()
}

#[tokio::test(start_paused = true)]
async fn e_06_18_notices_a_socket_that_appears_and_one_that_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let follower = Follower::of_socket(&socket);
    // Long without an agent, so that the wait is at its longest.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(matches!(follower.store.load().source, SourceStatus::Waiting { .. }));
    let (agent, ca) = (FakeAgent::on_socket(&socket), Ca::new("example.org"));
    agent.send(message([ca.svid(A)]));
    let appeared = Instant::now();
    follower.until("ready", |snapshot| default_id(snapshot) == A).await;
    assert!(appeared.elapsed() <= Duration::from_secs(2), "{:?}", appeared.elapsed());

    agent.die();
    std::fs::remove_file(&socket).unwrap();
    let stale = follower.until("stale", |snapshot| matches!(snapshot.source, SourceStatus::Broken { .. })).await;
    assert_eq!((default_id(&stale).as_str(), stale.state(SystemTime::now())), (A, IdentityState::ServingStale));
    tokio::time::sleep(Duration::from_secs(120)).await;
    let again = FakeAgent::on_socket(&socket);
    again.send(message([ca.svid(B)]));
    let appeared = Instant::now();
    follower.until("reconnected", |snapshot| default_id(snapshot) == B).await;
    assert!(appeared.elapsed() <= Duration::from_secs(2), "{:?}", appeared.elapsed());
}

#[tokio::test(start_paused = true)]
async fn e_06_19_six_mebibytes_are_applied_and_fifty_are_not() {
    let scene = Scene::serving_a().await;
    let mut large = message([scene.ca.svid(B)]);
    large.crl = vec![vec![0; 1024 * 1024]; 6];
    scene.agent.send(large.clone());
    scene.follower.until("six", |snapshot| default_id(snapshot) == B).await;
    large.svids = vec![scene.ca.svid(A)];
    large.crl = vec![vec![0; 1024 * 1024]; 50];
    scene.agent.send(large);
    scene.follower.until("too large", |snapshot| matches!(snapshot.source, SourceStatus::Broken { .. })).await;
    assert!(scene.follower.counters.discarded(DiscardReason::TooLarge) >= 1);
    assert_eq!(default_id(&scene.follower.store.load()), B);
    scene.agent.send(message([scene.ca.svid(A)]));
    scene.follower.until("recovered", |snapshot| default_id(snapshot) == A).await;
}

/// F-04: a broken stream is not a withdrawal.
#[tokio::test(start_paused = true)]
async fn keeps_what_it_has_when_the_stream_breaks() {
    let scene = Scene::serving_a().await;
    let before = scene.follower.store.load();
    for status in [
        Status::unavailable(""),
        Status::internal(""),
        Status::unknown(""),
        Status::cancelled(""),
        Status::resource_exhausted(""),
    ] {
        let calls = scene.agent.calls();
        scene.agent.end(&status);
        scene.follower.until("broken", |snapshot| matches!(snapshot.source, SourceStatus::Broken { .. })).await;
        scene.agent.called(calls + 1).await;
        let back = scene.follower.until("back", |snapshot| snapshot.source == SourceStatus::Connected).await;
        assert!(Arc::ptr_eq(&before.svids[0], &back.svids[0]), "{status}");
    }
}

/// F-03: no grace on our own identity, and recovery without a restart.
#[tokio::test(start_paused = true)]
async fn an_svid_that_expired_while_the_agent_was_down_is_not_used() {
    let scene = Scene::serving_a().await;
    scene.agent.die();
    let stale = scene.follower.until("stale", |snapshot| matches!(snapshot.source, SourceStatus::Broken { .. })).await;
    let end = stale.svids[0].not_after;
    let before = end - Duration::from_secs(1);
    assert!(stale.select(&SvidSelector::Default, before).is_ok());
    assert_eq!(stale.state(before), IdentityState::ServingStale);
    assert_eq!(stale.select(&SvidSelector::Default, end).err(), Some(NoSvid::Expired));
    assert_eq!(stale.state(end), IdentityState::Expired);
    scene.agent.send(message([scene.ca.svid(B)]));
    scene.agent.listen(&scene.socket());
    let start = Instant::now();
    scene.follower.until("recovered", |snapshot| default_id(snapshot) == B).await;
    assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
}

/// F-04: an agent that hangs is found by HTTP/2 keepalive within a minute.
#[tokio::test(start_paused = true)]
async fn finds_an_agent_that_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let _never_accepts = tokio::net::UnixListener::bind(&socket).unwrap();
    let start = Instant::now();
    let follower = Follower::of_socket(&socket);
    let starting = SourceStatus::Waiting { reason: "starting".to_owned() };
    follower.until("found", |snapshot| snapshot.source != starting).await;
    assert!(start.elapsed() <= Duration::from_secs(60), "{:?}", start.elapsed());
}

/// F-06: loud and slow.
#[tokio::test(start_paused = true)]
async fn f_06_retries_slowly_what_a_retry_does_not_mend() {
    for status in [Status::invalid_argument("security header missing"), Status::unimplemented("")] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let (agent, ca) = (FakeAgent::on_socket(&socket), Ca::new("example.org"));
        agent.fail_next([status.clone(), status]);
        agent.send(message([ca.svid(A)]));
        let follower = Follower::of_socket(&socket);
        follower.until_within(Duration::from_secs(120), "ready", |snapshot| default_id(snapshot) == A).await;
        assert!(agent.gaps().iter().all(|gap| *gap >= Duration::from_secs(30)), "{:?}", agent.gaps());
    }
}

/// F-10: the last of two pushes counts, and an unchanged one wakes nobody.
#[tokio::test(start_paused = true)]
async fn f_10_the_last_of_two_pushes_counts_and_the_same_again_is_silent() {
    let scene = Scene::serving_a().await;
    let (b, c) = (message([scene.ca.svid(B)]), message([scene.ca.svid("spiffe://example.org/c")]));
    scene.agent.send(b);
    scene.agent.send(c.clone());
    let last = scene.follower.until("the last", |snapshot| default_id(snapshot) == "spiffe://example.org/c").await;
    let applied = scene.follower.counters.updates_applied.load(Ordering::Relaxed);
    scene.agent.send(c);
    scene.agent.send(message([scene.ca.svid(A)]));
    let after = scene.follower.until("the barrier", |snapshot| default_id(snapshot) == A).await;
    assert_eq!(after.generation, last.generation + 1);
    assert_eq!(scene.follower.counters.updates_applied.load(Ordering::Relaxed), applied + 2);
}

/// A1.33: the bundle that came with the SVID wins over a federated one of the same name.
#[tokio::test(start_paused = true)]
async fn our_own_bundle_wins_over_a_federated_one() {
    let (ca, impostor) = (Ca::new("example.org"), Ca::new("example.org"));
    let first = federated(message([ca.svid(A)]), "example.org", &impostor.der);
    let scene = Scene::serving(ca, first).await;
    let snapshot = scene.follower.store.load();
    judge(&snapshot, &scene.ca, B).expect("our own");
    assert!(judge(&snapshot, &impostor, B).is_err());
}

/// A1.32: a key that is not a trust domain's SPIFFE ID names nobody.
#[tokio::test(start_paused = true)]
async fn ignores_federated_bundles_under_a_key_that_is_no_trust_domain() {
    let (ca, foreign) = (Ca::new("example.org"), Ca::new("other.org"));
    let mut first = message([ca.svid(A)]);
    for key in ["other.org", "spiffe://other.org/path", "spiffe://OTHER.org", ""] {
        first.federated_bundles.insert(key.to_owned(), foreign.der.clone());
    }
    let scene = Scene::serving(ca, first).await;
    assert_eq!(scene.follower.store.load().bundles.len(), 1);
    assert_eq!(scene.follower.counters.bundles_refused.load(Ordering::Relaxed), 4);
}

/// A1.34: a process that only validates.
#[tokio::test(start_paused = true)]
async fn follows_bundles_alone() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let (agent, ca, foreign) = (FakeAgent::on_socket(&socket), Ca::new("example.org"), Ca::new("other.org"));
    let bundles = |entries: &[(&str, &Ca)]| X509BundlesResponse {
        crl: Vec::new(),
        bundles: entries.iter().map(|(name, ca)| (format!("spiffe://{name}"), ca.der.clone())).collect(),
    };
    agent.send_bundles(bundles(&[("example.org", &ca), ("other.org", &foreign)]));
    let (store, counters) = (Arc::new(IdentityStore::default()), Arc::new(Counters::default()));
    let source = spawn_bundles_only(Endpoint::Unix(socket), store.clone(), counters.clone());
    let follower = Follower::from_parts(store, counters, source);
    let both = follower.until("both", |snapshot| snapshot.bundles.len() == 2).await;
    judge(&both, &foreign, "spiffe://other.org/x").expect("known");
    assert_eq!(both.select(&SvidSelector::Default, SystemTime::now()).err(), Some(NoSvid::None));
    agent.send_bundles(bundles(&[]));
    agent.send_bundles(bundles(&[("example.org", &ca)]));
    follower.until("one", |snapshot| snapshot.bundles.len() == 1).await;
    assert_eq!(follower.counters.discarded(DiscardReason::MandatoryFieldEmpty), 1);
}
