//! What a scrape says about who we are and whom we believe, read off a snapshot. Pure.

use crate::identity::{IdentityState, Snapshot};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// What a scrape says about the identity snapshot; see [`super::Metrics::update_identity`].
#[derive(Clone, Default)]
pub(super) struct IdentityFigures {
    pub(super) state: Option<IdentityState>,
    pub(super) generation: u64,
    pub(super) update_age_seconds: Option<f64>,
    /// (SPIFFE ID, hint) → seconds to expiry.
    pub(super) svids: BTreeMap<(String, String), f64>,
    /// Trust domain → (usable roots, seconds since its content changed).
    pub(super) bundles: BTreeMap<String, (usize, f64)>,
    pub(super) token_keys: BTreeMap<String, usize>,
    pub(super) taken_back: TakenBackFigures,
}

/// What is in force that takes trust back.
#[derive(Clone, Default)]
pub(super) struct TakenBackFigures {
    pub(super) denied: usize,
    pub(super) lists: usize,
    pub(super) lists_stale: usize,
    pub(super) lists_unused: usize,
    pub(super) own: usize,
}

impl IdentityFigures {
    pub(super) fn of(snapshot: &Snapshot, now: SystemTime) -> Self {
        let mut figures = Self {
            state: Some(snapshot.state(now)),
            generation: snapshot.generation,
            update_age_seconds: snapshot.received_at.map(|at| seconds_between(at, now)),
            taken_back: TakenBackFigures::of(snapshot, now),
            ..Self::default()
        };
        for svid in snapshot.svids.iter().take(SVIDS_MAX) {
            let key = (svid.id.to_string(), svid.hint.clone().unwrap_or_default());
            figures.svids.entry(key).or_insert_with(|| seconds_between(now, svid.not_after));
        }
        for bundle in snapshot.bundles.values().take(BUNDLES_MAX) {
            let figure = (bundle.anchors.len(), seconds_between(bundle.updated_at, now));
            figures.bundles.insert(bundle.trust_domain.to_string(), figure);
        }
        let token_keys = snapshot.token_keys.iter().take(BUNDLES_MAX);
        figures.token_keys.extend(token_keys.map(|(trust_domain, set)| (trust_domain.to_string(), set.keys().len())));
        figures
    }
}

impl TakenBackFigures {
    fn of(snapshot: &Snapshot, now: SystemTime) -> Self {
        let revocations = &snapshot.revocations;
        let denied = revocations.denials.entries().iter().filter(|entry| entry.acts(now));
        let stale = revocations.crls().filter(|list| list.is_stale(now));
        Self {
            denied: denied.count(),
            lists: revocations.crls().count(),
            lists_stale: stale.count(),
            lists_unused: revocations.lists.unbound.len(),
            own: snapshot.svids.iter().filter(|svid| revocations.check_own(svid, now).is_err()).count(),
        }
    }
}

/// Negative when `later` is the earlier one.
fn seconds_between(earlier: SystemTime, later: SystemTime) -> f64 {
    match later.duration_since(earlier) {
        Ok(between) => between.as_secs_f64(),
        Err(error) => -error.duration().as_secs_f64(),
    }
}

/// SVIDs and bundles come from our own agent, yet everything has a bound.
const SVIDS_MAX: usize = 64;
const BUNDLES_MAX: usize = 256;
