//! What happened to identity, counted. `telemetry/metrics.rs` names these; nothing is decided by them.

use postern_config::{TokenIssuer, TrustDomain};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

#[derive(Default)]
pub struct Counters {
    pub updates_applied: AtomicU64,
    /// Federated bundles that were malformed, and roots that may vouch for nobody.
    pub bundles_refused: AtomicU64,
    /// Attempts to open the stream after the first.
    pub reconnects: AtomicU64,
    /// JWT-SVIDs of ours that were received, attempts that failed, and requests that were refused for want of one.
    pub tokens_fetched: AtomicU64,
    pub token_fetches_failed: AtomicU64,
    pub tokens_missed: AtomicU64,
    /// Pairs of identity and audience that have one, or that one is asked for, now.
    pub tokens_kept: AtomicU64,
    /// Credentials that the application wrote, and that did not go out.
    pub app_tokens_removed: AtomicU64,
    discarded: [AtomicU64; DiscardReason::ALL.len()],
    fetches: Mutex<BTreeMap<TrustDomain, Fetches>>,
    issuers: Mutex<BTreeMap<String, IssuerFigures>>,
}

/// How the keys of one issuer of tokens fare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerFigures {
    /// That tokens are verified with, now.
    pub keys: usize,
    /// Looks at a file count too.
    pub fetches: Fetches,
}

/// How one bundle endpoint fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetches {
    pub succeeded: u64,
    pub failed: u64,
    pub last_success: Option<SystemTime>,
    /// Why the last attempt failed; `None`: it did not.
    pub last_error: Option<String>,
}

impl Fetches {
    fn count(&mut self, outcome: Result<SystemTime, String>) {
        match outcome {
            Ok(now) => {
                self.succeeded += 1;
                self.last_success = Some(now);
                self.last_error = None;
            }
            Err(reason) => {
                self.failed += 1;
                self.last_error = Some(reason);
            }
        }
    }
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

    /// By trust domain, of all endpoints that are configured.
    pub fn fetches(&self) -> BTreeMap<TrustDomain, Fetches> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn fetched(&self, trust_domain: &TrustDomain, outcome: Result<SystemTime, String>) {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.entry(trust_domain.clone()).or_default().count(outcome);
    }

    /// Forgets the endpoints of all others, and shows these from the start.
    pub(crate) fn keep_fetches_of(&self, trust_domains: &[&TrustDomain]) {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.retain(|trust_domain, _| trust_domains.contains(&trust_domain));
        for trust_domain in trust_domains {
            fetches.entry(TrustDomain::clone(trust_domain)).or_default();
        }
    }

    /// By name, of all issuers that are configured.
    pub fn issuers(&self) -> BTreeMap<String, IssuerFigures> {
        self.lock_issuers().clone()
    }

    /// Keys of `issuer` were asked for, and after that it has so many. One that is configured no more is not counted.
    pub(crate) fn issuer_asked(&self, issuer: &str, keys: usize, outcome: Result<SystemTime, String>) {
        if let Some(figures) = self.lock_issuers().get_mut(issuer) {
            figures.keys = keys;
            figures.fetches.count(outcome);
        }
    }

    /// Forgets all others, and shows these from the start.
    pub(crate) fn keep_issuers(&self, issuers: &[Arc<TokenIssuer>]) {
        let mut figures = self.lock_issuers();
        figures.retain(|name, _| issuers.iter().any(|issuer| issuer.name == *name));
        for issuer in issuers {
            figures.entry(issuer.name.clone()).or_default();
        }
    }

    fn lock_issuers(&self) -> MutexGuard<'_, BTreeMap<String, IssuerFigures>> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner)
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
