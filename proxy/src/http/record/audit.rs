//! What the audit log learns of a request: one record when its answer begins or it is refused, so that a stream of hours is
//! not unknown for hours, and another one if it is cut because trust or permission ended.

use super::{Logged, Recorder};
use crate::audit::Place;
use crate::audit::record::{Decision, Outcome};
use crate::refusal::Refusal;
use crate::session::{Direction, EndCause};
use crate::telemetry::ExternalVerdict;
use crate::telemetry::record::AuthorizerFacts;
use std::sync::Arc;
use std::time::Duration;

/// How far the audit log knows of it.
#[derive(Default)]
pub(super) enum Audited {
    /// Not at all, or for good.
    #[default]
    Done,
    /// It is not decided yet.
    Waiting,
    /// It was allowed, and may yet be cut.
    Allowed,
}

/// What an authorizer said, after how long.
pub(super) struct Authorized {
    pub(super) authorizer: Arc<str>,
    pub(super) verdict: ExternalVerdict,
    pub(super) after: Duration,
}

impl Authorized {
    pub(super) fn facts(&self) -> AuthorizerFacts<'_> {
        AuthorizerFacts { name: &self.authorizer, verdict: self.verdict.as_str(), duration: self.after }
    }
}

impl Recorder {
    /// It was allowed, and is answered.
    pub(super) fn audit_allowed(&mut self) {
        self.audit(self.allowed(), Audited::Allowed, None);
    }

    /// It was not answered. What was decided, and what came of it, are two things.
    pub(super) fn audit_refused(&mut self) {
        let cause = self.cut_cause().unwrap_or(EndCause::PolicyChanged).as_str();
        match self.refused.as_ref().map(|refused| refused.refusal) {
            Some(Refusal::TrustEnded) => self.audit(Outcome::Cut, Audited::Done, Some(cause)),
            Some(refusal) if refusal.is_failure() && self.in_flight.is_some() => {
                self.audit(Outcome::Failed, Audited::Done, None)
            }
            Some(_) | None => self.audit(Outcome::Refused, Audited::Done, None),
        }
    }

    /// At its end, whatever happened before.
    pub(super) fn audit_end(&mut self) {
        match (self.cut_cause(), self.is_waiting()) {
            (Some(cause), _) => self.audit(Outcome::Cut, Audited::Done, Some(cause.as_str())),
            // It was sent, and not answered.
            (None, true) => {
                let end = self.logged.as_deref().and_then(|logged| self.end(logged)).map(str::to_owned);
                self.audit(self.allowed(), Audited::Done, end.as_deref());
            }
            (None, false) => {}
        }
    }

    fn allowed(&self) -> Outcome {
        match self.logged.as_ref().is_some_and(|logged| logged.observed.is_some()) {
            true => Outcome::Observed,
            false => Outcome::Allowed,
        }
    }

    fn is_waiting(&self) -> bool {
        self.logged.as_ref().is_some_and(|logged| matches!(logged.audited, Audited::Waiting))
    }

    fn audit(&mut self, outcome: Outcome, audited: Audited, end: Option<&str>) {
        let Some(logged) = &mut self.logged else { return };
        if matches!(logged.audited, Audited::Done) {
            return;
        }
        logged.audited = audited;
        let place = std::mem::take(&mut logged.place);
        if let Some(logged) = &self.logged {
            self.write_decision(logged, outcome, place, end);
        }
    }

    fn write_decision(&self, logged: &Logged, outcome: Outcome, place: Place, end: Option<&str>) {
        let connection = &self.connection;
        let trust = connection.session.trust();
        let (peer, own) = match connection.session.direction {
            Direction::Local => (logged.upstream_peer.as_deref(), logged.upstream_own.as_deref()),
            Direction::Inbound | Direction::Upstream => {
                (trust.map(|trust| &*trust.peer), trust.map(|trust| &*trust.own))
            }
        };
        let policy = logged.policy.as_deref().unwrap_or_default();
        let decision = Decision { outcome, mode: logged.mode, policy, peer, own };
        let record = self.record(logged, end);
        connection.worker.shared.audit.request(place, &decision, &record);
    }

    /// Why trust or permission ended, if that is what ended it.
    fn cut_cause(&self) -> Option<EndCause> {
        let session = &self.connection.session;
        let of_connection = session.is_cut().then(|| session.end_cause()).flatten();
        let of_request = self.in_flight.as_ref().filter(|request| request.is_cut());
        let of_request = of_request.map(|request| request.deadline().unwrap_or(EndCause::PolicyChanged));
        of_connection.or(of_request).filter(|cause| cause.ends_trust())
    }
}
