//! Sends one request to an upstream, over a pooled connection or a new one.
//!
//! A pooled connection that the other side closed is not the caller's problem: a request of which nothing was sent goes
//! out again on another connection. One that was sent goes out again once, within the service's budget, if the other side
//! says that it did not process it (RFC 9113 §8.7), or if it is idempotent and has no body (RFC 9110 §9.2.2).

use super::attempt::{Asking, Found, FoundShared, Turn, is_final};
use super::connect::Own;
use super::counted::{Active, Stream};
use super::credentials;
use super::health::Failure;
use super::http1::{self, H1Connection};
use super::http2::H2Connection;
use super::http2::{self, Unanswered};
use super::lease::{Answer, Held, Lease};
use super::places::Place;
use super::plan::ServicePlan;
use super::pool::{Endpoint, OwnSvid, Upstream};
use super::replay::{Unprocessed, copy_of, is_replayable, is_whole, may_be_kept, unprocessed};
pub use super::version::HttpVersion;
use crate::http::body::{Received, RequestBody};
use crate::refusal::{Refusal, Refused};
use crate::session::Session;
use crate::telemetry::upstream_counters::Retry;
use crate::worker::Worker;
use http::{Request, Response};
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Different endpoints tried for one request.
const ENDPOINTS_TRIED_MAX: usize = 3;
/// Pooled connections found closed by one request, before it takes that for the endpoint's fault.
const STALE_MAX: usize = 16;
/// At most twice as long, at least half: what refused a stream for having too many may have room again.
const UNPROCESSED_PAUSE: Duration = Duration::from_millis(10);

/// Where a request goes.
pub struct Destination<'a> {
    pub plan: &'a Arc<ServicePlan>,
    /// The requested host, for templates and Web PKI names.
    pub host: Option<&'a str>,
    pub version: HttpVersion,
}

/// # Errors
/// No answer, with the reason; a request that may have been processed is never sent twice.
pub async fn send(
    worker: &Rc<Worker>,
    to: &Destination<'_>,
    mut request: Request<RequestBody>,
) -> Result<Answer, Refused> {
    let upstream = worker.upstreams.get(to.plan, &worker.shared.discovery)?;
    let place = upstream.place_for_request().await?;
    upstream.retries.request();
    if to.version == HttpVersion::Http2 && !upstream.retries.is_empty_for_ever() && may_be_kept(&request) {
        request.body_mut().keep();
    }
    let mut tried: Vec<Rc<Endpoint>> = Vec::new();
    let mut was_sent = false;
    let mut stale = 0;
    loop {
        // Each attempt takes the identity of now: a rotation between two attempts is not an error.
        let own = Own::of(to.plan, worker.identity())?;
        let endpoint = upstream.pick(&tried).await?;
        let asking = Asking { worker, upstream: &upstream, host: to.host, own: &own };
        let attempt = Attempt { asking, endpoint: &endpoint, was_sent };
        let sent = match to.version {
            HttpVersion::Http1 => attempt.http1(request).await,
            HttpVersion::Http2 => attempt.http2(request).await,
        };
        match sent {
            Ok(sent) => {
                let idle_max = worker.policy().limits.pool_idle_per_endpoint;
                return Ok(sent.answer(endpoint, own.key(), idle_max, upstream, place));
            }
            Err(Failed::Unsent(returned, NotSent::StaleConnection)) => {
                stale += 1;
                if stale > STALE_MAX {
                    return Err(Refused::new(Refusal::UpstreamClosed, "every pooled connection was closed"));
                }
                request = returned;
            }
            Err(Failed::Unsent(_, NotSent::Unreachable(refused)))
                if own.no_handshake.is_some() || is_final(refused.refusal) =>
            {
                return Err(refused);
            }
            Err(Failed::Unsent(returned, NotSent::Unreachable(refused))) => {
                tried.push(endpoint);
                let others = tried.len() < ENDPOINTS_TRIED_MAX && upstream.pick(&tried).await.is_ok();
                if !others {
                    return Err(refused);
                }
                request = returned;
            }
            Err(Failed::Again(returned, why, refused)) => {
                if !upstream.take_retry(why) {
                    return Err(refused);
                }
                was_sent = true;
                if upstream.has_another(&endpoint, &tried) {
                    tried.push(endpoint);
                } else if why == Retry::Unprocessed {
                    tokio::time::sleep(UNPROCESSED_PAUSE * u32::from(fastrand::u8(64..)) / 64).await;
                }
                request = returned;
            }
            Err(Failed::Sent(refused)) => {
                if is_failure(refused.refusal) {
                    upstream.failed(&endpoint, Failure::Request, Instant::now());
                }
                return Err(refused);
            }
        }
    }
}

/// Does it say something about the endpoint that a request ended so?
fn is_failure(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::UpstreamClosed | Refusal::UpstreamProtocol)
}

struct Sent {
    response: Response<Received>,
    session: Option<Arc<Session>>,
    held: Held,
}

impl Sent {
    fn answer(
        self,
        endpoint: Rc<Endpoint>,
        own: OwnSvid,
        idle_max: usize,
        upstream: Rc<Upstream>,
        place: Place,
    ) -> Answer {
        let Self { response, session, held } = self;
        let peer = session.as_ref().and_then(|session| session.trust()).map(|trust| trust.peer.clone());
        let (_active, _place) = (Active::at(&endpoint), Some(place));
        let lease = Lease { endpoint, session, peer, held, own, idle_max, upstream, _place, _active };
        Answer { response, lease }
    }
}

enum Failed {
    /// Nothing of it left: it may go elsewhere.
    Unsent(Request<RequestBody>, NotSent),
    /// It was sent, and may safely go out again; else what is said last is the answer.
    Again(Request<RequestBody>, Retry, Refused),
    Sent(Refused),
}

enum NotSent {
    /// A pooled connection had been closed; it is out of the pool now.
    StaleConnection,
    Unreachable(Refused),
}

impl Failed {
    fn unreachable(request: Request<RequestBody>, refused: Refused) -> Self {
        Self::Unsent(request, NotSent::Unreachable(refused))
    }
}

struct Attempt<'a> {
    asking: Asking<'a>,
    endpoint: &'a Rc<Endpoint>,
    /// It is the second time, and the last.
    was_sent: bool,
}

enum Attached {
    Nothing,
    /// It may have been waited for: what holds of the connection has to be looked at again.
    Meanwhile,
}

fn is_retired(session: Option<&Session>) -> bool {
    session.is_some_and(|session| session.is_retired() || session.is_cut())
}

/// How a connection was used when its request failed.
#[derive(Clone, Copy)]
struct Use<'a> {
    is_reused: bool,
    session: Option<&'a Session>,
}

impl Attempt<'_> {
    /// What can never be sent again needs no copy.
    fn may_repeat(&self) -> bool {
        !self.was_sent && !self.asking.upstream.retries.is_empty_for_ever()
    }

    /// What the service's requests take along, for whoever answers at the other end of this connection. Without it nothing is
    /// sent.
    async fn attach(&self, session: Option<&Session>, request: &mut Request<RequestBody>) -> Result<Attached, Refused> {
        match &self.asking.upstream.plan.credential {
            None => Ok(Attached::Nothing),
            Some(credential) => {
                let worker = self.asking.worker;
                credentials::attach(credential, &worker.shared, session, request.headers_mut()).await?;
                Ok(Attached::Meanwhile)
            }
        }
    }

    async fn http1(&self, mut request: Request<RequestBody>) -> Result<Sent, Failed> {
        let (own, plan) = (self.asking.own.key(), &self.asking.upstream.plan);
        // What is sent again goes over a connection of its own: another pooled one may have been closed as well.
        let pooled = if self.was_sent { None } else { self.endpoint.take_h1(&own, Instant::now(), plan.pool_idle) };
        let (connection, is_reused) = match pooled {
            Some(pooled) => (pooled, true),
            // In a box, so that a request which needs no new connection does not carry the room for making one.
            None => match Box::pin(self.connection_http1(&own)).await {
                Ok(found) => found,
                Err(refused) => return Err(Failed::unreachable(request, refused)),
            },
        };
        match self.attach(connection.session.as_deref(), &mut request).await {
            Err(refused) => {
                let idle_max = self.asking.worker.policy().limits.pool_idle_per_endpoint;
                self.endpoint.give_back_h1(connection, own, idle_max);
                return Err(Failed::unreachable(request, refused));
            }
            Ok(Attached::Meanwhile) if is_retired(connection.session.as_deref()) => {
                return Err(Failed::Unsent(request, NotSent::StaleConnection));
            }
            Ok(_) => {}
        }
        let may_replay = is_reused && self.may_repeat() && is_replayable(&request);
        let _active = Active::at(self.endpoint);
        let (head, body) = request.into_parts();
        match http1::send(&connection, &head, body).await {
            Ok(response) => {
                let session = connection.session.clone();
                Ok(Sent { response, session, held: Held::Http1(connection) })
            }
            Err(http1::Unanswered::GivenUp) => Err(given_up()),
            Err(error) => {
                let used = Use { is_reused, session: connection.session.as_deref() };
                let again = (may_replay && error.is_end()).then_some(Retry::Replayed);
                let copy = again.map(|_| Request::from_parts(head, RequestBody::Empty));
                Err(self.failed(&error, copy, again, used))
            }
        }
    }

    /// One that was given back meanwhile, or a new one; and whether it was used before.
    async fn connection_http1(&self, own: &OwnSvid) -> Result<(Rc<H1Connection>, bool), Refused> {
        let place = match self.asking.upstream.place_or_pooled(self.endpoint, own).await? {
            Found::Pooled(pooled) => return Ok((pooled, true)),
            Found::Place(place) => place,
        };
        match self.asking.turn_or_pooled(self.endpoint, own).await? {
            Turn::Pooled(pooled) => Ok((pooled, true)),
            Turn::Ours(_turn) => Ok((self.asking.open_http1(self.endpoint, place).await?, false)),
        }
    }

    async fn http2(&self, mut request: Request<RequestBody>) -> Result<Sent, Failed> {
        let own = self.asking.own.key();
        let (connection, is_reused) = match self.endpoint.take_h2(&own) {
            Some(shared) => (shared, true),
            None => match Box::pin(self.connection_http2(&own)).await {
                Ok(found) => found,
                Err(refused) => return Err(Failed::unreachable(request, refused)),
            },
        };
        let mut stream = Stream::of(&connection);
        match self.attach(connection.session.as_deref(), &mut request).await {
            Err(refused) => return Err(Failed::unreachable(request, refused)),
            Ok(Attached::Meanwhile) if !connection.is_usable(&own) => {
                return Err(Failed::Unsent(request, NotSent::StaleConnection));
            }
            Ok(_) => {}
        }
        stream.open().await;
        let may_replay = is_reused && is_replayable(&request);
        let copy = (self.may_repeat() && may_be_kept(&request)).then(|| copy_of(&request));
        let _active = Active::at(self.endpoint);
        let used = Use { is_reused, session: connection.session.as_deref() };
        match http2::send(connection.requests.clone(), request).await {
            Ok(response) => {
                let session = connection.session.clone();
                Ok(Sent { response, session, held: Held::Http2 { _stream: stream } })
            }
            Err(Unanswered::Unsent(request, error)) => {
                connection.takes_no_more();
                Err(self.unsent(*request, &error, used))
            }
            Err(Unanswered::GivenUp) => Err(given_up()),
            Err(Unanswered::Failed(error)) => {
                let said = unprocessed(&error);
                if said == Some(Unprocessed::GoAway) {
                    connection.takes_no_more();
                }
                let again = match said {
                    Some(_) => Some(Retry::Unprocessed),
                    None => (may_replay && error.is_io()).then_some(Retry::Replayed),
                };
                Err(self.failed(&error, copy, again, used))
            }
        }
    }

    /// A shared connection, and whether it was used before.
    async fn connection_http2(&self, own: &OwnSvid) -> Result<(Rc<H2Connection>, bool), Refused> {
        if !self.endpoint.health.is_worth_connecting() {
            return Err(self.asking.not_worth_connecting(self.endpoint));
        }
        let waiting_since = Instant::now();
        let mut last_refused = self.endpoint.h2_connecting.lock().await;
        if let Some(connection) = self.endpoint.take_h2(own) {
            return Ok((connection, true));
        }
        // Else a hundred requests would wait, one after the other, for an endpoint that does not answer.
        if let Some((_, refused)) = last_refused.as_ref().filter(|(at, _)| *at >= waiting_since) {
            return Err(refused.clone());
        }
        let opened = match self.asking.upstream.place_or_shared(self.endpoint, own).await {
            Ok(FoundShared::Shared(connection)) => return Ok((connection, true)),
            Ok(FoundShared::Place(place)) => self.asking.open_http2(self.endpoint, place).await,
            Err(refused) => Err(refused),
        };
        match opened {
            Ok(connection) => Ok((connection, false)),
            Err(refused) => {
                *last_refused = Some((Instant::now(), refused.clone()));
                Err(refused)
            }
        }
    }

    /// Nothing of the request left.
    fn unsent(&self, request: Request<RequestBody>, error: &(dyn Error + 'static), used: Use<'_>) -> Failed {
        if used.is_reused {
            return Failed::Unsent(request, NotSent::StaleConnection);
        }
        let refused = self.asking.refused(self.endpoint, error, used.session);
        self.asking.upstream.failed(self.endpoint, Failure::Request, Instant::now());
        Failed::unreachable(request, refused)
    }

    /// There is no answer. `copy`: what goes out again, if it is still whole and there is a reason to.
    fn failed(
        &self,
        error: &(dyn Error + 'static),
        copy: Option<Request<RequestBody>>,
        again: Option<Retry>,
        used: Use<'_>,
    ) -> Failed {
        let refused = self.asking.refused(self.endpoint, error, used.session);
        match (copy.filter(is_whole), again) {
            (Some(request), Some(why)) => Failed::Again(request, why, refused),
            _ => Failed::Sent(refused),
        }
    }
}

fn given_up() -> Failed {
    Failed::Sent(Refused::new(Refusal::BadRequest, "the request's body broke off"))
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
