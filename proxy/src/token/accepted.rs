//! Whose tokens a route takes, and by whose keys each one is judged. Pure.
//!
//! A token is one issuer's: the one that its `iss` names, if the route takes that one's tokens, and else its trust domain's. It is
//! never tried with the keys of another (RFC 8725 §3.8).

use super::algorithm::Algorithm;
use super::claims;
use super::json;
use super::judge::{Issuer, Subject, Trust, Verified, verify_signature};
use super::jws::{Jws, Profile};
use super::keys::KeySet;
use super::problem::TokenProblem;
use super::shown::Shown;
use crate::identity::{IssuerKeys, TokenKeys};
use std::sync::Arc;

/// What a route takes.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// JWT-SVIDs.
    pub svids: bool,
    pub issuers: Vec<AcceptedIssuer>,
}

/// An issuer whose keys are looked up when they are needed.
#[derive(Clone, Debug)]
pub struct AcceptedIssuer {
    /// `iss`.
    pub name: String,
    pub algorithms: Vec<Algorithm>,
}

impl Accepted {
    /// Whether `token` was judged, whenever that was, as it would be judged here.
    pub fn takes(&self, token: &Verified) -> bool {
        let issuer = token.registered.issuer.as_deref().and_then(|name| self.issuer(name));
        match token.subject {
            Subject::Workload(_) => self.svids && issuer.is_none(),
            Subject::Named(_) => issuer.is_some_and(|issuer| issuer.algorithms.contains(&token.algorithm)),
        }
    }

    /// # Errors
    /// The first rule that the token breaks.
    pub fn verify(&self, token: &[u8], keys: &TokenKeys, issuers: &IssuerKeys) -> Result<Verified, TokenProblem> {
        match self.judge_of(token)? {
            None => verify_signature(token, &Trust::TrustDomains(keys)),
            Some(accepted) => {
                let issuer = Issuer {
                    name: accepted.name.clone(),
                    algorithms: accepted.algorithms.clone(),
                    keys: issuers.get(&accepted.name).cloned().unwrap_or_else(|| Arc::new(KeySet::none())),
                };
                verify_signature(token, &Trust::Issuers(&[issuer]))
            }
        }
    }

    /// `iss` of an issuer whose tokens are taken: the one that the token names, whoever signed it.
    pub fn issuer_of(&self, token: &[u8]) -> Option<&str> {
        self.judge_of(token).ok().flatten().map(|issuer| issuer.name.as_str())
    }

    /// `None`: it is a JWT-SVID, or nothing.
    fn judge_of(&self, token: &[u8]) -> Result<Option<&AcceptedIssuer>, TokenProblem> {
        if self.issuers.is_empty() {
            return Ok(None);
        }
        let claimed =
            |name: &str| self.issuer(name).ok_or_else(|| TokenProblem::IssuerUnknown { issuer: Shown::of(name) });
        let read = Jws::read(token, Profile::Issuer).and_then(|jws| {
            let all = json::object(&jws.payload).map_err(TokenProblem::Claims)?;
            claims::issuer(&all).and_then(claimed)
        });
        match read {
            Ok(issuer) => Ok(Some(issuer)),
            Err(_) if self.svids => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    fn issuer(&self, name: &str) -> Option<&AcceptedIssuer> {
        self.issuers.iter().find(|issuer| issuer.name == name)
    }
}
