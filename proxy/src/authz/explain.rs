//! Why a decision is as it is: every rule that was there to be asked, whether it fits, and what it lacks. The same code
//! decides ([`super::rule::Rule::fits_part`]). Pure.

use super::condition::seen;
use super::rule::{Captured, PARTS, Part, Rule};
use super::{Asked, Decision, Principal, RuleSet};
use postern_config::authz::ConditionError;
use postern_config::authz::{Effect, Principal as Who, TokenMatch};
use std::fmt::Display;
use std::sync::Arc;

/// One rule against one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    pub effect: Effect,
    pub rule: Arc<str>,
    /// Nothing: it fits.
    pub lacks: Vec<Lack>,
}

/// A part of a rule that does not fit, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The key in the file.
    pub key: &'static str,
    pub wants: String,
}

impl RuleSet {
    /// All rules in the order in which they speak.
    pub fn explain(&self, asked: &Asked<'_>) -> Vec<Explained> {
        let deny = self.deny.rules.iter().map(|rule| (Effect::Deny, rule));
        let require = self.require.iter().map(|rule| (Effect::Require, rule));
        let allow = self.allow.rules.iter().map(|rule| (Effect::Allow, rule));
        let all = deny.chain(require).chain(allow);
        all.map(|(effect, rule)| Explained { effect, rule: rule.name.clone(), lacks: lacks(rule, asked, effect) })
            .collect()
    }
}

/// A condition that could not be decided, and so refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionFault {
    pub rule: Arc<str>,
    pub error: ConditionError,
}

impl RuleSet {
    /// Of a request that was refused by `decision`: the condition that could not be decided, if that is why. `None` at once where
    /// no rule has one.
    pub fn condition_fault(&self, asked: &Asked<'_>, decision: &Decision) -> Option<ConditionFault> {
        if !self.has_conditions {
            return None;
        }
        let (rules, effect) = match decision {
            Decision::Allowed { .. } => return None,
            Decision::Denied { .. } => (&self.deny.rules, Effect::Deny),
            Decision::Unmet { .. } => (&self.require, Effect::Require),
            Decision::NotAllowed => (&self.allow.rules, Effect::Allow),
        };
        let by_name = |rule: &&Rule| decision.rule().is_none_or(|name| *name == rule.name);
        rules.iter().filter(|rule| rule.when.is_some()).filter(by_name).find_map(|rule| {
            let captures = rule.captures(asked.principal);
            let others = PARTS.iter().filter(|part| **part != Part::When);
            let fits = |captured: &&Vec<(String, &str)>| {
                others.clone().all(|part| rule.fits_part(*part, asked, captured, effect))
            };
            let error = captures.iter().filter(fits).find_map(|captured| rule.condition(asked, captured, effect).err());
            error.map(|error| ConditionFault { rule: rule.name.clone(), error })
        })
    }
}

/// Of the rules that could have let a refused request through, the one that lacks least.
pub fn nearest<'a>(explained: &'a [Explained], decision: &Decision) -> Option<&'a Explained> {
    let could = |it: &&Explained| match decision {
        Decision::Allowed { .. } => false,
        Decision::Denied { rule } => it.effect == Effect::Deny && it.rule == *rule,
        Decision::Unmet { rule } => it.effect == Effect::Require && it.rule == *rule,
        Decision::NotAllowed => it.effect == Effect::Allow,
    };
    explained.iter().filter(could).min_by_key(|it| it.lacks.len())
}

fn lacks(rule: &Rule, asked: &Asked<'_>, effect: Effect) -> Vec<Lack> {
    let captured = rule.captures(asked.principal);
    let of_parts = |captured: &Vec<(String, &str)>| -> Vec<Lack> {
        let missing = PARTS.iter().filter(|part| !rule.fits_part(**part, asked, captured, effect));
        missing.map(|part| lack(rule, *part, asked, captured, effect)).collect()
    };
    // By the way of naming the caller that comes nearest.
    match captured.iter().map(of_parts).min_by_key(Vec::len) {
        Some(lacks) => lacks,
        None => std::iter::once(caller(rule)).chain(of_parts(&Vec::new())).collect(),
    }
}

fn caller(rule: &Rule) -> Lack {
    match &rule.who {
        Who::Spiffe(patterns) => Lack { key: "spiffe", wants: one_of(patterns) },
        Who::Anonymous => Lack { key: "anonymous", wants: "a plaintext caller".to_owned() },
        Who::Anyone => Lack { key: "spiffe", wants: "anyone".to_owned() },
    }
}

fn lack(rule: &Rule, part: Part, asked: &Asked<'_>, captured: &Captured<'_>, effect: Effect) -> Lack {
    let fields = |fields: &mut dyn Iterator<Item = (String, String)>| {
        fields.map(|(name, values)| format!("{name}: {values}")).collect::<Vec<_>>().join(", ")
    };
    let (key, wants) = match part {
        Part::Port => ("ports", one_of(&rule.ports)),
        Part::Labels => {
            let mut labels = rule.labels.iter().map(|label| (label.name.clone(), one_of(&label.values)));
            ("labels", fields(&mut labels))
        }
        Part::Caller => ("caller", one_of(&rule.callers)),
        Part::Sni => ("sni", one_of(&rule.sni)),
        Part::When => ("when", condition(rule, asked, captured, effect)),
        Part::Source => ("source", one_of(&rule.source)),
        Part::Time => ("time", rule.time.map(|time| time.to_string()).unwrap_or_default()),
        Part::Request => ("methods", "a request".to_owned()),
        Part::Method => ("methods", one_of(&rule.methods)),
        Part::Host => ("hosts", given(one_of(&rule.hosts), captured)),
        Part::Path => ("paths", given(one_of(&rule.paths), captured)),
        Part::Headers => {
            let mut headers = rule.headers.iter().map(|(name, field)| (name.to_string(), one_of(&field.values)));
            ("headers", fields(&mut headers))
        }
        Part::Query => {
            let mut parameters = rule.query.iter().map(|field| (field.name.clone(), one_of(&field.values)));
            ("query", fields(&mut parameters))
        }
        Part::Token => ("token", rule.token.as_ref().map(token).unwrap_or_default()),
    };
    Lack { key, wants }
}

/// The condition, and what it came to.
fn condition(rule: &Rule, asked: &Asked<'_>, captured: &Captured<'_>, effect: Effect) -> String {
    let Some((when, labels)) = &rule.when else { return String::new() };
    let seen = seen(when, asked, captured, labels).into_iter().map(|(name, value)| format!("{name} = {value}"));
    let mut text = [when.to_string()]
        .into_iter()
        .chain(seen.reduce(|all, one| format!("{all}, {one}")))
        .collect::<Vec<_>>()
        .join(" where ");
    if let Err(error) = rule.condition(asked, captured, effect) {
        text.push_str(&format!(" ({error})"));
    }
    text
}

fn token(wanted: &TokenMatch) -> String {
    let mut parts = Vec::new();
    for (name, values) in [("subject", &wanted.subjects), ("issuer", &wanted.issuers)] {
        if !values.is_empty() {
            parts.push(format!("{name} {}", one_of(values)));
        }
    }
    if !wanted.scopes.is_empty() {
        parts.push(format!("scopes {}", wanted.scopes.join(" and ")));
    }
    parts.extend(wanted.claims.iter().map(|claim| format!("{}: {}", claim.name, one_of(&claim.values))));
    parts.join(", ")
}

/// What the caller's ID has for the captures.
fn given(wants: String, captured: &Captured<'_>) -> String {
    let values: Vec<String> = captured.iter().map(|(name, value)| format!("{{{name}}} = {value}")).collect();
    match values.is_empty() {
        true => wants,
        false => format!("{wants} with {}", values.join(", ")),
    }
}

fn one_of<T: Display>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(" or ")
}

/// As records name who asked.
pub fn principal_text(principal: &Principal<'_>) -> String {
    match principal {
        Principal::Spiffe(id) => id.to_string(),
        Principal::Anonymous => "anonymous".to_owned(),
    }
}
