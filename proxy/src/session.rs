//! The registry of live connections and their authentication state; re-checks, retires and cuts them.
//!
//! Every connection has a [`Session`] from before its first check to its last byte. Each worker keeps its own
//! [`Registry`], so a re-check takes no lock. Cutting happens at the socket ([`SessionIo`]): whatever protocol runs above
//! it, the next poll fails, so no protocol can be forgotten.
//!
//! What ends trust, and what is done, is the table of DESIGN ("Rulings"); [`trust_end`] is that table as code.

mod deadline;
mod end_cause;
mod handshakes;
mod in_flight;
mod io;
mod negotiated;
mod recheck;
mod registry;
mod told;
mod trust;

pub use end_cause::EndCause;
pub use handshakes::Handshakes;
pub use in_flight::{CallerShare, CallerShares, InFlight, RequestGuard, TakenShare};
pub use io::{SessionIo, cut_error};
pub use negotiated::Negotiated;
pub use recheck::{Subject, decide_again, policy_changed, would_cut};
pub use registry::{Registered, Registry};
pub use told::Told;
pub use trust::{Trust, own_svid_rotated, trust_end};

use crate::admin::ConnectionInfo;
use crate::capture::Remote;
use crate::capture::caller_uid::CallerUnknown;
use crate::identity::Snapshot;
use crate::telemetry::PortMetrics;
use crate::telemetry::counters::refuses_stream;
use crate::telemetry::json::rfc3339;
use crate::tls::certificate::hex;
use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;

/// From whose side the connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A peer connected to us.
    Inbound,
    /// The application connected to us.
    Local,
    /// We connected to an upstream.
    Upstream,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Local => "outbound",
            Self::Upstream => "upstream",
        }
    }
}

/// What a connection carries; decides how expiry and policy changes treat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Carries {
    /// Not known yet: handshake or detection.
    Unknown,
    Http1,
    Http2,
    /// A tunnel, or an upgraded connection.
    Stream,
    /// Streams, each of which has a session of its own (`hbone`).
    Tunnels,
}

impl Carries {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Stream => "tcp",
            Self::Tunnels => "hbone",
        }
    }
}

/// One live connection.
pub struct Session {
    pub id: u64,
    pub direction: Direction,
    /// Listener or service, as named in the file.
    pub name: Arc<str>,
    pub remote: Remote,
    /// The local user that called, once that was asked.
    pub caller_uid: OnceLock<Result<u32, CallerUnknown>>,
    pub opened_at: SystemTime,
    pub opened: Instant,
    metrics: Arc<PortMetrics>,
    kept_after_expiry: AtomicBool,
    trust: OnceLock<Trust>,
    subject: OnceLock<Subject>,
    carries: AtomicU8,
    cut: AtomicBool,
    retired: AtomicBool,
    cause: AtomicU8,
    /// The event that ended it, to measure event → last byte.
    ended_by: OnceLock<Instant>,
    read_waker: AtomicWaker,
    write_waker: AtomicWaker,
    retire: Notify,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    /// HTTP requests that have begun and not ended.
    pub requests_active: AtomicU32,
    pub requests_total: AtomicU64,
    /// HTTP/1: bytes of a request's head have arrived, and not its end.
    pub head_begun: AtomicBool,
    /// HTTP/1: bytes of a response wait for the caller to take them.
    pub write_pending: AtomicBool,
    /// The socket takes no more: the other side does not read.
    pub(super) write_blocked: AtomicBool,
    /// HTTP/2: streams that ended without an answer as soon as they were opened.
    early_resets: AtomicU32,
    /// HTTP/2: streams that were malformed or too many, and became no request.
    pub streams_refused: AtomicU32,
    /// HTTP/1: why the request under way was cut, as `cause`.
    request_cut: AtomicU8,
    /// The alert by which the peer refused our certificate: kept here, because h2 turns errors of its socket into text.
    pub peer_refused_us: OnceLock<rustls::AlertDescription>,
    park_asked: AtomicBool,
    serve_waker: AtomicWaker,
}

impl Session {
    pub fn new(id: u64, direction: Direction, name: Arc<str>, remote: Remote, metrics: Arc<PortMetrics>) -> Arc<Self> {
        Arc::new(Self {
            id,
            direction,
            name,
            remote,
            caller_uid: OnceLock::new(),
            opened_at: SystemTime::now(),
            opened: Instant::now(),
            metrics,
            kept_after_expiry: AtomicBool::new(false),
            trust: OnceLock::new(),
            subject: OnceLock::new(),
            carries: AtomicU8::new(Carries::Unknown as u8),
            cut: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            cause: AtomicU8::new(0),
            ended_by: OnceLock::new(),
            read_waker: AtomicWaker::new(),
            write_waker: AtomicWaker::new(),
            retire: Notify::new(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            requests_active: AtomicU32::new(0),
            requests_total: AtomicU64::new(0),
            head_begun: AtomicBool::new(false),
            write_pending: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            early_resets: AtomicU32::new(0),
            streams_refused: AtomicU32::new(0),
            request_cut: AtomicU8::new(0),
            peer_refused_us: OnceLock::new(),
            park_asked: AtomicBool::new(false),
            serve_waker: AtomicWaker::new(),
        })
    }

    /// The mTLS identity of both sides; `None` while unknown, and on plaintext.
    pub fn trust(&self) -> Option<&Trust> {
        self.trust.get()
    }

    /// Sets what the handshake established, then checks it against `current`: the snapshot may have changed while the
    /// handshake ran, and the sweep for that change saw a session without trust.
    pub fn establish(&self, trust: Trust, current: &Snapshot) {
        let verified_with = trust.peer.generation;
        let trust = self.trust.get_or_init(|| trust);
        if verified_with != current.generation {
            self.follow(trust, trust_end(trust, current), current);
        }
    }

    /// What a new snapshot of identity means for this session: `end` is what [`trust_end`] said of `trust`.
    fn follow(&self, trust: &Trust, end: Option<EndCause>, snapshot: &Snapshot) {
        match end {
            Some(cause) => self.cut(cause, snapshot.published),
            // Also when our SVID rotated during the handshake: such a connection would outlive the rotation, and be cut
            // by the peer when the older authority is removed.
            None if own_svid_rotated(trust, snapshot) => self.retire(EndCause::SvidRotated),
            None => {}
        }
    }

    /// What the policy has to be asked about, when it changes.
    pub fn subject(&self) -> Option<&Subject> {
        self.subject.get()
    }

    pub fn set_subject(&self, subject: Subject) {
        // A connection has one subject; a second attempt would be the same one.
        let _ = self.subject.set(subject);
    }

    pub fn requests_total(&self) -> u64 {
        self.requests_total.load(Relaxed)
    }

    pub fn carries(&self) -> Carries {
        match self.carries.load(Relaxed) {
            1 => Carries::Http1,
            2 => Carries::Http2,
            3 => Carries::Stream,
            4 => Carries::Tunnels,
            _ => Carries::Unknown,
        }
    }

    pub fn set_carries(&self, carries: Carries) {
        self.carries.store(carries as u8, Relaxed);
    }

    /// Ends the connection now: the next poll of its socket fails and the socket is reset.
    pub fn cut(&self, cause: EndCause, event: Instant) {
        if !self.is_cut() {
            self.metrics.ended(cause);
        }
        self.cut_with_request(cause, event);
    }

    /// As [`cut`](Self::cut), for a request of which the end has been counted.
    pub fn cut_with_request(&self, cause: EndCause, event: Instant) {
        if self.cut.swap(true, Relaxed) {
            return;
        }
        self.cause.store(cause as u8, Relaxed);
        let _ = self.ended_by.set(event);
        self.read_waker.wake();
        self.write_waker.wake();
        self.serve_waker.wake();
        self.retire.notify_waiters();
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// Lets the connection end in order: no new request, what is in flight finishes. L4 is left alone.
    pub fn retire(&self, cause: EndCause) {
        if self.retired.swap(true, Relaxed) || self.is_cut() {
            return;
        }
        self.cause.store(cause as u8, Relaxed);
        self.retire.notify_waiters();
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Resolves when the session is retired or cut.
    pub async fn retired(&self) {
        let notified = self.retire.notified();
        if self.is_retired() || self.is_cut() {
            return;
        }
        notified.await;
    }

    /// Resolves when the session is cut. For protocols that at times poll neither side of the socket: a cut reaches them
    /// no other way.
    pub async fn was_cut(&self) {
        loop {
            let notified = self.retire.notified();
            if self.is_cut() {
                return;
            }
            notified.await;
        }
    }

    /// HTTP/1: the request under way was cut, and has not ended. Whoever is polled when that happens, and cannot end it in
    /// order, has to end the connection.
    pub fn request_was_cut(&self) -> Option<EndCause> {
        let cause = EndCause::from_u8(self.request_cut.load(Relaxed))?;
        (self.requests_active.load(Relaxed) > 0).then_some(cause)
    }

    /// HTTP/1: what was cut was another one.
    pub fn request_begins(&self) {
        self.request_cut.store(0, Relaxed);
    }

    /// HTTP/2: we have reset a stream.
    pub fn stream_reset(&self, code: u32) {
        if refuses_stream(code) {
            self.streams_refused.fetch_add(1, Relaxed);
        }
    }

    /// HTTP/2: a request ended without an answer `after` it began. Streams opened to be given up cost us, and whoever stands
    /// behind us, more than their caller (THREATS H2-01, H2-03); h2 counts only those that it has not handed on yet.
    pub fn request_given_up(&self, after: Duration, early_resets_max: u32) {
        if after > EARLY || self.carries() != Carries::Http2 {
            return;
        }
        let early = self.early_resets.fetch_add(1, Relaxed) + 1;
        if early > early_resets_max && u64::from(early) * 2 > self.requests_total() {
            self.cut(EndCause::Http2Resets, Instant::now());
        }
    }

    /// Why we ended it, if we did.
    pub fn end_cause(&self) -> Option<EndCause> {
        EndCause::from_u8(self.cause.load(Relaxed))
    }

    /// `on_expiry: keep`: counted once, and visible.
    fn keep_after_expiry(&self) {
        if !self.kept_after_expiry.swap(true, Relaxed) {
            self.metrics.expired_kept();
        }
    }

    fn state(&self) -> &'static str {
        if self.is_cut() {
            "cut"
        } else if self.is_retired() {
            "retiring"
        } else if self.kept_after_expiry.load(Relaxed) {
            "kept after expiry"
        } else {
            "live"
        }
    }

    /// For the operator.
    pub fn info(&self) -> ConnectionInfo {
        let trust = self.trust();
        ConnectionInfo {
            id: self.id,
            direction: self.direction.as_str(),
            listener: self.name.to_string(),
            protocol: self.carries().as_str(),
            remote: self.remote.to_string(),
            peer_spiffe_id: trust.map(|trust| trust.peer.id.to_string()),
            peer_not_after: trust.map(|trust| rfc3339(trust.peer.not_after)),
            peer_sha256: trust.map(|trust| hex(&trust.peer.fingerprint)),
            peer_serial: trust.map(|trust| trust.peer.serial.clone()),
            peer_authority: trust.map(|trust| hex(&trust.peer.authority.0)),
            own_spiffe_id: trust.map(|trust| trust.own.id.to_string()),
            opened_at: rfc3339(self.opened_at),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            state: self.state(),
        }
    }

    /// Event → now, for a session that was cut.
    fn cut_latency(&self) -> Option<(EndCause, Duration)> {
        if !self.is_cut() {
            return None;
        }
        Some((self.end_cause()?, self.ended_by.get()?.elapsed()))
    }
}

/// A stream that is given up so soon was not opened for its answer.
const EARLY: Duration = Duration::from_secs(1);
