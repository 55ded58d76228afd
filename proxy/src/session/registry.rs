//! One worker's live sessions and requests in flight.

use super::{Carries, Direction, EndCause, Session, trust_end};
use crate::identity::Snapshot;
use crate::upstream::plan::ServicePlan;
use futures_util::task::AtomicWaker;
use http::{Method, Uri};
use postern_config::{OnExpiry, Timeouts};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::time::{Duration, Instant, SystemTime};

/// HTTP connections end this long after a notAfter at the latest (DESIGN, rulings: "cut a few seconds after").
const EXPIRY_CUT_DELAY: Duration = Duration::from_secs(3);
/// No new request later than this before a notAfter; each session subtracts its own share of it, so that a fleet of
/// connections made at once does not reconnect at once.
const EXPIRY_MARGIN_MAX: Duration = Duration::from_secs(30);
/// While draining, an HTTP/1 connection that stays idle this long is closed; before, its next response says `close`.
const DRAIN_IDLE_TICKS: u32 = 3;
/// An idle connection is told to end this long before it is cut.
const IDLE_GOODBYE: Duration = Duration::from_secs(5);
/// An HTTP/1 connection that has been idle this long gives its buffers back.
const PARK_TICKS: u32 = 2;
/// A request of which nothing moves for so long, neither its body nor its answer, is ended (PEERS D1, "stream idle"): an
/// application that hangs does not hold the connections of callers who left long ago.
const STREAM_IDLE_TICKS: u32 = 300;

/// The sessions of one worker. Not `Sync`: it never leaves its thread.
#[derive(Default)]
pub struct Registry {
    sessions: RefCell<Slab<Entry>>,
    in_flight: RefCell<Slab<Rc<InFlight>>>,
}

struct Entry {
    session: Arc<Session>,
    /// Requests that had begun when it was last seen at work.
    requests_seen: u64,
    /// Sweeps (seconds) since then without a request.
    idle_ticks: u32,
    /// Sweeps since the first byte of an unfinished head.
    partial_ticks: u32,
}

/// Takes the session out of the registry when dropped.
pub struct Registered {
    registry: Rc<Registry>,
    key: usize,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.sessions.borrow_mut().remove(self.key);
    }
}

/// A request that has been allowed and has not ended: what it takes to decide it again.
pub struct InFlight {
    pub session: Arc<Session>,
    pub method: Method,
    pub uri: Uri,
    pub host: Box<str>,
    /// Outbound: where it goes.
    pub service: Option<Arc<ServicePlan>>,
    pub bytes_from_caller: Cell<u64>,
    cut: Cell<bool>,
    waker: AtomicWaker,
    /// Rises with every frame of either body, and with the answer's head.
    moves: Cell<u64>,
    moves_seen: Cell<u64>,
    /// Sweeps since then.
    quiet_ticks: Cell<u32>,
    may_be_quiet: Cell<bool>,
    idled_out: Cell<bool>,
}

impl InFlight {
    /// Something of it moved.
    pub fn moved(&self) {
        self.moves.set(self.moves.get().wrapping_add(1));
    }

    /// Tunnels, which have a limit of their own, and gRPC's streams, which may say nothing for hours.
    pub fn allow_quiet(&self) {
        self.may_be_quiet.set(true);
    }

    /// Was it cut because nothing of it moved?
    pub fn has_idled_out(&self) -> bool {
        self.idled_out.get()
    }

    fn watch(&self) {
        if self.may_be_quiet.get() || self.cut.get() {
            return;
        }
        if self.moves.get() != self.moves_seen.replace(self.moves.get()) {
            return self.quiet_ticks.set(0);
        }
        self.quiet_ticks.set(self.quiet_ticks.get() + 1);
        if self.quiet_ticks.get() > STREAM_IDLE_TICKS {
            self.idled_out.set(true);
            self.cut();
        }
    }

    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Ends this request (its stream, or its HTTP/1 connection) and no other.
    pub fn cut(&self) {
        self.cut.set(true);
        let cause = if self.has_idled_out() { EndCause::Idle } else { EndCause::PolicyChanged };
        self.session.request_cut.store(cause as u8, Relaxed);
        self.waker.wake();
    }

    /// True once cut; else `context` is woken by [`InFlight::cut`].
    pub fn poll_cut(&self, context: &mut Context<'_>) -> bool {
        if !self.cut.get() {
            self.waker.register(context.waker());
        }
        self.cut.get()
    }
}

/// Takes the request out of the registry when dropped.
pub struct RequestGuard {
    registry: Rc<Registry>,
    key: usize,
    pub request: Rc<InFlight>,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.registry.in_flight.borrow_mut().remove(self.key);
    }
}

impl Registry {
    pub fn register(self: &Rc<Self>, session: Arc<Session>) -> Registered {
        let entry = Entry { session, requests_seen: 0, idle_ticks: 0, partial_ticks: 0 };
        Registered { registry: self.clone(), key: self.sessions.borrow_mut().insert(entry) }
    }

    pub fn register_request(
        self: &Rc<Self>,
        session: &Arc<Session>,
        method: Method,
        uri: Uri,
        host: &str,
        service: Option<Arc<ServicePlan>>,
    ) -> RequestGuard {
        let request = Rc::new(InFlight {
            session: session.clone(),
            method,
            uri,
            host: host.into(),
            service,
            bytes_from_caller: Cell::new(0),
            cut: Cell::new(false),
            waker: AtomicWaker::new(),
            moves: Cell::new(0),
            moves_seen: Cell::new(0),
            quiet_ticks: Cell::new(0),
            may_be_quiet: Cell::new(false),
            idled_out: Cell::new(false),
        });
        let key = self.in_flight.borrow_mut().insert(request.clone());
        RequestGuard { registry: self.clone(), key, request }
    }

    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.borrow().iter().map(|(_, entry)| entry.session.clone()).collect()
    }

    pub fn requests(&self) -> Vec<Rc<InFlight>> {
        self.in_flight.borrow().iter().map(|(_, request)| request.clone()).collect()
    }

    pub fn len(&self, direction: Direction) -> usize {
        self.sessions.borrow().iter().filter(|(_, entry)| entry.session.direction == direction).count()
    }

    /// A new snapshot of identity: cuts what lost its trust, retires what was made with an older SVID of ours.
    pub fn identity_changed(&self, snapshot: &Snapshot) {
        // Peers with many connections are verified once a sweep.
        let mut verdicts: HashMap<([u8; 32], [u8; 32]), Option<EndCause>> = HashMap::new();
        for session in self.sessions() {
            let Some(trust) = session.trust() else { continue };
            let key = (trust.peer.fingerprint, trust.own.fingerprint);
            let end = *verdicts.entry(key).or_insert_with(|| trust_end(trust, snapshot));
            session.follow(trust, end, snapshot);
        }
    }

    /// Once a second: expiry of SVIDs, idle connections and requests, heads that do not arrive.
    pub fn sweep(&self, now: SystemTime, timeouts: &Timeouts, draining: bool) {
        for (_, entry) in self.sessions.borrow_mut().iter_mut() {
            expire(&entry.session, now);
            match entry.session.carries() {
                Carries::Http1 | Carries::Http2 if entry.session.direction != Direction::Upstream => {
                    watch_http(entry, timeouts, draining);
                }
                _ => {}
            }
        }
        for (_, request) in self.in_flight.borrow().iter() {
            request.watch();
        }
    }
}

fn expire(session: &Session, now: SystemTime) {
    let Some(trust) = session.trust() else { return };
    let not_after = trust.not_after();
    if session.carries() == Carries::Stream {
        if now >= not_after {
            match trust.on_expiry {
                OnExpiry::Keep => session.keep_after_expiry(),
                OnExpiry::Cut => session.cut(EndCause::SvidExpired, Instant::now()),
            }
        }
        return;
    }
    let lifetime = not_after.duration_since(session.opened_at).unwrap_or_default();
    let share = (session.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u32;
    let margin = EXPIRY_MARGIN_MAX.min(lifetime / 10) * share / 256;
    // What a connection carries in streams ends, or is kept, stream by stream.
    if now >= not_after + EXPIRY_CUT_DELAY && session.carries() != Carries::Tunnels {
        session.cut(EndCause::SvidExpired, Instant::now());
    } else if now + margin >= not_after {
        session.retire(EndCause::SvidExpired);
    }
}

fn watch_http(entry: &mut Entry, timeouts: &Timeouts, draining: bool) {
    let session = &entry.session;
    let requests = session.requests_total.load(Relaxed);
    // Requests that began and ended between two sweeps are work too.
    if session.requests_active.load(Relaxed) > 0 || requests != entry.requests_seen {
        (entry.requests_seen, entry.idle_ticks, entry.partial_ticks) = (requests, 0, 0);
        return;
    }
    entry.idle_ticks += 1;
    if entry.idle_ticks >= PARK_TICKS && session.carries() == Carries::Http1 {
        session.park();
    }
    let waits_for_head = session.head_begun.load(Relaxed) || requests == 0;
    let is_partial = session.carries() == Carries::Http1 && waits_for_head;
    entry.partial_ticks = if is_partial { entry.partial_ticks + 1 } else { 0 };
    if Duration::from_secs(entry.partial_ticks.into()) > timeouts.request_headers {
        session.cut(EndCause::HeaderTimeout, Instant::now());
    } else if draining && entry.idle_ticks > DRAIN_IDLE_TICKS && session.is_retired() {
        session.cut(EndCause::Draining, Instant::now());
    } else if Duration::from_secs(entry.idle_ticks.into()) > timeouts.http_idle + IDLE_GOODBYE {
        session.cut(EndCause::Idle, Instant::now());
    } else if Duration::from_secs(entry.idle_ticks.into()) > timeouts.http_idle {
        // GOAWAY, or `close` with a response that may still be asked for: a request on its way is not lost.
        session.retire(EndCause::Idle);
    }
}
