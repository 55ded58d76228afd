//! One accepted connection, from the moment it is accepted to its last byte: what is known of it, and its one record.

mod audit;
mod drift;
mod local_caller;
mod rate_limits;

use crate::audit::record::{Decision, Outcome as Decided};
use crate::capture::{Remote, Stream};
use crate::http::identity_headers::RenderedIdentity;
use crate::identity::Svid;
use crate::policy::{Door, DoorPlan, InboundPlan, Policy, UNROUTED};
use crate::refusal::Refused;
use crate::session::{CallerShare, Carries, Direction, EndCause, Registered, Session, SessionIo, Trust};
use crate::shared::Shared;
use crate::telemetry::json::Rendered;
use crate::telemetry::record::{ConnectionFacts, ConnectionRecord, Outcome, TlsFacts, Upstream};
use crate::telemetry::{self, PortMetrics};
use crate::tls::Peer;
use crate::upstream::client::HttpVersion;
use crate::upstream::plan::ServicePlan;
use crate::worker::Worker;
use postern_config::{Mode, Network};
use rate_limits::Buckets;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What is known of a connection. Its drop closes the books: metrics, place, record.
pub struct Connection {
    pub worker: Rc<Worker>,
    pub session: Arc<Session>,
    pub door: Door,
    pub metrics: Arc<PortMetrics>,
    /// What the application is told of the caller; made once a connection.
    pub identity: OnceCell<RenderedIdentity>,
    /// The caller's requests in flight, on all of its connections to this worker. None for who has no identity.
    pub caller_share: OnceCell<CallerShare>,
    buckets: Buckets,
    /// Where the application's socket is connected to, as it sees it.
    called: Cell<Option<SocketAddr>>,
    /// Where it was meant to go, if it was captured.
    original: Cell<Option<SocketAddr>>,
    /// The connection of which it is a stream.
    carrier: Cell<Option<u64>>,
    version: Cell<HttpVersion>,
    policy_generation: u64,
    /// The network that its peer's certificate is held to be in while it lives (`drift`).
    network: Cell<Option<Network>>,
    outcome: RefCell<ConnectionOutcome>,
    audited: audit::Audited,
    /// For the records of its requests.
    pub rendered: Rendered,
    registered: Registered,
    _place: Place,
}

#[derive(Default)]
struct ConnectionOutcome {
    refused: Option<Refused>,
    rule: Option<Arc<str>>,
    mode: Mode,
    observed: Option<Refused>,
    upstream: Option<String>,
    upstream_peer: Option<Arc<Peer>>,
    upstream_own: Option<Arc<Svid>>,
    end: Option<String>,
}

/// A connection's place in its worker's load and in the process's budget.
pub struct Place {
    load: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

impl Place {
    pub fn new(load: Arc<AtomicUsize>, shared: Arc<Shared>) -> Self {
        Self { load, shared }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Relaxed);
        self.shared.budget.give_back();
    }
}

impl Connection {
    /// Registers the connection, before anything of it is checked.
    pub fn open(
        worker: &Rc<Worker>,
        door: Door,
        place: Place,
        direction: Direction,
        name: Arc<str>,
        metrics: Arc<PortMetrics>,
        remote: Remote,
    ) -> Rc<Self> {
        metrics.connection_opened();
        let session = Session::new(worker.next_id(), direction, name, remote, metrics.clone());
        Rc::new(Self {
            registered: worker.registry.register(session.clone()),
            worker: worker.clone(),
            session,
            door,
            metrics,
            identity: OnceCell::new(),
            caller_share: OnceCell::new(),
            buckets: Buckets::default(),
            called: Cell::new(None),
            original: Cell::new(None),
            carrier: Cell::new(None),
            version: Cell::new(HttpVersion::Http1),
            policy_generation: worker.policy().generation,
            network: Cell::new(None),
            outcome: RefCell::default(),
            audited: audit::Audited::default(),
            rendered: Rendered::default(),
            _place: place,
        })
    }

    /// Its socket, which fails as soon as the session is cut.
    pub fn io(&self, stream: Stream) -> SessionIo {
        self.registered.io(stream, &self.worker.shared.metrics)
    }

    /// The verified caller; `None` is `anonymous`, or the application.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.session.trust().map(|trust| &trust.peer)
    }

    pub fn original(&self) -> Option<SocketAddr> {
        self.original.get()
    }

    pub fn set_original(&self, original: SocketAddr) {
        self.original.set(Some(original));
    }

    pub fn set_carrier(&self, connection: u64) {
        self.carrier.set(Some(connection));
    }

    /// What a request without a host is addressed to.
    pub fn listener_text(&self) -> String {
        match (self.original(), &self.door) {
            (Some(original), _) => original.to_string(),
            // A path is no host; clients of sockets say this where they name none.
            (None, Door::Socket(_)) => "localhost".to_owned(),
            (None, door) => door.to_string(),
        }
    }

    /// The application, as this connection reaches it: captured as they are, callers keep their address.
    ///
    /// # Errors
    /// Too many callers have called lately.
    pub fn app(&self, plan: &InboundPlan, policy: &Policy) -> Result<Arc<ServicePlan>, Refused> {
        match (policy.transparent && self.original().is_some(), self.session.remote) {
            (true, Remote::Ip(remote)) => self.worker.upstreams.of_caller(&plan.app, remote.ip().to_canonical()),
            (true, Remote::Unix) | (false, _) => Ok(plan.app.clone()),
        }
    }

    pub fn version(&self) -> HttpVersion {
        self.version.get()
    }

    pub fn set_version(&self, version: HttpVersion) {
        self.version.set(version);
        self.session.set_carries(match version {
            HttpVersion::Http1 => Carries::Http1,
            HttpVersion::Http2 => Carries::Http2,
        });
    }

    /// Must the next response say `Connection: close`?
    pub fn is_closing(&self) -> bool {
        self.session.is_retired()
    }

    pub fn refused(&self, refused: Refused) {
        self.metrics.refused(refused.refusal);
        let outcome = if refused.refusal.is_failure() { Decided::Failed } else { Decided::Refused };
        self.outcome.borrow_mut().refused = Some(refused);
        self.audit(outcome);
    }

    pub fn rule(&self, rule: Arc<str>) {
        self.outcome.borrow_mut().rule = Some(rule);
    }

    pub fn judged_in(&self, mode: Mode) {
        self.outcome.borrow_mut().mode = mode;
    }

    /// L4: it is let in by a break-glass override.
    pub fn overridden(&self, rule: &str) {
        self.worker.shared.metrics.break_glass_used();
        tracing::warn!(port = %self.session.name, rule, "a break-glass override let a connection in");
    }

    /// L4: it is let through although the rules refuse it.
    pub fn observed(&self, refused: Refused) {
        self.metrics.observed();
        self.outcome.borrow_mut().observed = Some(refused);
    }

    /// L4: it is connected to this, which has proven to be `peer`. `own`: what we showed it.
    pub fn upstream(&self, address: String, peer: Option<Arc<Peer>>, own: Option<Arc<Svid>>) {
        let mut outcome = self.outcome.borrow_mut();
        outcome.upstream = Some(address);
        outcome.upstream_peer = peer;
        outcome.upstream_own = own;
        drop(outcome);
        self.audit(Decided::Allowed);
    }

    /// Why it ended, where that is not plain.
    pub fn ended(&self, why: String) {
        self.outcome.borrow_mut().end.get_or_insert(why);
    }

    /// What every record of this connection says, without its duration.
    pub fn facts(&self) -> ConnectionFacts<'_> {
        let session = &self.session;
        let trust = session.trust();
        ConnectionFacts {
            direction: match session.direction {
                Direction::Inbound => telemetry::Direction::Inbound,
                Direction::Local | Direction::Upstream => telemetry::Direction::Outbound,
            },
            name: &session.name,
            connection: session.id,
            remote: Some(session.remote),
            socket: self.door.socket(),
            caller_uid: session.caller_uid.get().and_then(|uid| uid.ok()),
            original: self.original(),
            carrier: self.carrier.get(),
            protocol: match session.carries() {
                Carries::Unknown => None,
                Carries::Stream => Some("tcp"),
                Carries::Http1 | Carries::Http2 => Some("http"),
                Carries::Tunnels => Some("hbone"),
            },
            // Between sidecars there is no other version.
            tls: trust.map(|trust| TlsFacts {
                version: Some("1.3"),
                cipher: trust.negotiated.cipher,
                curve: trust.negotiated.group,
            }),
            peer: trust.map(|trust| &trust.peer.id),
            peer_fingerprint: trust.map(|trust| &trust.peer.fingerprint),
            own: trust.map(|trust| &trust.own.id),
            identity_generation: trust.map(|trust| trust.peer.generation),
            policy_generation: Some(self.policy_generation),
            bytes_received: session.bytes_in.load(Relaxed),
            bytes_sent: session.bytes_out.load(Relaxed),
            ..ConnectionFacts::default()
        }
    }

    fn write(&self) {
        let outcome = self.outcome.borrow();
        let decision = self.worker.decision_id(self.session.id);
        let cause = self.session.end_cause().map(EndCause::as_str);
        let stopped = self.worker.is_stopping().then(|| EndCause::Draining.as_str());
        let record = self.record(&outcome, cause.or(outcome.end.as_deref()).or(stopped));
        self.worker.shared.access_log.connection(&ConnectionRecord { decision: Some(&decision), ..record });
    }

    /// Without the id of its decision.
    fn record<'a>(&'a self, outcome: &'a ConnectionOutcome, end: Option<&'a str>) -> ConnectionRecord<'a> {
        let mut facts = self.facts();
        facts.duration = self.session.opened.elapsed();
        if self.session.direction == Direction::Local {
            facts.peer = outcome.upstream_peer.as_ref().map(|peer| &peer.id);
            facts.peer_fingerprint = outcome.upstream_peer.as_ref().map(|peer| &peer.fingerprint);
        }
        let requests = self.session.requests_total();
        ConnectionRecord {
            connection: facts,
            decision: None,
            requests: matches!(self.session.carries(), Carries::Http1 | Carries::Http2 | Carries::Tunnels)
                .then_some(requests),
            streams_refused: Some(self.session.streams_refused.load(Relaxed).into()).filter(|refused| *refused > 0),
            outcome: Outcome {
                rule: outcome.rule.as_deref(),
                route: None,
                observed: outcome.observed.as_ref().map(|refused| refused.refusal),
                observed_detail: outcome.observed.as_ref().and_then(Refused::words_inside),
                refusal: outcome.refused.as_ref().map(|refused| refused.refusal),
                refusal_detail: outcome.refused.as_ref().and_then(Refused::words_inside),
                remote_refusal: None,
                remote_decision: None,
                end,
            },
            upstream: Upstream {
                address: outcome.upstream.as_deref(),
                identity: outcome.upstream_peer.as_ref().map(|peer| &peer.id),
            },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connection_closed();
        self.certificate_gone();
        if self.session.requests_total() == 0 {
            // Requests count their own bytes.
            self.metrics.bytes(self.session.bytes_in.load(Relaxed), self.session.bytes_out.load(Relaxed));
        }
        self.audit_end();
        if self.worker.shared.access_log.enabled() {
            self.write();
        }
    }
}

/// The record of a connection that was closed before anything of it was read: it never got a place.
pub fn turn_away(worker: &Worker, door: &Door, remote: Remote, refused: Refused) {
    let number = worker.next_id();
    let facts = ConnectionFacts { connection: number, remote: Some(remote), ..ConnectionFacts::default() };
    write_turned_away(number, worker, door, facts, None, refused);
}

/// The same of a stream of `carrier`, whose peer is known. `number`: of the decision, which is told the peer.
pub fn turn_away_stream(number: u64, carrier: &Connection, door: &Door, refused: Refused) {
    let facts = ConnectionFacts { connection: number, carrier: Some(carrier.session.id), ..carrier.facts() };
    // They are the carrier's.
    let facts = ConnectionFacts { bytes_received: 0, bytes_sent: 0, ..facts };
    write_turned_away(number, &carrier.worker, door, facts, carrier.session.trust(), refused);
}

fn write_turned_away(
    number: u64,
    worker: &Worker,
    door: &Door,
    facts: ConnectionFacts<'_>,
    trust: Option<&Trust>,
    refused: Refused,
) {
    let policy = worker.policy();
    let (direction, name, metrics) = match policy.door(door) {
        Some(DoorPlan::Inbound(plan)) => (telemetry::Direction::Inbound, &*plan.name, &plan.metrics),
        Some(DoorPlan::Tunnel(plan)) => (telemetry::Direction::Inbound, &*plan.name, &plan.metrics),
        Some(DoorPlan::Service(service)) => (telemetry::Direction::Outbound, &*service.name, &service.metrics),
        Some(DoorPlan::Shared | DoorPlan::CapturedOutbound) => {
            (telemetry::Direction::Outbound, SHARED_NAME, &policy.unrouted)
        }
        Some(DoorPlan::CapturedInbound) => (telemetry::Direction::Inbound, CAPTURED_NAME, &policy.unrouted),
        None => (telemetry::Direction::Outbound, UNROUTED, &policy.unrouted),
    };
    metrics.connection_opened();
    metrics.connection_closed();
    metrics.refused(refused.refusal);
    let (access_log, audit) = (&worker.shared.access_log, &worker.shared.audit);
    if !access_log.enabled() && !audit.enabled() {
        return;
    }
    let decision = worker.decision_id(number);
    let record = ConnectionRecord {
        connection: ConnectionFacts {
            direction,
            name,
            socket: door.socket(),
            policy_generation: Some(policy.generation),
            ..facts
        },
        decision: Some(&decision),
        requests: None,
        streams_refused: None,
        outcome: Outcome {
            refusal: Some(refused.refusal),
            refusal_detail: refused.words_inside(),
            ..Outcome::default()
        },
        upstream: Upstream::default(),
    };
    access_log.connection(&record);
    let (peer, own) = (trust.map(|trust| &*trust.peer), trust.map(|trust| &*trust.own));
    let mode = Mode::Enforce;
    let decided = Decision { outcome: Decided::Refused, mode, policy: &policy.digest, peer, own };
    audit.connection(crate::audit::Place::default(), &decided, &record);
}

/// What the listener for captured connections of peers is called in records, before it is known for which port one is.
pub const CAPTURED_NAME: &str = "capture";
/// What a shared listener is called in records, before a request names a service.
pub const SHARED_NAME: &str = "outbound";
