//! Where a request goes, or why it does not: its route or service, the token that the route wants, and the rules.

use super::bearer;
use super::forwarded::Forwarded;
use super::record::Recorder;
use super::target::Target;
use crate::authz::RequestFacts;
use crate::authz::external::AuthorizerPlan;
use crate::break_glass::rescue;
use crate::connection::Connection;
use crate::lately_refused::{self, RefusedRequest};
use crate::policy::{Destined, DoorPlan, InboundPlan, Judged, Policy, RoutePlan, TokenPlan};
use crate::refusal::{Refusal, Refused};
use crate::token::{Presenter, Verified};
use crate::upstream::client::HttpVersion;
use crate::upstream::plan::{Requested, ServicePlan};
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use postern_config::{AppHttp, Mode, SpiffeId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What was decided: where the request may go, and what it has to look like there.
pub struct Allowed {
    pub upstream: Arc<ServicePlan>,
    pub version: HttpVersion,
    pub host: Box<str>,
    pub port: Option<u16>,
    pub time_limit: Option<Duration>,
    /// What rules were asked about, to be asked about again.
    pub headers: Option<Box<HeaderMap>>,
    /// Inbound: who is asked besides.
    pub authorizer: Option<Arc<AuthorizerPlan>>,
    /// Inbound: what the caller proved besides who it is.
    pub token: Option<Box<Admitted>>,
    /// Inbound: for whom its peer speaks.
    pub forwarded: Option<Box<Forwarded>>,
}

/// A token that was taken, and what the application learns of it.
pub struct Admitted {
    pub token: Arc<Verified>,
    pub claims: Vec<(HeaderName, Option<HeaderValue>)>,
}

/// Where the request goes, or why it does not.
pub fn decide(
    connection: &Connection,
    policy: &Policy,
    head: &Parts,
    target: &Target<'_>,
    recorder: &mut Recorder,
) -> Result<Allowed, Refused> {
    let caller_version = HttpVersion::of(head.version);
    // What came from the application is no peer's, and the other way round, also when a reload gives the address to the other.
    let door = policy.door(&connection.door).filter(|door| door.direction() == connection.session.direction);
    match door {
        Some(DoorPlan::Inbound(plan)) => decide_inbound(connection, policy, plan, head, target, recorder),
        // It asks a forward proxy, which only a shared listener is.
        Some(DoorPlan::Service(_) | DoorPlan::CapturedOutbound) if head.method == Method::CONNECT => {
            Err(Refusal::ConnectRefused.into())
        }
        Some(DoorPlan::Service(service)) => {
            let requested = Requested { host: Some(&target.host), port: target.port, original: None };
            to_service(connection, service, target, requested, caller_version, recorder)
        }
        Some(DoorPlan::Shared | DoorPlan::CapturedOutbound) => {
            let Destined { service, host } = policy.service_of_request(&target.host, connection.original());
            let service = service.ok_or_else(|| undeclared(&target.host, connection.original()))?;
            // Captured, it goes to the port that it was meant for: another one in `Host` is as little to be followed as
            // another address (THREATS NW-06).
            let original = connection.original();
            let requested = Requested {
                host: Some(host.as_deref().unwrap_or(&target.host)),
                port: original.map(|original| original.port()).or(target.port),
                original: original.and_then(|original| policy.dialled(original)),
            };
            to_service(connection, &service, target, requested, caller_version, recorder)
        }
        // A connection that was captured on its way in, or is a stream of a tunnel, is at the door of the port that was meant.
        Some(DoorPlan::CapturedInbound | DoorPlan::Tunnel(_)) | None => {
            Err(Refused::new(Refusal::NoRoute, "the listener is no longer in the configuration"))
        }
    }
}

fn undeclared(host: &str, original: Option<SocketAddr>) -> Refused {
    let why = match original {
        Some(original) => {
            format!("no service is declared for host {host:?}, and none has {original} in its `addresses`")
        }
        None => format!("no service is declared for host {host:?}"),
    };
    Refused::new(Refusal::UnknownService, why)
}

fn decide_inbound(
    connection: &Connection,
    policy: &Policy,
    plan: &Arc<InboundPlan>,
    head: &Parts,
    target: &Target<'_>,
    recorder: &mut Recorder,
) -> Result<Allowed, Refused> {
    let forwarded = forwarded(connection, plan, head, recorder)?;
    let original = forwarded.as_ref().and_then(|forwarded| forwarded.caller());
    let (route, readings) = match plan.rules.route(target, &head.method) {
        Ok(found) => found,
        Err(refused) if plan.rules.lets_through(refused.refusal, &head.method) => {
            recorder.judged_in(plan.rules.mode);
            if plan.rules.mode == Mode::Observe {
                recorder.observed(refused);
            }
            let allowed = admitted(connection, policy, plan, head, target, None)?;
            return Ok(Allowed { forwarded, ..allowed });
        }
        Err(refused) => {
            remember(
                connection,
                policy,
                head,
                target,
                recorder,
                &Refusable { plan, route: None, token: None, original },
            );
            return Err(refused);
        }
    };
    if let Some(route) = route {
        recorder.route(&route.name);
    }
    recorder.judged_in(plan.rules.mode_of(route));
    let token = match route.and_then(|route| route.token.as_ref()) {
        Some(wanted) => {
            let admitted = admit(connection, policy, wanted, head, recorder)?;
            let caller = original.or(connection.peer().map(|peer| &peer.id));
            connection.token_came(policy, wanted, &admitted.token, caller)?;
            Some(admitted)
        }
        None => None,
    };
    let shown = token.as_ref().map(|admitted| &*admitted.token);
    let facts = RequestFacts::new(&head.method, &head.uri, &target.host, &readings, Some(&head.headers), shown);
    let facts = facts.for_caller(original);
    let asked = connection.session.asked(policy, Some(facts));
    let judged = rescue(policy, &plan.name, plan.rules.judge(route, &asked), &asked);
    if let Judged::Overridden { rule, refused } = &judged {
        recorder.overridden(rule, refused);
    }
    if let Some(rule) = judged.rule() {
        recorder.rule(rule.clone());
    }
    if judged.decision().is_some_and(|decision| !decision.is_allowed()) {
        let token = token.as_ref().map(|admitted| &admitted.token);
        remember(connection, policy, head, target, recorder, &Refusable { plan, route, token, original });
    }
    let fault = judged.refusal().and_then(|decision| plan.rules.condition_fault(route, &asked, decision));
    if let Some(refused) = judged.into_result().map_err(|refused| plan.undecided(refused, fault))? {
        recorder.observed(refused);
    }
    let allowed = admitted(connection, policy, plan, head, target, route)?;
    Ok(Allowed { token, forwarded, ..allowed })
}

/// What is known of a request that routes or rules refuse.
struct Refusable<'a> {
    plan: &'a InboundPlan,
    route: Option<&'a RoutePlan>,
    token: Option<&'a Arc<Verified>>,
    original: Option<&'a SpiffeId>,
}

/// Somebody may ask why.
fn remember(
    connection: &Connection,
    policy: &Policy,
    head: &Parts,
    target: &Target<'_>,
    recorder: &Recorder,
    refused: &Refusable<'_>,
) {
    let rules = &refused.plan.rules;
    let uri = match head.uri.query().is_some() && !rules.needs_query(refused.route) {
        true => head.uri.path().parse().unwrap_or_default(),
        false => head.uri.clone(),
    };
    let headers = rules.needs_headers(refused.route).then(|| {
        let mut headers = Box::new(head.headers.clone());
        [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].iter().for_each(|name| drop(headers.remove(name)));
        headers
    });
    let request = RefusedRequest {
        method: head.method.clone(),
        uri,
        host: Box::from(&*target.host),
        headers,
        token: refused.token.cloned(),
        caller: refused.original.cloned(),
    };
    lately_refused::remember(connection, recorder.number(), Some(Box::new(request)), policy);
}

/// For whom the peer speaks: a part of who the caller is, and so asked in every mode of the rules.
fn forwarded(
    connection: &Connection,
    plan: &InboundPlan,
    head: &Parts,
    recorder: &mut Recorder,
) -> Result<Option<Box<Forwarded>>, Refused> {
    let forwarders = &plan.config.forwarders;
    let Some(peer) = connection.peer().filter(|_| !forwarders.is_empty()) else { return Ok(None) };
    let Some(forwarded) = Forwarded::read(forwarders, &peer.id, &head.headers)? else { return Ok(None) };
    recorder.forwarded(&forwarded);
    forwarded.check_denials(&connection.worker.identity().revocations.denials, SystemTime::now())?;
    Ok(Some(Box::new(forwarded)))
}

/// Where a request goes that was let in.
fn admitted(
    connection: &Connection,
    policy: &Policy,
    plan: &Arc<InboundPlan>,
    head: &Parts,
    target: &Target<'_>,
    route: Option<&RoutePlan>,
) -> Result<Allowed, Refused> {
    for limiter in plan.rules.limiters(route) {
        connection
            .take_of(limiter, Instant::now())
            .map_err(|limited| Refused::rate_limited(&limits_of(plan, route), limited.after))?;
    }
    Ok(Allowed {
        upstream: connection.app(plan, policy)?,
        version: match plan.config.app_http {
            AppHttp::Same => HttpVersion::of(head.version),
            AppHttp::Http1 => HttpVersion::Http1,
            AppHttp::Http2 => HttpVersion::Http2,
        },
        host: Box::from(&*target.host),
        port: target.port,
        time_limit: plan.request_timeout(route),
        authorizer: plan.rules.authorizer(route).cloned(),
        headers: plan.rules.needs_headers(route).then(|| Box::new(head.headers.clone())),
        token: None,
        forwarded: None,
    })
}

fn limits_of(plan: &InboundPlan, route: Option<&RoutePlan>) -> String {
    match route {
        Some(route) => format!("port {} or its route {}", plan.name, route.name),
        None => format!("port {}", plan.name),
    }
}

/// The token that the route wants, if it is good, for us, and its caller's to show.
fn admit(
    connection: &Connection,
    policy: &Policy,
    wanted: &TokenPlan,
    head: &Parts,
    recorder: &mut Recorder,
) -> Result<Box<Admitted>, Refused> {
    let (worker, peer) = (&connection.worker, connection.peer());
    let presenter = peer.map_or(Presenter::Unknown, |peer| Presenter::Certificate(peer.fingerprint));
    if wanted.wants_peer() && peer.is_none() {
        // Whoever it is of: there is nothing to verify.
        return Err(Refused::new(Refusal::TokenNotBound, "the caller is anonymous, and has no token of its own"));
    }
    let identity = worker.identity();
    let mut remembered = worker.tokens.borrow_mut();
    let remembered = remembered.with(&identity);
    let now = SystemTime::now();
    let token = bearer::authenticate(wanted, &head.headers, presenter, remembered, &worker.shared.issuer_asks, now)?;
    recorder.token(&token);
    bearer::check_not_taken_back(&token, &identity.revocations, now)?;
    bearer::check_binding(wanted, &token, peer.map(|peer| &peer.id))
        .inspect_err(|_| connection.token_not_bound(policy, &token))?;
    bearer::check_once(wanted, &token, &worker.shared.shown_tokens)?;
    Ok(Box::new(Admitted { claims: wanted.claims(&token), token }))
}

fn to_service(
    connection: &Connection,
    service: &Arc<ServicePlan>,
    target: &Target<'_>,
    requested: Requested<'_>,
    version: HttpVersion,
    recorder: &mut Recorder,
) -> Result<Allowed, Refused> {
    recorder.service(&service.name, &service.metrics);
    connection.check_user(service)?;
    // What has no honest reading does not leave either: the other side could only guess.
    target.readings(true)?;
    let upstream = connection.worker.upstreams.instance(service, requested)?;
    let time_limit = upstream.resilience.request_timeout;
    let host = Box::from(&*target.host);
    let port = target.port;
    Ok(Allowed {
        upstream,
        version,
        host,
        port,
        time_limit,
        headers: None,
        authorizer: None,
        token: None,
        forwarded: None,
    })
}
