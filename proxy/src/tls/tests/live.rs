//! What changes while a peer is connected: rows as re-checks.

use super::cases::{ID, World};
use super::certificates::{BASIC_CONSTRAINTS, Draft, Issuer};
use super::side::{GENERATION, bundles};
use crate::tls::{Peer, Role, Strictness, is_strictly_valid, still_trusted, verify_svid};
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};

type Named<'a> = [(&'a str, Vec<CertificateDer<'static>>)];

fn known(chain: &[CertificateDer<'static>], named: &Named<'_>, now: SystemTime) -> Peer {
    verify_svid(chain, &bundles(named), GENERATION, Role::Client, now, Strictness::Strict)
        .expect("the positive control")
}

fn check(peer: &Peer, named: &Named<'_>, now: SystemTime) -> Result<[u8; 32], &'static str> {
    still_trusted(peer, &bundles(named), Role::Client, now, Strictness::Strict)
        .map(|authority| authority.0)
        .map_err(|error| error.code())
}

#[test]
fn x_26_ends_when_the_federation_ends() {
    let world = World::new();
    let now = SystemTime::now();
    let leaf = world.ca2.issue(&Draft::leaf("spiffe://other.org/b"), &world.key);
    let peer = known(&[leaf], &world.bundles(), now);
    assert_eq!(check(&peer, &world.bundles(), now), Ok(peer.authority.0));
    assert_eq!(check(&peer, &world.bundles()[..1], now), Err("no_bundle"));
}

#[test]
fn x_28_ends_when_its_authority_goes_and_only_then() {
    let world = World::new();
    let now = SystemTime::now();
    let ca1b = Issuer::root(Draft::authority("CA1", "spiffe://example.org"));
    let both = [("example.org", vec![world.ca1.der.clone(), ca1b.der.clone()])];
    let of_ca1b = known(&[ca1b.issue(&Draft::leaf(ID), &world.key)], &both, now);
    let of_ca1 = known(&[world.ca1.issue(&Draft::leaf(ID), &world.key)], &both, now);
    let shrunk = [("example.org", vec![world.ca1.der.clone()])];
    assert_eq!(check(&of_ca1b, &both, now), Ok(of_ca1b.authority.0));
    assert_eq!(check(&of_ca1b, &shrunk, now), Err("bad_signature"));
    assert_eq!(check(&of_ca1, &shrunk, now), Ok(of_ca1.authority.0));
}

/// `compat` can be taken away from live peers: only those that needed it are lost.
#[test]
fn who_needed_compat_is_not_strictly_valid() {
    let world = World::new();
    let now = SystemTime::now();
    let lenient = |draft: Draft| {
        let chain = [world.ca1.issue(&draft, &world.key)];
        verify_svid(&chain, &bundles(&world.bundles()), GENERATION, Role::Client, now, Strictness::Compat)
            .expect("compat")
    };
    let code = |peer: Peer| is_strictly_valid(&peer, Role::Client).err().map(|error| error.code());
    assert_eq!(code(lenient(Draft::leaf(ID))), None);
    assert_eq!(code(lenient(Draft::leaf(ID).without(BASIC_CONSTRAINTS))), Some("basic_constraints_missing"));
}

#[test]
fn x_29_ends_when_the_bundle_is_empty() {
    let world = World::new();
    let now = SystemTime::now();
    let peer = known(&[world.ca1.issue(&Draft::leaf(ID), &world.key)], &world.bundles(), now);
    assert_eq!(check(&peer, &[("example.org", Vec::new())], now), Err("empty_bundle"));
}

/// The root that vouched goes, but an intermediate below it is a root of the new bundle: another authority vouches.
#[test]
fn another_authority_may_vouch() {
    let world = World::new();
    let now = SystemTime::now();
    let below = world.ca1.intermediate(Draft::authority("I1", "spiffe://example.org"));
    let chain = [below.issue(&Draft::leaf(ID), &world.key), below.der.clone()];
    let peer = known(&chain, &world.bundles(), now);
    let promoted = check(&peer, &[("example.org", vec![below.der])], now).expect("trusted");
    assert_ne!(promoted, peer.authority.0);
}

/// A root that is issued anew with its key is the same authority.
#[test]
fn re_issued_root_is_the_same_authority() {
    let world = World::new();
    let now = SystemTime::now();
    let peer = known(&[world.ca1.issue(&Draft::leaf(ID), &world.key)], &world.bundles(), now);
    let again = Issuer { name: world.ca1.name.clone(), ..world.ca1.clone() }
        .intermediate_with(Draft::authority("CA1", "spiffe://example.org"), world.ca1.key.clone());
    assert_ne!(again.der, world.ca1.der);
    assert_eq!(check(&peer, &[("example.org", vec![again.der])], now), Ok(peer.authority.0));
}

/// Expiry is judged by `on_expiry`, not by a re-check, whichever certificate of the chain it is that ended.
#[test]
fn expiry_is_no_reason_to_lose_trust() {
    let world = World::new();
    let now = SystemTime::now();
    let short = Draft::authority("I1", "spiffe://example.org").valid(-3600, 600);
    let below = world.ca1.intermediate(short);
    let chain = [below.issue(&Draft::leaf(ID), &world.key), below.der.clone()];
    let peer = known(&chain, &world.bundles(), now);
    // The root under another key's signature: not the cheap way, the path is walked.
    let cross = world.ca2.intermediate_with(Draft::authority("I1", "spiffe://example.org"), below.key.clone());
    let crossed = [("example.org", vec![cross.der])];
    for later in [0, 1200, 7200] {
        let then = now + Duration::from_secs(later);
        assert!(check(&peer, &crossed, then).is_ok(), "{later} s later");
        assert_eq!(check(&peer, &[("example.org", Vec::new())], then), Err("empty_bundle"), "{later} s later");
    }
}
