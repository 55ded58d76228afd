//! Properties of what reads outside bytes, and the tables that are not chains.

use super::cases::{ID, World};
use super::certificates::{Draft, URI, bit_string, critical, empty_name, sequence, subject_alt_name, tlv};
use super::side::{GENERATION, bundles};
use crate::tls::authority::{AuthorityFault, AuthorityRules};
use crate::tls::bundle::{AnchorProblem, load_bundle, split_der};
use crate::tls::certificate::Fields;
use crate::tls::der::{CONCATENATED_BYTES_MAX, CONCATENATED_COUNT_MAX, DerError, SEQUENCE, only};
use crate::tls::path::{Terms, verify_path_by};
use crate::tls::{Role, Strictness, verify_svid};
use postern_config::{SpiffeId, TrustDomain};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, proptest};
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

#[test]
fn splits_concatenated_der() {
    let world = World::new();
    let both = [world.ca1.der.as_ref(), world.ca2.der.as_ref()].concat();
    assert_eq!(split_der(&both), Ok(vec![world.ca1.der.clone(), world.ca2.der.clone()]));
    let truncated = &both[..both.len() - 1];
    let garbage = [both.as_slice(), &[0]].concat();
    let table: [(&[u8], DerError); 8] = [
        (&[], DerError::Empty),
        (truncated, DerError::Truncated),
        (&garbage, DerError::Truncated),
        (&[0x31, 0], DerError::Tag { expected: 0x30, found: 0x31 }),
        (&[0x30, 0x80, 0, 0], DerError::Length),
        (&[0x30, 0x81, 0x7f], DerError::Length),
        (&[0x30, 0x82, 0, 0x80], DerError::Length),
        (&[0x3f, 1, 0], DerError::LongTag),
    ];
    for (bytes, expected) in table {
        assert_eq!(split_der(bytes), Err(expected));
    }
}

/// X.690 §10.1, at the least and the most that each form may say.
#[test]
fn takes_lengths_in_their_shortest_form_only() {
    let table: [(&[u8], usize, Result<(), DerError>); 13] = [
        (&[0], 0, Ok(())),
        (&[0x7f], 0x7f, Ok(())),
        (&[0x80], 0, Err(DerError::Length)),
        (&[0x81, 0x7f], 0x7f, Err(DerError::Length)),
        (&[0x81, 0x80], 0x80, Ok(())),
        (&[0x81, 0xff], 0xff, Ok(())),
        (&[0x82, 0, 0xff], 0xff, Err(DerError::Length)),
        (&[0x82, 1, 0], 0x100, Ok(())),
        (&[0x82, 0xff, 0xff], 0xffff, Ok(())),
        (&[0x83, 0, 0xff, 0xff], 0xffff, Err(DerError::Length)),
        (&[0x83, 1, 0, 0], 0x01_0000, Ok(())),
        (&[0x83, 0x12, 0x34, 0x56], 0x12_3456, Ok(())),
        (&[0x84, 1, 0, 0, 0], 0x100_0000, Err(DerError::Length)),
    ];
    for (length, content_bytes, expected) in table {
        let element = [&[SEQUENCE], length, &vec![0; content_bytes]].concat();
        let read = only(&element, SEQUENCE).map(<[u8]>::len);
        assert_eq!(read, expected.map(|()| content_bytes), "{length:02x?}");
    }
}

#[test]
fn bounds_concatenated_der() {
    let at_most = [0x30, 0].repeat(CONCATENATED_COUNT_MAX);
    assert_eq!(split_der(&at_most).map(|all| all.len()), Ok(CONCATENATED_COUNT_MAX));
    let one_more = [0x30, 0].repeat(CONCATENATED_COUNT_MAX + 1);
    assert_eq!(split_der(&one_more), Err(DerError::TooMany { max: CONCATENATED_COUNT_MAX }));
    // The largest certificate, as often as makes 16 MiB.
    let at_most = tlv(0x30, &vec![0; 65_532]).repeat(256);
    assert_eq!((at_most.len(), split_der(&at_most).map(|all| all.len())), (CONCATENATED_BYTES_MAX, Ok(256)));
    let large = vec![0x30; CONCATENATED_BYTES_MAX + 1];
    assert!(matches!(split_der(&large), Err(DerError::TooLarge { bytes: 16_777_217, .. })));
    let large = tlv(0x30, &vec![0; 65_533]);
    assert!(matches!(split_der(&large), Err(DerError::TooLarge { .. })));
}

/// The words and the field of the record name one section.
#[test]
fn each_fault_of_an_authority_names_its_section() {
    let id = SpiffeId::parse(ID).expect("an ID");
    let invalid = SpiffeId::parse("spiffe://").expect_err("no ID");
    for fault in [
        AuthorityFault::NotCa,
        AuthorityFault::KeyUsageMissing,
        AuthorityFault::KeyUsageNotCritical,
        AuthorityFault::NoKeyCertSign,
        AuthorityFault::UnknownCriticalExtension { oid: "1.2.3.4".to_owned() },
        AuthorityFault::IdHasPath { id },
        AuthorityFault::IdInvalid(invalid),
        AuthorityFault::IdNotText,
    ] {
        assert!(fault.to_string().ends_with(&format!("({})", fault.section())), "{fault}: {}", fault.section());
    }
}

#[test]
fn bundle_names_what_it_drops() {
    let world = World::new();
    let leaf = world.ca1.issue(&Draft::leaf(ID), &world.key);
    let garbage = CertificateDer::from(vec![0x30, 0]);
    let certificates = [garbage, leaf, world.ca1.der.clone(), world.ca1.der.clone()];
    let trust_domain = TrustDomain::parse("example.org").expect("a name");
    let (bundle, problems) = load_bundle(trust_domain, certificates, SystemTime::now());
    assert_eq!(bundle.anchors.len(), 1);
    assert!(matches!(problems.as_slice(), [AnchorProblem::Malformed { .. }, AnchorProblem::NotAuthority { .. }]));
    assert!(problems[1].to_string().contains("CN=workload"), "{}", problems[1]);
}

/// C-1, each as a SAN. What the parser takes, the verifier takes as it stands; nothing is normalised.
#[test]
fn c_1_tl_09_ids_as_subject_alt_name() {
    let world = World::new();
    let (longest, too_long) = (format!("{ID}{}", "a".repeat(2026)), format!("{ID}{}", "a".repeat(2027)));
    let refused: [&[u8]; 30] = [
        b"",
        b"spiffe:",
        b"spiffe:/a",
        b"spiffe://",
        b"spiffe:///a",
        b"https://example.org/a",
        b"spiff://example.org/a",
        b"SPIFFE://example.org/a",
        b"spiffe://Example.org/a",
        b"spiffe://u@example.org/a",
        b"spiffe://@example.org/a",
        b"spiffe://example.org:443/a",
        b"spiffe://example.org:/a",
        b"spiffe://example.org/a?x=1",
        b"spiffe://example.org/a?",
        b"spiffe://example.org/a#f",
        b"spiffe://example.org/%41",
        b"spiffe://ex%61mple.org/a",
        b"spiffe://example.org//a",
        b"spiffe://example.org/a//b",
        b"spiffe://example.org/a/./b",
        b"spiffe://example.org/a/../b",
        b"spiffe://example.org/..",
        b"spiffe://example.org/a/",
        b" spiffe://example.org/a",
        b"spiffe://example.org/a\n",
        b"spiffe://example.org/a\0",
        "spiffe://example.org/\u{ff41}".as_bytes(),
        "spiffe://example.org/a\u{200b}".as_bytes(),
        too_long.as_bytes(),
    ];
    let accepted =
        [ID, "spiffe://example.org/...", "spiffe://example.org/.a", "spiffe://example.org/A", longest.as_str()];
    let judge = |uri: &[u8]| {
        let draft = Draft::leaf(ID).subject(empty_name()).with(critical(subject_alt_name(&[(URI, uri)]), true));
        let chain = [world.ca1.issue(&draft, &world.key)];
        let known = bundles(&world.bundles());
        verify_svid(&chain, &known, GENERATION, Role::Client, SystemTime::now(), Strictness::Strict)
            .map(|peer| peer.id.to_string())
            .map_err(|error| error.code())
    };
    for uri in refused {
        assert_eq!(judge(uri), Err("invalid_spiffe_id"), "{}", uri.escape_ascii());
    }
    for uri in accepted {
        assert_eq!(judge(uri.as_bytes()), Ok(uri.to_owned()));
    }
}

/// TL-24. Keys are of the right size and no more: nobody signs with them here.
#[test]
fn tl_24_kinds_of_keys() {
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    let elliptic = |curve: &[u8], bytes: usize| {
        sequence(&[sequence(&[tlv(6, EC), tlv(6, curve)]), bit_string(&[&[4], vec![1; 2 * bytes].as_slice()].concat())])
    };
    let rsa = |bits: usize| {
        let modulus = [&[0, 0x80], vec![1; bits / 8 - 1].as_slice()].concat();
        let key = sequence(&[tlv(2, &modulus), tlv(2, &[1, 0, 1])]);
        let algorithm = sequence(&[tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), tlv(5, &[])]);
        sequence(&[algorithm, bit_string(&key)])
    };
    let edwards = |last: u8| sequence(&[sequence(&[tlv(6, &[0x2b, 0x65, last])]), bit_string(&[1; 32])]);
    let table = [
        ("P-256", elliptic(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], 32), true),
        ("P-384", elliptic(&[0x2b, 0x81, 4, 0, 34], 48), true),
        ("P-521", elliptic(&[0x2b, 0x81, 4, 0, 35], 66), true),
        ("P-192", elliptic(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1], 24), false),
        ("secp256k1", elliptic(&[0x2b, 0x81, 4, 0, 10], 32), false),
        ("Ed25519", edwards(0x70), true),
        ("Ed448", edwards(0x71), false),
        ("RSA-1024", rsa(1024), false),
        ("RSA-2048", rsa(2048), true),
        ("RSA-8192", rsa(8192), true),
        ("RSA-16384", rsa(16_384), false),
    ];
    let world = World::new();
    let known = bundles(&world.bundles());
    for (name, spki, accepted) in table {
        let draft = Draft { spki: Some(spki), ..Draft::leaf(ID) };
        let chain = [world.ca1.issue(&draft, &world.key)];
        let outcome =
            verify_svid(&chain, &known, GENERATION, Role::Client, SystemTime::now(), Strictness::Strict).map(|_| ());
        let expected = if accepted { Ok(()) } else { Err("key_not_accepted") };
        assert_eq!(outcome.map_err(|error| error.code()), expected, "{name}");
    }
}

/// X-52 by work, not by clock: a flood costs no signature check, and no chain more than webpki's hundred.
#[test]
fn x_52_ds_05_work_is_bounded() {
    let world = World::new();
    let counted: Vec<Counting> = webpki::ALL_VERIFICATION_ALGS.iter().map(|inner| Counting(*inner)).collect();
    let algorithms: Vec<_> = counted.iter().map(|algorithm| algorithm as &dyn SignatureVerificationAlgorithm).collect();
    let trust_domain = TrustDomain::parse("example.org").expect("a name");
    // Roots and intermediates of one name, as SPIRE's default subject makes them: every key has to be tried.
    let named = || Draft::authority("SPIFFE", "spiffe://example.org");
    let roots: Vec<_> = (0..40).map(|_| super::certificates::Issuer::root(named())).collect();
    let (bundle, _) = load_bundle(trust_domain, roots.iter().map(|root| root.der.clone()), SystemTime::now());
    let stranger = super::certificates::Issuer::root(named());
    let below: Vec<_> = (0..9).map(|_| stranger.intermediate(named()).der).collect();
    let leaf = stranger.issue(&Draft::leaf(ID), &world.key);
    let fields = Fields::read(&leaf).expect("a certificate");
    let before = CHECKS.load(Ordering::Relaxed);
    let terms =
        Terms { algorithms: &algorithms, rules: AuthorityRules::X509Svid, role: Role::Client, now: SystemTime::now() };
    let outcome = verify_path_by(&terms, &leaf, &fields, &below, &bundle.anchors);
    let checks = CHECKS.load(Ordering::Relaxed) - before;
    assert_eq!(outcome.err().map(|error| error.code()), Some("path_too_complex"));
    assert!((1..=100).contains(&checks), "{checks} signature checks");
}

static CHECKS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct Counting(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Counting {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        CHECKS.fetch_add(1, Ordering::Relaxed);
        self.0.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// What was concatenated comes apart again; whatever else comes in, nothing panics.
    #[test]
    fn splitting_is_the_inverse_of_joining(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6)) {
        let parts: Vec<_> = parts.iter().map(|content| sequence(std::slice::from_ref(content))).collect();
        let split = split_der(&parts.concat()).map(|all| all.iter().map(|der| der.to_vec()).collect());
        prop_assert_eq!(split, Ok(parts));
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = split_der(&bytes);
        let _ = Fields::read(&bytes);
        let _ = Fields::read(&sequence(&[bytes]));
    }
}

/// Every single bit of a leaf is signed or checked: changing any of them is refused, by a reason, never by a panic.
#[test]
fn every_changed_bit_is_refused() {
    let world = World::new();
    let known = bundles(&world.bundles());
    let leaf = world.ca1.issue(&Draft::leaf(ID), &world.key);
    let now = SystemTime::now();
    let judge = |der: Vec<u8>| {
        let chain = [CertificateDer::from(der)];
        verify_svid(&chain, &known, GENERATION, Role::Client, now, Strictness::Strict).is_ok()
    };
    assert!(judge(leaf.to_vec()));
    for position in 0..leaf.len() {
        for bit in 0..8 {
            let mut changed = leaf.to_vec();
            changed[position] ^= 1 << bit;
            assert!(!judge(changed), "byte {position}, bit {bit}");
        }
    }
}
