//! Requests that routes or rules refused a moment ago, kept so that an operator may ask why, by the decision's id.
//!
//! Each worker keeps its own, so that nothing is locked, and the oldest goes for the newest: a flood of refusals costs no more
//! memory than their number here. Of the request is kept what its rules ask for, without credentials; shown of it is what a
//! condition was lent.

use crate::authz::explain::principal_text;
use crate::authz::explanation::Explanation;
use crate::authz::{Decision, RequestFacts};
use crate::policy::{Door, Policy};
use crate::refusal::{Refusal, Refused};
use crate::session::Session;
use crate::token::Verified;
use http::{HeaderMap, Method, Uri};
use postern_config::{Mode, SpiffeId};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

use super::target::read_again;

/// Of one worker. A request is some kilobytes at the most usual.
const REQUESTS_MAX: usize = 256;

#[derive(Default)]
pub struct RefusedRequests(VecDeque<RefusedRequest>);

pub struct RefusedRequest {
    /// The decision's number.
    pub number: u64,
    pub session: Arc<Session>,
    pub door: Door,
    pub method: Method,
    /// Without its query, where no rule asks for that.
    pub uri: Uri,
    pub host: Box<str>,
    /// Without credentials; `None`: no rule asks for them.
    pub headers: Option<Box<HeaderMap>>,
    pub token: Option<Arc<Verified>>,
    /// For whom the peer spoke.
    pub caller: Option<SpiffeId>,
    /// Of the policy that refused it.
    pub digest: Arc<str>,
}

impl RefusedRequests {
    pub fn add(&mut self, request: RefusedRequest) {
        if self.0.len() == REQUESTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(request);
    }

    pub fn find(&self, number: u64) -> Option<&RefusedRequest> {
        self.0.iter().rfind(|request| request.number == number)
    }
}

impl RefusedRequest {
    /// What `policy` decides about it, which may be another one than refused it. `None`: its port is gone.
    pub fn explain(&self, policy: &Policy) -> Option<Value> {
        let plan = policy.inbound(&self.door)?;
        let asked = self.session.asked(policy, None);
        let explanation = Explanation {
            port: plan.name.to_string(),
            caller: principal_text(&asked.principal),
            original: self.caller.as_ref().map(SpiffeId::to_string),
            route: None,
            token: self.token.as_ref().map(|token| token.subject.to_string()),
            readings: Vec::new(),
            rules: Vec::new(),
            verdict: Ok(Decision::NotAllowed),
            mode: Mode::Enforce,
        };
        let explanation = match read_again(&self.method, &self.uri, plan.rules.some_route_is_lax()) {
            Err(_) => Explanation { verdict: Err(Refusal::BadPath.into()), ..explanation },
            Ok(readings) => {
                let readings_text = readings.iter().map(str::to_owned).collect();
                match plan.rules.route_of(&self.host, &self.method, &readings) {
                    Err(refusal) => Explanation {
                        readings: readings_text,
                        verdict: Err(Refused::from(refusal)),
                        mode: plan.rules.mode_without_route(refusal, &self.method),
                        ..explanation
                    },
                    Ok(route) => {
                        let (headers, token) = (self.headers.as_deref(), self.token.as_deref());
                        let facts = RequestFacts::new(&self.method, &self.uri, &self.host, &readings, headers, token)
                            .for_caller(self.caller.as_ref());
                        let asked = self.session.asked(policy, Some(facts));
                        Explanation {
                            route: route.map(|route| route.name.to_string()),
                            readings: readings_text,
                            rules: plan.rules.explain(route, &asked),
                            verdict: Ok(plan.rules.decide(route, &asked)),
                            mode: plan.rules.mode_of(route),
                            ..explanation
                        }
                    }
                }
            }
        };
        let mut answer = explanation.to_json();
        answer["text"] = json!(explanation.to_text());
        answer["policy_digest"] = json!(&*policy.digest);
        answer["decided_by_policy"] = json!(&*self.digest);
        Some(answer)
    }
}
