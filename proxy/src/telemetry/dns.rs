//! What became of the application's name queries, in numbers. Names are nobody's labels: an application may ask for any.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsResult {
    /// Answered as a host of a declared service, or as the name of a virtual address.
    Declared,
    /// A declared host with a search domain behind it: does not exist.
    Expansion,
    /// Asked upstream, and answered.
    Forwarded,
    /// Answered with what upstream said before.
    Cached,
    /// Nobody upstream answered.
    Failed,
    /// No query, or none that we carry.
    Malformed,
    /// More at once than we hold.
    OverLimit,
}

impl DnsResult {
    pub const ALL: [Self; 7] = [
        Self::Declared,
        Self::Expansion,
        Self::Forwarded,
        Self::Cached,
        Self::Failed,
        Self::Malformed,
        Self::OverLimit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Expansion => "expansion",
            Self::Forwarded => "forwarded",
            Self::Cached => "cached",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
            Self::OverLimit => "over_limit",
        }
    }
}

#[derive(Default)]
pub(super) struct DnsCounters([AtomicU64; DnsResult::ALL.len()]);

impl DnsCounters {
    pub fn add(&self, result: DnsResult) {
        self.0[result as usize].fetch_add(1, Relaxed);
    }

    pub fn count(&self, result: DnsResult) -> u64 {
        self.0[result as usize].load(Relaxed)
    }
}
