//! Is this token to be believed, by whom was it issued, for whom, and about whom?
//!
//! Pure: bytes, keys and now are arguments. The order is fixed: bounds, algorithm, header, key, signature, claims. Of a token
//! whose signature is not verified yet, one thing is looked at: whose keys it says to verify it with.

use super::algorithm::Algorithm;
use super::claims::{self, Claims};
use super::json;
use super::jws::{Jws, Profile};
use super::keys::{KeySet, Thumbprint};
use super::problem::TokenProblem;
use super::shown::Shown;
use aws_lc_rs::digest::{SHA256, digest};
use postern_config::{SpiffeId, TrustDomain};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How far clocks may be apart. JWT-SVID Appendix A leaves "a small leeway" to us; SPIRE and go-spiffe allow 60 s, and a
/// token that SPIRE issues lives for 300 s.
pub use postern_config::token::LEEWAY_DEFAULT;

/// Whose tokens are believed.
#[derive(Clone, Copy)]
pub enum Trust<'a> {
    /// JWT-SVIDs, each verified with the keys of its subject's trust domain and of no other (SPIFFE Workload API §6.3).
    TrustDomains(&'a HashMap<TrustDomain, Arc<KeySet>>),
    /// Tokens of OpenID providers and the like, each verified with the keys of the issuer that it names.
    Issuers(&'a [Issuer]),
}

/// A token issuer that is no SPIFFE trust domain.
#[derive(Clone)]
pub struct Issuer {
    /// `iss` to the letter; no URL is normalised (OpenID Connect Discovery §4.3).
    pub name: String,
    /// RFC 8725 §3.1: the algorithms are the verifier's choice, not the token's.
    pub algorithms: Vec<Algorithm>,
    pub keys: Arc<KeySet>,
}

/// What a token has to be, here and now.
#[derive(Clone, Copy)]
pub struct Expectation<'a> {
    /// Names that we go by: the token has to be for one of them, to the byte (JWT-SVID §3.2).
    pub audiences: &'a [String],
    pub leeway: Duration,
    pub presenter: Presenter,
}

/// Who presents the token, for tokens that are bound to a certificate (RFC 8705 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presenter {
    /// SHA-256 of the certificate of the TLS connection that it came by.
    Certificate([u8; 32]),
    Unknown,
}

/// A token whose signature is good: what it says is what its issuer said.
#[derive(Clone, Debug)]
pub struct Verified {
    pub subject: Subject,
    /// Audience, times, issuer, scopes. Who is in several audiences can be presented by each of them to the others (JWT-SVID
    /// §7.2).
    pub registered: Claims,
    /// What tells it from others in records, and is no secret: SHA-256 of `jti`, or else of the signed bytes.
    pub id_hash: [u8; 32],
    pub key_id: Option<String>,
    /// The key that vouched. When it has gone, so has the trust, whatever was remembered of the token.
    pub authority: Thumbprint,
    pub algorithm: Algorithm,
    /// All claims, the registered ones among them, for rules and headers.
    pub claims: Map<String, Value>,
}

/// Who the token is about. An issuer's subject is never a SPIFFE ID, whatever it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Workload(SpiffeId),
    /// A name that is one of its issuer's alone.
    Named(String),
}

impl Subject {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Workload(id) => id.as_str(),
            Self::Named(name) => name,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// # Errors
/// The first rule that the token breaks.
pub fn judge(
    token: &[u8],
    trust: &Trust<'_>,
    expected: &Expectation<'_>,
    now: SystemTime,
) -> Result<Verified, TokenProblem> {
    let verified = verify_signature(token, trust)?;
    verified.check(expected, now)?;
    Ok(verified)
}

/// Who signed the token, and what it says. For whom it is, when, and who may present it, [`Verified::check`] finds out: that
/// depends on the request, and this can be remembered as long as the keys stay.
///
/// # Errors
/// The first rule that the token breaks.
pub fn verify_signature(token: &[u8], trust: &Trust<'_>) -> Result<Verified, TokenProblem> {
    let jws = Jws::read(token, trust.profile())?;
    let all = json::object(&jws.payload).map_err(TokenProblem::Claims)?;
    let (subject, keys) = trust.keys_for(&jws, &all)?;
    let key = keys.verify(&jws)?;
    // From here on it is what its issuer said.
    let claims = Claims::read(&all)?;
    Ok(Verified {
        subject,
        id_hash: sha256(claims.token_id.as_ref().map_or(jws.signed, String::as_bytes)),
        key_id: jws.header.key_id,
        authority: key.thumbprint,
        algorithm: jws.header.algorithm,
        registered: claims,
        claims: all,
    })
}

impl Verified {
    /// For logs.
    pub fn shown_subject(&self) -> Shown {
        Shown::of(self.subject.as_str())
    }

    /// # Errors
    /// It is for others, not valid at `now`, or bound to another certificate.
    pub fn check(&self, expected: &Expectation<'_>, now: SystemTime) -> Result<(), TokenProblem> {
        let audience = &self.registered.audience;
        if !audience.iter().any(|name| expected.audiences.contains(name)) {
            return Err(TokenProblem::AudienceWrong { found: Shown::list(audience.iter().map(String::as_str)) });
        }
        self.registered.check_times(now, expected.leeway)?;
        if self.registered.certificate.is_some_and(|bound| expected.presenter != Presenter::Certificate(bound)) {
            return Err(TokenProblem::HolderWrong);
        }
        Ok(())
    }
}

impl<'a> Trust<'a> {
    fn profile(&self) -> Profile {
        match self {
            Self::TrustDomains(_) => Profile::JwtSvid,
            Self::Issuers(_) => Profile::Issuer,
        }
    }

    /// Who the token claims to be about, and the keys that this has to be verified with.
    fn keys_for(&self, jws: &Jws<'_>, all: &Map<String, Value>) -> Result<(Subject, &'a KeySet), TokenProblem> {
        match self {
            Self::TrustDomains(bundles) => {
                let subject = claims::subject(all)?;
                let id = SpiffeId::parse(subject)
                    .map_err(|source| TokenProblem::SubjectInvalid { subject: Shown::of(subject), source })?;
                if id.path().is_empty() {
                    return Err(TokenProblem::SubjectWithoutPath { subject: Shown::of(subject) });
                }
                let trust_domain = id.trust_domain();
                match bundles.get(&trust_domain) {
                    None => Err(TokenProblem::NoBundle { trust_domain }),
                    Some(keys) if keys.is_empty() => Err(TokenProblem::EmptyBundle { trust_domain }),
                    Some(keys) => Ok((Subject::Workload(id), keys)),
                }
            }
            Self::Issuers(issuers) => {
                let name = claims::issuer(all)?;
                let known = issuers.iter().find(|issuer| issuer.name == name);
                let issuer = known.ok_or_else(|| TokenProblem::IssuerUnknown { issuer: Shown::of(name) })?;
                let algorithm = jws.header.algorithm;
                if !issuer.algorithms.contains(&algorithm) {
                    return Err(TokenProblem::AlgorithmNotAllowed { algorithm });
                }
                if issuer.keys.is_empty() {
                    return Err(TokenProblem::IssuerWithoutKeys { issuer: Shown::of(name) });
                }
                Ok((Subject::Named(claims::subject(all)?.to_owned()), &issuer.keys))
            }
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
