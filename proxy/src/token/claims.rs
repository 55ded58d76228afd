//! What a token says (RFC 7519 §4), read into types. Pure; it is true only once the signature is known to be good.

use super::problem::TokenProblem;
use crate::base64;
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime};

/// A token for more is for everybody.
pub const AUDIENCES_MAX: usize = 32;
/// The end of the year 9999, where RFC 3339 ends too: later times are mistakes, or meant to overflow something.
pub const TIME_MAX: u64 = 253_402_300_799;

/// The claims that mean something here; what is not in the token is empty or absent.
#[derive(Clone, Debug)]
pub struct Claims {
    pub audience: Vec<String>,
    pub expires_at: SystemTime,
    pub not_before: Option<SystemTime>,
    pub issued_at: Option<SystemTime>,
    pub issuer: Option<String>,
    pub token_id: Option<String>,
    /// Of `scope` (RFC 8693 §4.2) and `scp`, as some issuers call it.
    pub scopes: Vec<String>,
    /// SHA-256 of the only certificate whose holder may present the token (`cnf`, `x5t#S256`; RFC 8705 §3.1).
    pub certificate: Option<[u8; 32]>,
}

impl Claims {
    /// # Errors
    /// The first rule that a claim breaks: of a claim that is there, its form is never passed over.
    pub fn read(all: &Map<String, Value>) -> Result<Self, TokenProblem> {
        let audience = read_audience(all.get("aud"))?;
        let expires_at = time(all, "exp")?.ok_or(TokenProblem::ExpiryMissing)?;
        // Before 1970 or at its first moment nothing was issued that expires: a zero is a field that nobody filled in.
        if expires_at <= SystemTime::UNIX_EPOCH {
            return Err(TokenProblem::TimeMalformed { claim: "exp" });
        }
        let mut scopes = read_scopes(all, "scope")?;
        scopes.extend(read_scopes(all, "scp")?);
        Ok(Self {
            audience,
            expires_at,
            not_before: time(all, "nbf")?,
            issued_at: time(all, "iat")?,
            issuer: text(all, "iss").map_err(|NotText| TokenProblem::IssuerMalformed)?.map(str::to_owned),
            token_id: text(all, "jti").map_err(|NotText| TokenProblem::TokenIdMalformed)?.map(str::to_owned),
            scopes,
            certificate: read_certificate(all.get("cnf"))?,
        })
    }

    /// # Errors
    /// The token is not valid at `now`, give or take `leeway`.
    pub fn check_times(&self, now: SystemTime, leeway: Duration) -> Result<(), TokenProblem> {
        // RFC 7519 §4.1.4: "on or after which the JWT MUST NOT be accepted".
        if self.expires_at.checked_add(leeway).is_some_and(|end| now >= end) {
            return Err(TokenProblem::Expired { expires_at: self.expires_at });
        }
        let is_future = |time: &SystemTime| time.duration_since(now).is_ok_and(|ahead| ahead > leeway);
        if let Some(not_before) = self.not_before.filter(is_future) {
            return Err(TokenProblem::NotYetValid { not_before });
        }
        if let Some(issued_at) = self.issued_at.filter(is_future) {
            return Err(TokenProblem::IssuedInFuture { issued_at });
        }
        Ok(())
    }
}

/// `sub`. Unverified, its trust domain says whose keys to verify with, and nothing else.
///
/// # Errors
/// There is none, or it is not text.
pub fn subject(all: &Map<String, Value>) -> Result<&str, TokenProblem> {
    match text(all, "sub") {
        Ok(Some("")) | Err(NotText) => Err(TokenProblem::SubjectMalformed),
        Ok(Some(subject)) => Ok(subject),
        Ok(None) => Err(TokenProblem::SubjectMissing),
    }
}

/// `iss`. Unverified, it says whose keys to verify with, and nothing else.
///
/// # Errors
/// There is none, or it is not text.
pub fn issuer(all: &Map<String, Value>) -> Result<&str, TokenProblem> {
    text(all, "iss").map_err(|NotText| TokenProblem::IssuerMalformed)?.ok_or(TokenProblem::IssuerMissing)
}

/// `null` is not absent: it is a claim without a value, and no claim here may have none.
struct NotText;

fn text<'a>(all: &'a Map<String, Value>, claim: &str) -> Result<Option<&'a str>, NotText> {
    match all.get(claim) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(NotText),
    }
}

/// RFC 7519 §4.1.3: one text or a list of them; JWT-SVID §3.2: at least one.
fn read_audience(claim: Option<&Value>) -> Result<Vec<String>, TokenProblem> {
    let values = match claim {
        None => return Err(TokenProblem::AudienceMissing),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    match values.len() {
        0 => return Err(TokenProblem::AudienceMissing),
        1..=AUDIENCES_MAX => {}
        count => return Err(TokenProblem::TooManyAudiences { count }),
    }
    let texts = values.iter().map(|value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned));
    texts.collect::<Option<_>>().ok_or(TokenProblem::AudienceMalformed)
}

/// A NumericDate: seconds since 1970, whole or not (RFC 7519 §2).
fn time(all: &Map<String, Value>, claim: &'static str) -> Result<Option<SystemTime>, TokenProblem> {
    let Some(value) = all.get(claim) else { return Ok(None) };
    let since_1970 = match (value.as_u64(), value.as_f64()) {
        (Some(seconds), _) if seconds <= TIME_MAX => Some(Duration::from_secs(seconds)),
        (None, Some(seconds)) if (0.0..=TIME_MAX as f64).contains(&seconds) => {
            Duration::try_from_secs_f64(seconds).ok()
        }
        _ => None,
    };
    let time = since_1970.and_then(|duration| SystemTime::UNIX_EPOCH.checked_add(duration));
    time.map(Some).ok_or(TokenProblem::TimeMalformed { claim })
}

/// Texts between spaces (RFC 6749 §3.3), or a list of texts, as some issuers write it.
fn read_scopes(all: &Map<String, Value>, claim: &'static str) -> Result<Vec<String>, TokenProblem> {
    let malformed = TokenProblem::ScopeMalformed { claim };
    match all.get(claim) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(text.split(' ').filter(|one| !one.is_empty()).map(str::to_owned).collect()),
        Some(Value::Array(values)) => {
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or(malformed)
        }
        Some(_) => Err(malformed),
    }
}

/// RFC 7800 §3.1: an object. What else is in it is another protocol's; the claim stays among all claims.
fn read_certificate(claim: Option<&Value>) -> Result<Option<[u8; 32]>, TokenProblem> {
    let confirmation = match claim {
        None => return Ok(None),
        Some(Value::Object(confirmation)) => confirmation,
        Some(_) => return Err(TokenProblem::ConfirmationMalformed),
    };
    let Some(thumbprint) = confirmation.get("x5t#S256") else { return Ok(None) };
    let bytes = thumbprint.as_str().and_then(|text| base64::decode_url(text.as_bytes()).ok());
    let hash = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    hash.map(Some).ok_or(TokenProblem::ConfirmationMalformed)
}
