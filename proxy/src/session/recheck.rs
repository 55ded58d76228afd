//! A new policy against what lives: requests in flight and L4 connections are decided again, and cut when refused.

use super::{Carries, Direction, EndCause, InFlight, Registry, Session, Trust};
use crate::authz::{Asked, ConnectionFacts, Principal, RequestFacts, TlsFacts};
use crate::capture::caller_uid::CallerUnknown;
use crate::http::normalize::read_again;
use crate::policy::{Door, Policy};
use crate::tls::{Strictness, is_strictly_valid};
use crate::upstream::plan::ServicePlan;
use http::{Method, Version};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// What the policy said about a connection when it was allowed; the key to asking again.
pub enum Subject {
    /// A peer's connection to one of our doors.
    Door(Door),
    /// A connection of the application to a shared listener: each of its requests names a service by its host. A captured
    /// one has said where it was meant to go besides.
    Shared { original: Option<SocketAddr> },
    /// A connection of the application to a service, or ours for it. `host` fills a template.
    Service { plan: Arc<ServicePlan>, host: Option<Box<str>> },
}

/// Decides again everything of one worker.
pub fn policy_changed(registry: &Registry, policy: &Policy, event: Instant) {
    for session in registry.sessions() {
        decide_again(&session, policy, event);
    }
    for request in registry.requests() {
        let through = |now: &ServicePlan| now.credential.is_none() || request.method != Method::CONNECT;
        let allowed = match (&request.service, request.session.subject()) {
            (Some(service), Some(Subject::Shared { original })) => {
                let now = policy.service_of_request(&request.host, *original).service;
                now.is_some_and(|now| {
                    now.name == service.name && still_served(&request.session, &now, service) && through(&now)
                })
            }
            (Some(service), _) => {
                let now = policy.services.by_name(&service.name);
                now.is_some_and(|now| still_served(&request.session, &now, service) && through(&now))
            }
            (None, Some(Subject::Door(door))) => is_allowed_again(&request, door, policy),
            (None, _) => continue,
        };
        if !allowed {
            request.cut();
        }
    }
    registry.reset_cut();
}

/// Decides one connection again. Besides [`policy_changed`], whoever made a connection from a plan that is older than its
/// registration has to ask: a policy that came in between found nothing to decide.
pub fn decide_again(session: &Session, policy: &Policy, event: Instant) {
    if session.trust().is_some_and(|trust| was_lenient(trust, policy)) {
        return session.cut(EndCause::PolicyChanged, event);
    }
    match session.subject() {
        Some(Subject::Door(door)) => recheck_inbound(session, door, policy, event),
        Some(Subject::Service { plan, host }) => recheck_service(session, plan, host.as_deref(), policy, event),
        Some(Subject::Shared { .. }) | None => {}
    }
}

/// `compat` was taken out of the file, and without it this peer would not have been accepted.
fn was_lenient(trust: &Trust, policy: &Policy) -> bool {
    trust.strictness == Strictness::Compat
        && policy.strictness == Strictness::Strict
        && is_strictly_valid(&trust.peer, trust.peer_role).is_err()
}

fn is_allowed_again(request: &InFlight, door: &Door, policy: &Policy) -> bool {
    policy.inbound(door).is_some_and(|plan| {
        let readings = read_again(&request.method, &request.uri, plan.rules.some_route_is_lax());
        let Ok(readings) = readings else { return false };
        let headers = request.headers.get().map(|headers| &**headers);
        let token = request.token.get().map(|token| &**token);
        let facts = RequestFacts::new(&request.method, &request.uri, &request.host, &readings, headers, token);
        let asked = request.session.asked(policy, Some(facts));
        let Ok(route) = plan.rules.route_of(&request.host, &request.method, &readings) else { return false };
        let wanted = route.and_then(|route| route.token.as_ref());
        let peer = request.session.trust().map(|trust| &trust.peer.id);
        let has_token = wanted.is_none_or(|wanted| token.is_some_and(|token| wanted.still_admits(token, peer)));
        has_token && plan.rules.decide(route, &asked).is_allowed()
    })
}

/// Something that the application sends: is its service still protected in the same way, and for whoever called? Who answers in
/// the mesh is the affair of the upstream's own session.
fn still_served(session: &Session, now: &ServicePlan, before: &ServicePlan) -> bool {
    is_protected_alike(now, before) && admits_caller(session, now)
}

/// Nobody asked for the user of a connection when no service and no record wanted to know it: then it counts as another.
fn admits_caller(session: &Session, now: &ServicePlan) -> bool {
    let uid = session.caller_uid.get().copied().unwrap_or(Err(CallerUnknown::NotAsked));
    now.users.is_all() || uid.is_ok_and(|uid| now.users.admits(uid))
}

fn is_protected_alike(one: &ServicePlan, other: &ServicePlan) -> bool {
    std::mem::discriminant(&one.security) == std::mem::discriminant(&other.security)
}

impl Session {
    /// What rules are asked about this connection, or a request on it.
    pub fn asked<'a>(&'a self, policy: &Policy, request: Option<RequestFacts<'a>>) -> Asked<'a> {
        let principal = self.trust().map_or(Principal::Anonymous, |trust| Principal::Spiffe(&trust.peer.id));
        let remote = self.remote.address();
        let tls = self.trust().map(|trust| TlsFacts {
            server_name: trust.server_name.as_deref(),
            own: Some(&trust.own.id),
            fingerprint: Some(&trust.peer.fingerprint),
        });
        let version = match self.carries() {
            Carries::Http1 => Some(Version::HTTP_11),
            Carries::Http2 => Some(Version::HTTP_2),
            Carries::Unknown | Carries::Stream | Carries::Tunnels => None,
        };
        let connection = ConnectionFacts { source_port: remote.map(|address| address.port()), tls, version };
        let source = remote.map(|address| address.ip());
        Asked { principal, source, port: None, connection, now: policy.now(), request }
    }
}

fn recheck_inbound(session: &Session, door: &Door, policy: &Policy, event: Instant) {
    if policy.tunnel(door).is_some() {
        // What it carries is decided again stream by stream.
        return;
    }
    let Some(plan) = policy.inbound(door) else {
        return session.cut(EndCause::PolicyChanged, event);
    };
    // Upgraded connections hold a request in flight, which is decided as such.
    let is_tunnel = session.carries() == Carries::Stream && session.requests_total() == 0;
    // A port whose rules are now about requests carries no connection that it does not read.
    if is_tunnel && (plan.has_l7_rules || !plan.rules.decide(None, &session.asked(policy, None)).is_allowed()) {
        session.cut(EndCause::PolicyChanged, event);
    }
}

fn recheck_service(session: &Session, before: &Arc<ServicePlan>, host: Option<&str>, policy: &Policy, event: Instant) {
    let Some(now) = policy.services.by_name(&before.name) else {
        return session.cut(EndCause::PolicyChanged, event);
    };
    if now.is_same(before) {
        return;
    }
    match (session.direction, session.trust()) {
        // The application's side of a tunnel. Who answers is the affair of the other side, which has a session of its own
        // where the service is in the mesh.
        (Direction::Local | Direction::Inbound, _) => {
            // What is carried as it is takes no credential along.
            let is_carried = session.carries() == Carries::Stream && session.requests_total() == 0;
            if !still_served(session, &now, before) || is_carried && now.credential.is_some() {
                session.cut(EndCause::PolicyChanged, event);
            }
        }
        // Nobody has answered yet. When it is known who does, `upstream::connect` asks again.
        (Direction::Upstream, None) => {}
        (Direction::Upstream, Some(trust)) => {
            let still_expected = now.expects(host.unwrap_or_default(), &trust.peer.id);
            if still_expected {
                session.retire(EndCause::PolicyChanged);
            } else {
                session.cut(EndCause::PolicyChanged, event);
            }
        }
    }
}
