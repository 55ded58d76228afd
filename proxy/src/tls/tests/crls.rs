//! Certificate revocation lists: the rows of SPIFFE C-2 about them, and what is no list.

use super::cases::{ID, World};
use super::certificates::{Draft, Extension, Issuer, UNKNOWN, bit_string, sequence, tlv};
use super::side::{GENERATION, bundles};
use crate::identity::Snapshot;
use crate::revocation::Revocations;
use crate::tls::crl::{Crl, CrlFault};
use crate::tls::{Role, Strictness, SvidError};
use postern_config::StaleCrls;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::SystemTime;

const SERIAL: &[u8] = &[0x01, 0x0f, 0xa0];
const OTHER: &[u8] = &[0x02];

type Named<'a> = (&'a str, Vec<CertificateDer<'static>>);

/// As the store publishes it.
fn snapshot(named: &[Named<'_>], lists: &[Vec<u8>], stale: StaleCrls) -> Snapshot {
    let from_source = lists.iter().map(|list| Arc::new(Crl::read(list).expect("a list"))).collect();
    let bundles = bundles(named);
    let revocations = Revocations { from_source, stale, ..Revocations::default() }.bound_to(&bundles, &[]);
    Snapshot { generation: GENERATION, bundles, revocations: Arc::new(revocations), ..Snapshot::empty() }
}

fn verdict(snapshot: &Snapshot, chain: &[CertificateDer<'static>]) -> Result<(), &'static str> {
    let verified = |role| snapshot.verify(chain, role, SystemTime::now(), Strictness::Strict).map(|_| ());
    let (client, server) = (verified(Role::Client), verified(Role::Server));
    assert_eq!(client.is_ok(), server.is_ok());
    client.map_err(|error| error.code())
}

fn check(named: &[Named<'_>], lists: &[Vec<u8>], chain: &[CertificateDer<'static>]) -> Result<(), &'static str> {
    verdict(&snapshot(named, lists, StaleCrls::Allow), chain)
}

#[test]
fn x_46_tl_23_a_listed_leaf_is_refused_and_no_other() {
    let world = World::new();
    let leaf = world.ca1.issue(&Draft::leaf(ID), &world.key);
    let fresh = world.ca1.issue(&Draft::leaf(ID).serial(&[0x00, 0x9f]), &world.key);
    let lists = [world.ca1.list(&[OTHER, SERIAL], 3600, &[])];
    assert_eq!(check(&world.bundles(), &lists, std::slice::from_ref(&leaf)), Err("revoked"));
    assert_eq!(check(&world.bundles(), &lists, std::slice::from_ref(&fresh)), Ok(()));
    // A zero that keeps a number positive is written by some, and not by others.
    for written in [&[0x9f][..], &[0x00, 0x9f]] {
        let lists = [world.ca1.list(&[written], 3600, &[])];
        assert_eq!(check(&world.bundles(), &lists, std::slice::from_ref(&fresh)), Err("revoked"), "{written:?}");
    }
    assert_eq!(check(&world.bundles(), &[world.ca1.list(&[], 3600, &[])], &[leaf]), Ok(()));
}

#[test]
fn x_46_a_listed_intermediate_takes_its_leaves_along() {
    let world = World::new();
    let intermediate = world.ca1.intermediate(Draft::authority("below", "spiffe://example.org").serial(&[7]));
    let chain = [intermediate.issue(&Draft::leaf(ID), &world.key), intermediate.der.clone()];
    assert_eq!(check(&world.bundles(), &[], &chain), Ok(()));
    assert_eq!(check(&world.bundles(), &[world.ca1.list(&[&[7]], 3600, &[])], &chain), Err("revoked"));
    // The root lists what it issued itself: the leaf's number is the intermediate's affair.
    assert_eq!(check(&world.bundles(), &[world.ca1.list(&[SERIAL], 3600, &[])], &chain), Ok(()));
}

#[test]
fn x_47_x_48_a_list_counts_for_the_key_that_signed_it_whatever_names_say() {
    let world = World::new();
    // As SPIRE names them: alike in every trust domain, and over every rotation.
    let same_name = |id: &str| Issuer::root(Draft::authority("SPIFFE", id));
    let (ca1, ca1b) = (same_name("spiffe://example.org"), same_name("spiffe://example.org"));
    let other = same_name("spiffe://other.org");
    let bundles: Vec<Named<'_>> =
        vec![("example.org", vec![ca1.der.clone(), ca1b.der.clone()]), ("other.org", vec![other.der.clone()])];
    let (of_ca1, of_ca1b) = (ca1.issue(&Draft::leaf(ID), &world.key), ca1b.issue(&Draft::leaf(ID), &world.key));
    let both = [ca1.list(&[OTHER], 3600, &[]), ca1b.list(&[OTHER], 3600, &[])];
    for leaf in [&of_ca1, &of_ca1b] {
        assert_eq!(check(&bundles, &both, std::slice::from_ref(leaf)), Ok(()), "X-47");
    }
    // The other trust domain's list names the number, under the name that is ours too.
    let foreign = [other.list(&[SERIAL], 3600, &[])];
    assert_eq!(check(&bundles, &foreign, std::slice::from_ref(&of_ca1)), Ok(()), "X-48");
    let own = [ca1.list(&[SERIAL], 3600, &[])];
    assert_eq!(check(&bundles, &own, &[of_ca1]), Err("revoked"));
    assert_eq!(check(&bundles, &own, &[of_ca1b]), Ok(()), "the newer authority's");
    // Nobody's: a list of an authority that is in no bundle.
    let stranger = same_name("spiffe://example.org");
    let unbound = snapshot(&bundles, &[stranger.list(&[SERIAL], 3600, &[])], StaleCrls::Allow);
    assert_eq!(unbound.revocations.lists.unbound.len(), 1);
}

#[test]
fn x_49_a_stale_list_is_not_an_expired_certificate() {
    let world = World::new();
    let leaf = world.ca1.issue(&Draft::leaf(ID).serial(OTHER), &world.key);
    let listed = world.ca1.issue(&Draft::leaf(ID), &world.key);
    let expired = world.ca1.issue(&Draft::leaf(ID).valid(-7200, -3600), &world.key);
    let lists = [world.ca1.list(&[SERIAL], -30, &[])];
    let lenient = snapshot(&world.bundles(), &lists, StaleCrls::Allow);
    assert_eq!(verdict(&lenient, std::slice::from_ref(&leaf)), Ok(()));
    assert_eq!(verdict(&lenient, &[listed]), Err("revoked"), "what it names stays revoked");
    assert_eq!(verdict(&lenient, std::slice::from_ref(&expired)), Err("expired"));
    let strict = snapshot(&world.bundles(), &lists, StaleCrls::Refuse);
    assert_eq!(verdict(&strict, &[leaf]), Err("revocation_stale"));
    assert_eq!(verdict(&strict, &[expired]), Err("expired"));
}

#[test]
fn a_snapshot_that_has_verified_a_peer_looks_at_lists_all_the_same() {
    let world = World::new();
    let leaf = [world.ca1.issue(&Draft::leaf(ID), &world.key)];
    let before = snapshot(&world.bundles(), &[], StaleCrls::Allow);
    let (peer, asked) = before.verify(&leaf, Role::Client, SystemTime::now(), Strictness::Strict).expect("good");
    before.remember(asked.expect("new"), &peer);
    let list = Arc::new(Crl::read(&world.ca1.list(&[SERIAL], 3600, &[])).expect("a list"));
    let revocations = Revocations { from_files: vec![list], ..Revocations::default() };
    let after = Snapshot { revocations: Arc::new(revocations.bound_to(&before.bundles, &[])), ..before.clone() };
    let found = after.verify(&leaf, Role::Client, SystemTime::now(), Strictness::Strict);
    assert_eq!(found.err(), Some(SvidError::Revoked { serial: "010fa0".to_owned() }));
}

#[test]
fn of_one_authority_the_newest_list_of_each_scope_counts() {
    let world = World::new();
    let leaf = [world.ca1.issue(&Draft::leaf(ID), &world.key)];
    let named = world.bundles();
    // Lists that are partitioned by distribution point stand beside each other.
    let scope = |byte: u8| {
        let name = tlv(0x86, &[byte]);
        let point = tlv(0xa0, &tlv(0xa0, &name));
        Extension { oid: &[0x55, 0x1d, 28], critical: true, value: sequence(&[point]) }
    };
    let lists = [world.ca1.list(&[SERIAL], 3600, &[scope(b'a')]), world.ca1.list(&[], 3600, &[scope(b'b')])];
    assert_eq!(check(&named, &lists, &leaf), Err("revoked"));
}

/// Both of its algorithms begin with another type than an object identifier.
fn nameless_algorithm(list: &[u8]) -> Vec<u8> {
    // AlgorithmIdentifier of ecdsa-with-SHA256.
    let named: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let mut changed = list.to_vec();
    let places: Vec<usize> = (0..list.len()).filter(|at| list[*at..].starts_with(named)).collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|at| changed[at + 2] = 0x08);
    changed
}

#[test]
fn tl_23_what_is_no_list_or_not_one_of_ours_is_refused_whole() {
    let world = World::new();
    let extension = |oid: &'static [u8], critical: bool, value: Vec<u8>| Extension { oid, critical, value };
    let list = |extensions: &[Extension]| world.ca1.list(&[SERIAL], 3600, extensions);
    let entry_with = |extension: Vec<u8>| {
        let entry = sequence(&[tlv(2, SERIAL), tlv(0x17, b"260101000000Z"), sequence(&[extension])]);
        world.ca1.list_of(&sequence(&[entry]), 3600, &[])
    };
    let reason = |code: u8| sequence(&[tlv(6, &[0x55, 0x1d, 21]), tlv(4, &tlv(0x0a, &[code]))]);
    let certificate_issuer = sequence(&[tlv(6, &[0x55, 0x1d, 29]), tlv(1, &[0xff]), tlv(4, &sequence(&[]))]);
    let point = |content: Vec<u8>| extension(&[0x55, 0x1d, 28], true, sequence(&[content]));
    let good = list(&[]);
    let mut two_algorithms = good.clone();
    let at =
        good.windows(8).rposition(|bytes| bytes == [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]).expect("its algorithm");
    two_algorithms[at + 7] = 3;
    for (name, bytes, expected) in [
        ("nothing", Vec::new(), "Malformed"),
        ("text", b"-----BEGIN".to_vec(), "Malformed"),
        ("a certificate", world.ca1.der.to_vec(), "Malformed"),
        ("half", good[..good.len() / 2].to_vec(), "Malformed"),
        ("trailing", [good.as_slice(), &[0]].concat(), "Malformed"),
        ("an algorithm without a name", nameless_algorithm(&good), "Malformed"),
        ("two algorithms", two_algorithms, "AlgorithmsDiffer"),
        ("unknown critical", list(&[extension(UNKNOWN, true, vec![5, 0])]), "UnknownCritical"),
        ("delta", list(&[extension(&[0x55, 0x1d, 27], true, tlv(2, &[1]))]), "UnknownCritical"),
        ("some reasons", list(&[point(tlv(0x83, &[1, 2]))]), "Partial"),
        // RUSTSEC-2026-0104: an empty BIT STRING in the issuing distribution point.
        ("empty reasons", list(&[point(tlv(0x83, &[]))]), "Partial"),
        ("indirect", list(&[point(tlv(0x84, &[0xff]))]), "Partial"),
        ("entry of another issuer", entry_with(certificate_issuer), "UnknownCritical"),
        ("entry taken back", entry_with(reason(8)), "RemovesEntries"),
        (
            "a time that is none",
            world.ca1.list_of(&sequence(&[sequence(&[tlv(2, SERIAL), tlv(0x17, b"261301000000Z")])]), 3600, &[]),
            "Time",
        ),
    ] {
        let fault = Crl::read(&bytes).err().unwrap_or_else(|| panic!("{name} was read"));
        let words = format!("{fault:?}");
        assert!(words.starts_with(expected), "{name}: {words}");
    }
    for (name, bytes) in [
        ("with a reason", entry_with(reason(1))),
        ("unknown, not critical", list(&[extension(UNKNOWN, false, vec![5, 0])])),
        ("of users alone", list(&[point(tlv(0x81, &[0xff]))])),
    ] {
        assert!(Crl::read(&bytes).is_ok_and(|list| list.names(SERIAL)), "{name}");
    }
    assert!(matches!(Crl::read(&[0x30, 0x84, 1, 0, 0, 0]), Err(CrlFault::Malformed(_))));
}

#[test]
fn a_list_whose_signature_is_wrong_is_nobodys() {
    let world = World::new();
    let mut forged = world.ca1.list(&[SERIAL], 3600, &[]);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let leaf = [world.ca1.issue(&Draft::leaf(ID), &world.key)];
    assert_eq!(check(&world.bundles(), &[forged], &leaf), Ok(()));
    assert!(!Crl::read(&world.ca1.list(&[], 3600, &[])).expect("a list").is_signed_by(&bit_string(&[1])));
}
