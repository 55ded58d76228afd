//! The record and the metrics of one request: opened with it, ended with its last byte, written exactly once.

mod audit;
mod facts;
mod request_line;

use super::body::Received;
use super::forwarded::Forwarded;
use super::respond;
use crate::audit::Place;
use crate::authz::Decision;
use crate::connection::Connection;
use crate::decision_id::DecisionId;
use crate::identity::Svid;
use crate::policy::Policy;
use crate::refusal::Refused;
use crate::session::InFlight;
use crate::telemetry::{ExternalVerdict, PortMetrics};
use crate::tls::Peer;
use crate::token::Verified;
use crate::upstream::client::chain;
use crate::upstream::lease::Lease;
use audit::{Audited, Authorized};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use postern_config::{Mode, SpiffeId};
use request_line::read_request_line;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

pub struct Recorder {
    connection: Rc<Connection>,
    metrics: Arc<PortMetrics>,
    started: Instant,
    decision: u64,
    pub bytes_to_caller: Cell<u64>,
    in_flight: Option<Rc<InFlight>>,
    status: Option<StatusCode>,
    is_grpc: bool,
    grpc_status: Option<u32>,
    refused: Option<Refused>,
    /// What only the logs want: absent when there is none.
    logged: Option<Box<Logged>>,
    is_complete: bool,
}

#[derive(Default)]
struct Logged {
    /// `None`: the head could not be read; so for the next two.
    method: Option<Method>,
    uri: Option<Uri>,
    version: Option<Version>,
    host: Option<Box<str>>,
    service: Option<Arc<str>>,
    route: Option<Arc<str>>,
    rule: Option<Arc<str>>,
    mode: Mode,
    observed: Option<Refused>,
    forwarded_caller: Option<SpiffeId>,
    token: Option<Arc<Verified>>,
    authorized: Option<Authorized>,
    upstream: Option<Rc<str>>,
    upstream_peer: Option<Arc<Peer>>,
    /// What we showed it.
    upstream_own: Option<Arc<Svid>>,
    remote_refusal: Option<String>,
    remote_decision: Option<String>,
    end: Option<String>,
    /// A tunnel's own count, where the bodies' do not tell.
    tunnelled: Option<(u64, u64)>,
    decision: DecisionId,
    /// Of the policy that decides, which may be newer than the connection.
    generation: u64,
    /// Its digest; for the audit log alone, because to count who holds it costs all workers.
    policy: Option<Arc<str>>,
    audited: Audited,
    /// What the audit log keeps for its next record.
    place: Place,
}

impl Recorder {
    pub fn open(connection: &Rc<Connection>, policy: &Policy, request: &Request<Received>) -> Self {
        Self::begin(connection, policy, |logged| Logged {
            method: Some(request.method().clone()),
            uri: Some(request.uri().clone()),
            version: Some(request.version()),
            ..logged
        })
    }

    /// For a head that cannot be read, as far as it can be read: `head` is its beginning, if that is known.
    pub fn of_refused_head(connection: &Rc<Connection>, head: &[u8]) -> Self {
        Self::begin(connection, &connection.worker.policy(), |logged| {
            let (method, uri) = read_request_line(head);
            Logged { method, uri, ..logged }
        })
    }

    fn begin(connection: &Rc<Connection>, policy: &Policy, fill: impl FnOnce(Logged) -> Logged) -> Self {
        let session = &connection.session;
        session.requests_active.fetch_add(1, Relaxed);
        session.requests_total.fetch_add(1, Relaxed);
        connection.metrics.request_started();
        let decision = connection.worker.next_id();
        let shared = &connection.worker.shared;
        let is_audited = shared.audit.enabled();
        let logged = (is_audited || shared.access_log.enabled()).then(|| {
            let audited = if is_audited { Audited::Waiting } else { Audited::Done };
            let decision = connection.worker.decision_id(decision);
            let (generation, policy) = (policy.generation, is_audited.then(|| policy.digest.clone()));
            Box::new(fill(Logged { decision, generation, policy, audited, ..Logged::default() }))
        });
        Self {
            connection: connection.clone(),
            metrics: connection.metrics.clone(),
            started: Instant::now(),
            decision,
            bytes_to_caller: Cell::new(0),
            in_flight: None,
            status: None,
            is_grpc: false,
            grpc_status: None,
            refused: None,
            logged,
            is_complete: false,
        }
    }

    /// It is decided, and this is where its record goes, at once.
    pub fn place(&mut self, place: Place) {
        if let Some(logged) = &mut self.logged {
            logged.place = place;
        }
    }

    /// Tells this decision from every other one of this process.
    pub fn number(&self) -> u64 {
        self.decision
    }

    /// Tells this decision from every other one, also of other processes.
    pub fn decision_id(&self) -> DecisionId {
        self.connection.worker.decision_id(self.decision)
    }

    pub fn in_flight(&mut self, request: &Rc<InFlight>) {
        self.in_flight = Some(request.clone());
    }

    /// The caller's body was read to its end.
    pub fn body_was_read(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|request| request.body_was_read.get())
    }

    pub fn host(&mut self, host: &str) {
        if let Some(logged) = &mut self.logged {
            logged.host = Some(host.into());
        }
    }

    /// Outbound: the service that the request is for, which is counted from now on.
    pub fn service(&mut self, name: &Arc<str>, metrics: &Arc<PortMetrics>) {
        if !Arc::ptr_eq(&self.metrics, metrics) {
            self.metrics.request_ended();
            self.metrics = metrics.clone();
            self.metrics.request_started();
        }
        if let Some(logged) = &mut self.logged {
            logged.service = Some(name.clone());
        }
    }

    pub fn route(&mut self, route: &Arc<str>) {
        if let Some(logged) = &mut self.logged {
            logged.route = Some(route.clone());
        }
    }

    pub fn rule(&mut self, rule: Arc<str>) {
        if let Some(logged) = &mut self.logged {
            logged.rule = Some(rule);
        }
    }

    /// In which mode the rules were asked.
    pub fn judged_in(&mut self, mode: Mode) {
        if let Some(logged) = &mut self.logged {
            logged.mode = mode;
        }
    }

    /// It is let in by a break-glass override.
    pub fn overridden(&mut self, rule: &str, refused: &Decision) {
        self.connection.worker.shared.metrics.break_glass_used();
        let (port, decision) = (&self.connection.session.name, self.decision_id());
        tracing::warn!(%port, rule, ?refused, %decision, "a break-glass override let a request in");
    }

    /// It is let through although the rules refuse it.
    pub fn observed(&mut self, refused: Refused) {
        self.metrics.observed();
        if let Some(logged) = &mut self.logged {
            logged.observed = Some(refused);
        }
    }

    /// For whom the peer speaks.
    pub fn forwarded(&mut self, forwarded: &Forwarded) {
        if let Some(logged) = &mut self.logged {
            logged.forwarded_caller = forwarded.caller().cloned();
        }
    }

    /// A token that is good; whether its caller may show it, is another matter.
    pub fn token(&mut self, token: &Arc<Verified>) {
        if let Some(logged) = &mut self.logged {
            logged.token = Some(token.clone());
        }
    }

    /// What came of the question to its authorizer.
    pub fn authorized(&mut self, authorizer: &Arc<str>, verdict: ExternalVerdict, after: Duration) {
        if let Some(logged) = &mut self.logged {
            logged.authorized = Some(Authorized { authorizer: authorizer.clone(), verdict, after });
        }
    }

    pub fn upstream(&mut self, lease: &Lease) {
        if let Some(logged) = &mut self.logged {
            logged.upstream = Some(lease.endpoint.name.clone());
            logged.upstream_peer = lease.peer.clone();
            let trust = lease.session.as_ref().and_then(|session| session.trust()).filter(|_| logged.policy.is_some());
            logged.upstream_own = trust.map(|trust| trust.own.clone());
        }
    }

    /// The peer's sidecar refused, and said why.
    pub fn remote_refusal(&mut self, code: String, decision: Option<String>) {
        if let Some(logged) = &mut self.logged {
            logged.remote_refusal = Some(code);
            logged.remote_decision = decision;
        }
    }

    /// The answer's head. A gRPC answer without messages has its status there (gRPC over HTTP/2, "Trailers-Only").
    pub fn answered(&mut self, head: &http::response::Parts) {
        self.status = Some(head.status);
        self.read_grpc_status(&head.headers);
        self.audit_allowed();
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        self.read_grpc_status(trailers);
    }

    /// The caller speaks gRPC: only then is the answer's status looked for.
    pub fn is_grpc(&mut self) {
        self.is_grpc = true;
    }

    pub fn speaks_grpc(&self) -> bool {
        self.is_grpc
    }

    fn read_grpc_status(&mut self, fields: &HeaderMap) {
        if self.is_grpc
            && let Some(status) = fields.get(respond::GRPC_STATUS)
        {
            self.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }

    pub fn refused(&mut self, refused: Refused, status: StatusCode) {
        self.metrics.refused(refused.refusal);
        self.status = Some(status);
        self.grpc_status = self.is_grpc.then(|| refused.grpc_status().into());
        self.refused = Some(refused);
        self.is_complete = true;
        self.audit_refused();
    }

    /// The response was passed on to its end.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    pub fn failed(&mut self, error: &dyn std::error::Error) {
        self.ended(chain(error));
    }

    pub fn ended_early(&mut self, why: &'static str) {
        self.ended(why.to_owned());
    }

    pub fn tunnel_ended(&mut self, from_caller: u64, to_caller: u64, end: &str) {
        self.ended(end.to_owned());
        if let Some(request) = &self.in_flight {
            request.bytes_from_caller.set(from_caller);
        }
        self.bytes_to_caller.set(to_caller);
        if let Some(logged) = &mut self.logged {
            logged.tunnelled = Some((from_caller, to_caller));
        }
    }

    fn ended(&mut self, why: String) {
        self.is_complete = true;
        if let Some(logged) = &mut self.logged {
            logged.end.get_or_insert(why);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.connection.session.requests_active.fetch_sub(1, Relaxed);
        self.metrics.request_ended();
        let received = self.in_flight.as_ref().map_or(0, |request| request.bytes_from_caller.get());
        self.metrics.bytes(received, self.bytes_to_caller.get());
        let duration = self.started.elapsed();
        match self.status {
            Some(status) => self.metrics.request(status.as_u16(), duration.as_secs_f64()),
            None => {
                self.metrics.request_unanswered();
                let limits = &self.connection.worker.policy().limits;
                self.connection.session.request_given_up(duration, limits.h2_early_resets);
            }
        }
        self.audit_end();
        let access_log = &self.connection.worker.shared.access_log;
        if let Some(logged) = self.logged.as_deref().filter(|_| access_log.enabled()) {
            let mut record = self.record(logged, self.end(logged));
            record.connection.duration = duration;
            access_log.request(&record);
        }
    }
}
