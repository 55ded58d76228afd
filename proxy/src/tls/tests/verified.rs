//! What is remembered of a chain is what would be found out again.

use super::cases::{ID, World, all};
use super::certificates::{Draft, Issuer};
use super::side::{GENERATION, Side, bundles, meet};
use crate::identity::Snapshot;
use crate::tls::{Peer, Role, Strictness, SvidError, verify_svid};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);

/// All that a verdict depends on, besides the bundles.
type Question<'a> = (&'a [CertificateDer<'static>], Role, Strictness, SystemTime);

fn snapshot(named: &[(&str, Vec<CertificateDer<'static>>)]) -> Snapshot {
    Snapshot { generation: GENERATION, bundles: bundles(named), ..Snapshot::empty() }
}

/// As a handshake does, with a peer that has the key.
fn ask(snapshot: &Snapshot, question: Question<'_>) -> Result<Arc<Peer>, SvidError> {
    let (chain, role, strictness, now) = question;
    let (peer, asked) = snapshot.verify(chain, role, now, strictness)?;
    if let Some(asked) = asked {
        snapshot.remember(asked, &peer);
    }
    Ok(peer)
}

/// Asks the memory and the verifier, and makes sure that they agree. True: accepted.
fn agrees(snapshot: &Snapshot, question: Question<'_>) -> bool {
    let (chain, role, strictness, now) = question;
    let remembered = ask(snapshot, question);
    let found = verify_svid(chain, &snapshot.bundles, GENERATION, role, now, strictness);
    match (&remembered, &found) {
        (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        (one, other) => assert_eq!(one.as_ref().err().map(|it| it.code()), other.as_ref().err().map(|it| it.code())),
    }
    found.is_ok()
}

#[test]
fn every_case_has_the_verdict_that_it_would_have_for_the_first_time() {
    let world = World::new();
    let cases: Vec<_> = all(&world).into_iter().filter(|case| case.bundles == world.bundles()).collect();
    let snapshot = snapshot(&world.bundles());
    let now = SystemTime::now();
    let mut accepted = 0;
    for time in [now, now - 24 * 365 * HOUR, now, now + 24 * 365 * 100 * HOUR, now] {
        for case in &cases {
            for role in [Role::Client, Role::Server] {
                for strictness in [Strictness::Compat, Strictness::Strict] {
                    accepted += u32::from(agrees(&snapshot, (&case.chain, role, strictness, time)));
                }
            }
        }
    }
    assert!(cases.len() > 40 && accepted > 40, "{} cases, {accepted} accepted", cases.len());
}

#[test]
fn a_verdict_ends_with_the_first_certificate_on_the_way_that_ends() {
    let now = SystemTime::now();
    for (root_hours, intermediate_hours, leaf_hours) in [(1, 9, 9), (9, 1, 9), (9, 9, 1)] {
        let authority = |name: &str| Draft::authority(name, "spiffe://example.org");
        let root = Issuer::root(authority("CA1").valid(-3600, root_hours * 3600));
        let intermediate = root.intermediate(authority("I1").valid(-3600, intermediate_hours * 3600));
        let key = World::new().key;
        let leaf = intermediate.issue(&Draft::leaf(ID).valid(-3600, leaf_hours * 3600), &key);
        let snapshot = snapshot(&[("example.org", vec![root.der.clone()])]);
        let chain = [leaf, intermediate.der];
        let is_accepted = |time| agrees(&snapshot, (&chain, Role::Client, Strictness::Strict, time));
        assert!(is_accepted(now));
        assert!(is_accepted(now + HOUR / 2), "remembered");
        assert!(!is_accepted(now + 2 * HOUR), "{root_hours} {intermediate_hours} {leaf_hours}");
        assert!(!is_accepted(now - 2 * HOUR), "{root_hours} {intermediate_hours} {leaf_hours}");
        assert!(is_accepted(now));
    }
}

#[test]
fn who_comes_again_is_the_same_peer_and_another_snapshot_asks_anew() {
    let world = World::new();
    let chain = [world.ca1.issue(&Draft::leaf(ID), &world.key)];
    let question = (&chain[..], Role::Client, Strictness::Strict, SystemTime::now());
    let before = snapshot(&world.bundles());
    let first = ask(&before, question).expect("it is good");
    assert!(Arc::ptr_eq(&first, &ask(&before, question).expect("it is good")));
    // As a source that takes a bundle away.
    let after = Snapshot { bundles: bundles(&world.bundles()[1..]), ..before.clone() };
    assert_eq!(ask(&after, question).err().map(|error| error.code()), Some("no_bundle"));
}

#[test]
fn many_chains_are_bounded() {
    let world = World::new();
    let snapshot = snapshot(&world.bundles());
    for number in 0..300 {
        let chain = [world.ca1.issue(&Draft::leaf(&format!("spiffe://example.org/{number}")), &world.key)];
        assert!(agrees(&snapshot, (&chain, Role::Client, Strictness::Strict, SystemTime::now())));
        assert!((1..=256).contains(&snapshot.verified.chains()));
    }
}

/// The key is asked for in each handshake: a chain alone, however well known, is nobody's.
#[tokio::test]
async fn who_shows_a_known_chain_without_its_key_is_refused() {
    let world = World::new();
    let server = Side::good(&world);
    let chain = vec![world.ca1.issue(&Draft::leaf(ID), &world.key)];
    let honest = Side::new(chain.clone(), &world.key, &world.bundles());
    let thief = Side::new(chain, &World::new().key, &world.bundles());
    for (client, is_let_in, remembered) in [(&thief, false, 0), (&honest, true, 1), (&thief, false, 1)] {
        let (accepted, _) = meet(&server, client, ID).await;
        assert_eq!((accepted.is_ok(), server.snapshot.verified.chains()), (is_let_in, remembered));
    }
}
