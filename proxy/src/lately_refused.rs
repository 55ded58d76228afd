//! What routes and rules refused a moment ago, kept so that an operator may ask why, by the decision's id.
//!
//! Each worker keeps its own, so that nothing is locked, and the oldest goes for the newest: a flood of refusals costs no more
//! memory than their number here. Of a request is kept what its rules ask for, without credentials; shown of it is what a
//! condition was lent.

use crate::authz::explain::principal_text;
use crate::authz::explanation::Explanation;
use crate::authz::{Decision, RequestFacts};
use crate::connection::Connection;
use crate::http::target::read_again;
use crate::policy::{Door, InboundPlan, Policy};
use crate::refusal::{Refusal, Refused};
use crate::session::Session;
use crate::token::Verified;
use http::{HeaderMap, Method, Uri};
use postern_config::{Mode, SpiffeId};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

/// Of one worker. A request is some kilobytes at the most usual.
const REFUSED_MAX: usize = 256;

#[derive(Default)]
pub struct LatelyRefused(VecDeque<Entry>);

pub struct Entry {
    /// The decision's number.
    number: u64,
    session: Arc<Session>,
    door: Door,
    /// `None`: a whole L4 connection.
    request: Option<Box<RefusedRequest>>,
    /// Of the policy that refused it.
    digest: Arc<str>,
}

pub struct RefusedRequest {
    pub method: Method,
    /// Without its query, where no rule asks for that.
    pub uri: Uri,
    pub host: Box<str>,
    /// Without credentials; `None`: no rule asks for them.
    pub headers: Option<Box<HeaderMap>>,
    pub token: Option<Arc<Verified>>,
    /// For whom the peer spoke.
    pub caller: Option<SpiffeId>,
}

/// Keeps what `policy` refused at `connection`, or would have.
pub fn remember(connection: &Connection, number: u64, request: Option<Box<RefusedRequest>>, policy: &Policy) {
    connection.worker.refused.borrow_mut().add(Entry {
        number,
        session: connection.session.clone(),
        door: connection.door.clone(),
        request,
        digest: policy.digest.clone(),
    });
}

impl LatelyRefused {
    fn add(&mut self, entry: Entry) {
        if self.0.len() == REFUSED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(entry);
    }

    pub fn find(&self, number: u64) -> Option<&Entry> {
        self.0.iter().rfind(|entry| entry.number == number)
    }
}

impl Entry {
    /// What `policy` decides about it, which may be another one than refused it. `None`: its port is gone.
    pub fn explain(&self, policy: &Policy) -> Option<Value> {
        let plan = policy.inbound(&self.door)?;
        let asked = self.session.asked(policy, None);
        let nothing = Explanation {
            port: plan.name.to_string(),
            caller: principal_text(&asked.principal),
            original: None,
            route: None,
            token: None,
            readings: Vec::new(),
            rules: Vec::new(),
            verdict: Ok(Decision::NotAllowed),
            mode: Mode::Enforce,
        };
        let explanation = match &self.request {
            Some(request) => self.explain_request(request, policy, plan, nothing),
            None if plan.has_l7_rules => Explanation { verdict: Err(Refusal::ProtocolRefused.into()), ..nothing },
            None => Explanation {
                rules: plan.rules.explain(None, &asked),
                verdict: Ok(plan.rules.decide(None, &asked)),
                mode: plan.rules.mode,
                ..nothing
            },
        };
        let mut answer = explanation.to_json();
        answer["text"] = json!(explanation.to_text());
        answer["policy_digest"] = json!(&*policy.digest);
        answer["decided_by_policy"] = json!(&*self.digest);
        Some(answer)
    }

    fn explain_request(
        &self,
        request: &RefusedRequest,
        policy: &Policy,
        plan: &InboundPlan,
        nothing: Explanation,
    ) -> Explanation {
        let RefusedRequest { method, uri, host, .. } = request;
        let explanation = Explanation {
            original: request.caller.as_ref().map(SpiffeId::to_string),
            token: request.token.as_ref().map(|token| token.subject.to_string()),
            ..nothing
        };
        let Ok(readings) = read_again(method, uri, plan.rules.some_route_is_lax()) else {
            return Explanation { verdict: Err(Refusal::BadPath.into()), ..explanation };
        };
        let explanation = Explanation { readings: readings.iter().map(str::to_owned).collect(), ..explanation };
        let route = match plan.rules.route_of(host, method, &readings) {
            Ok(route) => route,
            Err(refusal) => {
                let mode = plan.rules.mode_without_route(refusal, method);
                return Explanation { verdict: Err(Refused::from(refusal)), mode, ..explanation };
            }
        };
        let (headers, token) = (request.headers.as_deref(), request.token.as_deref());
        let facts = RequestFacts::new(method, uri, host, &readings, headers, token).for_caller(request.caller.as_ref());
        let asked = self.session.asked(policy, Some(facts));
        Explanation {
            route: route.map(|route| route.name.to_string()),
            rules: plan.rules.explain(route, &asked),
            verdict: Ok(plan.rules.decide(route, &asked)),
            mode: plan.rules.mode_of(route),
            ..explanation
        }
    }
}
