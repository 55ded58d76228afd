//! What requests take along besides our certificate.
//!
//! It is for one peer, so it is attached when it is known who answers: over a connection whose other end has proven that it is
//! one of those that the file expects, and to each attempt anew. Nothing that the application says has a part in whom it is for
//! (THREATS JW-24).

use crate::identity::Counters;
use crate::refusal::{Refusal, Refused};
use crate::session::Session;
use crate::shared::Shared;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use postern_config::{AppToken, Credential};

/// Removes what the application wrote where ours will be.
///
/// # Errors
/// `AppTokenRefused`, where the file says so.
pub fn take_of_app(credential: &Credential, headers: &mut HeaderMap, shared: &Shared) -> Result<(), Refused> {
    let Credential::JwtSvid { app_token, .. } = credential;
    if headers.remove(AUTHORIZATION).is_none() {
        return Ok(());
    }
    Counters::count(&shared.metrics.identity_counters().app_tokens_removed);
    match app_token {
        AppToken::Replace => Ok(()),
        AppToken::Refuse => {
            let detail = "the application wrote an `Authorization`, and the service's `app_token` is `refuse`";
            Err(Refused::new(Refusal::AppTokenRefused, detail))
        }
    }
}

/// Attaches the credential for the peer at the other end of `session`.
///
/// # Errors
/// There is none, or nobody has proven who is there.
pub async fn attach(
    credential: &Credential,
    shared: &Shared,
    session: Option<&Session>,
    headers: &mut HeaderMap,
) -> Result<(), Refused> {
    let Credential::JwtSvid { audience, .. } = credential;
    let Some(trust) = session.and_then(Session::trust) else {
        return Err(Refused::new(Refusal::TokenUnavailable, "nobody has proven who would get the token"));
    };
    let audience = audience.as_deref().unwrap_or(trust.peer.id.as_str());
    let token = shared.own_tokens.get(&trust.own.id, audience).await?;
    headers.insert(AUTHORIZATION, token);
    Ok(())
}
