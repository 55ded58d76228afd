//! What of a new SVID of ours is not as renewals are. Pure.

use crate::identity::{Snapshot, Svid};
use std::sync::Arc;
use std::time::Duration;

/// Servers of one provider may have clocks as far apart: an SVID that was made so little earlier is no older one.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// One thing that a renewal does not change.
pub struct OwnChange<'a> {
    /// As it is now.
    pub svid: &'a Svid,
    pub before: String,
    pub now: String,
}

/// Each of them is worth a look, and none is an error: the provider decides who we are. Serial numbers have no order (RFC 5280
/// §4.1.2.2: unique, and not more), so what comes back is told by when it was made.
pub fn changes<'a>(before: &Snapshot, after: &'a Snapshot) -> Vec<OwnChange<'a>> {
    let mut changes = Vec::new();
    let (Some(first_before), Some(first)) = (before.svids.first(), after.svids.first()) else { return changes };
    if !after.svids.iter().any(|svid| svid.id == first_before.id) {
        changes.push(OwnChange { svid: first, before: first_before.id.to_string(), now: first.id.to_string() });
    }
    for svid in &after.svids {
        let same = |known: &&Arc<Svid>| known.id == svid.id && known.hint == svid.hint;
        let Some(known) = before.svids.iter().find(same).filter(|known| known.fingerprint != svid.fingerprint) else {
            continue;
        };
        let mut tell = |before: String, now: String| changes.push(OwnChange { svid, before, now });
        if svid.not_before + CLOCKS_APART < known.not_before {
            tell(format!("serial {}", known.serial), format!("serial {}, which is older", svid.serial));
        }
        let (lives, lived) = (lifetime(svid), lifetime(known));
        if lives * 2 < lived {
            tell(format!("lived {} s", lived.as_secs()), format!("lives {} s", lives.as_secs()));
        }
        let bundle = before.bundles.iter().find(|(name, _)| name.as_str() == svid.id.trust_domain_name());
        let knows = |(_, bundle): (_, &Arc<crate::identity::Bundle>)| {
            bundle.anchors.iter().any(|anchor| anchor.authority == svid.authority)
        };
        if bundle.is_some_and(|bundle| !knows(bundle)) {
            tell(format!("authority {:?}", known.authority), format!("authority {:?}, unknown before", svid.authority));
        }
    }
    changes
}

pub fn same_svids(before: &Snapshot, after: &Snapshot) -> bool {
    before.svids.len() == after.svids.len()
        && before.svids.iter().zip(&after.svids).all(|(one, other)| one.fingerprint == other.fingerprint)
}

fn lifetime(svid: &Svid) -> Duration {
    svid.not_after.duration_since(svid.not_before).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::changes;
    use crate::admin::tests::svid;
    use crate::identity::{AuthorityId, Bundle, Snapshot, Svid};
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Number `number` of `name`, made at `made` for `lives` seconds.
    fn made(name: &str, number: u8, made: u64, lives: u64) -> Svid {
        let svid = Arc::into_inner(svid(name, at(made + lives))).unwrap();
        Svid { not_before: at(made), fingerprint: [number; 32], serial: number.to_string(), ..svid }
    }

    fn with(svids: Vec<Svid>) -> Snapshot {
        Snapshot { svids: svids.into_iter().map(Arc::new).collect(), ..Snapshot::empty() }
    }

    fn told(before: &Snapshot, after: &Snapshot) -> Vec<String> {
        changes(before, after).into_iter().map(|change| format!("{} -> {}", change.before, change.now)).collect()
    }

    #[test]
    fn renewals_say_nothing_and_what_they_do_not_change_is_told() {
        let before = with(vec![made("web", 1, 10_000, 3600)]);
        let none: [&str; 0] = [];
        assert_eq!(told(&Snapshot::empty(), &before), none, "the first one");
        assert_eq!(told(&before, &Snapshot::empty()), none, "withdrawn: that has a record of its own");
        assert_eq!(told(&before, &with(vec![made("web", 2, 11_800, 3600)])), none, "a renewal");
        assert_eq!(told(&before, &with(vec![made("web", 2, 9_950, 3600)])), none, "by a server whose clock is slow");
        assert_eq!(told(&before, &with(vec![made("web", 2, 11_800, 1800)])), none, "half as long");
        assert_eq!(told(&before, &with(vec![made("web", 2, 11_800, 1799)])), ["lived 3600 s -> lives 1799 s"]);
        let older = told(&before, &with(vec![made("web", 9, 9_000, 3600)]));
        assert_eq!(older, ["serial 1 -> serial 9, which is older"]);
        let other = told(&before, &with(vec![made("orders", 2, 11_800, 3600)]));
        assert_eq!(other, ["spiffe://shop.example/web -> spiffe://shop.example/orders"]);
        let beside = with(vec![made("orders", 2, 11_800, 3600), made("web", 1, 10_000, 3600)]);
        assert_eq!(told(&before, &beside), none, "one more is an entry more");
    }

    #[test]
    fn an_authority_has_to_be_in_the_bundle_before_it_vouches() {
        let trust_domain = postern_config::TrustDomain::parse("shop.example").unwrap();
        let bundle =
            Bundle { trust_domain: trust_domain.clone(), anchors: Vec::new(), updated_at: at(0), fetched: false };
        let bundles = HashMap::from([(trust_domain, Arc::new(bundle))]);
        let before = Snapshot { bundles, ..with(vec![made("web", 1, 10_000, 3600)]) };
        let after = Svid { authority: AuthorityId([3; 32]), ..made("web", 2, 11_800, 3600) };
        let told = told(&before, &with(vec![after]));
        assert_eq!(told, ["authority 0202020202020202 -> authority 0303030303030303, unknown before"]);
    }
}
