//! A token of our own, as the identity provider gave it: read strictly before anybody is shown it.

use super::claims::{self, Claims};
use super::json;
use super::jws::{Jws, Profile};
use super::problem::TokenProblem;
use super::shown::Shown;
use postern_config::SpiffeId;
use std::time::SystemTime;

/// What has to be known of a token to keep it.
pub struct OwnToken {
    pub expires_at: SystemTime,
    /// Of the key that it says it was signed with.
    pub key_id: Option<String>,
}

/// Whose signature it has is for others to verify.
///
/// # Errors
/// It is not about `own`, not for `audience`, over, or not well-formed: a peer would refuse it, or take it for another's.
pub fn read_own(token: &str, own: &SpiffeId, audience: &str, now: SystemTime) -> Result<OwnToken, TokenProblem> {
    let jws = Jws::read(token.as_bytes(), Profile::JwtSvid)?;
    let all = json::object(&jws.payload).map_err(TokenProblem::Claims)?;
    let subject = claims::subject(&all)?;
    if subject != own.as_str() {
        return Err(TokenProblem::SubjectOther { subject: Shown::of(subject) });
    }
    let claims = Claims::read(&all)?;
    if !claims.audience.iter().any(|name| name == audience) {
        return Err(TokenProblem::AudienceWrong { found: Shown::list(claims.audience.iter().map(String::as_str)) });
    }
    if claims.expires_at <= now {
        return Err(TokenProblem::Expired { expires_at: claims.expires_at });
    }
    Ok(OwnToken { expires_at: claims.expires_at, key_id: jws.header.key_id })
}
