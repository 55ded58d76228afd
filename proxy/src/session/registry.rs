//! One worker's live sessions and requests in flight.

use super::in_flight::{InFlight, RequestGuard, TakenShare};
use super::io::Socket;
use super::{Carries, Direction, EndCause, Session, SessionIo, trust_end};
use crate::capture::Stream;
use crate::identity::Snapshot;
use crate::telemetry::Metrics;
use crate::upstream::plan::ServicePlan;
use http::{Method, Uri};
use postern_config::{OnExpiry, Timeouts};
use slab::Slab;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
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

/// The sessions of one worker. Not `Sync`: it never leaves its thread.
#[derive(Default)]
pub struct Registry {
    sessions: RefCell<Slab<Entry>>,
    pub(super) in_flight: RefCell<Slab<Rc<InFlight>>>,
}

struct Entry {
    session: Arc<Session>,
    /// Its socket, while there is one: streams of tunnels have none.
    socket: Weak<Socket>,
    /// Requests that had begun when it was last seen at work.
    requests_seen: u64,
    /// Sweeps (seconds) since then without a request.
    idle_ticks: u32,
    /// Sweeps since the first byte of an unfinished head.
    partial_ticks: u32,
    /// Bytes that the other side had taken, and sweeps for which it has taken no more of those that wait.
    bytes_out_seen: u64,
    stalled_ticks: u32,
}

/// Takes the session out of the registry when dropped.
pub struct Registered {
    registry: Rc<Registry>,
    key: usize,
}

impl Registered {
    /// The socket of this session.
    pub fn io(&self, stream: Stream, metrics: &Arc<Metrics>) -> SessionIo {
        let entry = &mut self.registry.sessions.borrow_mut()[self.key];
        let io = SessionIo::new(stream, entry.session.clone(), metrics.clone());
        entry.socket = io.socket();
        io
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.sessions.borrow_mut().remove(self.key);
    }
}

impl Registry {
    pub fn register(self: &Rc<Self>, session: Arc<Session>) -> Registered {
        let socket = Weak::new();
        let entry = Entry {
            session,
            socket,
            requests_seen: 0,
            idle_ticks: 0,
            partial_ticks: 0,
            bytes_out_seen: 0,
            stalled_ticks: 0,
        };
        Registered { registry: self.clone(), key: self.sessions.borrow_mut().insert(entry) }
    }

    pub fn register_request(
        self: &Rc<Self>,
        session: &Arc<Session>,
        method: Method,
        uri: Uri,
        host: &str,
        service: Option<Arc<ServicePlan>>,
        share: Option<TakenShare>,
    ) -> RequestGuard {
        let request = Rc::new(InFlight::new(session.clone(), method, uri, host, service));
        let key = self.in_flight.borrow_mut().insert(request.clone());
        RequestGuard { registry: self.clone(), key, request, _share: share }
    }

    pub fn requests_len(&self) -> usize {
        self.in_flight.borrow().len()
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
        for request in self.requests() {
            request.follow_keys(snapshot);
        }
        self.reset_cut();
    }

    /// Resets the sockets of what has just been cut, all of them before the first of those who serve them is polled: to take
    /// a connection down takes many times as long, and the last of thousands must not wait for it. Answers that come over them,
    /// and wait for their callers, end with them.
    pub(super) fn reset_cut(&self) {
        for (_, request) in self.in_flight.borrow().iter() {
            request.follow_upstream();
        }
        for (_, entry) in self.sessions.borrow().iter().filter(|(_, entry)| entry.session.is_cut()) {
            if let Some(socket) = entry.socket.upgrade() {
                socket.reset();
            }
        }
    }

    /// Once a second: expiry of SVIDs, idle connections and requests, heads that do not arrive.
    pub fn sweep(&self, now: SystemTime, timeouts: &Timeouts, draining: bool) {
        for (_, entry) in self.sessions.borrow_mut().iter_mut() {
            expire(&entry.session, now);
            match entry.session.carries() {
                Carries::Http1 | Carries::Http2 if entry.session.direction != Direction::Upstream => {
                    watch_writes(entry, timeouts);
                    watch_http(entry, timeouts, draining);
                }
                _ => {}
            }
        }
        for (_, request) in self.in_flight.borrow().iter() {
            request.watch(timeouts);
        }
        self.reset_cut();
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

/// A caller that does not read holds what waits for it, and whoever made it. (Of tunnels both sides are watched as one.)
fn watch_writes(entry: &mut Entry, timeouts: &Timeouts) {
    let session = &entry.session;
    let bytes_out = session.bytes_out.load(Relaxed);
    let is_stalled = session.write_blocked.load(Relaxed) && bytes_out == entry.bytes_out_seen;
    (entry.bytes_out_seen, entry.stalled_ticks) = (bytes_out, if is_stalled { entry.stalled_ticks + 1 } else { 0 });
    if Duration::from_secs(entry.stalled_ticks.into()) > timeouts.write_stall {
        session.cut(EndCause::WriteStall, Instant::now());
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
    if entry.idle_ticks == PARK_TICKS && session.carries() == Carries::Http1 {
        session.park();
    }
    // HTTP/2's preface counts as a head too; behind it a caller may wait before its first request.
    let is_partial = session.head_begun.load(Relaxed) || session.carries() == Carries::Http1 && requests == 0;
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
