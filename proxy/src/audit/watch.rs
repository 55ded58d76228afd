//! What becomes of our credentials, told to the audit log.
//!
//! Beside the data path: it wakes with each publication and compares. Publications that come while it compares are
//! recorded as one, with what came of them together.

use super::AuditLog;
use super::record::Event;
use crate::identity::{IdentityStore, Snapshot, SourceStatus};
use std::sync::Arc;

/// Ends with the store.
pub async fn watch(identity: Arc<IdentityStore>, audit: AuditLog) {
    let mut changes = identity.subscribe();
    let mut before = Arc::new(Snapshot::empty());
    loop {
        let after = identity.load();
        events(&before, &after, |event| audit.event(&event));
        before = after;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Of each thing that came, changed or went, one.
fn events(before: &Snapshot, after: &Snapshot, mut tell: impl FnMut(Event<'_>)) {
    for svid in &after.svids {
        if before.svids.iter().any(|known| Arc::ptr_eq(known, svid)) {
            continue;
        }
        let same = |known: &&Arc<crate::identity::Svid>| known.id == svid.id && known.hint == svid.hint;
        tell(match before.svids.iter().find(same) {
            Some(known) => Event::SvidRotated { svid, serial_before: &known.serial },
            None => Event::SvidFetched(svid),
        });
    }
    for gone in &before.svids {
        if !after.svids.iter().any(|svid| svid.id == gone.id && svid.hint == gone.hint) {
            tell(Event::SvidWithdrawn(gone));
        }
    }
    for (trust_domain, bundle) in &after.bundles {
        if !before.bundles.get(trust_domain).is_some_and(|known| Arc::ptr_eq(known, bundle)) {
            tell(Event::BundleChanged(bundle));
        }
    }
    for trust_domain in before.bundles.keys().filter(|name| !after.bundles.contains_key(*name)) {
        tell(Event::BundleWithdrawn(trust_domain));
    }
    if before.source == after.source {
        return;
    }
    match &after.source {
        SourceStatus::Connected if after.received_at.is_some() && before.received_at.is_some() => {
            tell(Event::SourceBack)
        }
        SourceStatus::Connected => {}
        SourceStatus::Waiting { reason } | SourceStatus::Broken { reason, .. } => {
            tell(Event::SourceLost { why: reason });
        }
        SourceStatus::Denied { cut, .. } => {
            let why = if *cut { "identity denied, connections are cut" } else { "identity denied" };
            tell(Event::SourceLost { why });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::events;
    use crate::admin::tests::svid;
    use crate::identity::{Bundle, Snapshot, SourceStatus};
    use postern_config::TrustDomain;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    fn names(before: &Snapshot, after: &Snapshot) -> Vec<String> {
        let mut names = Vec::new();
        let mut body = Vec::new();
        events(before, after, |event| {
            event.write(&mut body, SystemTime::UNIX_EPOCH);
            let members = format!("{{{}}}", String::from_utf8(body.clone()).unwrap());
            let members: serde_json::Value = serde_json::from_str(&members).unwrap();
            names.push(members["event"].as_str().unwrap().to_owned());
        });
        names
    }

    #[test]
    fn each_change_is_told_once() {
        let later = SystemTime::now() + Duration::from_secs(100);
        let (first, second) = (svid("web", later), svid("web", later));
        let trust_domain = TrustDomain::parse("shop.example").unwrap();
        let bundle = || {
            let (anchors, updated_at) = (Vec::new(), SystemTime::now());
            Arc::new(Bundle { trust_domain: trust_domain.clone(), anchors, updated_at, fetched: false })
        };
        let nothing = Snapshot::empty();
        let fresh = Snapshot {
            svids: vec![first],
            bundles: HashMap::from([(trust_domain.clone(), bundle())]),
            source: SourceStatus::Connected,
            received_at: Some(SystemTime::now()),
            ..Snapshot::empty()
        };
        let rotated = Snapshot { svids: vec![second], ..fresh.clone() };
        let changed = Snapshot { bundles: HashMap::from([(trust_domain.clone(), bundle())]), ..fresh.clone() };
        let lost = SourceStatus::Broken { since: SystemTime::now(), reason: "gone".to_owned() };
        let lost = Snapshot { source: lost, ..fresh.clone() };
        let withdrawn = Snapshot { svids: Vec::new(), bundles: HashMap::new(), ..fresh.clone() };
        for (before, after, expected) in [
            (&nothing, &nothing, &[][..]),
            (&nothing, &fresh, &["svid_fetched", "bundle_changed"]),
            (&fresh, &fresh, &[]),
            (&fresh, &rotated, &["svid_rotated"]),
            (&fresh, &changed, &["bundle_changed"]),
            (&fresh, &lost, &["source_lost"]),
            (&lost, &fresh, &["source_back"]),
            (&fresh, &withdrawn, &["svid_withdrawn", "bundle_withdrawn"]),
        ] {
            assert_eq!(names(before, after), expected);
        }
    }
}
