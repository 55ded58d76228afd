//! The blast-radius guard: how much of what lives would a change cut? Asked before a change of identity, policy or deny list
//! acts, and told when it is more than a share of the live connections. Where the file says so, such a change waits.
//!
//! Identity comes through [`Gate::follow`]: its source publishes into a store of its own, and what the data plane sees is what
//! was let through here.

use crate::audit::record::Event;
use crate::identity::{IdentityStore, Snapshot};
use crate::policy::Policy;
use crate::revocation::Revocations;
use crate::shared::Shared;
use crate::worker::{Command, WorkerHandle};
use arc_swap::ArcSwap;
use postern_config::{Guard, Hold};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// What is about to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Identity,
    Policy,
    DenyList,
}

impl Change {
    pub const ALL: [Self; 3] = [Self::Identity, Self::Policy, Self::DenyList];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Policy => "policy",
            Self::DenyList => "deny_list",
        }
    }
}

/// The change itself, for every worker to try on what lives there.
#[derive(Clone)]
pub enum Proposal {
    Identity(Arc<Snapshot>),
    Policy(Arc<Policy>),
}

/// Connections of peers, of the application and to upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blast {
    pub live: usize,
    /// Of those: would end, or lose a request in flight.
    pub cut: usize,
}

impl Blast {
    /// Whether the guard has to tell of it.
    pub fn exceeds(self, guard: &Guard) -> bool {
        self.live >= guard.connections_min && self.cut * 100 > self.live * usize::from(guard.share_percent)
    }
}

/// A change that waits.
#[derive(Clone, Debug)]
pub struct Held {
    pub blast: Blast,
    pub since: SystemTime,
    /// When it acts by itself. `None`: only by somebody's word.
    until: Option<Instant>,
    told: bool,
}

impl Held {
    /// Until it acts by itself.
    pub fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

pub struct Gate {
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    config: ArcSwap<Guard>,
    held: Mutex<BTreeMap<Change, Held>>,
    word: Notify,
}

impl Gate {
    pub fn new(shared: Arc<Shared>, workers: Vec<WorkerHandle>, config: Guard) -> Self {
        Self { shared, workers, config: ArcSwap::from_pointee(config), held: Mutex::default(), word: Notify::new() }
    }

    pub fn configure(&self, config: Guard) {
        self.config.store(Arc::new(config));
    }

    /// Tries `proposal` on what lives, and tells when it is too much. `Some`: it has to wait.
    pub async fn objects(&self, change: Change, proposal: &Proposal) -> Option<Blast> {
        let blast = self.too_much(proposal).await?;
        let guard = self.config.load();
        let is_held = guard.hold != Hold::Off;
        self.shared.metrics.guard_alarm(change);
        self.shared.audit.event(&Event::GuardAlarm { change: change.as_str(), blast, is_held });
        let (what, Blast { live, cut }) = (change.as_str(), blast);
        match is_held {
            true => tracing::error!(
                change = what,
                live,
                cut,
                "a change would cut much of what lives, and is held: `postern held apply` lets it act"
            ),
            false => tracing::error!(change = what, live, cut, "a change cuts much of what lives"),
        }
        is_held.then_some(blast)
    }

    /// As [`objects`](Self::objects), for somebody who can be asked: nothing is told, and nothing held.
    pub async fn too_much(&self, proposal: &Proposal) -> Option<Blast> {
        let guard = **self.config.load();
        // Streams of tunnels are counted there as well.
        if self.shared.budget.live() == 0 {
            return None;
        }
        let mut blast = Blast::default();
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            worker.send(Command::WouldCut(proposal.clone(), reply)).await;
            let of_worker = answer.await.unwrap_or_default();
            blast = Blast { live: blast.live + of_worker.live, cut: blast.cut + of_worker.cut };
        }
        blast.exceeds(&guard).then_some(blast)
    }

    /// From now on `change` waits; one of the same kind that waited before is gone.
    pub fn hold(&self, change: Change, blast: Blast) {
        let until = match self.config.load().hold {
            Hold::For(time) => Some(Instant::now() + time),
            Hold::Off | Hold::UntilTold => None,
        };
        let held = Held { blast, since: SystemTime::now(), until, told: false };
        self.lock().insert(change, held);
    }

    /// It waits no longer, because another one took its place.
    pub fn withdraw(&self, change: Change) {
        self.lock().remove(&change);
    }

    /// Resolves when a change that waits may act; never, while none does.
    ///
    /// # Cancellation
    /// Loses nothing.
    pub async fn released(&self, change: Change) {
        loop {
            let word = self.word.notified();
            tokio::pin!(word);
            // Before the look, so that a word between the two is heard.
            word.as_mut().enable();
            let held = self.lock().get(&change).cloned();
            let may_act = held.as_ref().is_some_and(|held| held.told);
            let until = held.and_then(|held| held.until);
            if may_act || until.is_some_and(|until| until <= Instant::now()) {
                self.withdraw(change);
                return;
            }
            match until {
                Some(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = word => {}
                    }
                }
                None => word.await,
            }
        }
    }

    /// Lets everything act that waits; says what that was.
    pub fn release(&self) -> Vec<Change> {
        let mut held = self.lock();
        held.values_mut().for_each(|held| held.told = true);
        let changes = held.keys().copied().collect();
        drop(held);
        self.word.notify_waiters();
        changes
    }

    pub fn held(&self) -> Vec<(Change, Held)> {
        self.lock().iter().map(|(change, held)| (*change, held.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Change, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets what the identity source publishes into `staged` through to the data plane. Never returns.
    pub async fn follow(self: Arc<Self>, staged: Arc<IdentityStore>) {
        let live = self.shared.identity.clone();
        let mut changes = staged.subscribe();
        loop {
            changes.borrow_and_update();
            let next = staged.load();
            let proposal = Proposal::Identity(Arc::new(bound(carried(&next, &live.load()))));
            if let Some(blast) = self.objects(Change::Identity, &proposal).await {
                self.hold(Change::Identity, blast);
                tokio::select! {
                    () = self.released(Change::Identity) => {}
                    // The newer one is a whole state too.
                    _ = changes.changed() => {
                        self.withdraw(Change::Identity);
                        continue;
                    }
                }
            }
            live.publish(|current| carried(&next, current));
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What the source said, with what is taken back here.
fn carried(next: &Snapshot, current: &Snapshot) -> Snapshot {
    let from_source = next.revocations.from_source.clone();
    let revocations = Revocations { from_source, ..Revocations::clone(&current.revocations) };
    Snapshot { revocations: Arc::new(revocations), ..next.clone() }
}

/// As the store does when it publishes.
pub(super) fn bound(mut snapshot: Snapshot) -> Snapshot {
    let revocations = snapshot.revocations.bound_to(&snapshot.bundles, &snapshot.svids);
    snapshot.revocations = Arc::new(revocations);
    snapshot
}

#[cfg(test)]
mod tests {
    use super::Blast;
    use postern_config::Guard;

    #[test]
    fn a_change_is_told_of_when_it_cuts_more_than_the_share_of_enough() {
        let guard = Guard::default();
        for (live, cut, told) in
            [(0, 0, false), (9, 9, false), (10, 5, false), (10, 6, true), (1000, 500, false), (1000, 501, true)]
        {
            assert_eq!(Blast { live, cut }.exceeds(&guard), told, "{cut} of {live}");
        }
        let strict = Guard { share_percent: 0, connections_min: 1, ..guard };
        assert!(Blast { live: 1000, cut: 1 }.exceeds(&strict));
        assert!(!Blast { live: 1000, cut: 0 }.exceeds(&strict));
    }
}
