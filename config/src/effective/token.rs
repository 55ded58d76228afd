//! What a route says of tokens, as it is in force.

use super::words;
use crate::issuer::{IssuerKeysFrom, SPIFFE, TokenIssuer};
use crate::token::{Binding, TokenRule};
use crate::units::print_duration;
use serde_json::{Map, Value, json};

pub(super) fn insert(section: &mut Map<String, Value>, rule: &TokenRule) {
    section.insert("audience".into(), json!(rule.audiences));
    let binding = match &rule.binding {
        Binding::Peer => json!("peer"),
        Binding::Bearer => json!("bearer"),
        Binding::Forwarders(forwarders) => json!({ "forwarders": words(forwarders) }),
    };
    section.insert("binding".into(), binding);
    let headers: Map<String, Value> =
        rule.headers.iter().map(|header| (header.header.clone(), json!(header.claim))).collect();
    let mut token = Map::new();
    if !rule.issuers.is_empty() {
        let svids = rule.takes_svids.then_some(SPIFFE);
        let names = svids.into_iter().chain(rule.issuers.iter().map(|issuer| issuer.name.as_str()));
        token.insert("issuers".into(), names.collect());
    }
    token.insert("leeway".into(), json!(print_duration(rule.leeway)));
    token.insert("once".into(), json!(rule.once));
    super::put(&mut token, "headers", (!headers.is_empty()).then_some(Value::Object(headers)));
    section.insert("token".into(), token.into());
}

pub(super) fn issuer(issuer: &TokenIssuer) -> Value {
    let mut section = Map::new();
    section.insert("name".into(), json!(issuer.name));
    section.insert("issuer".into(), json!(issuer.issuer));
    match &issuer.keys {
        IssuerKeysFrom::Discovery(_) => {}
        IssuerKeysFrom::Url(url) => super::put(&mut section, "jwks_url", Some(json!(url.to_string()))),
        IssuerKeysFrom::File(path) => super::put(&mut section, "jwks_file", Some(json!(path))),
    }
    section.insert("algorithms".into(), json!(issuer.algorithms));
    let claims: Map<String, Value> =
        issuer.required_claims.iter().map(|claim| (claim.name.clone(), json!(words(&claim.values)))).collect();
    super::put(&mut section, "required_claims", (!claims.is_empty()).then_some(Value::Object(claims)));
    super::put(&mut section, "roots", issuer.roots.as_ref().map(|roots| json!(roots)));
    let is_private = issuer.allow_private_addresses.then_some(Value::Bool(true));
    super::put(&mut section, "allow_private_addresses", is_private);
    section.into()
}
