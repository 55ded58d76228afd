//! Follows the files that take trust back. A broken main configuration does not stop this, and a broken deny list does not
//! stop that one.

use super::Levers;
use super::guard::{Change, Gate};
use super::levers::load;
use crate::identity::Snapshot;
use crate::reload::Watcher;
use crate::shared::Shared;
use postern_config::Revocation;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Files that the configuration names.
pub fn files(config: &Revocation) -> Vec<PathBuf> {
    config.deny_list.iter().chain(&config.crls).cloned().collect()
}

/// Never returns.
pub async fn watch(config: Revocation, levers: Arc<Levers>, gate: Arc<Gate>, shared: Arc<Shared>) {
    let files = files(&config);
    if files.is_empty() {
        return std::future::pending().await;
    }
    let mut watcher = Watcher::new(&files);
    loop {
        watcher.changed().await;
        // Again, as long as what is held is overtaken by what is newer.
        while !follow(&config, &levers, &gate, &shared, &mut watcher).await {}
    }
}

/// Whether it is done with. False: the files changed while what had stood in them was held.
async fn follow(config: &Revocation, levers: &Levers, gate: &Gate, shared: &Shared, watcher: &mut Watcher) -> bool {
    let loaded = match load(config) {
        Ok(loaded) => loaded,
        Err(error) => {
            shared.metrics.revocations_refused();
            let error = anyhow::Error::from(error);
            tracing::error!(error = format!("{error:#}"), "revocations were refused: what was in force stays");
            return true;
        }
    };
    if let Some(blast) = levers.objects(&loaded).await {
        gate.hold(Change::DenyList, blast);
        tokio::select! {
            () = gate.released(Change::DenyList) => {}
            () = watcher.changed() => {
                gate.withdraw(Change::DenyList);
                return false;
            }
        }
    }
    levers.take(loaded, config).await;
    true
}

/// How often lists are looked at for having become stale.
const STALE_LOOK_EVERY: Duration = Duration::from_secs(60);

/// Says when our own SVID is taken back, when a list becomes stale, and when one is nobody's. Never returns.
pub async fn tell(shared: Arc<Shared>) {
    let mut changes = shared.identity.subscribe();
    let mut told = Told::default();
    loop {
        told.tell(&shared.identity.load(), SystemTime::now());
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(STALE_LOOK_EVERY) => {}
        }
    }
}

/// What has been said: each once.
#[derive(Default)]
struct Told {
    own: BTreeSet<[u8; 32]>,
    stale: BTreeSet<[u8; 32]>,
    unbound: BTreeSet<[u8; 32]>,
}

impl Told {
    fn tell(&mut self, snapshot: &Snapshot, now: SystemTime) {
        let revocations = &snapshot.revocations;
        let mut own = BTreeSet::new();
        for svid in &snapshot.svids {
            let Err(error) = revocations.check_own(svid, now) else { continue };
            own.insert(svid.fingerprint);
            if !self.own.contains(&svid.fingerprint) {
                tracing::error!(id = %svid.id, serial = svid.serial, %error, "our own SVID was taken back: it is not used any more");
            }
        }
        let mut stale = BTreeSet::new();
        for list in revocations.crls().filter(|list| list.is_stale(now)) {
            if stale.insert(list.digest) && !self.stale.contains(&list.digest) {
                let (list, mode) = (list.label(), revocations.stale.as_str());
                tracing::error!(
                    list,
                    stale_crls = mode,
                    "a certificate revocation list is stale (its nextUpdate has passed)"
                );
            }
        }
        let mut unbound = BTreeSet::new();
        for list in &revocations.lists.unbound {
            if unbound.insert(list.digest) && !self.unbound.contains(&list.digest) {
                tracing::warn!(
                    list = list.label(),
                    "a certificate revocation list is signed by no authority known here: it is not used"
                );
            }
        }
        *self = Self { own, stale, unbound };
    }
}
