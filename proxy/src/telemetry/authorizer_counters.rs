//! The numbers of one authorizer.

use super::counters::Histogram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalVerdict {
    Allowed,
    Denied,
    /// No answer, or none that can be followed.
    ErrorRefused,
    /// The same, where the file says `on_error: allow`.
    ErrorAllowed,
}

impl ExternalVerdict {
    pub const ALL: [Self; 4] = [Self::Allowed, Self::Denied, Self::ErrorRefused, Self::ErrorAllowed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::ErrorRefused => "error_refused",
            Self::ErrorAllowed => "error_allowed",
        }
    }
}

pub struct AuthorizerCounters {
    /// In the order of [`ExternalVerdict::ALL`].
    verdicts: [AtomicU64; ExternalVerdict::ALL.len()],
    pub(super) duration: Histogram,
}

impl Default for AuthorizerCounters {
    fn default() -> Self {
        let bounds = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0];
        Self { verdicts: Default::default(), duration: Histogram::new(bounds) }
    }
}

impl AuthorizerCounters {
    pub fn count(&self, verdict: ExternalVerdict, after: Duration) {
        self.verdicts[verdict as usize].fetch_add(1, Relaxed);
        self.duration.observe(after.as_secs_f64());
    }

    pub(super) fn verdicts(&self, verdict: ExternalVerdict) -> u64 {
        self.verdicts[verdict as usize].load(Relaxed)
    }
}
