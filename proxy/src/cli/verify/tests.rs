//! The command on every certificate case, from files, and on what it cannot tell.

use super::{Judgement, Refused, RoleArg, SvidArgs, VerifyArgs, judge};
use crate::tls::tests::cases::{Case, Verdict, World, all};
use crate::tls::tests::certificates::as_pem;
use clap::{Args, FromArgMatches};
use rustls_pki_types::CertificateDer;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[test]
fn judges_every_certificate_case() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a folder");
    for case in all(&world) {
        let args = write(folder.path(), &case);
        for (role, expected) in [(RoleArg::Client, case.as_client), (RoleArg::Server, case.as_server)] {
            let strict = SvidArgs { role: Some(role), ..args.clone() };
            assert_eq!(verdict(&strict), expected, "{} as {role:?}", case.name);
            let compat = SvidArgs { compat: true, ..strict };
            assert_eq!(verdict(&compat), case.compat.unwrap_or(expected), "{} as {role:?}, compat", case.name);
        }
        let both = if case.as_client == Verdict::Accepted { case.as_server } else { case.as_client };
        assert_eq!(verdict(&args), both, "{} in both roles", case.name);
    }
}

#[test]
fn names_rule_and_section() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a folder");
    let judged = |name: &str| -> Judgement {
        let case = all(&world).into_iter().find(|case| case.name == name).expect("a case");
        judge(&write(folder.path(), &case), SystemTime::now()).expect("a verdict")
    };
    let refused = judged("X-08").describe();
    assert!(refused.contains("rule: multiple_uri_names\n  section: X509-SVID §2\n"), "{refused}");
    let accepted = judged("X-01").describe();
    assert!(accepted.starts_with("accepted: spiffe://example.org/a\n  serial: 010fa0\n"), "{accepted}");
    assert_eq!(judged("X-39").passed_over.len(), 1);
}

#[test]
fn expects_an_identity_and_a_time() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a folder");
    let args = write(folder.path(), &all(&world)[0]);
    let with = |change: fn(&mut SvidArgs)| {
        let mut changed = args.clone();
        change(&mut changed);
        judge(&changed, SystemTime::now())
            .map(|judgement| judgement.verdict.map(|_| ()).map_err(|refused| refused.rule()))
    };
    let good = with(|args| args.id = Some("spiffe://example.org/a".to_owned()));
    assert_eq!(good.expect("a verdict"), Ok(()));
    let other = with(|args| args.id = Some("spiffe://example.org/b".to_owned()));
    assert_eq!(other.expect("a verdict"), Err("wrong_identity"));
    let early = with(|args| args.at = Some("2001-02-03T04:05:06Z".to_owned()));
    assert_eq!(early.expect("a verdict"), Err("not_yet_valid"));
    let late = with(|args| args.at = Some("2049-02-03T04:05:06+01:00".to_owned()));
    assert_eq!(late.expect("a verdict"), Err("empty_bundle"));
}

#[test]
fn says_when_it_cannot_tell() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a folder");
    let args = write(folder.path(), &all(&world)[0]);
    let der = folder.path().join("chain.der");
    std::fs::write(&der, b"\x30\x00").expect("written");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, b"\n").expect("written");
    let broken = folder.path().join("broken.pem");
    std::fs::write(&broken, b"-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n").expect("written");
    let table = [
        (SvidArgs { chain: folder.path().join("absent"), ..args.clone() }, "cannot read certificates"),
        (SvidArgs { chain: der, ..args.clone() }, "no PEM certificate"),
        (SvidArgs { chain: empty, ..args.clone() }, "no PEM certificate"),
        (SvidArgs { bundle: broken, ..args.clone() }, "cannot read certificates"),
        (SvidArgs { at: Some("yesterday".to_owned()), ..args.clone() }, "is no time"),
        (SvidArgs { trust_domain: "Example.org".to_owned(), ..args.clone() }, "is no trust domain"),
        (SvidArgs { federated: vec!["other.org".to_owned()], ..args.clone() }, "not of the form"),
        (SvidArgs { federated: vec![format!("example.org={}", args.bundle.display())], ..args.clone() }, "two bundles"),
    ];
    for (args, words) in table {
        let error = judge(&args, SystemTime::now()).err().expect(words);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn arguments_as_documented() {
    let line = "verify svid --bundle b.pem --chain c.pem --trust-domain example.org --federated other.org=o.pem \
                --id spiffe://example.org/a --at 2026-11-22T01:00:00Z --role client --compat";
    let command = VerifyArgs::augment_args(clap::Command::new("verify"));
    let matches = command.try_get_matches_from(line.split_whitespace()).expect("arguments");
    let super::What::Svid(args) = VerifyArgs::from_arg_matches(&matches).expect("arguments").what else {
        panic!("another command");
    };
    assert_eq!(args.role, Some(RoleArg::Client));
    assert_eq!(args.federated, ["other.org=o.pem"]);
    assert!(args.compat);
}

fn verdict(args: &SvidArgs) -> Verdict {
    match judge(args, SystemTime::now()).expect("a verdict").verdict {
        Ok(_) => Verdict::Accepted,
        Err(Refused::Svid { source, .. }) => Verdict::Refused(source.code()),
        Err(other @ Refused::WrongIdentity { .. }) => panic!("{other}"),
    }
}

/// The case as files, and the arguments that name them.
fn write(folder: &Path, case: &Case) -> SvidArgs {
    let pem = |name: &str, certificates: &[CertificateDer<'_>]| -> PathBuf {
        let path = folder.join(name);
        let text: String = certificates.iter().map(|der| as_pem(der)).collect();
        std::fs::write(&path, text).expect("written");
        path
    };
    let (trust_domain, own) = &case.bundles[0];
    let federated = case.bundles[1..]
        .iter()
        .map(|(name, certificates)| format!("{name}={}", pem(&format!("{name}.pem"), certificates).display()))
        .collect();
    SvidArgs {
        bundle: pem("bundle.pem", own),
        chain: pem("chain.pem", &case.chain),
        trust_domain: (*trust_domain).to_owned(),
        federated,
        id: None,
        at: None,
        role: None,
        compat: false,
    }
}
