//! The life of a request, one step a line. Every refusal leaves by `?`.
//!
//! [`handle`] loads the policy once, opens the record, turns a refusal into an answer, and lets the record end with the
//! body, also when the caller leaves.

use super::authorizer::{Asking, Before};
use super::body::{FromUpstream, Received, RequestBody, ResponseBody};
use super::decide::{Allowed, decide};
use super::forward;
use super::headers;
use super::record::Recorder;
use super::respond::{self, Asker, Form};
use super::target::read_target;
use super::upgrade;
use crate::connection::Connection;
use crate::policy::Policy;
use crate::refusal::{Refusal, Refused};
use crate::session::{Direction, EndCause, InFlight, RequestGuard};
use crate::upstream::client::{Destination, HttpVersion, send};
use crate::upstream::credentials;
use crate::upstream::l4;
use crate::upstream::lease::{Answer, Lease};
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// The connection ends without an answer: its trust has ended.
#[derive(Debug, thiserror::Error)]
#[error("the connection was cut")]
pub struct Aborted;

/// Answers one request.
///
/// # Errors
/// Only when nothing may be answered any more.
///
/// # Cancellation
/// Dropping it ends the request at the upstream too; the record is written all the same.
pub async fn handle(connection: Rc<Connection>, request: Request<Received>) -> Result<Response<ResponseBody>, Aborted> {
    connection.worker.shared.audit.room().await;
    let policy = connection.worker.policy();
    // What follows a CONNECT that is refused was meant for a tunnel (THREATS SM-22).
    let is_connect = request.method() == Method::CONNECT;
    let form = Form {
        // 200 would open the tunnel.
        is_grpc: forward::is_grpc(request.headers()) && !is_connect,
        version: request.version(),
        is_head: request.method() == Method::HEAD,
        close: connection.is_closing(),
    };
    let has_body = !request.body().is_end_stream();
    let mut recorder = Recorder::open(&connection, &policy, &request);
    if form.is_grpc {
        recorder.is_grpc();
    }
    let outcome = proxy(&connection, &policy, request, &mut recorder).await;
    recorder.place(connection.worker.shared.audit.place().await);
    match outcome {
        Ok(answered) => Ok(answered.into_response(&connection, recorder)),
        Err(_) if connection.session.is_cut() => {
            recorder.ended_early("cut");
            Err(Aborted)
        }
        Err(refused) => {
            let asker = if connection.peer().is_some() { Asker::MeshPeer } else { Asker::Other };
            // We close after an answer when the request's body has not been read; callers have to know (RFC 9112 §9.6).
            let is_unread = has_body && !recorder.body_was_read();
            let close = form.close || is_connect || is_unread || breaks_framing(refused.refusal);
            let form = Form { close, ..form };
            let response = respond::refuse(&refused, &recorder.decision_id(), asker, form);
            recorder.bytes_to_caller.set(response.body().size_hint().exact().unwrap_or_default());
            recorder.refused(refused, response.status());
            Ok(response)
        }
    }
}

/// A response, and what has to live as long as it.
struct Answered {
    head: http::response::Parts,
    lease: Lease,
    guard: RequestGuard,
    then: Then,
}

enum Then {
    Body(Received),
    /// Both sides switch protocols: a tunnel follows.
    Tunnel {
        caller: upgrade::Side,
        far: upgrade::Side,
    },
}

impl Answered {
    fn into_response(self, connection: &Rc<Connection>, mut recorder: Recorder) -> Response<ResponseBody> {
        let Self { head, mut lease, guard, then } = self;
        recorder.answered(&head);
        let body = match then {
            Then::Tunnel { caller, far } => {
                lease.upgraded();
                upgrade::start(connection, caller, far, lease, guard, recorder);
                ResponseBody::Own(None)
            }
            Then::Body(inner) => {
                let mut body = FromUpstream { inner, lease, recorder, guard };
                if body.inner.is_end_stream() {
                    body.finish();
                }
                ResponseBody::Upstream(Box::new(body))
            }
        };
        Response::from_parts(head, body)
    }
}

async fn proxy(
    connection: &Rc<Connection>,
    policy: &Policy,
    request: Request<Received>,
    recorder: &mut Recorder,
) -> Result<Answered, Refused> {
    let (mut head, mut body) = request.into_parts();

    // 1 normalize: one meaning for the host; framing that a strict proxy does not pass on is refused.
    headers::check_size(&head, policy.limits.headers, policy.limits.header_bytes)?;
    let checked = headers::check_framing(&head)?;
    let upgrade = if checked.has_upgrade { headers::requested_upgrade(&head)? } else { None };
    // HTTP/1.0 may come without a Host: it is addressed to the listener then (THREATS HD-02).
    let listener = forward::lacks_host(&head).then(|| connection.listener_text());
    let target = read_target(&head, Some(forward::default_port(&head)), listener.as_deref())?;
    recorder.host(&target.host);

    // 2 route, 3 authenticate, 4 authorize: who the caller is, the connection knows.
    let mut allowed = decide(connection, policy, &head, &target, recorder)?;

    let service = (connection.session.direction == Direction::Local).then(|| allowed.upstream.clone());
    let (worker, caller) = (&connection.worker, connection.caller_share.get());
    let share = worker.registry.admit(caller, &policy.limits, worker.count())?;
    let in_flight = worker.registry.register_request(
        &connection.session,
        head.method.clone(),
        head.uri.clone(),
        &allowed.host,
        service,
        share,
    );

    recorder.in_flight(&in_flight.request);
    keep_for_later(&mut allowed, &in_flight.request);
    if let Some(time) = allowed.time_limit {
        in_flight.request.time_limit.start(time);
    }
    if recorder.speaks_grpc() {
        in_flight.request.allow_quiet();
    }

    let is_connect = head.method == Method::CONNECT;
    let caller = upgrade::Side::take(&mut body).filter(|_| is_connect || upgrade.is_some());
    if is_connect && connection.session.direction == Direction::Local {
        return open_tunnel(connection, &allowed, caller, in_flight, recorder).await;
    }

    // Forged identity and hop-by-hop headers go, before anything of ours is added.
    let before = Before::of(&head);
    let mut body = RequestBody::new(body, in_flight.request.clone());
    forward::prepare(&mut head, &allowed, listener, upgrade.as_ref())?;
    if let Some(admitted) = allowed.token.take() {
        headers::replace_token(&mut head.headers, admitted.claims);
    }
    if let Some(credential) = &allowed.upstream.credential {
        credentials::take_of_app(credential, &mut head.headers, &worker.shared)?;
    }
    if let Some(identity) = connection.identity.get() {
        match in_flight.request.forwarded.get() {
            None => identity.apply(&mut head.headers),
            Some(forwarded) => identity.apply_after(forwarded, &mut head.headers),
        }
    }

    // 5 ask the authorizer, who sees what would go on.
    let changes = match &allowed.authorizer {
        None => Vec::new(),
        Some(authorizer) => {
            let asking = Asking { connection, policy, plan: authorizer, before, request: &in_flight.request };
            unless_cut(&in_flight, Box::pin(asking.authorize(&mut head, &mut body, recorder))).await?
        }
    };

    // 8 send.
    let to = Destination { plan: &allowed.upstream, host: Some(&allowed.host), version: allowed.version };
    let sending = send(&connection.worker, &to, Request::from_parts(head, body));
    let Answer { response, mut lease } = unless_cut(&in_flight, Box::pin(sending)).await?;
    in_flight.request.answered(lease.session.as_ref());
    recorder.upstream(&lease);
    if is_connect || upgrade.is_some() {
        lease.not_again();
    }

    // 9 response.
    let (mut head, mut body) = response.into_parts();
    let switched = upgrade::is_switched(head.status, is_connect);
    forward::clean_response(&mut head, connection, &lease, recorder, switched && caller.is_some());
    for change in changes {
        change.apply(&mut head.headers);
    }
    if is_connect && !switched && connection.version() == HttpVersion::Http1 {
        // What follows was meant for a tunnel (THREATS SM-22).
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let far = upgrade::Side::take(&mut body).filter(|_| switched);
    let then = match (caller, far) {
        (Some(caller), Some(far)) => Then::Tunnel { caller, far },
        _ if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            return Err(Refused::new(Refusal::UpstreamProtocol, "101 to a request that asked for no upgrade"));
        }
        _ => Then::Body(body),
    };
    Ok(Answered { head, lease, guard: in_flight, then })
}

/// What was decided on, for when it is decided again. The request is new: each is set for the first time.
fn keep_for_later(allowed: &mut Allowed, request: &InFlight) {
    if let Some(headers) = allowed.headers.take() {
        let _ = request.headers.set(headers);
    }
    if let Some(forwarded) = allowed.forwarded.take() {
        let _ = request.forwarded.set(forwarded);
    }
    if let Some(admitted) = &allowed.token {
        let _ = request.token.set(admitted.token.clone());
        if !admitted.claims.is_empty() {
            let names = admitted.claims.iter().map(|(name, _)| name.clone()).collect();
            let _ = request.claim_headers.set(names);
        }
    }
}

/// CONNECT of the application: a connection to the service that is named, and what comes through it is the application's
/// affair. It is answered when the service has been reached, and has proven who it is.
async fn open_tunnel(
    connection: &Rc<Connection>,
    allowed: &Allowed,
    caller: Option<upgrade::Side>,
    in_flight: RequestGuard,
    recorder: &mut Recorder,
) -> Result<Answered, Refused> {
    if allowed.upstream.credential.is_some() {
        return Err(Refused::new(
            Refusal::ConnectRefused,
            "the service's requests take a credential along, which a tunnel would not",
        ));
    }
    let Some(caller) = caller else {
        return Err(Refused::new(Refusal::ConnectRefused, "this connection cannot become a tunnel"));
    };
    let reaching = l4::reach(&connection.worker, &allowed.upstream, Some(&allowed.host));
    let reached = unless_cut(&in_flight, Box::pin(reaching)).await?;
    let (lease, io) = Lease::of_tunnel(reached.upstream, reached.endpoint, reached.connected);
    in_flight.request.moved();
    recorder.upstream(&lease);
    let (head, ()) = Response::new(()).into_parts();
    let then = Then::Tunnel { caller, far: upgrade::Side::Open(Box::new(io)) };
    Ok(Answered { head, lease, guard: in_flight, then })
}

/// After these, what follows on an HTTP/1 connection cannot be told apart from the refused request.
fn breaks_framing(refusal: Refusal) -> bool {
    matches!(
        refusal,
        Refusal::BadRequest
            | Refusal::BadHost
            | Refusal::BadPath
            | Refusal::BodyTimeout
            | Refusal::UpgradeRefused
            | Refusal::ConnectRefused
    )
}

/// Sends, unless the policy or the trust that allowed it ends first.
async fn unless_cut<T>(
    guard: &RequestGuard,
    mut sending: std::pin::Pin<Box<impl Future<Output = Result<T, Refused>>>>,
) -> Result<T, Refused> {
    poll_fn(|context| {
        if guard.request.poll_cut(context) {
            return Poll::Ready(Err(match guard.request.deadline() {
                Some(EndCause::BodyIdle) => Refusal::BodyTimeout.into(),
                Some(cause) if cause.ends_trust() => Refused::new(Refusal::TrustEnded, cause.as_str()),
                Some(deadline) => Refused::new(Refusal::UpstreamTimeout, deadline.as_str()),
                None => Refusal::TrustEnded.into(),
            }));
        }
        sending.as_mut().poll(context)
    })
    .await
}

/// HTTP/0.9 and versions that nobody knows never get here; 1.0, 1.1 and 2 do.
pub fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
