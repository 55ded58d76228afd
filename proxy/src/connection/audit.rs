//! What the audit log learns of a connection: that it was refused, that an L4 connection reached its destination, and that
//! it was cut because trust or permission ended. Requests have records of their own.

use super::{Connection, ConnectionOutcome};
use crate::audit::Place;
use crate::audit::record::{Decision, Outcome};
use crate::session::{Direction, EndCause};
use crate::telemetry::record::ConnectionRecord;
use std::cell::RefCell;

/// The place that its record will have, if one was kept.
#[derive(Default)]
pub(super) struct Audited(RefCell<Place>);

impl Connection {
    /// With `on_full: block`, waits until there is a place for the record of what will be decided.
    pub async fn audit_place(&self) {
        // Boxed, so that what waits takes no room in the connections that do not.
        if self.worker.shared.audit.blocks() {
            Box::pin(self.wait_for_place()).await;
        }
    }

    async fn wait_for_place(&self) {
        let place = tokio::select! {
            biased;
            () = self.session.was_cut() => return,
            place = self.worker.shared.audit.place() => place,
        };
        self.audited.0.replace(place);
    }

    /// It carries requests, which take places of their own.
    pub(super) fn audit_requests(&self) {
        self.audited.0.take();
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
        let policy = self.worker.policy();
        let outcome = match outcome == Outcome::Allowed && of.observed.is_some() {
            true => Outcome::Observed,
            false => outcome,
        };
        let decision = Decision { outcome, mode: of.mode, policy: &policy.digest, peer, own };
        let id = self.worker.decision_id(self.session.id);
        let record = ConnectionRecord { decision: Some(&id), ..self.record(of, cause.map(EndCause::as_str)) };
        self.worker.shared.audit.connection(self.audited.0.take(), &decision, &record);
    }
}
