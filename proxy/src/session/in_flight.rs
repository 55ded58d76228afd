//! A request in flight: what it takes to decide it again, its deadlines, and its place among the requests of its worker.

use super::deadline::Deadline;
use super::registry::Registry;
use super::{Carries, EndCause, Session};
use crate::http::forwarded::Forwarded;
use crate::identity::Snapshot;
use crate::refusal::{Refusal, Refused};
use crate::token::{Subject, Verified};
use crate::upstream::plan::ServicePlan;
use http::{HeaderMap, HeaderName, Method, Uri};
use postern_config::{Limits, SpiffeId, Timeouts};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

/// A request that has been allowed and has not ended.
pub struct InFlight {
    pub session: Arc<Session>,
    pub method: Method,
    pub uri: Uri,
    pub host: Box<str>,
    /// As they came, where a rule asks for headers.
    pub headers: OnceCell<Box<HeaderMap>>,
    /// For whom its peer speaks, where that is a forwarder.
    pub forwarded: OnceCell<Box<Forwarded>>,
    /// What its caller proved besides who it is, where its route wants that.
    pub token: OnceCell<Arc<Verified>>,
    /// Headers that carry its claims: no trailer may have their names.
    pub claim_headers: OnceCell<Box<[HeaderName]>>,
    /// Outbound: where it goes.
    pub service: Option<Arc<ServicePlan>>,
    pub bytes_from_caller: Cell<u64>,
    pub body_was_read: Cell<bool>,
    /// The `request_timeout` of its route or service.
    pub time_limit: Deadline,
    cut: Cell<bool>,
    /// Of the task that asked last. It runs where this is.
    waker: RefCell<Option<Waker>>,
    /// Rises with every frame of either body, and with the answer's head.
    moves: Cell<u64>,
    moves_seen: Cell<u64>,
    /// Sweeps since then.
    quiet_ticks: Cell<u32>,
    may_be_quiet: Cell<bool>,
    /// Somebody waits for the caller to send more of its body.
    body_awaited: Cell<bool>,
    answered: Cell<bool>,
    /// The connection that its answer comes over.
    upstream: OnceCell<Arc<Session>>,
    /// What there was of the answer has been handed on, and nobody has asked for more: the caller does not take it.
    answer_waits: Cell<bool>,
    /// The deadline that ended it, or the end of its upstream connection.
    deadline: Cell<Option<EndCause>>,
}

impl InFlight {
    pub(super) fn new(
        session: Arc<Session>,
        method: Method,
        uri: Uri,
        host: &str,
        service: Option<Arc<ServicePlan>>,
    ) -> Self {
        Self {
            session,
            method,
            uri,
            host: host.into(),
            headers: OnceCell::new(),
            forwarded: OnceCell::new(),
            token: OnceCell::new(),
            claim_headers: OnceCell::new(),
            service,
            bytes_from_caller: Cell::new(0),
            body_was_read: Cell::new(false),
            time_limit: Deadline::default(),
            cut: Cell::new(false),
            waker: RefCell::default(),
            moves: Cell::new(0),
            moves_seen: Cell::new(0),
            quiet_ticks: Cell::new(0),
            may_be_quiet: Cell::new(false),
            body_awaited: Cell::new(false),
            answered: Cell::new(false),
            upstream: OnceCell::new(),
            answer_waits: Cell::new(false),
            deadline: Cell::new(None),
        }
    }

    /// Something of it moved.
    pub fn moved(&self) {
        self.moves.set(self.moves.get().wrapping_add(1));
    }

    /// The answer's head is there, over this connection; from now on the caller is who has to take it.
    pub fn answered(&self, upstream: Option<&Arc<Session>>) {
        if let Some(upstream) = upstream {
            // There is one answer.
            let _ = self.upstream.set(upstream.clone());
        }
        self.moved();
        self.answered.set(true);
        self.answer_waits.set(true);
    }

    /// Whether more of the caller's body is waited for.
    pub fn body_awaited(&self, awaited: bool) {
        self.body_awaited.set(awaited);
    }

    /// Whether it is the caller's turn, to take what was handed on.
    pub fn answer_waits(&self, waits: bool) {
        self.answer_waits.set(waits);
    }

    /// Tunnels, which have a limit of their own, and gRPC's streams, which may say nothing for hours.
    pub fn allow_quiet(&self) {
        self.may_be_quiet.set(true);
    }

    /// The deadline that it was cut for, if it was one.
    pub fn deadline(&self) -> Option<EndCause> {
        self.deadline.get()
    }

    /// Why it was cut, as its record says it.
    pub fn cut_text(&self) -> &'static str {
        self.cause().as_str()
    }

    /// What was handed on of an HTTP/1 answer that was cut, and waits for its caller, goes no more.
    pub fn cut_what_waits(&self) {
        if self.session.carries() == Carries::Http1 && self.session.write_pending.load(Relaxed) {
            self.session.cut_with_request(self.cause(), Instant::now());
        }
    }

    fn cause(&self) -> EndCause {
        self.deadline().unwrap_or(EndCause::PolicyChanged)
    }

    /// Once a second.
    pub(super) fn watch(&self, timeouts: &Timeouts) {
        if self.cut.get() || self.session.is_cut() {
            return;
        }
        if self.time_limit.look() {
            return self.cut_for(EndCause::RequestTimeout);
        }
        if self.moves.get() != self.moves_seen.replace(self.moves.get()) {
            return self.quiet_ticks.set(0);
        }
        self.quiet_ticks.set(self.quiet_ticks.get() + 1);
        let quiet = Duration::from_secs(self.quiet_ticks.get().into());
        let awaits_body = self.body_awaited.get() && !self.answered.get();
        let deadline = if self.answer_waits.get() && quiet > timeouts.write_stall {
            EndCause::WriteStall
        } else if self.may_be_quiet.get() {
            return;
        } else if awaits_body && quiet > timeouts.body_idle {
            EndCause::BodyIdle
        } else if quiet > timeouts.stream_idle {
            EndCause::StreamIdle
        } else {
            return;
        };
        self.cut_for(deadline);
    }

    /// The connection that its answer comes over was cut. Where the caller does not take what has come, nobody would look there.
    pub(super) fn follow_upstream(&self) {
        if self.cut.get() || !self.answer_waits.get() {
            return;
        }
        if let Some(upstream) = self.upstream.get().filter(|upstream| upstream.is_cut()) {
            self.cut_for(upstream.end_cause().unwrap_or(EndCause::PolicyChanged));
        }
    }

    /// The key that vouched for its token is one no more (THREATS JW-17), or the token was taken back.
    pub(super) fn follow(&self, snapshot: &Snapshot) {
        if let Some(cause) = self.end_with(snapshot) {
            self.cut_for(cause);
        }
    }

    /// What of its token, or of whom its peer speaks for, ends with `snapshot`.
    pub(super) fn end_with(&self, snapshot: &Snapshot) -> Option<EndCause> {
        let now = SystemTime::now();
        let denials = &snapshot.revocations.denials;
        if self.forwarded.get().is_some_and(|forwarded| forwarded.check_denials(denials, now).is_err()) {
            return Some(EndCause::DenyListed);
        }
        let token = self.token.get()?;
        if snapshot.revocations.check_token(token, now).is_err() {
            return Some(EndCause::DenyListed);
        }
        let keys = match &token.subject {
            Subject::Workload(id) => snapshot.token_keys.get(&id.trust_domain()),
            Subject::Named(_) => token.registered.issuer.as_ref().and_then(|name| snapshot.issuer_keys.get(name)),
        };
        let is_vouched = keys.is_some_and(|keys| keys.contains(token.authority));
        (!is_vouched).then_some(EndCause::AuthorityRemoved)
    }

    fn cut_for(&self, deadline: EndCause) {
        self.deadline.set(Some(deadline));
        self.cut();
    }

    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Ends this request (its stream, or its HTTP/1 connection) and no other.
    pub fn cut(&self) {
        let cause = self.cause();
        if !self.cut.replace(true) {
            self.session.metrics.ended(cause);
        }
        self.session.request_cut.store(cause as u8, Relaxed);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// True once cut; else `context` is woken by [`InFlight::cut`].
    pub fn poll_cut(&self, context: &mut Context<'_>) -> bool {
        if !self.cut.get() {
            match &mut *self.waker.borrow_mut() {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            if self.time_limit.poll(context) {
                self.cut_for(EndCause::RequestTimeout);
            }
        }
        self.cut.get()
    }
}

/// Takes the request out of the registry when dropped.
pub struct RequestGuard {
    pub(super) registry: Rc<Registry>,
    pub(super) key: usize,
    pub request: Rc<InFlight>,
    pub(super) _share: Option<TakenShare>,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.registry.in_flight.borrow_mut().remove(self.key);
    }
}

/// How many requests of one caller are in flight on this worker. A connection looks it up once; a request only counts.
#[derive(Clone, Default)]
pub struct CallerShare(Rc<Cell<usize>>);

/// One request's part of it.
pub struct TakenShare(Rc<Cell<usize>>);

impl Drop for TakenShare {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The callers of one worker.
#[derive(Default)]
pub struct CallerShares(RefCell<HashMap<SpiffeId, Weak<Cell<usize>>>>);

impl CallerShares {
    /// All connections of one caller share it.
    pub fn of(&self, caller: &SpiffeId) -> CallerShare {
        let mut callers = self.0.borrow_mut();
        if let Some(share) = callers.get(caller).and_then(Weak::upgrade) {
            return CallerShare(share);
        }
        // Whoever has gone leaves an entry, and there are not more of those than of callers that live.
        if callers.len() >= CALLERS_KEPT_MIN && callers.len() >= 2 * self.live(&callers) {
            callers.retain(|_, share| share.strong_count() > 0);
        }
        let share = Rc::default();
        callers.insert(caller.clone(), Rc::downgrade(&share));
        CallerShare(share)
    }

    fn live(&self, callers: &HashMap<SpiffeId, Weak<Cell<usize>>>) -> usize {
        callers.values().filter(|share| share.strong_count() > 0).count()
    }
}

const CALLERS_KEPT_MIN: usize = 64;

impl Registry {
    /// Takes a place for a request, if there is one left in this worker's share of `limits.requests`.
    ///
    /// # Errors
    /// `OverLimit`: it is refused at once, instead of waiting for others to end.
    pub fn admit(
        &self,
        caller: Option<&CallerShare>,
        limits: &Limits,
        workers: usize,
    ) -> Result<Option<TakenShare>, Refused> {
        if self.requests_len() >= limits.requests.div_ceil(workers) {
            return Err(Refused::new(Refusal::OverLimit, "as many requests as `limits.requests` are in flight"));
        }
        let Some(CallerShare(count)) = caller else { return Ok(None) };
        if count.get() >= limits.requests_per_caller().div_ceil(workers) {
            let why = "as many requests of this caller as `limits.requests_per_caller` are in flight";
            return Err(Refused::new(Refusal::OverLimit, why));
        }
        count.set(count.get() + 1);
        Ok(Some(TakenShare(count.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::{CALLERS_KEPT_MIN, CallerShares, Registry};
    use postern_config::{Limits, SpiffeId};

    fn id(number: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://shop.example/caller/{number}")).expect("an ID")
    }

    #[test]
    fn ds_16_a_caller_that_has_its_share_leaves_the_others_theirs() {
        let (registry, shares) = (Registry::default(), CallerShares::default());
        let limits = Limits { requests: 8, requests_per_caller: Some(4), ..Limits::default() };
        let (greedy, modest) = (shares.of(&id(1)), shares.of(&id(2)));
        // Another connection of the same caller has the same share; two workers have half of it each.
        let taken: Vec<_> =
            (0..2).map(|_| registry.admit(Some(&shares.of(&id(1))), &limits, 2).expect("a place")).collect();
        let refused = registry.admit(Some(&greedy), &limits, 2).err().expect("no place");
        assert!(refused.detail.contains("requests_per_caller"));
        assert!(registry.admit(Some(&modest), &limits, 2).is_ok());
        drop(taken);
        assert!(registry.admit(Some(&greedy), &limits, 2).is_ok());
    }

    #[test]
    fn callers_that_have_gone_are_forgotten() {
        let shares = CallerShares::default();
        let stays = shares.of(&id(0));
        for number in 0..10 * CALLERS_KEPT_MIN {
            drop(shares.of(&id(number)));
        }
        assert!(shares.0.borrow().len() <= CALLERS_KEPT_MIN);
        stays.0.set(7);
        assert_eq!(shares.of(&id(0)).0.get(), 7);
    }
}
