//! Rules that are asked by who they name.

use super::prefix_index::PrefixIndex;
use super::rule::Rule;
use super::{Asked, Principal, Site};
use crate::lookup::Lookup;
use postern_config::authz::{Effect, Principal as Who, Rule as Written};
use postern_config::{SpiffeId, SpiffePattern};
use std::sync::Arc;

/// Compiled rules, all of one effect.
#[derive(Clone, Debug, Default)]
pub struct RuleList {
    pub rules: Vec<Rule>,
    /// Indexes into `rules`, in their order; so in the others.
    by_id: Lookup<SpiffeId, Vec<usize>>,
    by_pattern: PrefixIndex<(SpiffePattern, usize)>,
    anonymous: Vec<usize>,
    anyone: Vec<usize>,
}

impl RuleList {
    pub fn add(&mut self, rule: &Written, site: &Site) {
        let index = self.rules.len();
        self.rules.push(Rule::compile(rule, site));
        match &rule.who {
            Who::Anonymous => self.anonymous.push(index),
            Who::Anyone => self.anyone.push(index),
            Who::Spiffe(patterns) => patterns.iter().for_each(|pattern| self.file(pattern, index)),
        }
    }

    fn file(&mut self, pattern: &SpiffePattern, index: usize) {
        match pattern.exact() {
            Some(id) => self.by_id.entry(id).or_default().push(index),
            // What stands before the first capture is as much of it as can be looked up.
            None => self.by_pattern.insert(&pattern.to_string(), (pattern.clone(), index)),
        }
    }

    /// Its name.
    pub fn first_that_fits(&self, asked: &Asked<'_>, effect: Effect) -> Option<Arc<str>> {
        if self.rules.is_empty() {
            return None;
        }
        let fitting = |index: &usize| self.rules.get(*index).filter(|rule| rule.fits(asked, &[], effect));
        let named = match asked.principal {
            Principal::Anonymous => self.anonymous.iter().find_map(fitting),
            Principal::Spiffe(id) => self
                .by_id
                .get(id)
                .and_then(|rules| rules.iter().find_map(fitting))
                .or_else(|| self.by_pattern(id, asked, effect)),
        };
        named.or_else(|| self.anyone.iter().find_map(fitting)).map(|rule| rule.name.clone())
    }

    fn by_pattern(&self, id: &SpiffeId, asked: &Asked<'_>, effect: Effect) -> Option<&Rule> {
        let candidates = self.by_pattern.candidates(id.as_str()).flatten();
        candidates.filter_map(|(pattern, index)| self.rules.get(*index).map(|rule| (pattern, rule))).find_map(
            |(pattern, rule)| {
                let fits = match pattern.has_capture() {
                    false => pattern.matches(id) && rule.fits(asked, &[], effect),
                    true => pattern.capture(id).is_some_and(|captured| rule.fits(asked, &captured, effect)),
                };
                fits.then_some(rule)
            },
        )
    }
}
