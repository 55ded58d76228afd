//! A decision and its reasons, as `postern explain` and the admin socket show them. Pure.

use super::Decision;
use super::explain::{Explained, nearest};
use crate::refusal::Refused;
use postern_config::Mode;
use postern_config::authz::Effect;
use serde_json::json;
use std::fmt::Write as _;

/// What was decided about a request, and why: every rule that was there to be asked.
pub struct Explanation {
    pub port: String,
    pub caller: String,
    /// For whom it speaks.
    pub original: Option<String>,
    pub route: Option<String>,
    /// Whose token was shown, where the route wants one.
    pub token: Option<String>,
    /// Of the path; the first is as it came.
    pub readings: Vec<String>,
    pub rules: Vec<Explained>,
    /// `Err`: refused before rules were asked.
    pub verdict: Result<Decision, Refused>,
    /// What comes of a refusal. Whatever refuses before rules are asked enforces; that no route fits is a matter of the mode.
    pub mode: Mode,
}

impl Explanation {
    pub fn is_allowed(&self) -> bool {
        self.verdict.as_ref().is_ok_and(Decision::is_allowed)
    }

    fn words(&self) -> String {
        match &self.verdict {
            Ok(Decision::Allowed { rule }) => format!("allowed by rule `{rule}`"),
            Ok(decision) => match decision.clone().into_result() {
                Ok(()) => String::new(),
                Err(refused) => refused_words(&refused),
            },
            Err(refused) => refused_words(refused),
        }
    }

    fn nearest(&self) -> Option<&Explained> {
        self.verdict.as_ref().ok().and_then(|decision| nearest(&self.rules, decision))
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let original = self.original.as_ref().map(|id| format!(", for {id}")).unwrap_or_default();
        let _ = writeln!(text, "port `{}`, caller {}{original}", self.port, self.caller);
        if let Some(route) = &self.route {
            let _ = writeln!(text, "route `{route}`");
        }
        if let Some(subject) = &self.token {
            let _ = writeln!(text, "token of {subject}");
        }
        if self.readings.len() > 1 {
            let _ = writeln!(text, "readings of the path: {}", self.readings.join("  "));
        }
        for effect in [Effect::Deny, Effect::Require, Effect::Allow] {
            for rule in self.rules.iter().filter(|rule| rule.effect == effect) {
                let _ = writeln!(text, "  {:<8} {}: {}", effect.as_str(), rule.rule, lacks(rule));
            }
        }
        let _ = writeln!(text, "{}", self.words());
        if let (false, Some(what)) = (self.is_allowed(), let_through(self.mode)) {
            let _ = writeln!(text, "let through all the same: `mode: {}`, {what}", self.mode.as_str());
        }
        if let (false, Some(rule)) = (self.is_allowed(), self.nearest()) {
            let _ = match rule.effect {
                Effect::Deny => writeln!(text, "what fits `{}` is refused whatever allows it", rule.rule),
                _ => writeln!(text, "nearest: `{}`, {}", rule.rule, lacks(rule)),
            };
        }
        text
    }

    pub fn to_json(&self) -> serde_json::Value {
        let rules: Vec<_> = self.rules.iter().map(rule_json).collect();
        let (decision, rule, refusal) = match &self.verdict {
            Ok(decision @ Decision::Allowed { .. }) => ("allowed", decision.rule(), None),
            Ok(decision) => ("refused", decision.rule(), decision.clone().into_result().err()),
            Err(refused) => ("refused", None, Some(refused.clone())),
        };
        json!({
            "port": self.port,
            "caller": self.caller,
            "original_caller": self.original,
            "route": self.route,
            "token_subject": self.token,
            "readings": self.readings,
            "decision": decision,
            "mode": self.mode.as_str(),
            "let_through": self.is_allowed() || let_through(self.mode).is_some(),
            "rule": rule.map(|rule| &**rule),
            "refusal": refusal.as_ref().map(|refused| refused.refusal.code()),
            "status": refusal.as_ref().map(|refused| refused.refusal.status().as_u16()),
            "detail": refusal.as_ref().map(|refused| refused.detail.to_string()).filter(|detail| !detail.is_empty()),
            "nearest": self.nearest().filter(|_| !self.is_allowed()).map(rule_json),
            "rules": rules,
        })
    }
}

fn let_through(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Enforce => None,
        Mode::Observe => Some("it is counted and recorded"),
        Mode::Off => Some("the rules are not asked"),
    }
}

fn rule_json(rule: &Explained) -> serde_json::Value {
    let lacks: serde_json::Map<_, _> = rule.lacks.iter().map(|lack| (lack.key.to_owned(), json!(lack.wants))).collect();
    json!({ "list": rule.effect.as_str(), "rule": &*rule.rule, "fits": rule.lacks.is_empty(), "lacks": lacks })
}

fn refused_words(refused: &Refused) -> String {
    let (code, status) = (refused.refusal.code(), refused.refusal.status().as_u16());
    match refused.detail.is_empty() {
        true => format!("refused: {code} ({status})"),
        false => format!("refused: {code} ({status}): {}", refused.detail),
    }
}

fn lacks(rule: &Explained) -> String {
    if rule.lacks.is_empty() {
        return "fits".to_owned();
    }
    let lacks: Vec<String> = rule.lacks.iter().map(|lack| format!("`{}` {}", lack.key, lack.wants)).collect();
    format!("wants {}", lacks.join("; "))
}
