//! Rules, as they are in force.

use super::{put, words};
use crate::authz::{FieldMatch, Principal, Rule, Rules, TimeWindow, TokenMatch, print_moment};
use serde_json::{Map, Value, json};

pub(super) fn rules(section: &mut Map<String, Value>, rules: &Rules) {
    for (key, list) in [("deny", &rules.deny), ("require", &rules.require)] {
        put(section, key, (!list.is_empty()).then(|| list.iter().map(rule).collect::<Value>()));
    }
    section.insert("allow".into(), rules.allow.iter().map(rule).collect());
}

fn rule(rule: &Rule) -> Value {
    let mut section = Map::new();
    section.insert("name".into(), json!(rule.name));
    match &rule.who {
        Principal::Spiffe(patterns) => put(&mut section, "spiffe", Some(words(patterns))),
        Principal::Anonymous => put(&mut section, "anonymous", Some(json!(true))),
        Principal::Anyone => {}
    }
    put(&mut section, "caller", (!rule.callers.is_empty()).then(|| words(&rule.callers)));
    put(&mut section, "source", (!rule.source.is_empty()).then(|| words(&rule.source)));
    put(&mut section, "time", rule.time.as_ref().map(time));
    put(&mut section, "sni", (!rule.sni.is_empty()).then(|| words(&rule.sni)));
    put(&mut section, "ports", (!rule.ports.is_empty()).then(|| json!(rule.ports)));
    put(&mut section, "labels", (!rule.labels.is_empty()).then(|| fields(&rule.labels)));
    put(&mut section, "methods", (!rule.methods.is_empty()).then(|| words(&rule.methods)));
    put(&mut section, "hosts", (!rule.hosts.is_empty()).then(|| words(&rule.hosts)));
    put(&mut section, "paths", (!rule.paths.is_empty()).then(|| words(&rule.paths)));
    put(&mut section, "headers", (!rule.headers.is_empty()).then(|| fields(&rule.headers)));
    put(&mut section, "query", (!rule.query.is_empty()).then(|| fields(&rule.query)));
    put(&mut section, "token", rule.token.as_ref().map(token));
    put(&mut section, "when", rule.when.as_ref().map(|when| json!(when.text())));
    Value::Object(section)
}

fn token(token: &TokenMatch) -> Value {
    let mut section = Map::new();
    put(&mut section, "subject", (!token.subjects.is_empty()).then(|| words(&token.subjects)));
    put(&mut section, "issuer", (!token.issuers.is_empty()).then(|| words(&token.issuers)));
    put(&mut section, "scopes", (!token.scopes.is_empty()).then(|| json!(token.scopes)));
    put(&mut section, "claims", (!token.claims.is_empty()).then(|| fields(&token.claims)));
    Value::Object(section)
}

fn fields(fields: &[FieldMatch]) -> Value {
    fields.iter().map(|field| (field.name.clone(), words(&field.values))).collect::<Map<_, _>>().into()
}

fn time(time: &TimeWindow) -> Value {
    let mut section = Map::new();
    put(&mut section, "days", (time.days != [true; 7]).then(|| json!(time.day_names())));
    put(&mut section, "hours", time.hours_text().map(|hours| json!(hours)));
    put(&mut section, "offset", (time.offset_minutes != 0).then(|| json!(time.offset_text())));
    put(&mut section, "from", time.from.map(|from| json!(print_moment(from))));
    put(&mut section, "until", time.until.map(|until| json!(print_moment(until))));
    Value::Object(section)
}
