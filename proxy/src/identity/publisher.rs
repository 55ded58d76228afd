//! What sources do to the store: apply a checked update, or say how the source fares. And the log lines of both.
//!
//! An SVID or bundle whose content did not change keeps its `Arc`, and when nothing changed nothing is published:
//! whoever sleeps on the generation is woken for a reason only.

use super::events::{Counters, DiscardReason};
use super::message::Update;
use super::message_fault::{MessageFault, Warning};
use super::snapshot::{AuthorityId, Bundle, IssuerKeys, Snapshot, SourceStatus, Svid, TokenKeys, same_bundles};
use super::store::IdentityStore;
use crate::revocation::{LISTS_MAX, Revocations};
use crate::tls::crl::Crl;
use crate::token::KeySet;
use postern_config::{TokenIssuer, TrustDomain};
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A bundle may hold a thousand certificates that are all refused; a log needs to hear of the first.
const WARNINGS_LOGGED_MAX: usize = 20;

#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) store: Arc<IdentityStore>,
    pub(crate) counters: Arc<Counters>,
}

impl Publisher {
    /// The whole state at once (Workload API §4.3, §4.4): what the update does not name is gone.
    pub(crate) fn apply(&self, update: Update, now: SystemTime) {
        self.report_warnings(&update);
        let before = self.store.load();
        let published = self.store.publish_if_changed(|current| merge(current, update, now));
        Counters::count(&self.counters.updates_applied);
        match published {
            Some(after) => log_changes(&before, &after),
            None => tracing::debug!("the source sent what we have; nothing changed"),
        }
    }

    fn report_warnings(&self, update: &Update) {
        for warning in &update.warnings {
            if warning.is_refused_bundle() {
                Counters::count(&self.counters.bundles_refused);
            }
        }
        update.warnings.iter().take(WARNINGS_LOGGED_MAX).for_each(log_warning);
        if let Some(more @ 1..) = update.warnings.len().checked_sub(WARNINGS_LOGGED_MAX) {
            tracing::warn!(more, "further problems in this update are counted and not logged");
        }
    }

    /// Bundles that came from their endpoints. They stay whatever the identity source says of their trust domains, except
    /// that our own trust domain is the source's alone.
    pub(crate) fn federate(&self, update: Update) {
        self.report_warnings(&update);
        let before = self.store.load();
        let published = self.store.publish_if_changed(|current| {
            let mut bundles = current.bundles.clone();
            for (trust_domain, bundle) in update.bundles {
                if is_own(&current.svids, &trust_domain) {
                    tracing::error!(%trust_domain, "our own trust domain is not fetched; its bundle is the source's");
                    continue;
                }
                bundles.insert(trust_domain, reuse_bundle(&current.bundles, bundle));
            }
            let changed = !same_bundles(&bundles, &current.bundles);
            changed.then(|| Snapshot { bundles, ..current.clone() })
        });
        if let Some(after) = published {
            log_changes(&before, &after);
        }
    }

    /// Relationships that ended take their bundles with them (SPIFFE Federation §6.3).
    pub(crate) fn keep_fetched_of(&self, trust_domains: &[&TrustDomain]) {
        let before = self.store.load();
        let published = self.store.publish_if_changed(|current| {
            let mut bundles = current.bundles.clone();
            bundles.retain(|trust_domain, bundle| !bundle.fetched || trust_domains.contains(&trust_domain));
            let changed = bundles.len() != current.bundles.len();
            changed.then(|| Snapshot { bundles, ..current.clone() })
        });
        if let Some(after) = published {
            log_changes(&before, &after);
        }
    }

    /// The keys for tokens of all trust domains: what is not among them is gone.
    pub(crate) fn publish_token_keys(&self, keys: TokenKeys) {
        let before = self.store.load();
        let published = self.store.publish_if_changed(|current| {
            let known = &current.token_keys;
            let same = |(name, set)| known.get(name).is_some_and(|known| Arc::ptr_eq(known, set));
            let changed = keys.len() != known.len() || !keys.iter().all(same);
            changed.then(|| Snapshot { token_keys: Arc::new(keys), ..current.clone() })
        });
        if let Some(after) = published {
            log_token_keys(&before, &after);
        }
    }

    /// The keys of one issuer. `None`: it has none any more.
    pub(crate) fn publish_issuer_keys(&self, issuer: &str, keys: Option<Arc<KeySet>>) {
        self.store.publish_if_changed(|current| {
            let mut issuer_keys = IssuerKeys::clone(&current.issuer_keys);
            let changed = match keys {
                Some(keys) => {
                    issuer_keys.insert(issuer.to_owned(), keys);
                    true
                }
                None => issuer_keys.remove(issuer).is_some(),
            };
            changed.then(|| Snapshot { issuer_keys: Arc::new(issuer_keys), ..current.clone() })
        });
    }

    /// Issuers that the file no longer names take their keys with them.
    pub(crate) fn keep_issuers(&self, issuers: &[Arc<TokenIssuer>]) {
        self.store.publish_if_changed(|current| {
            let mut issuer_keys = IssuerKeys::clone(&current.issuer_keys);
            issuer_keys.retain(|name, _| issuers.iter().any(|issuer| issuer.issuer == *name));
            let changed = issuer_keys.len() != current.issuer_keys.len();
            changed.then(|| Snapshot { issuer_keys: Arc::new(issuer_keys), ..current.clone() })
        });
    }

    pub(crate) fn discard(&self, fault: &MessageFault) {
        self.counters.discard(fault.reason());
        let reason = fault.reason().as_str();
        tracing::error!(reason, error = chain(fault), "an identity update was discarded; what we have stays");
    }

    pub(crate) fn discard_unreadable(&self, reason: DiscardReason, error: &dyn Error) {
        self.counters.discard(reason);
        tracing::error!(
            reason = reason.as_str(),
            error = chain(error),
            "an identity update was discarded; what we have stays"
        );
    }

    /// The source does not answer: what we have is served until it expires. A denial stays one, because only a valid
    /// message gives back what the agent took.
    pub(crate) fn broken(&self, reason: &str, now: SystemTime) {
        self.report(|current| match (&current.source, current.received_at) {
            (SourceStatus::Denied { .. }, _) => current.source.clone(),
            (SourceStatus::Broken { since, .. }, Some(_)) => {
                SourceStatus::Broken { since: *since, reason: reason.to_owned() }
            }
            (_, Some(_)) => SourceStatus::Broken { since: now, reason: reason.to_owned() },
            (_, None) => SourceStatus::Waiting { reason: reason.to_owned() },
        });
    }

    /// Workload API §5.2.1: on `PermissionDenied` the client should cease to use what it was given.
    /// Whether that is news.
    pub(crate) fn denied(&self, now: SystemTime) -> bool {
        self.report(|current| match current.source {
            SourceStatus::Denied { .. } => current.source.clone(),
            _ => SourceStatus::Denied { since: now, cut: false },
        })
    }

    /// The agent denies us an identity, and has not done so for the whole grace.
    pub(crate) fn denial_runs(&self) -> bool {
        matches!(self.store.load().source, SourceStatus::Denied { cut: false, .. })
    }

    /// Whether anything changed.
    fn report(&self, next: impl FnOnce(&Snapshot) -> SourceStatus) -> bool {
        let published = self.store.publish_if_changed(|current| {
            let source = next(current);
            (source != current.source).then(|| Snapshot { source, ..current.clone() })
        });
        if let Some(snapshot) = &published {
            let generation = snapshot.generation;
            match &snapshot.source {
                SourceStatus::Waiting { reason } => tracing::warn!(generation, %reason, "waiting for an identity"),
                SourceStatus::Broken { reason, .. } => {
                    tracing::warn!(generation, %reason, "the identity source is lost; what we have is served until it expires");
                }
                SourceStatus::Denied { cut: false, .. } => {
                    tracing::warn!(generation, "the agent denies this workload an identity: no new handshakes");
                }
                SourceStatus::Denied { cut: true, .. } => {
                    tracing::warn!(
                        generation,
                        "the agent keeps denying this workload an identity: live connections are cut"
                    );
                }
                SourceStatus::Connected => tracing::info!(generation, "the identity source is connected"),
            }
        }
        published.is_some()
    }
}

/// The next snapshot, or `None` when the update says what is known already.
fn merge(current: &Snapshot, update: Update, now: SystemTime) -> Option<Snapshot> {
    let Update { svids, bundles, refused, crls, keeps_crls, warnings: _ } = update;
    let svids: Vec<Arc<Svid>> = svids.into_iter().map(|svid| reuse_svid(&current.svids, svid)).collect();
    let mut bundles: HashMap<TrustDomain, Arc<Bundle>> =
        bundles.into_iter().map(|(name, bundle)| (name, reuse_bundle(&current.bundles, bundle))).collect();
    for trust_domain in refused {
        if let Some(last_good) = current.bundles.get(&trust_domain) {
            bundles.insert(trust_domain, last_good.clone());
        }
    }
    for (trust_domain, bundle) in &current.bundles {
        if bundle.fetched && !is_own(&svids, trust_domain) {
            bundles.insert(trust_domain.clone(), bundle.clone());
        }
    }
    let same_svids =
        svids.len() == current.svids.len() && svids.iter().zip(&current.svids).all(|(a, b)| Arc::ptr_eq(a, b));
    let from_source = follow_crls(&current.revocations.from_source, crls, keeps_crls);
    let same_crls = from_source.len() == current.revocations.from_source.len()
        && from_source.iter().zip(&current.revocations.from_source).all(|(a, b)| Arc::ptr_eq(a, b));
    let revocations = match same_crls {
        true => current.revocations.clone(),
        false => Arc::new(Revocations { from_source, ..Revocations::clone(&current.revocations) }),
    };
    if same_svids && same_crls && same_bundles(&bundles, &current.bundles) && current.source == SourceStatus::Connected
    {
        return None;
    }
    Some(Snapshot {
        generation: current.generation,
        svids,
        bundles,
        token_keys: current.token_keys.clone(),
        revocations,
        issuer_keys: current.issuer_keys.clone(),
        source: SourceStatus::Connected,
        received_at: Some(now),
        ..Snapshot::empty()
    })
}

/// One that is the same as before keeps its `Arc`.
fn follow_crls(before: &[Arc<Crl>], now: Vec<Arc<Crl>>, keeps: bool) -> Vec<Arc<Crl>> {
    let same = |crl: Arc<Crl>| before.iter().find(|known| known.digest == crl.digest).cloned().unwrap_or(crl);
    let mut lists: Vec<_> = now.into_iter().map(same).collect();
    for kept in before.iter().filter(|_| keeps) {
        if !lists.iter().any(|list| Arc::ptr_eq(list, kept)) {
            lists.push(kept.clone());
        }
    }
    lists.truncate(LISTS_MAX);
    lists
}

fn is_own(svids: &[Arc<Svid>], trust_domain: &TrustDomain) -> bool {
    svids.iter().any(|svid| svid.id.trust_domain_name() == trust_domain.as_str())
}

/// Chain equality stands for key equality: the leaf has the public key, and the private one was checked against it.
fn reuse_svid(known: &[Arc<Svid>], svid: Svid) -> Arc<Svid> {
    let same = |known: &&Arc<Svid>| {
        known.id == svid.id
            && known.hint == svid.hint
            && known.authority == svid.authority
            && known.certified.cert == svid.certified.cert
    };
    known.iter().find(same).cloned().unwrap_or_else(|| Arc::new(svid))
}

fn reuse_bundle(known: &HashMap<TrustDomain, Arc<Bundle>>, bundle: Arc<Bundle>) -> Arc<Bundle> {
    let same = |known: &&Arc<Bundle>| {
        known.fetched == bundle.fetched
            && known.anchors.iter().map(|a| &a.der).eq(bundle.anchors.iter().map(|a| &a.der))
    };
    known.get(&bundle.trust_domain).filter(same).cloned().unwrap_or(bundle)
}

fn log_warning(warning: &Warning) {
    let text = chain(warning);
    if warning.is_refused_bundle() {
        tracing::error!(problem = text, "a part of an identity update was refused");
    } else {
        tracing::warn!(problem = text, "an identity update is odd");
    }
}

/// One line for each thing that came, changed or went.
fn log_changes(before: &Snapshot, after: &Snapshot) {
    let generation = after.generation;
    for svid in &after.svids {
        if !before.svids.iter().any(|known| Arc::ptr_eq(known, svid)) {
            let (id, hint, serial) = (&svid.id, svid.hint.as_deref(), &svid.serial);
            let not_after = timestamp(svid.not_after);
            tracing::info!(%id, hint, serial, not_after, authority = ?svid.authority, generation, "SVID received");
        }
    }
    for gone in &before.svids {
        if !after.svids.iter().any(|svid| svid.id == gone.id) {
            tracing::warn!(id = %gone.id, serial = gone.serial, generation, "SVID withdrawn: the source no longer gives it");
        }
    }
    for (trust_domain, bundle) in &after.bundles {
        let known = before.bundles.get(trust_domain);
        if !known.is_some_and(|known| Arc::ptr_eq(known, bundle)) {
            let authorities: Vec<AuthorityId> = bundle.anchors.iter().map(|anchor| anchor.authority).collect();
            tracing::info!(%trust_domain, ?authorities, generation, "bundle received");
        }
    }
    for trust_domain in before.bundles.keys() {
        if !after.bundles.contains_key(trust_domain) {
            tracing::warn!(%trust_domain, generation, "bundle withdrawn: peers of this trust domain are refused");
        }
    }
    if before.source != after.source {
        tracing::info!(generation, "the identity source is connected");
    }
}

fn log_token_keys(before: &Snapshot, after: &Snapshot) {
    let generation = after.generation;
    for (trust_domain, set) in after.token_keys.iter() {
        if !before.token_keys.get(trust_domain).is_some_and(|known| Arc::ptr_eq(known, set)) {
            let key_ids: Vec<_> = set.keys().iter().map(|key| key.key_id.as_deref().unwrap_or_default()).collect();
            tracing::info!(%trust_domain, ?key_ids, generation, "keys for tokens received");
        }
    }
    for trust_domain in before.token_keys.keys().filter(|name| !after.token_keys.contains_key(name)) {
        tracing::warn!(%trust_domain, generation, "keys for tokens withdrawn: tokens of this trust domain are refused");
    }
}

fn timestamp(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_out_of_range| "out of range".to_owned())
}

/// An error and all its sources on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
