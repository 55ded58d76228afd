//! The one place where identity changes: build whole, swap once, wake whoever waits.

use super::snapshot::Snapshot;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

pub struct IdentityStore {
    current: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    /// Publications are serialized; readers never take it.
    publishing: Mutex<()>,
}

impl Default for IdentityStore {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Snapshot::empty()),
            changed: watch::Sender::new(0),
            publishing: Mutex::new(()),
        }
    }
}

impl IdentityStore {
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// For `arc_swap::Cache` in workers.
    pub fn swap(&self) -> &ArcSwap<Snapshot> {
        &self.current
    }

    /// Wakes with every publication; the value is the generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Replaces the snapshot by what `next` makes of the current one; the generation is set here.
    pub fn publish(&self, next: impl FnOnce(&Snapshot) -> Snapshot) -> Arc<Snapshot> {
        self.publish_if_changed(|current| Some(next(current))).unwrap_or_else(|| self.load())
    }

    /// As [`IdentityStore::publish`], unless `next` finds nothing to change: then nobody is woken.
    pub fn publish_if_changed(&self, next: impl FnOnce(&Snapshot) -> Option<Snapshot>) -> Option<Arc<Snapshot>> {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let current = self.current.load();
        let mut snapshot = next(&current)?;
        snapshot.generation = current.generation + 1;
        snapshot.published = std::time::Instant::now();
        // Here, so that nobody who publishes bundles or lists can forget the other.
        if !current.binds_alike(&snapshot) {
            let bound = snapshot.revocations.bound_to(&snapshot.bundles, &snapshot.svids);
            snapshot.revocations = Arc::new(bound);
        }
        let snapshot = Arc::new(snapshot);
        self.current.store(snapshot.clone());
        self.changed.send_replace(snapshot.generation);
        Some(snapshot)
    }
}
