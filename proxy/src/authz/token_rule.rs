//! Whether the caller's token says what a rule asks for. It is good already: this is about what it says.

use crate::token::Verified;
use postern_config::authz::{Effect, FieldMatch, TextPattern, TokenMatch};
use serde_json::Value;

/// Where something is denied by it, a claim that cannot be compared (an object, a list that is not of plain values) counts against
/// the request.
pub fn fits(wanted: &TokenMatch, token: &Verified, effect: Effect) -> bool {
    let any = |patterns: &[TextPattern], text: &str| {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text.as_bytes()))
    };
    let issuer = token.registered.issuer.as_deref();
    any(&wanted.subjects, token.subject.as_str())
        && (wanted.issuers.is_empty() || issuer.is_some_and(|issuer| any(&wanted.issuers, issuer)))
        && wanted.scopes.iter().all(|scope| token.registered.scopes.contains(scope))
        && wanted.claims.iter().all(|claim| fits_claim(claim, token.claims.get(&claim.name), effect))
}

/// One claim alone.
pub fn fits_claim(wanted: &FieldMatch, claim: Option<&Value>, effect: Effect) -> bool {
    let Some(claim) = claim else { return false };
    let values = match claim {
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    let texts = values.iter().map(|value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    });
    match texts.collect::<Option<Vec<_>>>() {
        Some(texts) => texts.iter().any(|text| wanted.matches(text.as_bytes())),
        None => effect == Effect::Deny,
    }
}
