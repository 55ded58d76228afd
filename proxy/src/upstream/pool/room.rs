//! Room for one more: what requests and callers name fills tables that are bounded, and whoever fills them must not keep
//! others out for longer than his own requests last.

use super::{Instance, Upstream};
use crate::lookup::Lookup;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;

/// So many at once that a full table is not searched for each newcomer.
const EVICTED: usize = 8;

/// Removes an eighth of a full table, of those that carry nothing now, the longest unused first, with their pools. False:
/// all are in use.
pub(super) fn make<K: Clone + Eq + Hash>(
    table: &mut HashMap<K, Instance>,
    by_plan: &mut Lookup<usize, Rc<Upstream>>,
    most: usize,
) -> bool {
    if table.len() < most {
        return true;
    }
    let mut idle: Vec<_> = table
        .iter()
        .filter_map(|(key, instance)| match by_plan.get(&(Arc::as_ptr(&instance.plan) as usize)) {
            Some(upstream) if upstream.is_busy() => None,
            upstream => Some((upstream.map(|upstream| upstream.used.get()), key.clone())),
        })
        .collect();
    idle.sort_unstable_by_key(|(used, _)| *used);
    for (_, key) in idle.iter().take((most / EVICTED).max(1)) {
        if let Some(instance) = table.remove(key) {
            by_plan.remove(&(Arc::as_ptr(&instance.plan) as usize));
        }
    }
    !idle.is_empty()
}

#[cfg(test)]
mod tests;
