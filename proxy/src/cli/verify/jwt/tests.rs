//! The command on every case for tokens, from files, and on what it cannot tell.

use super::{BundleFormat, Judgement, JwtArgs, judge};
use crate::cli::verify::{VerifyArgs, What};
use crate::token::tests::cases::{AUDIENCE, Case, HEADER, Verdict};
use crate::token::tests::signers::base64url;
use crate::token::tests::{CASES, NOW, WORLD};
use crate::token::{Algorithm, LEEWAY_DEFAULT};
use aws_lc_rs::digest::{SHA256, digest};
use clap::{Args, FromArgMatches};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path
}

/// The case as files, and the arguments that name them.
fn files(folder: &Path, case: &Case) -> JwtArgs {
    let bundle = |index: usize| write(folder, &format!("{index}.json"), &case.bundles[index].1.to_string());
    let federated =
        (1..case.bundles.len()).map(|index| format!("{}={}", case.bundles[index].0, bundle(index).display()));
    JwtArgs {
        token: write(folder, "token", &case.token),
        audience: vec![AUDIENCE.to_owned()],
        trust_domain: Some(case.bundles[0].0.to_owned()),
        bundle: Some(bundle(0)),
        federated: federated.collect(),
        bundle_format: if case.spiffe_bundles { BundleFormat::Spiffe } else { BundleFormat::WorkloadApi },
        issuer: None,
        jwks: None,
        algorithms: Vec::new(),
        certificate: None,
        at: None,
        leeway: LEEWAY_DEFAULT,
    }
}

fn good(folder: &Path) -> JwtArgs {
    let case = CASES.iter().find(|case| case.name == "J-14 control").expect("a case");
    files(folder, case)
}

fn code(judgement: Judgement) -> Option<&'static str> {
    judgement.verdict.err().map(|problem| problem.code())
}

#[test]
fn judges_every_case() {
    let folder = tempfile::tempdir().expect("a folder");
    // A file's trailing whitespace is not the token's, and without any bundle there are no arguments.
    for case in CASES.iter().filter(|case| !case.name.ends_with(" behind") && !case.bundles.is_empty()) {
        let judgement = judge(&files(folder.path(), case), now()).expect(&case.name);
        let found = code(judgement).map_or(Verdict::Accepted, Verdict::Refused);
        assert_eq!(found, case.verdict, "{}", case.name);
    }
}

#[test]
fn a_file_may_end_with_a_newline() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = good(folder.path());
    for end in ["\n", "\r\n", " \n\n"] {
        let token = write(folder.path(), "token", &format!("{}{end}", WORLD.good()));
        assert_eq!(code(judge(&JwtArgs { token, ..args.clone() }, now()).expect("a verdict")), None);
    }
}

#[test]
fn names_rule_and_section() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = good(folder.path());
    let accepted = judge(&args, now()).expect("a verdict").describe();
    assert!(
        accepted.starts_with("accepted: spiffe://example.org/a\n  issuer: (none)\n  audience: svc\n"),
        "{accepted}"
    );
    assert!(accepted.contains("\n  algorithm: ES256\n  kid: k1\n"), "{accepted}");
    let refused = judge(&JwtArgs { audience: vec!["other".to_owned()], ..args }, now()).expect("a verdict").describe();
    assert!(refused.ends_with("\n  rule: audience_wrong\n  section: JWT-SVID §3.2\n"), "{refused}");
}

#[test]
fn expects_a_time_with_leeway() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = good(folder.path());
    let at = |at: &str, leeway: u64| {
        let args = JwtArgs { at: Some(at.to_owned()), leeway: Duration::from_secs(leeway), ..args.clone() };
        code(judge(&args, SystemTime::UNIX_EPOCH).expect("a verdict"))
    };
    // It expires at 00:05.
    assert_eq!(at("2026-11-22T00:05:29Z", 30), None);
    assert_eq!(at("2026-11-22T00:05:30Z", 30), Some("expired"));
    assert_eq!(at("2026-11-22T00:05:30Z", 31), None);
    assert_eq!(at("2026-11-21T23:00:00Z", 30), Some("issued_in_future"));
}

#[test]
fn judges_tokens_of_an_issuer() {
    let folder = tempfile::tempdir().expect("a folder");
    let claims = json!({"iss": "https://issuer.example", "sub": "248", "aud": AUDIENCE, "exp": NOW + 300});
    let args = JwtArgs {
        token: write(folder.path(), "issued", &WORLD.k1.token(HEADER, &claims.to_string())),
        trust_domain: None,
        bundle: None,
        federated: Vec::new(),
        issuer: Some("https://issuer.example".to_owned()),
        jwks: Some(write(folder.path(), "jwks", &json!({"keys": WORLD.keys()}).to_string())),
        ..good(folder.path())
    };
    let judgement = judge(&args, now()).expect("a verdict");
    assert_eq!(judgement.passed_over.len(), 1, "the Ed25519 key is named");
    let description = judgement.describe();
    assert!(description.starts_with("accepted: 248\n  issuer: https://issuer.example\n"), "{description}");
    let narrow = JwtArgs { algorithms: vec![Algorithm::Rs256], ..args.clone() };
    assert_eq!(code(judge(&narrow, now()).expect("a verdict")), Some("algorithm_not_allowed"));
    let other = JwtArgs { issuer: Some("https://issuer.example/".to_owned()), ..args };
    assert_eq!(code(judge(&other, now()).expect("a verdict")), Some("issuer_unknown"));
}

#[test]
fn a_bound_token_wants_its_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let certified = rcgen::generate_simple_self_signed(vec!["client.example".to_owned()]).expect("a certificate");
    let hash = digest(&SHA256, certified.cert.der());
    let claims = WORLD.claims_with("cnf", json!({"x5t#S256": base64url(hash.as_ref())}));
    let args = good(folder.path());
    let args = JwtArgs { token: write(folder.path(), "bound", &WORLD.k1.token(HEADER, &claims)), ..args };
    assert_eq!(code(judge(&args, now()).expect("a verdict")), Some("holder_wrong"));
    let certificate = Some(write(folder.path(), "client.pem", &certified.cert.pem()));
    assert_eq!(code(judge(&JwtArgs { certificate, ..args }, now()).expect("a verdict")), None);
}

#[test]
fn says_when_it_cannot_tell() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = good(folder.path());
    let broken = write(folder.path(), "broken", "{\"keys\": 1}");
    let again = format!("example.org={}", args.bundle.as_ref().expect("a bundle").display());
    let table = [
        (JwtArgs { token: folder.path().join("absent"), ..args.clone() }, "cannot read "),
        (JwtArgs { bundle: Some(folder.path().join("absent")), ..args.clone() }, "cannot read "),
        (JwtArgs { bundle: Some(broken), ..args.clone() }, "is no set of keys"),
        (JwtArgs { trust_domain: Some("Example.org".to_owned()), ..args.clone() }, "is no trust domain"),
        (JwtArgs { federated: vec!["other.org".to_owned()], ..args.clone() }, "not of the form NAME=FILE"),
        (JwtArgs { federated: vec![again], ..args.clone() }, "two bundles"),
        (JwtArgs { at: Some("yesterday".to_owned()), ..args.clone() }, "is no time"),
        (JwtArgs { certificate: Some(args.token.clone()), ..args.clone() }, "no PEM certificate"),
        (JwtArgs { trust_domain: None, bundle: None, ..args.clone() }, "neither --trust-domain"),
    ];
    for (args, words) in table {
        let error = judge(&args, now()).err().expect(words);
        assert!(error.to_string().contains(words), "{error}");
    }
}

fn parsed(line: &str) -> Result<JwtArgs, clap::Error> {
    let command = VerifyArgs::augment_args(clap::Command::new("verify"));
    let matches = command.try_get_matches_from(line.split_whitespace())?;
    match VerifyArgs::from_arg_matches(&matches)?.what {
        What::Jwt(args) => Ok(args),
        What::Svid(_) => panic!("another command"),
    }
}

#[test]
fn arguments_as_documented() {
    let args = parsed(
        "verify jwt --token - --audience a --audience b --trust-domain example.org --bundle b.json \
         --federated other.org=o.json --bundle-format spiffe --at 2026-11-22T01:00:00Z --leeway 1m",
    )
    .expect("arguments");
    assert_eq!((args.audience, args.leeway), (vec!["a".to_owned(), "b".to_owned()], Duration::from_secs(60)));
    assert_eq!(args.bundle_format, BundleFormat::Spiffe);
    let args =
        parsed("verify jwt --token t --audience a --issuer i --jwks j --algorithms RS256,ES512").expect("arguments");
    assert_eq!(args.algorithms, [Algorithm::Rs256, Algorithm::Es512]);
    assert_eq!(args.leeway, LEEWAY_DEFAULT);
    for line in [
        "verify jwt --token t --audience a",
        "verify jwt --token t --trust-domain example.org --bundle b",
        "verify jwt --token t --audience a --trust-domain example.org",
        "verify jwt --token t --audience a --issuer i",
        "verify jwt --token t --audience a --issuer i --jwks j --algorithms HS256",
        "verify jwt --token t --audience a --issuer i --jwks j --algorithms none",
        "verify jwt --token t --audience a --issuer i --jwks j --trust-domain example.org --bundle b",
    ] {
        assert!(parsed(line).is_err(), "{line}");
    }
}
