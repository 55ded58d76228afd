//! What the tests share: stores that are awaited with a bound, and configurations.

use crate::identity::{Counters, IdentityStore, Snapshot, SourceError, SourceHandle, spawn};
use postern_config::identity::{Endpoint, Identity, IdentitySource};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Long enough for a loaded machine; a test that passes never waits for it.
const BOUND: Duration = Duration::from_secs(60);

pub(super) struct Follower {
    pub(super) store: Arc<IdentityStore>,
    pub(super) counters: Arc<Counters>,
    _source: SourceHandle,
}

impl Follower {
    pub(super) fn of_socket(socket: &Path) -> Self {
        Self::of(&identity(IdentitySource::WorkloadApi { endpoint: Some(Endpoint::Unix(socket.to_owned())) }))
    }

    pub(super) fn of(config: &Identity) -> Self {
        Self::with_environment(config, None).expect("the source is configured")
    }

    pub(super) fn with_environment(config: &Identity, environment: Option<Endpoint>) -> Result<Self, SourceError> {
        let (store, counters) = (Arc::new(IdentityStore::default()), Arc::new(Counters::default()));
        let source = spawn(config, environment, store.clone(), counters.clone())?;
        Ok(Self::from_parts(store, counters, source))
    }

    pub(super) fn from_parts(store: Arc<IdentityStore>, counters: Arc<Counters>, source: SourceHandle) -> Self {
        Self { store, counters, _source: source }
    }

    /// The first snapshot, now or later, that `wanted` says yes to.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        self.until_within(BOUND, what, wanted).await
    }

    pub(super) async fn until_within(
        &self,
        bound: Duration,
        what: &str,
        wanted: impl Fn(&Snapshot) -> bool,
    ) -> Arc<Snapshot> {
        let mut changes = self.store.subscribe();
        let waiting = async {
            loop {
                let snapshot = self.store.load();
                if wanted(&snapshot) {
                    return snapshot;
                }
                changes.changed().await.expect("the store lives");
            }
        };
        match tokio::time::timeout(bound, waiting).await {
            Ok(snapshot) => snapshot,
            Err(_elapsed) => panic!("{what}: not within {bound:?}; source {:?}", self.store.load().source),
        }
    }
}

pub(super) fn identity(source: IdentitySource) -> Identity {
    Identity { source, ..Identity::default() }
}
