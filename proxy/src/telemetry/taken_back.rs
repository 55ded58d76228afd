//! The numbers of trust that was taken back.

use crate::identity::Snapshot;
use std::time::SystemTime;

/// What is in force that takes trust back.
#[derive(Clone, Default)]
pub(super) struct TakenBackFigures {
    pub(super) denied: usize,
    pub(super) lists: usize,
    pub(super) lists_stale: usize,
    pub(super) lists_unused: usize,
    pub(super) own: usize,
}

impl TakenBackFigures {
    pub(super) fn of(snapshot: &Snapshot, now: SystemTime) -> Self {
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
