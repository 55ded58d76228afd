//! Whether a known caller may do what it asks. Only this module decides that; *who* the caller is was decided by
//! `tls/verifier.rs`.
//!
//! Nothing is allowed that no rule allows. Pure: a compiled rule set, a caller, a request, a verdict.

pub mod prefix_index;

use crate::http::normalize::Readings;
use crate::lookup::Lookup;
use crate::refusal::Refusal;
use http::Method;
use postern_config::authz::{Allow, Principal as Who};
use postern_config::{PathPattern, SpiffeId, SpiffePattern};
use prefix_index::PrefixIndex;
use std::sync::Arc;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal<'a> {
    /// The SPIFFE ID of a verified SVID.
    Spiffe(&'a SpiffeId),
    /// A plaintext caller, where plaintext is permitted. Only rules that name it match.
    Anonymous,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// By the rule of this name.
    Allowed {
        rule: Arc<str>,
    },
    Refused(Refusal),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }

    /// # Errors
    /// The refusal, for `?`.
    pub fn into_result(self) -> Result<Arc<str>, Refusal> {
        match self {
            Self::Allowed { rule } => Ok(rule),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

/// The allow rules of one port or route, compiled: a caller sees only the rules that can name it.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// Indexes into `rules`, in their order; so in the other two.
    by_id: Lookup<SpiffeId, Vec<usize>>,
    by_pattern: PrefixIndex<(SpiffePattern, usize)>,
    anonymous: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Rule {
    name: Arc<str>,
    /// Empty: any.
    methods: Vec<Method>,
    /// Methods were written of which none is one: the rule matches nothing rather than everything.
    never: bool,
    /// Empty: any.
    paths: Vec<PathPattern>,
}

impl RuleSet {
    pub fn compile(rules: &[Allow]) -> Self {
        let mut compiled = Self::default();
        for (index, allow) in rules.iter().enumerate() {
            compiled.rules.push(Rule::compile(allow));
            match &allow.who {
                Who::Anonymous => compiled.anonymous.push(index),
                Who::Spiffe(patterns) => patterns.iter().for_each(|pattern| compiled.file(pattern, index)),
            }
        }
        compiled
    }

    fn file(&mut self, pattern: &SpiffePattern, index: usize) {
        match pattern.exact() {
            Some(id) => self.by_id.entry(id).or_default().push(index),
            None => self.by_pattern.insert(&pattern.to_string(), (pattern.clone(), index)),
        }
    }

    /// Decides a connection whose bytes we do not read. A rule with methods or paths never matches: it allows less than the
    /// whole connection.
    pub fn decide_l4(&self, principal: &Principal<'_>) -> Decision {
        self.decide(principal, |rule| !rule.never && rule.methods.is_empty() && rule.paths.is_empty())
    }

    /// Decides a request.
    pub fn decide_http(&self, principal: &Principal<'_>, method: &Method, readings: &Readings<'_>) -> Decision {
        self.decide(principal, |rule| rule.matches(method, readings))
    }

    /// The first rule in the file's order among those that name the caller by its ID, then by a pattern.
    fn decide(&self, principal: &Principal<'_>, matches: impl Fn(&Rule) -> bool) -> Decision {
        let matching = |index: &usize| self.rules.get(*index).filter(|rule| matches(rule));
        let rule = match principal {
            Principal::Anonymous => self.anonymous.iter().find_map(matching),
            Principal::Spiffe(id) => {
                self.by_id.get(*id).and_then(|rules| rules.iter().find_map(matching)).or_else(|| {
                    let candidates = self.by_pattern.candidates(id.as_str()).flatten();
                    candidates.filter(|(pattern, _)| pattern.matches(id)).find_map(|(_, index)| matching(index))
                })
            }
        };
        match rule {
            Some(rule) => Decision::Allowed { rule: rule.name.clone() },
            None => Decision::Refused(Refusal::NotAllowed),
        }
    }
}

impl Rule {
    fn compile(allow: &Allow) -> Self {
        let methods: Vec<Method> = allow.methods.iter().filter_map(|method| method.parse().ok()).collect();
        Self {
            name: Arc::from(allow.name.as_str()),
            never: methods.is_empty() && !allow.methods.is_empty(),
            methods,
            paths: allow.paths.clone(),
        }
    }

    /// Methods are compared exactly (RFC 9110 §9.1: case-sensitive). Every reading has to match one of the paths.
    fn matches(&self, method: &Method, readings: &Readings<'_>) -> bool {
        if self.never || !(self.methods.is_empty() || self.methods.contains(method)) {
            return false;
        }
        // THREATS PN-15: `OPTIONS *` asks about the server as a whole; only a rule that names OPTIONS speaks of that.
        if readings.raw() == "*" && self.methods.is_empty() {
            return false;
        }
        // What is no path, `*` and the nothing of a CONNECT, is matched by `/**` alone: all others ask for a `/`.
        self.paths.is_empty() || readings.all(|path| self.paths.iter().any(|pattern| pattern.matches(path)))
    }
}

/// Whether a pattern speaks also of targets that name no path: `CONNECT host:port` and `OPTIONS *`.
pub(crate) fn is_every_path(pattern: &PathPattern) -> bool {
    pattern.to_string() == "/**"
}

#[cfg(test)]
mod tests;
