//! What a route says of tokens, as it is in force.

use super::words;
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
    token.insert("leeway".into(), json!(print_duration(rule.leeway)));
    token.insert("once".into(), json!(rule.once));
    super::put(&mut token, "headers", (!headers.is_empty()).then_some(Value::Object(headers)));
    section.insert("token".into(), token.into());
}
