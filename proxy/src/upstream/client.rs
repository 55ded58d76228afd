//! Sends one request to an upstream, over a pooled connection or a new one.
//!
//! A pooled connection that the other side closed is not the caller's problem: a request of which nothing was sent goes
//! out again on another connection; one that was sent goes out again only if it is idempotent and has no body
//! (RFC 9110 §9.2.2), once.

use super::connect::{Connected, Own, UpstreamIo, connect, upstream_refused_us};
use super::plan::ServicePlan;
use super::pool::{Active, Endpoint, H1Connection, H2Connection, OwnSvid, Stream};
use super::replay::{copy_of, is_replayable, was_refused};
use crate::http::body::RequestBody;
use crate::http::frames::WatchedFrames;
use crate::http::windows::Window;
use crate::refusal::{Refusal, Refused};
use crate::session::{Carries, Registered, Session};
use crate::tls::Peer;
use crate::tls::mesh::ClientAlpn;
use crate::worker::Worker;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Different endpoints tried for one request.
const ENDPOINTS_TRIED_MAX: usize = 3;
/// Pooled connections found closed by one request, before it takes that for the endpoint's fault.
const STALE_MAX: usize = 16;

/// HTTP's version on one hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    Http1,
    Http2,
}

impl HttpVersion {
    pub fn of(version: Version) -> Self {
        if version == Version::HTTP_2 { Self::Http2 } else { Self::Http1 }
    }

    fn alpn(self) -> ClientAlpn {
        match self {
            Self::Http1 => ClientAlpn::Http1,
            Self::Http2 => ClientAlpn::H2,
        }
    }
}

/// Where a request goes.
pub struct Destination<'a> {
    pub plan: &'a Arc<ServicePlan>,
    /// The requested host, for templates and Web PKI names.
    pub host: Option<&'a str>,
    pub version: HttpVersion,
}

/// A response, with what has to live as long as its body.
pub struct Answer {
    pub response: Response<Incoming>,
    pub lease: Lease,
}

/// Keeps a connection for one response; gives it back to the pool when the response has been read whole.
pub struct Lease {
    pub endpoint: Rc<Endpoint>,
    pub session: Option<Arc<Session>>,
    pub peer: Option<Arc<Peer>>,
    held: Held,
    own: OwnSvid,
    idle_max: usize,
    _active: Active,
}

enum Held {
    Http1(H1Connection),
    Http2 {
        _stream: Stream,
    },
    /// Not to be pooled. A tunnel's session stays registered as long as it lives.
    NotAgain {
        _registered: Option<Rc<Registered>>,
    },
    Returned,
}

impl Lease {
    /// A connection that carries one tunnel, and its bytes.
    pub fn of_tunnel(endpoint: Rc<Endpoint>, connected: Connected) -> (Self, UpstreamIo) {
        let Connected { io, session, registered, peer } = connected;
        let active = Active::at(&endpoint);
        let held = Held::NotAgain { _registered: registered };
        (Self { endpoint, session, peer, held, own: [0; 32], idle_max: 0, _active: active }, io)
    }

    /// The response was read to its end.
    pub fn finished(&mut self) {
        if let Held::Http1(connection) = std::mem::replace(&mut self.held, Held::Returned) {
            self.session = None;
            self.endpoint.give_back_h1(connection, self.own, self.idle_max);
        }
    }

    /// Both sides have switched: a tunnel follows.
    pub fn upgraded(&mut self) {
        // An HTTP/2 connection stays one: its other streams still end with the SVID, and this one still counts.
        if let (Some(session), false) = (&self.session, matches!(self.held, Held::Http2 { .. })) {
            // Both sides' SVIDs expire by the same rule, the one of streams.
            session.set_carries(Carries::Stream);
        }
        self.not_again();
    }

    /// The connection never goes back: it is a tunnel now, or was asked to become one and nobody knows how it took that.
    pub fn not_again(&mut self) {
        self.held = match std::mem::replace(&mut self.held, Held::Returned) {
            Held::Http1(connection) => Held::NotAgain { _registered: connection.registered },
            held => held,
        };
    }
}

/// # Errors
/// No answer, with the reason; a request that may have been processed is never sent twice.
pub async fn send(
    worker: &Rc<Worker>,
    to: &Destination<'_>,
    mut request: Request<RequestBody>,
) -> Result<Answer, Refused> {
    let upstream = worker.upstreams.get(to.plan, &worker.shared.discovery)?;
    let mut tried: Vec<Rc<Endpoint>> = Vec::new();
    let mut may_replay = true;
    let mut stale = 0;
    loop {
        // Each attempt takes the identity of now: a rotation between two attempts is not an error.
        let own = Own::of(to.plan, worker.identity())?;
        let endpoint = match upstream.pick(&tried).await {
            Ok(endpoint) => endpoint,
            Err(refused) => return Err(refused),
        };
        let attempt = Attempt { worker, to, own: &own, endpoint: &endpoint };
        let result = match to.version {
            HttpVersion::Http1 => attempt.http1(request, may_replay).await,
            HttpVersion::Http2 => attempt.http2(request, may_replay).await,
        };
        match result {
            Ok(answer) => return Ok(answer),
            Err(Failed::Unsent(returned, NotSent::StaleConnection)) => {
                stale += 1;
                if stale > STALE_MAX {
                    return Err(Refused::new(Refusal::UpstreamClosed, "every pooled connection was closed"));
                }
                request = returned;
            }
            Err(Failed::Replay(returned)) => {
                may_replay = false;
                request = returned;
            }
            // Not the endpoint's fault.
            Err(Failed::Unsent(_, NotSent::Unreachable(refused)))
                if own.no_handshake.is_some() || refused.refusal == Refusal::Loop =>
            {
                return Err(refused);
            }
            Err(Failed::Unsent(returned, NotSent::Unreachable(refused))) => {
                endpoint.failed(Instant::now());
                tried.push(endpoint);
                let others = tried.len() < ENDPOINTS_TRIED_MAX && upstream.pick(&tried).await.is_ok();
                if !others {
                    return Err(refused);
                }
                request = returned;
            }
            Err(Failed::Sent(refused)) => return Err(refused),
        }
    }
}

enum Failed {
    /// Nothing of it left: it may go elsewhere.
    Unsent(Request<RequestBody>, NotSent),
    /// It was sent on a reused connection that ended without a byte of response, and may safely go out again.
    Replay(Request<RequestBody>),
    Sent(Refused),
}

enum NotSent {
    /// A pooled connection had been closed; it is out of the pool now.
    StaleConnection,
    Unreachable(Refused),
}

struct Attempt<'a> {
    worker: &'a Rc<Worker>,
    to: &'a Destination<'a>,
    own: &'a Own,
    endpoint: &'a Rc<Endpoint>,
}

impl Attempt<'_> {
    fn idle_max(&self) -> usize {
        self.worker.policy().limits.pool_idle_per_endpoint
    }

    async fn http1(&self, request: Request<RequestBody>, may_replay: bool) -> Result<Answer, Failed> {
        let own = self.own.key();
        let reused = self.endpoint.take_h1(&own, Instant::now(), self.to.plan.pool_idle);
        let is_reused = reused.is_some();
        let mut connection = match reused {
            Some(reused) => reused,
            None => match self.open_http1().await {
                Ok(opened) => opened,
                Err(refused) => return Err(Failed::Unsent(request, NotSent::Unreachable(refused))),
            },
        };
        let copy = (is_reused && may_replay && is_replayable(&request)).then(|| copy_of(&request));
        let active = Active::at(self.endpoint);
        match connection.sender.try_send_request(request).await {
            Ok(response) => {
                let session = connection.session.clone();
                let peer = session.as_ref().and_then(|session| session.trust()).map(|trust| trust.peer.clone());
                let lease = Lease {
                    endpoint: self.endpoint.clone(),
                    session,
                    peer,
                    held: Held::Http1(connection),
                    own,
                    idle_max: self.idle_max(),
                    _active: active,
                };
                Ok(Answer { response, lease })
            }
            Err(error) => Err(self.failed(error, copy, is_reused, connection.session.as_deref())),
        }
    }

    async fn http2(&self, request: Request<RequestBody>, may_replay: bool) -> Result<Answer, Failed> {
        let own = self.own.key();
        let (connection, is_reused) = match self.endpoint.take_h2(&own) {
            Some(connection) => (connection, true),
            None => {
                let waiting_since = Instant::now();
                let mut last_refused = self.endpoint.h2_connecting.lock().await;
                if let Some(connection) = self.endpoint.take_h2(&own) {
                    (connection, true)
                } else {
                    // Else a hundred requests would wait, one after the other, for an endpoint that does not answer.
                    if let Some((_, refused)) = last_refused.as_ref().filter(|(at, _)| *at >= waiting_since) {
                        return Err(Failed::Unsent(request, NotSent::Unreachable(refused.clone())));
                    }
                    match self.open_http2().await {
                        Ok(connection) => (connection, false),
                        Err(refused) => {
                            *last_refused = Some((Instant::now(), refused.clone()));
                            return Err(Failed::Unsent(request, NotSent::Unreachable(refused)));
                        }
                    }
                }
            }
        };
        let stream = Stream::of(&connection);
        let copy = (is_reused && may_replay && is_replayable(&request)).then(|| copy_of(&request));
        let active = Active::at(self.endpoint);
        match connection.sender.clone().try_send_request(request).await {
            Ok(response) => {
                let session = connection.session.clone();
                let peer = session.as_ref().and_then(|session| session.trust()).map(|trust| trust.peer.clone());
                let lease = Lease {
                    endpoint: self.endpoint.clone(),
                    session,
                    peer,
                    held: Held::Http2 { _stream: stream },
                    own,
                    idle_max: self.idle_max(),
                    _active: active,
                };
                Ok(Answer { response, lease })
            }
            Err(error) => Err(self.failed(error, copy, is_reused, connection.session.as_deref())),
        }
    }

    /// What a failed send means for the request.
    fn failed(
        &self,
        mut error: TrySendError<Request<RequestBody>>,
        copy: Option<Request<RequestBody>>,
        is_reused: bool,
        session: Option<&Session>,
    ) -> Failed {
        if let Some(request) = error.take_message() {
            if is_reused {
                return Failed::Unsent(request, NotSent::StaleConnection);
            }
            let refused = self.refused(error.error(), session);
            return Failed::Unsent(request, NotSent::Unreachable(refused));
        }
        let error = error.into_error();
        let ended = error.is_incomplete_message() || error.is_canceled() || error.is_closed() || was_refused(&error);
        match copy {
            Some(request) if ended => Failed::Replay(request),
            _ => Failed::Sent(self.refused(&error, session)),
        }
    }

    fn refused(&self, error: &hyper::Error, session: Option<&Session>) -> Refused {
        let plan = self.to.plan;
        if let Some(alert) = session.and_then(|session| session.peer_refused_us.get()) {
            return upstream_refused_us(plan, &self.endpoint.address, *alert);
        }
        let refusal = if session.is_some_and(Session::is_cut) {
            Refusal::TrustEnded
        } else if error.is_parse() {
            Refusal::UpstreamProtocol
        } else {
            Refusal::UpstreamClosed
        };
        Refused::new(refusal, format!("{}: {}: {}", plan.name, self.endpoint.address, chain(error)))
    }

    async fn open(&self) -> Result<Connected, Refused> {
        let to = self.to;
        let connected =
            connect(self.worker, to.plan, to.host, &self.endpoint.address, self.own, to.version.alpn()).await?;
        self.endpoint.reached();
        Ok(connected)
    }

    async fn open_http1(&self) -> Result<H1Connection, Refused> {
        let Connected { io, session, registered, .. } = Box::pin(self.open()).await?;
        let limits = self.worker.policy().limits.clone();
        let handshake = http1::Builder::new().max_buf_size(limits.header_bytes.max(8192)).handshake(TokioIo::new(io));
        let (sender, connection) = handshake.await.map_err(|error| self.refused(&error, session.as_deref()))?;
        let (of_task, of_session) = (registered.clone(), session.clone());
        tokio::task::spawn_local(async move {
            match of_session {
                None => {
                    // Its errors reach the request that it carries; an idle one has nobody to tell.
                    let _ = connection.with_upgrades().await;
                }
                // While the caller does not read the response, nothing polls the socket: a cut has to end it here.
                Some(session) => tokio::select! {
                    _ = connection.with_upgrades() => {}
                    () = session.was_cut() => {}
                },
            }
            drop::<Option<Rc<Registered>>>(of_task);
        });
        Ok(H1Connection { sender, session, registered })
    }

    async fn open_http2(&self) -> Result<Rc<H2Connection>, Refused> {
        let Connected { io, session, registered, .. } = Box::pin(self.open()).await?;
        let policy = self.worker.policy();
        let (limits, timeouts) = (policy.limits.clone(), policy.timeouts.clone());
        drop(policy);
        let window = self.worker.windows.promise(limits.buffered_bytes / self.worker.count());
        let metrics = self.to.plan.metrics.clone();
        let io = WatchedFrames::of_upstream(io, session.clone(), metrics, limits.h2_control_frames);
        let handshake = http2::Builder::new(self.worker.executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(timeouts.h2_ping)
            .keep_alive_timeout(timeouts.h2_ping_answer)
            .initial_stream_window_size(window.stream())
            .initial_connection_window_size(window.connection())
            .max_send_buf_size(window.send_buffer())
            .max_header_list_size(limits.header_bytes as u32)
            .handshake(TokioIo::new(io));
        let (sender, connection) = handshake.await.map_err(|error| self.refused(&error, session.as_deref()))?;
        tokio::task::spawn_local(async move {
            // As above.
            let _ = connection.await;
            drop::<(Option<Rc<Registered>>, Window)>((registered, window));
        });
        Ok(self.endpoint.add_h2(sender, session, self.own.key()))
    }
}

/// The chain of causes, once, for the record.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
