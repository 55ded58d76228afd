//! A new policy against what lives: requests in flight and L4 connections are decided again, and cut when refused.

use super::{Carries, Direction, EndCause, InFlight, Registry, Session, Trust, trust_end};
use crate::authz::{Asked, ConnectionFacts, Principal, RequestFacts, TlsFacts};
use crate::break_glass::rescue;
use crate::capture::caller_uid::CallerUnknown;
use crate::http::normalize::read_again;
use crate::policy::{Door, Policy};
use crate::revocation::{Blast, Proposal};
use crate::tls::{Strictness, is_strictly_valid};
use crate::upstream::plan::ServicePlan;
use http::{Method, Version};
use std::collections::{HashMap, HashSet};
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
        if !is_permitted_again(&request, policy) {
            request.cut();
        }
    }
    registry.reset_cut();
}

/// What a change would end of what lives on one worker. Nothing is done.
pub fn would_cut(registry: &Registry, proposal: &Proposal) -> Blast {
    let sessions: Vec<_> = registry.sessions().into_iter().filter(|session| !session.is_cut()).collect();
    let mut cut: HashSet<u64> = HashSet::new();
    match proposal {
        Proposal::Identity(snapshot) => {
            let mut verdicts: HashMap<([u8; 32], [u8; 32]), bool> = HashMap::new();
            for session in &sessions {
                let Some(trust) = session.trust() else { continue };
                let key = (trust.peer.fingerprint, trust.own.fingerprint);
                if *verdicts.entry(key).or_insert_with(|| trust_end(trust, snapshot).is_some()) {
                    cut.insert(session.id);
                }
            }
            let requests = registry.requests().into_iter().filter(|request| request.end_with(snapshot).is_some());
            cut.extend(requests.map(|request| request.session.id));
        }
        Proposal::Policy(policy) => {
            let ends = |session: &&Arc<Session>| verdict(session, policy) == Some(Verdict::Cut);
            cut.extend(sessions.iter().filter(ends).map(|session| session.id));
            let requests = registry.requests().into_iter().filter(|request| !is_permitted_again(request, policy));
            cut.extend(requests.map(|request| request.session.id));
        }
    }
    Blast { live: sessions.len(), cut: cut.len() }
}

fn is_permitted_again(request: &InFlight, policy: &Policy) -> bool {
    let through = |now: &ServicePlan| now.credential.is_none() || request.method != Method::CONNECT;
    match (&request.service, request.session.subject()) {
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
        (None, Some(Subject::Door(door))) => is_allowed_again(request, door, policy),
        (None, _) => true,
    }
}

/// Decides one connection again. Besides [`policy_changed`], whoever made a connection from a plan that is older than its
/// registration has to ask: a policy that came in between found nothing to decide.
pub fn decide_again(session: &Session, policy: &Policy, event: Instant) {
    match verdict(session, policy) {
        Some(Verdict::Cut) => session.cut(EndCause::PolicyChanged, event),
        Some(Verdict::Retire) => session.retire(EndCause::PolicyChanged),
        None => {}
    }
}

/// What becomes of a connection. `None`: it stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Cut,
    Retire,
}

fn verdict(session: &Session, policy: &Policy) -> Option<Verdict> {
    if session.trust().is_some_and(|trust| was_lenient(trust, policy)) {
        return Some(Verdict::Cut);
    }
    match session.subject() {
        Some(Subject::Door(door)) => recheck_inbound(session, door, policy),
        Some(Subject::Service { plan, host }) => recheck_service(session, plan, host.as_deref(), policy),
        Some(Subject::Shared { .. }) | None => None,
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
        let facts = facts.for_caller(request.forwarded.get().and_then(|forwarded| forwarded.caller()));
        let asked = request.session.asked(policy, Some(facts));
        let route = match plan.rules.route_of(&request.host, &request.method, &readings) {
            Ok(route) => route,
            Err(refusal) => return plan.rules.lets_through(refusal, &request.method),
        };
        let wanted = route.and_then(|route| route.token.as_ref());
        let peer = request.session.trust().map(|trust| &trust.peer.id);
        let has_token = wanted.is_none_or(|wanted| token.is_some_and(|token| wanted.still_admits(token, peer)));
        let is_believed = match (request.forwarded.get(), peer) {
            (None, _) => true,
            (Some(forwarded), Some(peer)) => forwarded.is_still_believed(&plan.config.forwarders, peer),
            (Some(_), None) => false,
        };
        is_believed && has_token && rescue(policy, &plan.name, plan.rules.judge(route, &asked), &asked).is_allowed()
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

fn recheck_inbound(session: &Session, door: &Door, policy: &Policy) -> Option<Verdict> {
    if policy.tunnel(door).is_some() {
        // What it carries is decided again stream by stream.
        return None;
    }
    let Some(plan) = policy.inbound(door) else { return Some(Verdict::Cut) };
    // Upgraded connections hold a request in flight, which is decided as such.
    let is_tunnel = session.carries() == Carries::Stream && session.requests_total() == 0;
    // A port whose rules are now about requests carries no connection that it does not read.
    let asked = session.asked(policy, None);
    let is_refused =
        || plan.has_l7_rules || !rescue(policy, &plan.name, plan.rules.judge(None, &asked), &asked).is_allowed();
    (is_tunnel && is_refused()).then_some(Verdict::Cut)
}

fn recheck_service(
    session: &Session,
    before: &Arc<ServicePlan>,
    host: Option<&str>,
    policy: &Policy,
) -> Option<Verdict> {
    let Some(now) = policy.services.by_name(&before.name) else { return Some(Verdict::Cut) };
    if now.is_same(before) {
        return None;
    }
    match (session.direction, session.trust()) {
        // The application's side of a tunnel. Who answers is the affair of the other side, which has a session of its own
        // where the service is in the mesh.
        (Direction::Local | Direction::Inbound, _) => {
            // What is carried as it is takes no credential along.
            let is_carried = session.carries() == Carries::Stream && session.requests_total() == 0;
            let ends = !still_served(session, &now, before) || is_carried && now.credential.is_some();
            ends.then_some(Verdict::Cut)
        }
        // Nobody has answered yet. When it is known who does, `upstream::connect` asks again.
        (Direction::Upstream, None) => None,
        (Direction::Upstream, Some(trust)) => {
            let still_expected = now.expects(host.unwrap_or_default(), &trust.peer.id);
            Some(if still_expected { Verdict::Retire } else { Verdict::Cut })
        }
    }
}
