//! What the audit log learns of a connection: that it was refused, that an L4 connection reached its destination, and that
//! it was cut because trust or permission ended. Requests have records of their own.

use super::{Connection, ConnectionOutcome};
use crate::audit::Place;
use crate::audit::record::{Decision, Outcome};
use crate::policy::Policy;
use crate::session::{Direction, EndCause};
use crate::telemetry::record::ConnectionRecord;
use std::cell::RefCell;
use std::sync::Arc;

/// What its next record will have.
#[derive(Default)]
pub(super) struct Audited {
    /// If one was kept.
    place: RefCell<Place>,
    /// Digest of the policy that decided.
    policy: RefCell<Option<Arc<str>>>,
}

impl Connection {
    /// With `on_full: block`, waits until there is a place for a record, which it leaves to others: what is slow between here
    /// and its decision keeps nobody from theirs.
    pub async fn audit_room(&self) {
        // Boxed, so that what waits takes no room in the connections that do not.
        if self.worker.shared.audit.blocks() {
            Box::pin(self.wait_for_place()).await;
        }
    }

    /// The same, with its decision made: the record that follows at once has the place.
    pub async fn audit_place(&self) {
        if self.worker.shared.audit.blocks() {
            let place = Box::pin(self.wait_for_place()).await;
            self.audited.place.replace(place);
        }
    }

    async fn wait_for_place(&self) -> Place {
        tokio::select! {
            biased;
            () = self.session.was_cut() => Place::default(),
            place = self.worker.shared.audit.place() => place,
        }
    }

    /// This policy decides; another one may have come when it is recorded.
    pub fn decided_by(&self, policy: &Policy) {
        if self.worker.shared.audit.enabled() {
            self.audited.policy.replace(Some(policy.digest.clone()));
        }
    }

    pub(super) fn audit(&self, outcome: Outcome) {
        if self.worker.shared.audit.enabled() {
            self.audit_as(outcome, &self.outcome.borrow(), None);
        }
    }

    /// At its end.
    pub(super) fn audit_end(&self) {
        let cause = self.session.is_cut().then(|| self.session.end_cause()).flatten();
        if let Some(cause) = cause.filter(|cause| cause.ends_trust() && self.worker.shared.audit.enabled()) {
            self.audit_as(Outcome::Cut, &self.outcome.borrow(), Some(cause));
        }
    }

    fn audit_as(&self, outcome: Outcome, of: &ConnectionOutcome, cause: Option<EndCause>) {
        let trust = self.session.trust();
        let (peer, own) = match self.session.direction {
            Direction::Local => (of.upstream_peer.as_deref(), of.upstream_own.as_deref()),
            Direction::Inbound | Direction::Upstream => {
                (trust.map(|trust| &*trust.peer), trust.map(|trust| &*trust.own))
            }
        };
        let outcome = match outcome == Outcome::Allowed && of.observed.is_some() {
            true => Outcome::Observed,
            false => outcome,
        };
        let policy = match (outcome, self.audited.policy.borrow().clone()) {
            (Outcome::Cut, _) | (_, None) => self.worker.policy().digest.clone(),
            (_, Some(decided)) => decided,
        };
        let decision = Decision { outcome, mode: of.mode, policy: &policy, peer, own };
        let id = self.worker.decision_id(self.session.id);
        let record = ConnectionRecord { decision: Some(&id), ..self.record(of, cause.map(EndCause::as_str)) };
        self.worker.shared.audit.connection(self.audited.place.take(), &decision, &record);
    }
}
