//! What is counted of a service's endpoints: requests sent again, endpoints passed over.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Why a request was sent again, or was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The other side said that it had not processed it.
    Unprocessed,
    /// Idempotent, and its reused connection ended without a byte of answer.
    Replayed,
    /// Either, but more than the budget had.
    OverBudget,
}

impl Retry {
    pub const ALL: [Self; 3] = [Self::Unprocessed, Self::Replayed, Self::OverBudget];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unprocessed => "unprocessed",
            Self::Replayed => "replayed",
            Self::OverBudget => "over_budget",
        }
    }
}

#[derive(Default)]
pub struct UpstreamCounters {
    retries: [AtomicU64; Retry::ALL.len()],
    ejections: AtomicU64,
    ejected: AtomicI64,
}

impl UpstreamCounters {
    pub fn retry(&self, retry: Retry) {
        self.retries[retry as usize].fetch_add(1, Relaxed);
    }

    pub fn retries(&self, retry: Retry) -> u64 {
        self.retries[retry as usize].load(Relaxed)
    }

    pub fn ejection(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// So many more (or fewer) endpoints are passed over by a worker than it said last.
    pub fn ejected_change(&self, change: i64) {
        self.ejected.fetch_add(change, Relaxed);
    }

    pub fn ejected(&self) -> i64 {
        self.ejected.load(Relaxed)
    }
}
