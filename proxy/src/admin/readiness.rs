//! Whether traffic should be sent to us, and if not, why not.
//!
//! Not ready without an identity, when it is expired or denied, before listeners are bound, before the first
//! configuration, while draining. A stale identity alone is ready: the agent being down takes nothing away (DESIGN,
//! rulings).

use crate::identity::{IdentityState, IdentityStore, Snapshot, SourceStatus};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// What has to hold besides identity, which is looked up when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Configuration,
    Listeners,
    /// Redirection is expected and not there: peers would reach the application past us, or nobody.
    Capture,
    Draining,
}

impl Condition {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Listeners => "listeners",
            Self::Capture => "capture",
            Self::Draining => "draining",
        }
    }
}

pub struct Readiness {
    identity: Arc<IdentityStore>,
    /// Those that do not hold, with the reason.
    unmet: Mutex<BTreeMap<Condition, String>>,
    /// What stands in no one's way, and has to be known.
    notes: Mutex<Vec<String>>,
}

impl Readiness {
    /// Configuration and listeners are missing until they are [`set`](Self::set).
    pub fn new(identity: Arc<IdentityStore>) -> Self {
        let unmet = BTreeMap::from([
            (Condition::Configuration, "no configuration has been loaded yet".to_owned()),
            (Condition::Listeners, "listeners are not bound yet".to_owned()),
        ]);
        Self { identity, unmet: Mutex::new(unmet), notes: Mutex::default() }
    }

    pub fn set(&self, condition: Condition, met: Result<(), String>) {
        let mut unmet = self.unmet.lock().unwrap_or_else(PoisonError::into_inner);
        match met {
            Ok(()) => unmet.remove(&condition),
            Err(reason) => unmet.insert(condition, reason),
        };
    }

    /// What whoever asks is told besides, ready or not.
    pub fn set_notes(&self, notes: Vec<String>) {
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
    }

    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is missing now, by name; empty: ready.
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let identity = identity_missing(&self.identity.load(), SystemTime::now());
        let unmet = self.unmet.lock().unwrap_or_else(PoisonError::into_inner);
        let others = unmet.iter().map(|(condition, reason)| (condition.as_str(), reason.clone()));
        identity.map(|reason| ("identity", reason)).into_iter().chain(others).collect()
    }
}

/// Why we cannot prove who we are, if we cannot.
fn identity_missing(snapshot: &Snapshot, now: SystemTime) -> Option<String> {
    if let Some(svid) = snapshot.svids.first()
        && let Err(error) = snapshot.revocations.check_own(svid, now)
    {
        return Some(format!("our SVID was taken back: {error}"));
    }
    match snapshot.state(now) {
        IdentityState::Fresh | IdentityState::ServingStale => None,
        IdentityState::Expired => Some(match &snapshot.source {
            SourceStatus::Broken { reason, .. } => {
                format!("the SVID expired and the identity source is lost: {reason}")
            }
            _ => "the SVID expired and no newer one has come; is this host's clock right?".to_owned(),
        }),
        IdentityState::NoIdentity => Some(match &snapshot.source {
            SourceStatus::Waiting { reason } => format!("no identity has been received yet: {reason}"),
            SourceStatus::Broken { reason, .. } => format!("there is no identity and its source is lost: {reason}"),
            SourceStatus::Denied { .. } => {
                "the agent denies this workload an identity; is there a registration entry for it?".to_owned()
            }
            SourceStatus::Connected => "the identity source is connected but has given no identity yet".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Condition, Readiness};
    use crate::admin::tests::svid;
    use crate::identity::{IdentityStore, Snapshot, SourceStatus};
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    fn names(readiness: &Readiness) -> Vec<&'static str> {
        readiness.missing().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn each_condition_counts_by_itself() {
        let identity = Arc::new(IdentityStore::default());
        let readiness = Readiness::new(identity.clone());
        assert_eq!(names(&readiness), ["identity", "configuration", "listeners"]);
        readiness.set(Condition::Listeners, Ok(()));
        assert_eq!(names(&readiness), ["identity", "configuration"]);
        readiness.set(Condition::Configuration, Ok(()));
        readiness.set(Condition::Draining, Err("asked to stop".to_owned()));
        assert_eq!(names(&readiness), ["identity", "draining"]);
        readiness.set(Condition::Draining, Ok(()));
        let later = SystemTime::now() + Duration::from_secs(60);
        identity.publish(|before| Snapshot {
            svids: vec![svid("web", later)],
            source: SourceStatus::Connected,
            ..Snapshot { generation: before.generation, ..Snapshot::empty() }
        });
        assert!(names(&readiness).is_empty());
    }

    #[test]
    fn stale_is_ready_but_expired_denied_and_withdrawn_are_not() {
        let now = SystemTime::now();
        let (valid, expired) = (now + Duration::from_secs(60), now - Duration::from_secs(1));
        let broken = || SourceStatus::Broken { since: now, reason: "connection refused".to_owned() };
        for (not_after, source, ready) in [
            (Some(valid), SourceStatus::Connected, true),
            (Some(valid), broken(), true),
            (Some(expired), SourceStatus::Connected, false),
            (Some(expired), broken(), false),
            (Some(valid), SourceStatus::Denied { since: now, cut: false }, false),
            (None, SourceStatus::Connected, false),
            (None, broken(), false),
        ] {
            let svids = not_after.map(|not_after| svid("web", not_after)).into_iter().collect();
            let snapshot = Snapshot { svids, source: source.clone(), ..Snapshot::empty() };
            assert_eq!(super::identity_missing(&snapshot, now).is_none(), ready, "{not_after:?} {source:?}");
        }
    }
}
