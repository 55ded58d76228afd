//! The token that a request brings beside its caller's certificate: found, verified, and held against what its route wants.
//!
//! It is a bearer token on the wire (RFC 6750 §2.1, JWT-SVID §5.2); `binding` makes it more than that.

use crate::identity::issuer_asks::IssuerAsks;
use crate::policy::TokenPlan;
use crate::refusal::{Refusal, Refused};
use crate::revocation::Revocations;
use crate::token::{NotOnce, Presenter, RememberedTokens, ShownTokens, TokenProblem, Verified};
use crate::upstream::client::chain;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use postern_config::SpiffeId;
use std::sync::Arc;
use std::time::SystemTime;

/// The token of a request on a route that wants one. Whether its caller may show it, [`check_binding`] says.
///
/// # Errors
/// `TokenMissing` or `TokenInvalid`.
pub fn authenticate(
    plan: &TokenPlan,
    headers: &HeaderMap,
    presenter: Presenter,
    remembered: &mut RememberedTokens,
    asks: &IssuerAsks,
    now: SystemTime,
) -> Result<Arc<Verified>, Refused> {
    let token = find(headers)?;
    let verified = remembered.verify(token, plan.accepted(), now).map_err(|problem| {
        if matches!(problem, TokenProblem::KeyUnknown { .. } | TokenProblem::IssuerWithoutKeys { .. })
            && let Some(issuer) = plan.accepted().issuer_of(token)
        {
            // It may sign with a key that we have not fetched yet. This request is refused all the same: nothing waits for others.
            asks.ask(issuer);
        }
        invalid(&problem)
    })?;
    verified.check(&plan.expectation(presenter), now).map_err(|problem| invalid(&problem))?;
    plan.check_claims(&verified).map_err(|problem| invalid(&problem))?;
    Ok(verified)
}

/// # Errors
/// `TokenInvalid`: the deny list has its id, or whom it is about.
pub fn check_not_taken_back(token: &Verified, revocations: &Revocations, now: SystemTime) -> Result<(), Refused> {
    revocations.check_token(token, now).map_err(|problem| invalid(&problem))
}

/// # Errors
/// `TokenNotBound`: it is somebody else's (THREATS JW-20).
pub fn check_binding(plan: &TokenPlan, token: &Verified, peer: Option<&SpiffeId>) -> Result<(), Refused> {
    if plan.may_present(token, peer) {
        return Ok(());
    }
    let shown_by = peer.map_or("an anonymous caller", SpiffeId::as_str);
    let detail = format!("the token is of `{}`, and was shown by {shown_by}", token.shown_subject());
    Err(Refused::new(Refusal::TokenNotBound, detail))
}

/// # Errors
/// `TokenReplayed`: it was shown before, or nobody can remember any more that it was (THREATS JW-22).
pub fn check_once(plan: &TokenPlan, token: &Verified, shown: &ShownTokens) -> Result<(), Refused> {
    let Some(until) = plan.shown_once(token) else { return Ok(()) };
    let replayed =
        |why: NotOnce| Refused::new(Refusal::TokenReplayed, format!("{why}: the token of `{}`", token.shown_subject()));
    shown.show(token.id_hash, until, SystemTime::now()).map_err(replayed)
}

fn invalid(problem: &TokenProblem) -> Refused {
    Refused::new(Refusal::TokenInvalid, format!("{}: {}", problem.code(), chain(problem)))
}

/// RFC 6750 §2.1: one field, the scheme in any case, one space, and the token (THREATS HD-17).
fn find(headers: &HeaderMap) -> Result<&[u8], Refused> {
    let missing = |why| Err(Refused::new(Refusal::TokenMissing, why));
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return missing("there is no `Authorization`") };
    if fields.next().is_some() {
        // Which one others take, nobody knows.
        return Err(Refused::new(Refusal::TokenInvalid, "there are two fields of `Authorization`"));
    }
    let field = field.as_bytes();
    let end = field.iter().position(|byte| *byte == b' ').unwrap_or(field.len());
    let (scheme, token) = field.split_at(end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return missing("`Authorization` is of another scheme than Bearer");
    }
    match token {
        b"" | b" " => missing("`Authorization` has no token"),
        [b' ', b' ' | b'\t', ..] => {
            Err(Refused::new(Refusal::TokenInvalid, "there is more than one space before the token"))
        }
        token => Ok(&token[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::find;
    use crate::refusal::Refusal;
    use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

    #[test]
    fn hd_17_a_token_is_found_in_one_field_of_the_bearer_scheme() {
        let found = |fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(AUTHORIZATION, HeaderValue::from_static(field));
            }
            find(&headers)
                .map(|token| String::from_utf8(token.to_vec()).expect("text"))
                .map_err(|refused| refused.refusal)
        };
        for good in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            assert_eq!(found(&[good]).as_deref(), Ok("a.b.c"), "{good}");
        }
        for missing in [&[][..], &["Basic a"], &["Bearer"], &["Bearer "], &["Bearera.b.c"], &[""], &["DPoP a.b.c"]] {
            assert_eq!(found(missing), Err(Refusal::TokenMissing), "{missing:?}");
        }
        for invalid in [&["Bearer a.b.c", "Bearer a.b.c"][..], &["Bearer  a.b.c"], &["Bearer \ta.b.c"]] {
            assert_eq!(found(invalid), Err(Refusal::TokenInvalid), "{invalid:?}");
        }
        // What is behind it is the token's, and no token has a space.
        assert_eq!(found(&["Bearer a.b.c, Basic x"]).as_deref(), Ok("a.b.c, Basic x"));
    }
}
