//! Both sides of the verifier's borders in time and size.

use super::cases::{ID, World};
use super::certificates::{Draft, Issuer, URI, subject_alt_name};
use super::side::{GENERATION, bundles};
use crate::tls::certificate::Fields;
use crate::tls::verifier::{CHAIN_BYTES_MAX, CHAIN_COUNT_MAX, bound};
use crate::tls::{Role, Strictness, SvidError, verify_svid};
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};

const SECOND: Duration = Duration::from_secs(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

/// RFC 5280 §4.1.2.5: "the period of time from notBefore through notAfter, inclusive", in whole seconds.
#[test]
fn a_certificate_lives_from_its_first_second_through_its_last() {
    let world = World::new();
    for (leaf_minutes, root_minutes, early, late) in
        [(1, 2, "not_yet_valid", "expired"), (2, 1, "authority_not_valid", "authority_not_valid")]
    {
        let valid = |draft: Draft, minutes: i64| draft.valid(-60 * minutes, 60 * minutes);
        let root = Issuer::root(valid(Draft::authority("CA1", "spiffe://example.org"), root_minutes));
        let leaf = root.issue(&valid(Draft::leaf(ID), leaf_minutes), &world.key);
        let known = bundles(&[("example.org", vec![root.der.clone()])]);
        let shorter = if leaf_minutes < root_minutes { &leaf } else { &root.der };
        let fields = Fields::read(shorter).expect("a certificate");
        let (first, last) = (fields.not_before, fields.not_after);
        let judge = |now| {
            verify_svid(std::slice::from_ref(&leaf), &known, GENERATION, Role::Client, now, Strictness::Strict)
                .map(drop)
                .map_err(|error| error.code())
        };
        for (now, expected) in [
            (first - NANOSECOND, Err(early)),
            (first, Ok(())),
            (last, Ok(())),
            (last + SECOND - NANOSECOND, Ok(())),
            (last + SECOND, Err(late)),
        ] {
            assert_eq!(judge(now), expected, "{leaf_minutes} and {root_minutes} minutes");
        }
    }
}

#[test]
fn chains_are_taken_up_to_their_bounds() {
    let chain =
        |lengths: &[usize]| lengths.iter().map(|bytes| CertificateDer::from(vec![0; *bytes])).collect::<Vec<_>>();
    for (lengths, expected) in [
        (vec![], Err("no_certificate")),
        (vec![1; CHAIN_COUNT_MAX], Ok(())),
        (vec![1; CHAIN_COUNT_MAX + 1], Err("chain_too_long")),
        (vec![CHAIN_BYTES_MAX - 1, 1], Ok(())),
        (vec![CHAIN_BYTES_MAX, 1], Err("chain_too_large")),
    ] {
        let chain = chain(&lengths);
        assert_eq!(bound(&chain).map(drop).map_err(|error| error.code()), expected, "{lengths:?}");
    }
}

/// An operator finds in the log what the peer sent; a peer writes no lines of its own there, and no long ones.
#[test]
fn a_refused_id_is_quoted_escaped_and_in_part() {
    let world = World::new();
    let quoted = |uri: &str| {
        let draft = Draft::leaf(ID).with(subject_alt_name(&[(URI, uri.as_bytes())]));
        let chain = [world.ca1.issue(&draft, &world.key)];
        let known = bundles(&world.bundles());
        match verify_svid(&chain, &known, GENERATION, Role::Client, SystemTime::now(), Strictness::Strict) {
            Err(SvidError::InvalidId { uri, .. }) => uri,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(quoted("spiffe://example.org/a\nb"), "spiffe://example.org/a\\nb");
    assert_eq!(quoted(&"x".repeat(121)), "x".repeat(120));
}
