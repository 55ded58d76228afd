//! The conformance cases for X509-SVIDs (SPIFFE checklist C-2) that are a chain and some bundles: one table for the
//! verifier, the handshake, the command and the oracles.

use super::certificates::{
    ANY_USAGE, BASIC_CONSTRAINTS, CLIENT_AUTH, CRL_SIGN, DIGITAL_SIGNATURE, DIRECTORY, DNS, Draft, EMAIL,
    EXTENDED_KEY_USAGE, Extension, IP, Issuer, KEY_AGREEMENT, KEY_CERT_SIGN, KEY_ENCIPHERMENT, KEY_USAGE, Key,
    SERVER_AUTH, SUBJECT_ALT_NAME, UNKNOWN, URI, basic_constraints, common_name, critical, empty_name,
    extended_key_usage, key_usage, name_constraints, subject_alt_name, tlv,
};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// What a verifier should say: the stable code of the rule broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    Refused(&'static str),
}

pub use Verdict::{Accepted, Refused};

pub struct Case {
    /// Row of the checklist, then the variant.
    pub name: &'static str,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Arc<Key>,
    /// Trust domains and their certificates as a source delivers them.
    pub bundles: Vec<(&'static str, Vec<CertificateDer<'static>>)>,
    pub as_client: Verdict,
    pub as_server: Verdict,
    /// With the `compat` switch, in either role, where that makes a difference.
    pub compat: Option<Verdict>,
}

/// The fixtures of the checklist: two authorities and the key of whoever is judged.
pub struct World {
    pub ca1: Issuer,
    pub ca2: Issuer,
    pub key: Arc<Key>,
}

pub const ID: &str = "spiffe://example.org/a";

impl World {
    pub fn new() -> Self {
        Self {
            ca1: Issuer::root(Draft::authority("CA1", "spiffe://example.org")),
            ca2: Issuer::root(Draft::authority("CA2", "spiffe://other.org")),
            key: Key::generate(),
        }
    }

    pub fn bundles(&self) -> Vec<(&'static str, Vec<CertificateDer<'static>>)> {
        vec![("example.org", vec![self.ca1.der.clone()]), ("other.org", vec![self.ca2.der.clone()])]
    }

    /// A chain, against the usual bundles, judged alike in both roles.
    fn chain(&self, name: &'static str, chain: Vec<CertificateDer<'static>>, verdict: Verdict) -> Case {
        let (key, bundles) = (self.key.clone(), self.bundles());
        Case { name, chain, key, bundles, as_client: verdict, as_server: verdict, compat: None }
    }

    /// A leaf of CA1.
    fn leaf(&self, name: &'static str, draft: Draft, verdict: Verdict) -> Case {
        self.chain(name, vec![self.ca1.issue(&draft, &self.key)], verdict)
    }

    /// A base leaf below a presented intermediate of CA1.
    fn below(&self, name: &'static str, intermediate: Draft, verdict: Verdict) -> Case {
        let intermediate = self.ca1.intermediate(intermediate);
        let leaf = intermediate.issue(&Draft::leaf(ID), &self.key);
        self.chain(name, vec![leaf, intermediate.der], verdict)
    }

    /// A base leaf of another root that stands alone in the bundle of example.org.
    fn rooted(&self, name: &'static str, root: Draft, leaf: &Draft, verdict: Verdict) -> Case {
        let root = Issuer::root(root);
        let case = self.chain(name, vec![root.issue(leaf, &self.key)], verdict);
        Case { bundles: vec![("example.org", vec![root.der])], ..case }
    }
}

pub fn all(world: &World) -> Vec<Case> {
    [names(world), extensions(world), usages(world), trust(world), paths(world), constraints(world), limits(world)]
        .into_iter()
        .flatten()
        .collect()
}

fn base() -> Draft {
    Draft::leaf(ID)
}

fn authority() -> Draft {
    Draft::authority("I1", "spiffe://example.org")
}

fn names(world: &World) -> Vec<Case> {
    let id: (u8, &[u8]) = (URI, ID.as_bytes());
    let named = |names: &[(u8, &[u8])]| base().with(subject_alt_name(names));
    let only_in_subject = base().subject(common_name(ID)).without(SUBJECT_ALT_NAME);
    let critical_name = base().subject(empty_name()).with(critical(subject_alt_name(&[id]), true));
    let more_names = named(&[(DNS, b"a.example.org"), id, (IP, &[10, 0, 0, 1]), (EMAIL, b"a@example.org")]);
    vec![
        world.leaf("X-01", base(), Accepted),
        world.leaf("X-03", more_names, Accepted),
        world.leaf("X-05", base().subject(empty_name()), Refused("subject_alt_name_not_critical")),
        world.leaf("X-05 critical", critical_name, Accepted),
        world.leaf("X-06", named(&[id, (URI, b"spiffe://example.org/b")]), Refused("multiple_uri_names")),
        world.leaf("X-06 same twice", named(&[id, id]), Refused("multiple_uri_names")),
        world.leaf("X-06 https", named(&[id, (URI, b"https://example.org/")]), Refused("multiple_uri_names")),
        world.leaf("X-08", named(&[id, (URI, &[0xff, 0xfe])]), Refused("multiple_uri_names")),
        world.leaf("X-08 reversed", named(&[(URI, &[0xff, 0xfe]), id]), Refused("multiple_uri_names")),
        world.leaf("X-08 alone", named(&[(URI, &[0xff, 0xfe])]), Refused("uri_not_text")),
        world.leaf("X-08 constructed", named(&[id, (0xa6, b"")]), Refused("leaf_malformed")),
        world.leaf("X-09", base().without(SUBJECT_ALT_NAME), Refused("no_subject_alt_name")),
        world.leaf("X-09 only in the subject", only_in_subject, Refused("no_subject_alt_name")),
        world.leaf("X-09 without URI", named(&[(DNS, b"a.example.org")]), Refused("no_uri_name")),
        world.leaf("X-09 as DNS name", named(&[(DNS, ID.as_bytes())]), Refused("no_uri_name")),
        world.leaf("X-11", named(&[(URI, b"spiffe://example.org")]), Refused("spiffe_id_without_path")),
        world.leaf("X-11 slash", named(&[(URI, b"spiffe://example.org/")]), Refused("invalid_spiffe_id")),
        world.leaf("X-11 https", named(&[(URI, b"https://example.org/a")]), Refused("invalid_spiffe_id")),
    ]
}

fn extensions(world: &World) -> Vec<Case> {
    let compat = |case: Case| Case { compat: Some(Accepted), ..case };
    let loose = base().with(critical(key_usage(DIGITAL_SIGNATURE), false));
    let explicit_false =
        Extension { value: super::certificates::sequence(&[tlv(1, &[0])]), ..basic_constraints(false, None) };
    let unknown = |critical| Extension { oid: UNKNOWN, critical, value: tlv(5, &[]) };
    // The rule is named, not what follows from it.
    let signing_ca = base().with(basic_constraints(true, None)).with(key_usage(KEY_CERT_SIGN | CRL_SIGN));
    let torn = Extension { value: tlv(3, &[9, 0x80]), ..key_usage(DIGITAL_SIGNATURE) };
    vec![
        world.leaf("X-12", base().with(basic_constraints(true, None)), Refused("leaf_is_ca")),
        world.leaf("X-12 as authorities are", signing_ca, Refused("leaf_is_ca")),
        compat(world.leaf("X-13", base().without(BASIC_CONSTRAINTS), Refused("basic_constraints_missing"))),
        world.leaf("X-13 explicit FALSE", base().with(explicit_false), Accepted),
        world.leaf("X-14", base().with(key_usage(DIGITAL_SIGNATURE | KEY_CERT_SIGN)), Refused("key_cert_sign")),
        world.leaf("X-14 cRLSign", base().with(key_usage(DIGITAL_SIGNATURE | CRL_SIGN)), Refused("crl_sign")),
        world.leaf("X-16", base().without(KEY_USAGE), Refused("key_usage_missing")),
        world.leaf("X-16 bit", base().with(key_usage(KEY_AGREEMENT)), Refused("no_digital_signature")),
        world.leaf("X-16 no bit", base().with(key_usage(0)), Refused("no_digital_signature")),
        compat(world.leaf("X-16 not critical", loose, Refused("key_usage_not_critical"))),
        world.leaf("X-16 malformed", base().with(torn), Refused("leaf_malformed")),
        world.leaf("X-18", base().with(key_usage(DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT)), Accepted),
        world.leaf("X-40", base().adding(unknown(true)), Refused("unknown_critical_extension")),
        world.leaf("X-40 not critical", base().adding(unknown(false)), Accepted),
        world.leaf(
            "X-41",
            base().adding(subject_alt_name(&[(URI, b"spiffe://example.org/b")])),
            Refused("duplicate_extension"),
        ),
        world.leaf("X-41 keyUsage", base().adding(key_usage(DIGITAL_SIGNATURE)), Refused("duplicate_extension")),
    ]
}

fn usages(world: &World) -> Vec<Case> {
    let split = |case: Case, as_client, as_server| Case { as_client, as_server, ..case };
    let wrong = Refused("wrong_usage");
    let used = |purposes: &[&[u8]]| base().with(extended_key_usage(purposes));
    vec![
        split(world.leaf("X-20", used(&[CLIENT_AUTH]), wrong), Accepted, wrong),
        split(world.leaf("X-20 server", used(&[SERVER_AUTH]), wrong), wrong, Accepted),
        world.leaf("X-20 any", used(&[ANY_USAGE]), wrong),
        world.leaf("X-20 absent", base().without(EXTENDED_KEY_USAGE), Accepted),
        world.leaf("X-20 empty", used(&[]), Refused("leaf_malformed")),
        world.leaf("X-21", base().valid(-60, -1), Refused("expired")),
        world.leaf("X-21 early", base().valid(60, 3600), Refused("not_yet_valid")),
    ]
}

fn trust(world: &World) -> Vec<Case> {
    let sham = Issuer { name: world.ca1.name.clone(), ..world.ca2.clone() };
    let federated = Draft::leaf("spiffe://other.org/b");
    let not_a_ca = base().subject(common_name("not a CA"));
    let expired = Draft::authority("CA1", "spiffe://example.org").valid(-3600, -10);
    let early = Draft::authority("CA1", "spiffe://example.org").valid(600, 3600);
    let with_path = Draft::authority("CA1", "spiffe://example.org/ca");
    let unknown = Extension { oid: UNKNOWN, critical: true, value: tlv(5, &[]) };
    let constrained = Draft::authority("CA1", "spiffe://example.org").adding(unknown);
    let own_anchor = world.rooted("X-39", base(), &base(), Refused("empty_bundle"));
    let own_anchor = Case { chain: own_anchor.bundles[0].1.clone(), ..own_anchor };
    let beside_ca1 = Case {
        name: "X-39 beside CA1",
        chain: own_anchor.chain.clone(),
        bundles: vec![("example.org", [own_anchor.chain.clone(), vec![world.ca1.der.clone()]].concat())],
        key: world.key.clone(),
        ..world.leaf("", base(), Refused("unknown_issuer"))
    };
    vec![
        world.chain("X-22", vec![world.ca2.issue(&base(), &world.key)], Refused("unknown_issuer")),
        world.chain("X-22 in CA1's name", vec![sham.issue(&base(), &world.key)], Refused("bad_signature")),
        world.leaf("X-24", Draft::leaf("spiffe://third.org/c"), Refused("no_bundle")),
        world.chain("X-25", vec![world.ca2.issue(&federated, &world.key)], Accepted),
        world.chain("X-25 by CA1", vec![world.ca1.issue(&federated, &world.key)], Refused("unknown_issuer")),
        Case {
            bundles: vec![("example.org", Vec::new()), ("other.org", vec![world.ca2.der.clone()])],
            ..world.leaf("X-29", base(), Refused("empty_bundle"))
        },
        world.rooted("X-37", expired, &base(), Refused("empty_bundle")),
        world.rooted("X-37 early", early, &base(), Refused("authority_not_valid")),
        world.rooted("X-38", not_a_ca, &base(), Refused("empty_bundle")),
        world.rooted("X-38 unknown critical extension", constrained, &base(), Refused("empty_bundle")),
        world.rooted("X-38 ID with a path", with_path, &base(), Refused("empty_bundle")),
        own_anchor,
        beside_ca1,
    ]
}

fn paths(world: &World) -> Vec<Case> {
    let no_sign = authority().with(key_usage(CRL_SIGN));
    let first = world.ca1.intermediate(no_sign.clone());
    let second = world.ca1.intermediate_with(authority(), first.key.clone());
    let leaf = first.issue(&base(), &world.key);
    let both = vec![leaf.clone(), first.der.clone(), second.der.clone()];
    let loose = authority().with(critical(key_usage(KEY_CERT_SIGN), false));
    let root_of_one =
        Issuer::root(Draft::authority("CA1", "spiffe://example.org").with(basic_constraints(true, Some(0))));
    let below_it = root_of_one.intermediate(authority());
    let too_long = Case {
        bundles: vec![("example.org", vec![root_of_one.der.clone()])],
        ..world.chain("X-33", vec![below_it.issue(&base(), &world.key), below_it.der.clone()], Refused("path_length"))
    };
    let direct = Case {
        bundles: too_long.bundles.clone(),
        ..world.chain("X-33 direct", vec![root_of_one.issue(&base(), &world.key)], Accepted)
    };
    let other = Draft::authority("I1", "spiffe://third.org");
    let with_path = Draft::authority("I1", "spiffe://example.org/ca");
    let client_only = authority().with(extended_key_usage(&[ANY_USAGE]));
    vec![
        world.below("X-02", authority(), Accepted),
        world.chain("X-02 not presented", vec![leaf], Refused("unknown_issuer")),
        world.below("X-30", no_sign, Refused("issuer_no_key_cert_sign")),
        world.below("X-30 absent", authority().without(KEY_USAGE), Refused("issuer_key_usage_missing")),
        world.below("X-30 not critical", loose, Refused("issuer_key_usage_not_critical")),
        world.chain("X-31", both, Accepted),
        world.below("X-32", authority().with(basic_constraints(false, None)), Refused("issuer_not_ca")),
        world.below("X-32 absent", authority().without(BASIC_CONSTRAINTS), Refused("issuer_not_ca")),
        world.below("X-32 expired", authority().valid(-3600, -10), Refused("issuer_expired")),
        world.below("X-32 early", authority().valid(600, 3600), Refused("issuer_not_yet_valid")),
        world.below("X-32 usage", client_only, Refused("issuer_wrong_usage")),
        too_long,
        direct,
        world.below("X-45", other, Accepted),
        world.below("X-45 with a path", with_path, Refused("issuer_spiffe_id_with_path")),
    ]
}

fn constraints(world: &World) -> Vec<Case> {
    let root = || Draft::authority("CA1", "spiffe://example.org");
    let inside = name_constraints(&[(DNS, b"example.org")], &[]);
    let ten = name_constraints(&[(IP, &[10, 0, 0, 0, 255, 0, 0, 0])], &[]);
    let named = |tag: u8, name: &[u8]| base().with(subject_alt_name(&[(URI, ID.as_bytes()), (tag, name)]));
    let uri =
        |permitted: &[(u8, &[u8])], excluded: &[(u8, &[u8])]| authority().with(name_constraints(permitted, excluded));
    let uri_code = Refused("uri_name_constraint_unsupported");
    let directory: &[u8] = &common_name("workload");
    vec![
        world.below("X-34", uri(&[(URI, b"example.org")], &[]), uri_code),
        world.below("X-34 excluded", uri(&[], &[(URI, b"evil.example")]), uri_code),
        world.below(
            "X-34 directory",
            uri(&[(DIRECTORY, directory)], &[]),
            Refused("directory_name_constraint_unsupported"),
        ),
        world.rooted("X-36", root().with(inside.clone()), &named(DNS, b"a.evil.example"), Refused("name_constraint")),
        world.rooted("X-36 inside", root().with(inside.clone()), &named(DNS, b"a.example.org"), Accepted),
        world.rooted("X-36 no DNS name", root().with(inside), &base(), Accepted),
        world.rooted("X-36 IP", root().with(ten.clone()), &named(IP, &[192, 0, 2, 1]), Refused("name_constraint")),
        world.rooted("X-36 IP inside", root().with(ten), &named(IP, &[10, 1, 2, 3]), Accepted),
    ]
}

fn limits(world: &World) -> Vec<Case> {
    let deep = |count: usize| {
        let mut presented = Vec::new();
        let mut issuer = world.ca1.clone();
        for level in 0..count {
            issuer = issuer.intermediate(Draft::authority(&format!("I{level}"), "spiffe://example.org"));
            presented.insert(0, issuer.der.clone());
        }
        presented.insert(0, issuer.issue(&base(), &world.key));
        presented
    };
    let flood = [vec![world.ca1.issue(&base(), &world.key)], vec![world.ca2.der.clone(); 99]].concat();
    let large = Extension { oid: UNKNOWN, critical: false, value: vec![0; 60_000] };
    let filler = world.ca2.issue(&base().adding(large), &world.key);
    let heavy = vec![world.ca1.issue(&base(), &world.key), filler.clone(), filler];
    vec![
        world.chain("X-52 six", deep(6), Accepted),
        world.chain("X-52", deep(8), Refused("path_too_long")),
        world.chain("X-52 flood", flood, Refused("chain_too_long")),
        world.chain("X-52 bytes", heavy, Refused("chain_too_large")),
    ]
}
