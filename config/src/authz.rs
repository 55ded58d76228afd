//! `allow:` who may do what.

use crate::cross_check::unique;
use crate::pattern::{PathPattern, SpiffePattern};
use crate::problem::Place;
use crate::read::{Field, Keys, Reader, Section};
use crate::values::{At, Method, Name, OneOrMany};
use schemars::JsonSchema;
use std::collections::HashMap;

/// One rule: all of its parts hold, or it does not match. Nothing is allowed that no rule allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    /// For logs: `NAME` if it has one, else `allow-N`.
    pub name: String,
    pub who: Principal,
    /// Empty: any. Not allowed on `protocol: tcp`.
    pub methods: Vec<String>,
    /// Empty: any. Not allowed on `protocol: tcp`.
    pub paths: Vec<PathPattern>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// A verified SPIFFE ID that matches one of these.
    Spiffe(Vec<SpiffePattern>),
    /// A plaintext caller; only rules that name it match it.
    Anonymous,
}

/// One rule: it allows what fits all of its parts. What no rule allows is refused.
#[derive(JsonSchema)]
#[schemars(rename = "Allow", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawAllow {
    /// What logs and refusals call this rule.
    #[schemars(extend("x-default" = "allow-N"))]
    name: Field<Name>,
    /// Callers whose verified SPIFFE ID fits one of these: exact, `*` for one segment, a final `/**` for everything
    /// below. The trust domain is always written out.
    spiffe: Field<OneOrMany<At<SpiffePattern>>>,
    /// Plaintext callers, of whom nothing is known; only on ports with `tls: permissive` or `off`.
    #[schemars(extend("default" = false))]
    anonymous: Field<bool>,
    /// Only these methods. HTTP only.
    #[schemars(extend("x-default" = "any"))]
    methods: Field<OneOrMany<Method>>,
    /// Only these paths: exact, `{name}` or `*` for one segment, a final `/**` for the path and everything below.
    /// Every reading of the request's path has to fit. HTTP only.
    #[schemars(extend("x-default" = "any"))]
    paths: Field<OneOrMany<PathPattern>>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawAllow {
    const NAME: &'static str = "a rule";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            name: keys.optional("name"),
            spiffe: keys.optional("spiffe"),
            anonymous: keys.optional("anonymous"),
            methods: keys.optional("methods"),
            paths: keys.optional("paths"),
            place: keys.place(),
        }
    }
}

impl RawAllow {
    /// `number` counts the rules of a list from 1. `None`: this rule's problems have been told.
    fn check(self, number: usize, reader: &mut Reader) -> Option<Allow> {
        // THREATS CF-03: an empty matcher must not come to mean everything.
        let no_methods = self.methods.get().is_some_and(|methods| methods.0.is_empty());
        let no_paths = self.paths.get().is_some_and(|paths| paths.0.is_empty());
        for (key, empty, place) in
            [("methods", no_methods, self.methods.place()), ("paths", no_paths, self.paths.place())]
        {
            if let (true, Some(place)) = (empty, place) {
                reader.problem(place, format!("`{key}` has nothing that could fit"), "name some, or remove the key");
            }
        }
        let anonymous = self.anonymous.get() == Some(&true);
        let who = match (self.spiffe.is_written(), anonymous) {
            (true, true) => {
                let hint = "write two rules, one with `spiffe` and one with `anonymous: true`";
                reader.problem(&self.place, "a rule names both `spiffe` and `anonymous`", hint);
                return None;
            }
            (false, true) => Principal::Anonymous,
            (false, false) => {
                if !self.anonymous.is_written() || self.anonymous.get() == Some(&false) {
                    let hint = "add `spiffe: spiffe://…` (or `anonymous: true` for plaintext callers)";
                    reader.problem(&self.place, "a rule does not say who may call", hint);
                }
                return None;
            }
            (true, false) => Principal::Spiffe(callers(self.spiffe, reader)?),
        };
        Some(Allow {
            name: self.name.into_option().map_or_else(|| format!("allow-{number}"), |name| name.0),
            who,
            methods: self.methods.or_default().0.into_iter().map(|method| method.0).collect(),
            paths: self.paths.or_default().0,
            place: self.place,
        })
    }
}

fn callers(spiffe: Field<OneOrMany<At<SpiffePattern>>>, reader: &mut Reader) -> Option<Vec<SpiffePattern>> {
    let place = spiffe.place().cloned()?;
    let patterns = spiffe.into_option()?.0;
    if patterns.is_empty() {
        reader.problem(&place, "`spiffe` has nothing that could fit", "name at least one SPIFFE ID or pattern");
        return None;
    }
    for pattern in &patterns {
        if let Some(capture) = pattern.value.captures().first() {
            let hint = "write `*` for any one segment; captures are for `identity` of outbound services";
            let what = format!("`{}` has the capture `{{{capture}}}`, and nothing gives it a value", pattern.value);
            reader.problem(&pattern.place, what, hint);
        }
    }
    Some(patterns.into_iter().map(|pattern| pattern.value).collect())
}

/// The rules of a list that could be read.
pub(crate) fn check_rules(rules: Vec<RawAllow>, reader: &mut Reader) -> Vec<Allow> {
    let numbered = rules.into_iter().enumerate();
    let rules: Vec<Allow> = numbered.filter_map(|(index, rule)| rule.check(index + 1, reader)).collect();
    let mut names = HashMap::new();
    for rule in &rules {
        unique(&mut names, "rule", &rule.name, &rule.place, reader);
    }
    rules
}
