//! x509-limbo: certificates that others made, for path building, validity, name constraints and limits.
//!
//! Its cases are about DNS names, so the rules of SPIFFE are left out: the roots go through the bundle loader, the path
//! through [`verify_path_by`], as in the data plane; the DNS name is then checked by webpki, here. What differs from
//! the corpus' expectation is listed with its reason, and nothing else may.

use anyhow::{Context, Result};
use postern::tls::Role;
use postern::tls::authority::AuthorityRules;
use postern::tls::bundle::load_bundle_by;
use postern::tls::certificate::Fields;
use postern::tls::path::{Terms, verify_path_by};
use postern_config::TrustDomain;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::EndEntityCert;

#[test]
fn tl_12_x509_limbo_paths() -> Result<()> {
    let file = corpora().join("x509-limbo.json");
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("SKIPPED tl_12_x509_limbo_paths: {} is absent; set POSTERN_CORPORA", file.display());
        return Ok(());
    };
    let corpus: Value = serde_json::from_str(&text)?;
    let cases = corpus["testcases"].as_array().context("no test cases")?;
    let expected: BTreeMap<&str, &str> = differences();
    let mut found = BTreeMap::new();
    for case in cases {
        let id = case["id"].as_str().context("a case without id")?;
        let should_pass = case["expected_result"] == "SUCCESS";
        let outcome = judge(case).with_context(|| id.to_owned())?;
        if outcome.is_ok() != should_pass {
            found.insert(id, outcome.err().unwrap_or("accepted"));
        }
    }
    assert!(cases.len() >= 200, "the corpus has {} cases only", cases.len());
    let unlisted: Vec<_> = found.iter().filter(|(id, outcome)| expected.get(*id) != Some(*outcome)).collect();
    assert!(unlisted.is_empty(), "differs from the corpus and is not listed: {unlisted:#?}");
    let gone: Vec<_> = expected.keys().filter(|id| !found.contains_key(*id)).collect();
    assert!(gone.is_empty(), "listed, but differs no more: {gone:#?}");
    Ok(())
}

pub(crate) fn corpora() -> PathBuf {
    match std::env::var_os("POSTERN_CORPORA") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpora")),
    }
}

/// The code of the rule broken, or what the name check says.
fn judge(case: &Value) -> Result<Result<(), &'static str>> {
    let now = match case["validation_time"].as_str() {
        Some(text) => SystemTime::from(OffsetDateTime::parse(text, &Rfc3339)?),
        // 2026-01-01: the corpus means "now", and its certificates that are valid at all are so for centuries.
        None => SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
    };
    let role = if case["validation_kind"] == "CLIENT" { Role::Client } else { Role::Server };
    let rules = AuthorityRules::Rfc5280;
    let (bundle, _) = load_bundle_by(rules, TrustDomain::parse("limbo")?, certificates(&case["trusted_certs"])?, now);
    let intermediates = certificates(&case["untrusted_intermediates"])?;
    let leaf = CertificateDer::from_pem_slice(case["peer_certificate"].as_str().context("no leaf")?.as_bytes())?;
    let Ok(fields) = Fields::read(&leaf) else {
        return Ok(Err("leaf_malformed"));
    };
    let terms = Terms { algorithms: webpki::ALL_VERIFICATION_ALGS, rules, role, now };
    if let Err(error) = verify_path_by(&terms, &leaf, &fields, &intermediates, &bundle.anchors) {
        return Ok(Err(error.code()));
    }
    let Some(name) = case["expected_peer_name"]["value"].as_str() else {
        return Ok(Ok(()));
    };
    let named = ServerName::try_from(name.to_owned()).is_ok_and(|name| {
        EndEntityCert::try_from(&leaf).is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    });
    Ok(if named { Ok(()) } else { Err("name (checked by the test)") })
}

fn certificates(list: &Value) -> Result<Vec<CertificateDer<'static>>> {
    list.as_array()
        .context("no list")?
        .iter()
        .map(|pem| Ok(CertificateDer::from_pem_slice(pem.as_str().context("no PEM")?.as_bytes())?))
        .collect()
}

/// Cases judged otherwise than the corpus expects: ours, by reason.
fn differences() -> BTreeMap<&'static str, &'static str> {
    let table: &[(&str, &[&str])] = &[
        ("accepted", CRLS),
        ("accepted", DEPTH_BY_CALLER),
        ("accepted", RULES_FOR_ISSUERS),
        ("accepted", RULES_FOR_WEB_LEAVES),
        ("accepted", IDENTITY_RULES),
        ("leaf_is_ca", CA_AS_LEAF),
        ("name_constraint", EMAIL_CONSTRAINTS),
        ("directory_name_constraint_unsupported", &["rfc5280::nc::permitted-dn-match"]),
        ("bad_signature", SELF_ISSUED),
    ];
    table.iter().flat_map(|(outcome, ids)| ids.iter().map(|id| (*id, *outcome))).collect()
}

/// CRLs are not read by the path validation.
const CRLS: &[&str] = &[
    "crl::crlnumber-critical",
    "crl::crlnumber-missing",
    "crl::issuer-missing-crlsign",
    "crl::revoked-certificate-with-crl",
];

/// The corpus lets the caller bound the depth; our bound is fixed.
const DEPTH_BY_CALLER: &[&str] = &["pathlen::max-chain-depth-0-exhausted", "pathlen::max-chain-depth-1-exhausted"];

/// Left out here with the identity rules: `verify_svid` refuses these leaves (X-05, X-14, key kinds).
const IDENTITY_RULES: &[&str] = &[
    "rfc5280::leaf-ku-keycertsign",
    "rfc5280::san::noncritical-with-empty-subject",
    "webpki::forbidden-dsa-leaf",
    "webpki::forbidden-p192-leaf",
    "webpki::forbidden-weak-rsa-in-leaf",
];

/// What the CA/Browser Forum or RFC 5280 ask of issuers of web leaves; a relying party need not look.
const RULES_FOR_WEB_LEAVES: &[&str] = &[
    "webpki::eku::ee-anyeku",
    "rfc5280::aki::leaf-missing-aki",
    "rfc5280::nc::not-allowed-in-ee-critical",
    "rfc5280::nc::not-allowed-in-ee-noncritical",
    "rfc5280::san::underscore-dns",
    "rfc5280::serial::too-long",
    "rfc5280::serial::zero",
    "webpki::cn::case-mismatch",
    "webpki::cn::ipv4-hex-mismatch",
    "webpki::cn::ipv4-leading-zeros-mismatch",
    "webpki::cn::ipv6-non-rfc5952-mismatch",
    "webpki::cn::ipv6-uncompressed-mismatch",
    "webpki::cn::ipv6-uppercase-mismatch",
    "webpki::cn::not-in-san",
    "webpki::cn::punycode-not-in-san",
    "webpki::cn::utf8-vs-punycode-mismatch",
    "webpki::eku::ee-critical-eku",
    "webpki::eku::ee-without-eku",
    "webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf",
    "webpki::malformed-aia",
    "webpki::san::public-suffix-multi-label-wildcard-san",
    "webpki::san::public-suffix-private-namespace-wildcard-san",
    "webpki::san::san-critical-with-nonempty-subject",
];

/// Stricter, as X509-SVID §5.2 asks.
const CA_AS_LEAF: &[&str] = &["pathlen::validation-ignores-pathlen-in-leaf", "rfc5280::ca-as-leaf"];

/// Stricter: webpki does not read constraints on e-mail addresses, so it refuses them.
const EMAIL_CONSTRAINTS: &[&str] = &[
    "rfc5280::nc::nc-permits-email-domain",
    "rfc5280::nc::nc-permits-email-exact",
    "rfc5280::nc::nc-permits-email-literal-asterisk-exact-match",
    "rfc5280::nc::nc-permits-email-literal-double-asterisk",
    "rfc5280::nc::nc-permits-email-literal-mid-asterisk",
];

/// Stricter: webpki counts and constrains self-issued intermediates like others.
const SELF_ISSUED: &[&str] = &["pathlen::self-issued-certs-pathlen", "rfc5280::nc::permitted-self-issued"];

/// Form of issuers' certificates that does not change what they may vouch for.
const RULES_FOR_ISSUERS: &[&str] = &[
    "rfc5280::aki::critical-aki",
    "rfc5280::aki::cross-signed-root-missing-aki",
    "rfc5280::aki::intermediate-missing-aki",
    "rfc5280::ca-empty-subject",
    "rfc5280::nc::invalid-dnsname-leading-period",
    "rfc5280::nc::permitted-dns-match-noncritical",
    "rfc5280::pc::ica-noncritical-pc",
    "rfc5280::root-non-critical-basic-constraints",
    "rfc5280::ski::critical-ski",
    "rfc5280::ski::intermediate-missing-ski",
    "rfc5280::ski::root-missing-ski",
    "webpki::aki::root-with-aki-all-fields",
    "webpki::aki::root-with-aki-authoritycertissuer",
    "webpki::aki::root-with-aki-authoritycertserialnumber",
    "webpki::aki::root-with-aki-missing-keyidentifier",
    "webpki::aki::root-with-aki-ski-mismatch",
    "webpki::eku::root-has-eku",
    "webpki::forbidden-rsa-not-divisible-by-8-in-root",
    "webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences",
    "webpki::nc::intermediate-permitted-excluded-subtrees-both-null",
];
