//! What happened to identity, counted. `telemetry/metrics.rs` names these; nothing is decided by them.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub struct Counters {
    pub updates_applied: AtomicU64,
    /// Federated bundles that were malformed, and roots that may vouch for nobody.
    pub bundles_refused: AtomicU64,
    /// Attempts to open the stream after the first.
    pub reconnects: AtomicU64,
    discarded: [AtomicU64; DiscardReason::ALL.len()],
}

impl Counters {
    pub fn discard(&self, reason: DiscardReason) {
        self.discarded[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Messages (or readings of files) that were discarded whole for `reason`.
    pub fn discarded(&self, reason: DiscardReason) -> u64 {
        self.discarded[reason as usize].load(Ordering::Relaxed)
    }

    pub fn discarded_in_all(&self) -> u64 {
        DiscardReason::ALL.into_iter().map(|reason| self.discarded(reason)).sum()
    }

    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a message was discarded, as a closed set for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardReason {
    /// A mandatory field has its default value (Workload API §4.5).
    MandatoryFieldEmpty,
    MalformedId,
    MalformedChain,
    MalformedKey,
    MalformedBundle,
    /// The private key does not belong to the leaf.
    KeyMismatch,
    /// The `spiffe_id` field is not what the leaf says.
    IdMismatch,
    /// The SVID breaks a rule of the X509-SVID standard, or its own bundle does not vouch for it.
    Unverified,
    /// Two SVIDs of one trust domain came with different bundles.
    BundlesDiffer,
    /// Larger than we read.
    TooLarge,
    /// A file is missing, torn or not PEM.
    Unreadable,
}

impl DiscardReason {
    pub const ALL: [Self; 11] = [
        Self::MandatoryFieldEmpty,
        Self::MalformedId,
        Self::MalformedChain,
        Self::MalformedKey,
        Self::MalformedBundle,
        Self::KeyMismatch,
        Self::IdMismatch,
        Self::Unverified,
        Self::BundlesDiffer,
        Self::TooLarge,
        Self::Unreadable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::MandatoryFieldEmpty => "mandatory_field_empty",
            Self::MalformedId => "malformed_id",
            Self::MalformedChain => "malformed_chain",
            Self::MalformedKey => "malformed_key",
            Self::MalformedBundle => "malformed_bundle",
            Self::KeyMismatch => "key_mismatch",
            Self::IdMismatch => "id_mismatch",
            Self::Unverified => "unverified",
            Self::BundlesDiffer => "bundles_differ",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place() {
        for (place, reason) in DiscardReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
        }
    }
}
