//! The stream of keys for tokens (Workload API §6.2.2), against an agent that says what it is told to.

use super::fake_agent::FakeAgent;
use super::fixtures::{Ca, message};
use super::support::Follower;
use crate::identity::proto::JwtBundlesResponse;
use crate::identity::{Snapshot, SourceStatus};
use postern_config::TrustDomain;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tempfile::TempDir;
use tonic::Status;

/// P-256 keys of RFC 7515 §A.3 and RFC 7517 §A.1.
const FIRST: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"first",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
const SECOND: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"second",
    "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

struct Scene {
    agent: FakeAgent,
    follower: Follower,
    _directory: TempDir,
}

fn keys(bundles: &[(&str, &str)]) -> JwtBundlesResponse {
    let entry = |(name, document): &(&str, &str)| ((*name).to_owned(), document.as_bytes().to_vec());
    JwtBundlesResponse { bundles: bundles.iter().map(entry).collect() }
}

/// Trust domain and ids of keys, in order.
fn known(snapshot: &Snapshot) -> Vec<(String, Vec<String>)> {
    let ids = snapshot.token_keys.iter().map(|(name, set)| {
        let ids = set.keys().iter().map(|key| key.key_id.clone().unwrap_or_default());
        (name.to_string(), ids.collect())
    });
    let mut known: Vec<(String, Vec<String>)> = ids.collect();
    known.sort_unstable();
    known
}

fn of(names: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
    names.iter().map(|(name, id)| ((*name).to_owned(), vec![(*id).to_owned()])).collect()
}

impl Scene {
    async fn with(first: JwtBundlesResponse) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let agent = FakeAgent::on_socket(&socket);
        agent.send(message([Ca::new("example.org").svid("spiffe://example.org/a")]));
        agent.send_token_keys(first);
        let follower = Follower::of_socket(&socket);
        follower.until("both streams", |snapshot| !snapshot.svids.is_empty() && !snapshot.token_keys.is_empty()).await;
        Self { agent, follower, _directory: directory }
    }

    async fn until(&self, wanted: &[(&str, &str)]) -> Arc<Snapshot> {
        let wanted = of(wanted);
        self.follower.until("keys", |snapshot| known(snapshot) == wanted).await
    }
}

#[tokio::test]
async fn each_message_is_the_whole_state_and_what_did_not_change_stays_what_it_was() {
    let scene = Scene::with(keys(&[("spiffe://example.org", FIRST), ("spiffe://other.org", FIRST)])).await;
    let before = scene.until(&[("example.org", "first"), ("other.org", "first")]).await;
    scene.agent.send_token_keys(keys(&[("spiffe://example.org", FIRST), ("spiffe://other.org", SECOND)]));
    let after = scene.until(&[("example.org", "first"), ("other.org", "second")]).await;
    let own = TrustDomain::parse("example.org").unwrap();
    assert!(Arc::ptr_eq(&before.token_keys[&own], &after.token_keys[&own]), "who compares pointers sees no change");
    // Twice the same, then another: one publication.
    scene.agent.send_token_keys(keys(&[("spiffe://example.org", FIRST), ("spiffe://other.org", SECOND)]));
    scene.agent.send_token_keys(keys(&[("spiffe://example.org", FIRST)]));
    let last = scene.until(&[("example.org", "first")]).await;
    assert_eq!(last.generation, after.generation + 1);
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_refused_and_the_last_good_ones_of_that_domain_stay() {
    let scene = Scene::with(keys(&[("spiffe://example.org", FIRST), ("spiffe://other.org", FIRST)])).await;
    scene.agent.send_token_keys(keys(&[
        ("spiffe://example.org", SECOND),
        ("spiffe://other.org", "{"),
        ("spiffe://new.org", "[]"),
        ("other.org", SECOND),
        ("spiffe://other.org/path", SECOND),
    ]));
    scene.until(&[("example.org", "second"), ("other.org", "first")]).await;
    assert_eq!(scene.follower.counters.bundles_refused.load(Relaxed), 4);
    // `"keys": []` can be read: nothing of that domain is believed (Trust Domain and Bundle §4.1.3).
    scene.agent.send_token_keys(keys(&[("spiffe://example.org", SECOND), ("spiffe://other.org", r#"{"keys":[]}"#)]));
    let other = TrustDomain::parse("other.org").unwrap();
    scene.follower.until("no keys", |snapshot| snapshot.token_keys[&other].is_empty()).await;
}

/// Workload API §4.5: a mandatory field that is missing makes a message none.
#[tokio::test]
async fn a_message_without_bundles_is_discarded() {
    let scene = Scene::with(keys(&[("spiffe://example.org", FIRST)])).await;
    scene.agent.send_token_keys(keys(&[]));
    scene.agent.send_token_keys(keys(&[("spiffe://example.org", FIRST), ("spiffe://other.org", SECOND)]));
    scene.until(&[("example.org", "first"), ("other.org", "second")]).await;
    assert_eq!(scene.follower.counters.discarded_in_all(), 1);
}

#[tokio::test]
async fn how_its_stream_fares_says_nothing_about_our_identity_and_keys_stay() {
    let scene = Scene::with(keys(&[("spiffe://example.org", FIRST)])).await;
    let before = scene.follower.store.load();
    for status in [Status::permission_denied("no"), Status::internal("broken"), Status::unavailable("gone")] {
        scene.agent.end_token_keys(&status);
        // It comes again: what it finds then is a barrier.
        scene.agent.send_token_keys(keys(&[("spiffe://example.org", SECOND)]));
        scene.until(&[("example.org", "second")]).await;
        scene.agent.send_token_keys(keys(&[("spiffe://example.org", FIRST)]));
        let after = scene.until(&[("example.org", "first")]).await;
        assert_eq!(after.source, SourceStatus::Connected);
        assert!(Arc::ptr_eq(&before.svids[0], &after.svids[0]));
    }
}
