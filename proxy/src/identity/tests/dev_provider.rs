//! The embedded provider and the client, together: issue, rotate, rotate the CA, withdraw, restart.

use super::support::Follower;
use crate::identity::dev::{DevConfig, DevError, DevProvider, DevWorkload};
use crate::identity::{IdentityState, NoSvid, Snapshot, SourceStatus};
use crate::tls::{Role, Strictness, verify_svid};
use postern_config::identity::SvidSelector;
use postern_config::{SpiffeId, TrustDomain};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("a trust domain")
}

fn workload(name: &str, ids: &[(&str, Option<&str>)], federates_with: &[&str]) -> DevWorkload {
    DevWorkload {
        name: name.to_owned(),
        socket: None,
        svids: ids.iter().map(|(text, hint)| (id(text), hint.map(str::to_owned))).collect(),
        federates_with: federates_with.iter().map(|name| domain(name)).collect(),
    }
}

fn config(state_dir: &Path) -> DevConfig {
    DevConfig {
        state_dir: state_dir.to_owned(),
        trust_domains: vec![domain("example.org"), domain("other.org")],
        workloads: vec![
            workload(
                "web",
                &[("spiffe://example.org/web", None), ("spiffe://example.org/web-internal", Some("internal"))],
                &["other.org"],
            ),
            workload("db", &[("spiffe://example.org/db", None)], &[]),
        ],
        svid_ttl: Duration::from_secs(3600),
        ca_ttl: Duration::from_secs(86400),
    }
}

pub(super) fn provider(state_dir: &Path) -> DevProvider {
    DevProvider::start(config(state_dir)).unwrap()
}

#[tokio::test]
async fn issues_what_the_verifier_accepts_strictly() {
    let directory = tempfile::tempdir().unwrap();
    let provider = DevProvider::start(config(directory.path())).unwrap();
    let follower = Follower::of_socket(&provider.socket("web").unwrap());
    let snapshot = follower.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;

    let ids: Vec<String> = snapshot.svids.iter().map(|svid| svid.id.to_string()).collect();
    assert_eq!(ids, ["spiffe://example.org/web", "spiffe://example.org/web-internal"]);
    assert_eq!(snapshot.source, SourceStatus::Connected);
    assert_eq!(snapshot.state(SystemTime::now()), IdentityState::Fresh);
    assert!(snapshot.bundles.contains_key(&domain("other.org")), "federated");
    let hinted = snapshot.select(&SvidSelector::Hint("internal".to_owned()), SystemTime::now()).unwrap();
    assert_eq!(hinted.id, id("spiffe://example.org/web-internal"));
    for role in [Role::Client, Role::Server] {
        let chain = &snapshot.svids[0].certified.cert;
        let peer = verify_svid(chain, &snapshot.bundles, 1, role, SystemTime::now(), Strictness::Strict).unwrap();
        assert_eq!(peer.id, id("spiffe://example.org/web"));
        assert_eq!(peer.authority, snapshot.svids[0].authority);
    }
    let other = Follower::of_socket(&provider.socket("db").unwrap());
    let snapshot = other.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;
    assert!(!snapshot.bundles.contains_key(&domain("other.org")), "not federated");
}

#[tokio::test]
async fn rotates_one_workload_and_keeps_what_did_not_change() {
    let directory = tempfile::tempdir().unwrap();
    let provider = DevProvider::start(config(directory.path())).unwrap();
    let follower = Follower::of_socket(&provider.socket("web").unwrap());
    // Keys for tokens come by a stream of their own, and are a publication of their own.
    let is_whole = |snapshot: &Snapshot| !snapshot.svids.is_empty() && !snapshot.token_keys.is_empty();
    let before = follower.until("an identity, and keys", is_whole).await;
    provider.rotate_svid("web").unwrap();
    let after = follower.until("a rotation", |snapshot| snapshot.svids[0].serial != before.svids[0].serial).await;
    assert_eq!(after.generation, before.generation + 1, "one message, one publication");
    for (name, bundle) in &before.bundles {
        assert!(Arc::ptr_eq(bundle, &after.bundles[name]), "the bundle of {name} did not change");
    }
    provider.remove_federation("web", &domain("other.org")).unwrap();
    let last = follower.until("the end of a federation", |snapshot| snapshot.bundles.len() == 1).await;
    assert!(Arc::ptr_eq(&after.svids[0], &last.svids[0]), "the SVID did not change");
}

#[tokio::test]
async fn a_staged_rotation_of_the_ca_shows_every_stage() {
    let directory = tempfile::tempdir().unwrap();
    let provider = DevProvider::start(config(directory.path())).unwrap();
    let follower = Follower::of_socket(&provider.socket("db").unwrap());
    let (own, anchors) = (domain("example.org"), |snapshot: &crate::identity::Snapshot| {
        snapshot.bundles[&domain("example.org")].anchors.len()
    });
    let first = follower.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;

    provider.publish_new_authority(&own).unwrap();
    let published = follower.until("two authorities", |snapshot| anchors(snapshot) == 2).await;
    assert!(Arc::ptr_eq(&first.svids[0], &published.svids[0]));
    provider.reissue(&own).unwrap();
    let reissued =
        follower.until("a new issuer", |snapshot| snapshot.svids[0].authority != first.svids[0].authority).await;
    assert_eq!(anchors(&reissued), 2);
    provider.remove_old_authorities(&own).unwrap();
    let removed = follower.until("one authority", |snapshot| anchors(snapshot) == 1).await;
    assert!(Arc::ptr_eq(&reissued.svids[0], &removed.svids[0]));
    assert_eq!(removed.bundles[&own].anchors[0].authority, removed.svids[0].authority);
}

/// More changes than a stream's backlog holds: whoever falls behind is dropped, comes back, and ends at the truth.
#[tokio::test]
async fn a_storm_of_rotations_ends_at_the_last_state() {
    let directory = tempfile::tempdir().unwrap();
    let provider = provider(directory.path());
    let follower = Follower::of_socket(&provider.socket("db").unwrap());
    let first = follower.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;
    // No `await` between them: the follower, on this thread, cannot read meanwhile.
    for _rotation in 0..200 {
        provider.rotate_svid("db").unwrap();
    }
    let own = domain("example.org");
    provider.publish_new_authority(&own).unwrap();
    let last = follower.until("the end", |snapshot| snapshot.bundles[&own].anchors.len() == 2).await;
    assert_ne!(first.svids[0].serial, last.svids[0].serial);
    assert_eq!(follower.counters.discarded_in_all(), 0);
}

#[tokio::test]
async fn withdraws_and_restores() {
    let directory = tempfile::tempdir().unwrap();
    let provider = DevProvider::start(config(directory.path())).unwrap();
    let follower = Follower::of_socket(&provider.socket("db").unwrap());
    follower.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;
    provider.withdraw("db").unwrap();
    let denied =
        follower.until("a denial", |snapshot| matches!(snapshot.source, SourceStatus::Denied { cut: false, .. })).await;
    assert_eq!(denied.select(&SvidSelector::Default, SystemTime::now()).err(), Some(NoSvid::Denied));
    assert!(provider.list()[1].withdrawn);
    provider.restore("db").unwrap();
    let restored = follower.until("a restoration", |snapshot| snapshot.source == SourceStatus::Connected).await;
    assert!(restored.select(&SvidSelector::Default, SystemTime::now()).is_ok());
}

#[tokio::test]
async fn stopped_it_is_served_stale_and_restarted_it_has_the_same_authority() {
    let directory = tempfile::tempdir().unwrap();
    let provider = DevProvider::start(config(directory.path())).unwrap();
    let follower = Follower::of_socket(&provider.socket("db").unwrap());
    let before = follower.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;
    provider.stop();
    assert!(!provider.socket("db").unwrap().exists());
    let stale = follower.until("stale", |snapshot| matches!(snapshot.source, SourceStatus::Broken { .. })).await;
    assert_eq!(stale.state(SystemTime::now()), IdentityState::ServingStale);
    assert!(stale.select(&SvidSelector::Default, SystemTime::now()).is_ok());
    provider.restart().unwrap();
    let back = follower.until("the agent is back", |snapshot| snapshot.source == SourceStatus::Connected).await;
    assert!(Arc::ptr_eq(&before.svids[0], &back.svids[0]));

    // A new process with the same state directory: other leaves, same authority.
    drop(provider);
    let provider = DevProvider::start(config(directory.path())).unwrap();
    let again = follower.until("a new leaf", |snapshot| snapshot.svids[0].serial != before.svids[0].serial).await;
    assert_eq!(again.svids[0].authority, before.svids[0].authority);
    drop(provider);
}

#[test]
fn keys_on_disk_are_for_the_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let _provider = DevProvider::start(config(&state)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("authorities")), 0o700);
    assert_eq!(mode(&state.join("authorities/example.org.json")), 0o600);
}

#[test]
fn refuses_what_it_cannot_serve() {
    let directory = tempfile::tempdir().unwrap();
    let start = |change: &dyn Fn(&mut DevConfig)| {
        let mut config = config(directory.path());
        change(&mut config);
        DevProvider::start(config).err()
    };
    assert!(matches!(start(&|c| c.workloads[0].name = "../x".to_owned()), Some(DevError::WorkloadName(_))));
    assert!(matches!(start(&|c| c.workloads[0].name = "control".to_owned()), Some(DevError::WorkloadName(_))));
    assert!(matches!(start(&|c| c.workloads[1].name = "web".to_owned()), Some(DevError::DuplicateWorkload(_))));
    assert!(matches!(start(&|c| c.workloads[0].svids.clear()), Some(DevError::NoIdentity(_))));
    assert!(matches!(
        start(&|c| {
            c.trust_domains.pop();
        }),
        Some(DevError::UnknownTrustDomain(_))
    ));
    assert!(matches!(start(&|c| c.svid_ttl = Duration::from_millis(1)), Some(DevError::TtlTooShort(_))));
    assert!(start(&|_| {}).is_none(), "the control");
    let running = DevProvider::start(config(directory.path())).unwrap();
    assert!(matches!(start(&|_| {}), Some(DevError::AlreadyServed(_))));
    drop(running);
}
