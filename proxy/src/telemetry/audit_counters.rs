//! The numbers of the audit log.

use super::metrics::unix_seconds;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

#[derive(Default)]
pub struct AuditCounters {
    pub(super) records: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) seals: AtomicU64,
    pub(super) sealed_at: AtomicU64,
    pub(super) unsealed: AtomicU64,
    pub(super) unsent: AtomicU64,
    pub(super) broken: AtomicU64,
}

impl AuditCounters {
    pub fn written(&self, records: u64) {
        self.records.fetch_add(records, Relaxed);
    }

    pub fn lost(&self, records: u64) {
        self.lost.fetch_add(records, Relaxed);
    }

    pub fn lost_so_far(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    pub fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub fn sealed(&self, now: SystemTime) {
        self.seals.fetch_add(1, Relaxed);
        self.sealed_at.store(unix_seconds(now), Relaxed);
        self.unsealed(0);
    }

    /// Seals that did not come to the second place.
    pub fn unsent(&self, seals: u64) {
        self.unsent.fetch_add(seals, Relaxed);
    }

    /// A history was found changed.
    pub fn broken(&self) {
        self.broken.fetch_add(1, Relaxed);
    }

    /// Records since the last seal.
    pub fn unsealed(&self, records: u64) {
        self.unsealed.store(records, Relaxed);
    }
}
