//! What a route wants of tokens, ready to be asked.

use crate::authz::token_rule::fits_claim;
use crate::token::{Accepted, AcceptedIssuer, Expectation, Presenter, Subject, TokenProblem, Verified};
use http::{HeaderName, HeaderValue};
use postern_config::authz::Effect;
use postern_config::{Binding, SpiffeId, TokenIssuer, TokenRule};
use serde_json::Value;
use std::sync::Arc;
use std::time::SystemTime;

/// What a route wants of tokens, ready to be asked.
#[derive(Clone, Debug)]
pub struct TokenPlan {
    rule: TokenRule,
    /// Where a verified claim goes on to the application.
    headers: Vec<(HeaderName, String)>,
    accepted: Accepted,
}

impl TokenPlan {
    pub(super) fn compile(rule: &TokenRule) -> Self {
        let header = |it: &postern_config::ClaimHeader| Some((it.header.parse().ok()?, it.claim.clone()));
        let issuer = |issuer: &Arc<TokenIssuer>| AcceptedIssuer {
            name: issuer.issuer.clone(),
            algorithms: issuer.algorithms.iter().filter_map(|name| name.parse().ok()).collect(),
        };
        let issuers = rule.issuers.iter().map(issuer).collect();
        Self {
            rule: rule.clone(),
            headers: rule.headers.iter().filter_map(header).collect(),
            accepted: Accepted { svids: rule.takes_svids, issuers },
        }
    }

    /// Whose tokens are taken.
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    pub fn issuers(&self) -> &[Arc<TokenIssuer>] {
        &self.rule.issuers
    }

    /// What its issuer's tokens have to say, besides what rules ask for.
    ///
    /// # Errors
    /// `ClaimWrong`.
    pub fn check_claims(&self, token: &Verified) -> Result<(), TokenProblem> {
        let Subject::Named(_) = &token.subject else { return Ok(()) };
        let named = token.registered.issuer.as_deref();
        let issuer = self.rule.issuers.iter().find(|issuer| Some(issuer.issuer.as_str()) == named);
        let mut required = issuer.into_iter().flat_map(|issuer| &issuer.required_claims);
        match required.find(|claim| !fits_claim(claim, token.claims.get(&claim.name), Effect::Require)) {
            Some(claim) => Err(TokenProblem::ClaimWrong { claim: claim.name.clone() }),
            None => Ok(()),
        }
    }

    pub fn expectation(&self, presenter: Presenter) -> Expectation<'_> {
        Expectation { audiences: &self.rule.audiences, leeway: self.rule.leeway, presenter }
    }

    /// Whether only a caller that is known can show a token here.
    pub fn wants_peer(&self) -> bool {
        self.rule.binding != Binding::Bearer
    }

    /// Whether some callers may show others' tokens, by name.
    pub fn names_forwarders(&self) -> bool {
        matches!(self.rule.binding, Binding::Forwarders(_))
    }

    /// Until when it has to be remembered that this token was shown. `None`: it may be shown again.
    pub fn shown_once(&self, token: &Verified) -> Option<SystemTime> {
        // A claim's time ends with the year 9999 (`claims::TIME_MAX`).
        self.rule.once.then(|| token.registered.expires_at + self.rule.leeway)
    }

    /// Whether `peer` may show this token: it is its own, or the peer may show others' (THREATS JW-20).
    pub fn may_present(&self, token: &Verified, peer: Option<&SpiffeId>) -> bool {
        let is_own = || peer.is_some_and(|peer| matches!(&token.subject, Subject::Workload(id) if id == peer));
        match &self.rule.binding {
            Binding::Bearer => true,
            Binding::Peer => is_own(),
            Binding::Forwarders(forwarders) => {
                is_own() || peer.is_some_and(|peer| forwarders.iter().any(|pattern| pattern.matches(peer)))
            }
        }
    }

    /// Of a request that was let in with `token`: would it be let in by this plan too? When it expires is no longer asked: that
    /// is decided when a request begins (DESIGN, rulings).
    pub fn still_admits(&self, token: &Verified, peer: Option<&SpiffeId>) -> bool {
        let is_for_us = token.registered.audience.iter().any(|name| self.rule.audiences.contains(name));
        let is_taken = self.accepted.takes(token) && self.check_claims(token).is_ok();
        is_for_us && is_taken && self.may_present(token, peer)
    }

    /// What the application learns of the token, by header. `None`, and so nothing: the claim is not there, or is no text,
    /// number, truth value or list of texts.
    pub fn claims(&self, token: &Verified) -> Vec<(HeaderName, Option<HeaderValue>)> {
        let value = |claim: &str| HeaderValue::try_from(text_of(token.claims.get(claim)?)?).ok();
        self.headers.iter().map(|(name, claim)| (name.clone(), value(claim))).collect()
    }
}

fn text_of(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Array(values) => {
            // A text with a comma would become two.
            let texts = values.iter().map(|value| value.as_str().filter(|text| !text.contains(',')));
            texts.collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}
