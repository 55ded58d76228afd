//! The provider over simulated time: what it renews by itself, and when.

use super::*;
use crate::identity::message::check_svids;
use crate::tls::{Role, Strictness, still_trusted, verify_svid};
use futures_util::{FutureExt, StreamExt};

const SVID_TTL: Duration = Duration::from_secs(3600);
const CA_TTL: Duration = Duration::from_secs(24 * 3600);

fn message_now(provider: &DevProvider) -> X509svidResponse {
    let mut stream = provider.workload("web").unwrap().open_svids().unwrap();
    stream.next().now_or_never().flatten().expect("a first message").unwrap()
}

/// Three lives of a CA in steps of a quarter of an SVID's. At every step the SVID is valid with the bundle of the same
/// moment, and the one of the step before is still trusted with it: a rotation by itself loses nothing either.
#[test]
fn renews_svids_and_authorities_before_they_end_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
    let provider = DevProvider::start(DevConfig {
        state_dir: directory.path().to_owned(),
        trust_domains: vec![trust_domain.clone()],
        workloads: vec![DevWorkload {
            name: "web".to_owned(),
            socket: None,
            svids: vec![(id, None)],
            federates_with: Vec::new(),
        }],
        svid_ttl: SVID_TTL,
        ca_ttl: CA_TTL,
    })
    .unwrap();
    // Without its own clock: this test is the only one that says what time it is.
    provider.stop();
    let start = SystemTime::now();
    let (mut leaves, mut authorities) = (Vec::new(), Vec::new());
    let mut before = None;
    for step in 0..(3 * CA_TTL.as_secs() / (SVID_TTL.as_secs() / 4)) {
        let now = start + (SVID_TTL / 4) * step as u32;
        provider.shared.maintain(now).unwrap();
        let update = check_svids(message_now(&provider), now, Strictness::Strict)
            .unwrap_or_else(|fault| panic!("step {step}: {fault:?}"));
        let svid = &update.svids[0];
        assert!(svid.not_after > now + SVID_TTL / 8, "step {step}: too close to its end");
        assert!(update.bundles[&trust_domain].anchors.len() <= 2, "step {step}");
        if let Some(peer) = &before {
            still_trusted(peer, &update.bundles, Role::Client, now, Strictness::Strict)
                .unwrap_or_else(|error| panic!("step {step}: {error}"));
        }
        before = verify_svid(&svid.certified.cert, &update.bundles, 0, Role::Client, now, Strictness::Strict).ok();
        leaves.push(svid.fingerprint);
        authorities.push(svid.authority);
    }
    leaves.dedup();
    authorities.dedup();
    // Half of an hour each for three days, and half of a day each for three.
    assert!((140..=170).contains(&leaves.len()), "{} leaves", leaves.len());
    assert!((5..=7).contains(&authorities.len()), "{} authorities", authorities.len());
}
