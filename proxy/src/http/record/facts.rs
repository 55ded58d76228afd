//! What both logs are told of a request.

use super::audit::Authorized;
use super::{Logged, Recorder};
use crate::http::request::version_text;
use crate::refusal::Refused;
use crate::session::{Direction, EndCause};
use crate::telemetry::record::{Outcome, RequestRecord, TokenFacts, Upstream};
use http::{Method, Uri};

impl Recorder {
    /// Why it ended, where that is not plain.
    pub(super) fn end<'a>(&self, logged: &'a Logged) -> Option<&'a str> {
        let connection = &self.connection;
        let cause = connection.session.is_cut().then(|| connection.session.end_cause()).flatten();
        match (cause, logged.end.as_deref(), self.is_complete) {
            (Some(cause), _, _) => Some(cause.as_str()),
            (None, Some(end), _) => Some(end),
            (None, None, true) => None,
            (None, None, false) if let Some(request) = self.in_flight.as_ref().filter(|it| it.is_cut()) => {
                Some(request.cut_text())
            }
            (None, None, false) if connection.worker.is_stopping() => Some(EndCause::Draining.as_str()),
            // Dropped before its end, by nobody on our side.
            (None, None, false) => Some("caller_closed"),
        }
    }

    /// Without its duration, which it has not yet.
    pub(super) fn record<'a>(&'a self, logged: &'a Logged, end: Option<&'a str>) -> RequestRecord<'a> {
        let connection = &self.connection;
        let bodies = (self.in_flight.as_ref().map_or(0, |it| it.bytes_from_caller.get()), self.bytes_to_caller.get());
        let (bytes_received, bytes_sent) = logged.tunnelled.unwrap_or(bodies);
        let mut facts = connection.facts();
        if let Some(service) = &logged.service {
            facts.name = service;
        }
        facts.policy_generation = Some(logged.generation);
        facts.bytes_received = bytes_received;
        facts.bytes_sent = bytes_sent;
        facts.rendered = Some(&connection.rendered);
        let upstream_peer = logged.upstream_peer.as_deref();
        if connection.session.direction == Direction::Local {
            facts.peer = upstream_peer.map(|peer| &peer.id);
            facts.peer_fingerprint = upstream_peer.map(|peer| &peer.fingerprint);
            facts.identity_generation = upstream_peer.map(|peer| peer.generation);
        }
        RequestRecord {
            connection: facts,
            decision: &logged.decision,
            method: logged.method.as_ref().map_or("", Method::as_str),
            path: logged.uri.as_ref().map_or("", Uri::path),
            host: logged.host.as_deref(),
            http_version: logged.version.map(version_text),
            status: self.status.map(|status| status.as_u16()),
            grpc_status: self.grpc_status,
            authorizer: logged.authorized.as_ref().map(Authorized::facts),
            caller: logged.forwarded_caller.as_ref(),
            token: logged.token.as_deref().map(TokenFacts::of),
            outcome: Outcome {
                rule: logged.rule.as_deref(),
                route: logged.route.as_deref(),
                refusal: self.refused.as_ref().map(|refused| refused.refusal),
                refusal_detail: self.refused.as_ref().and_then(Refused::words_inside),
                observed: logged.observed.as_ref().map(|refused| refused.refusal),
                observed_detail: logged.observed.as_ref().and_then(Refused::words_inside),
                remote_refusal: logged.remote_refusal.as_deref(),
                remote_decision: logged.remote_decision.as_deref(),
                end,
            },
            upstream: Upstream { address: logged.upstream.as_deref(), identity: upstream_peer.map(|peer| &peer.id) },
        }
    }
}
