//! Tokens of issuers that are no trust domain.

use super::cases::AUDIENCE;
use super::{NOW, WORLD, at, expectation, key_set, trusted};
use crate::identity::{IssuerKeys, Snapshot};
use crate::token::{
    Accepted, AcceptedIssuer, Algorithm, Issuer, Origin, RememberedTokens, Subject, Trust, Verified, judge,
};
use serde_json::{Value, json};
use std::sync::Arc;

const NAME: &str = "https://issuer.example/realms/one";

fn issuer(keys: Vec<Value>) -> Issuer {
    let keys = key_set(&json!({"keys": keys}), Origin::Issuer);
    Issuer { name: NAME.to_owned(), algorithms: vec![Algorithm::Es256, Algorithm::Rs256], keys: Arc::new(keys) }
}

fn claims() -> Value {
    json!({"iss": NAME, "sub": "248289761001", "aud": AUDIENCE, "exp": NOW + 300, "iat": NOW, "scope": "read"})
}

fn claims_with(claim: &str, value: Value) -> String {
    let mut claims = claims();
    claims[claim] = value;
    claims.to_string()
}

fn judged(issuers: &[Issuer], header: &str, claims: &str) -> Result<Verified, &'static str> {
    let token = WORLD.k1.token(header, claims);
    judge(token.as_bytes(), &Trust::Issuers(issuers), &expectation(), at(NOW)).map_err(|problem| problem.code())
}

fn code(header: &str, claims: &str) -> Option<&'static str> {
    let keys = vec![WORLD.k1.jwk("k1"), WORLD.p384.jwk("p384"), WORLD.rsa.jwk("rsa")];
    judged(&[issuer(keys)], header, claims).err()
}

const HEADER: &str = r#"{"alg":"ES256","kid":"k1"}"#;

#[test]
fn a_good_one_is_known_by_issuer_and_subject() {
    let keys = vec![WORLD.k1.jwk("k1")];
    let verified = judged(&[issuer(keys)], HEADER, &claims().to_string()).expect("accepted");
    assert_eq!(verified.subject, Subject::Named("248289761001".to_owned()));
    assert_eq!(verified.registered.issuer.as_deref(), Some(NAME));
    assert_eq!(verified.registered.scopes, ["read"]);
}

/// An issuer that may write any `sub` cannot make a workload.
#[test]
fn its_subject_is_never_a_workload() {
    let spiffe = claims_with("sub", json!("spiffe://example.org/a"));
    let verified = judged(&[issuer(vec![WORLD.k1.jwk("k1")])], HEADER, &spiffe).expect("accepted");
    assert_eq!(verified.subject, Subject::Named("spiffe://example.org/a".to_owned()));
}

/// And a trust domain's keys are not looked for by `iss`.
#[test]
fn its_token_is_no_jwt_svid() {
    let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
    let token = WORLD.k1.token(HEADER, &claims().to_string());
    let judged = judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expectation(), at(NOW));
    assert_eq!(judged.expect_err("refused").code(), "subject_invalid");
}

#[test]
fn the_issuer_is_compared_by_bytes() {
    for other in ["https://issuer.example/realms/one/", "https://ISSUER.example/realms/one", "issuer.example", ""] {
        assert_eq!(code(HEADER, &claims_with("iss", json!(other))), Some("issuer_unknown"), "{other}");
    }
    assert_eq!(code(HEADER, &claims_with("iss", json!([NAME]))), Some("issuer_malformed"));
    let mut without = claims();
    without.as_object_mut().expect("claims").remove("iss");
    assert_eq!(code(HEADER, &without.to_string()), Some("issuer_missing"));
}

/// The keys of one issuer do not vouch for another, whatever `kid` says.
#[test]
fn each_issuer_has_its_own_keys() {
    let other = Issuer { name: "https://other.example".to_owned(), ..issuer(vec![WORLD.other.jwk("k1")]) };
    let own = issuer(vec![WORLD.k1.jwk("k1")]);
    let both = [other, own];
    assert!(judged(&both, HEADER, &claims().to_string()).is_ok());
    let crossed = claims_with("iss", json!("https://other.example"));
    assert_eq!(judged(&both, HEADER, &crossed).err(), Some("signature_invalid"));
    assert_eq!(judged(&[], HEADER, &crossed).err(), Some("issuer_unknown"));
    assert_eq!(judged(&[issuer(vec![])], HEADER, &claims().to_string()).err(), Some("issuer_without_keys"));
}

/// RFC 8725 §3.1: the verifier's choice.
#[test]
fn algorithms_are_those_allowed() {
    let claims = claims().to_string();
    let keys = vec![WORLD.k1.jwk("k1"), WORLD.p384.jwk("p384"), WORLD.rsa.jwk("rsa")];
    let issuers = [issuer(keys)];
    let verdict = |token: String| {
        judge(token.as_bytes(), &Trust::Issuers(&issuers), &expectation(), at(NOW)).err().map(|problem| problem.code())
    };
    assert_eq!(verdict(WORLD.rsa.token(r#"{"alg":"RS256","kid":"rsa"}"#, &claims)), None);
    for algorithm in ["PS256", "RS384"] {
        let header = json!({"alg": algorithm, "kid": "rsa"}).to_string();
        assert_eq!(verdict(WORLD.rsa.token(&header, &claims)), Some("algorithm_not_allowed"));
    }
    let header = r#"{"alg":"ES384","kid":"p384"}"#;
    assert_eq!(verdict(WORLD.p384.token(header, &claims)), Some("algorithm_not_allowed"));
    assert_eq!(code(r#"{"alg":"HS256","kid":"k1"}"#, &claims), Some("algorithm_unknown"));
}

/// RFC 7515 §4: what is not understood is ignored, but what changes the meaning of the bytes.
#[test]
fn header_members_are_let_be_but_three() {
    let claims = claims().to_string();
    let header = |member: &str, value: Value| json!({"alg": "ES256", "kid": "k1", member: value}).to_string();
    for (member, value) in [
        ("typ", json!("at+jwt")),
        ("typ", json!("JWT")),
        ("cty", json!("x")),
        ("x5t", json!("x")),
        ("x5c", json!(["x"])),
        ("jku", json!("https://evil.example/keys")),
        ("jwk", WORLD.other.jwk("k1")),
        ("org.example", json!({"x": 1})),
    ] {
        assert_eq!(code(&header(member, value), &claims), None, "{member}");
    }
    for (member, value) in [("crit", json!(["exp"])), ("crit", json!([])), ("b64", json!(true)), ("zip", json!("DEF"))]
    {
        assert_eq!(code(&header(member, value), &claims), Some("header_member"), "{member}");
    }
    assert_eq!(code(&header("typ", json!(1)), &claims), Some("type_not_text"));
}

/// A key that the token brings along verifies nothing.
#[test]
fn keys_come_from_the_issuer_alone() {
    let header = json!({"alg": "ES256", "jwk": WORLD.other.jwk("k1"), "kid": "k1"}).to_string();
    let token = WORLD.other.token(&header, &claims().to_string());
    let issuers = [issuer(vec![WORLD.k1.jwk("k1")])];
    let judged = judge(token.as_bytes(), &Trust::Issuers(&issuers), &expectation(), at(NOW));
    assert_eq!(judged.expect_err("refused").code(), "signature_invalid");
}

#[test]
fn the_rules_for_claims_are_the_same() {
    let table = [
        ("aud", json!("other"), "audience_wrong"),
        ("aud", json!([5, AUDIENCE]), "audience_malformed"),
        ("exp", json!(NOW - 31), "expired"),
        ("exp", json!("1"), "time_malformed"),
        ("nbf", json!(NOW + 3600), "not_yet_valid"),
        ("iat", json!(NOW + 3600), "issued_in_future"),
        ("sub", json!(""), "subject_malformed"),
        ("sub", json!(5), "subject_malformed"),
    ];
    for (claim, value, expected) in table {
        assert_eq!(code(HEADER, &claims_with(claim, value)), Some(expected), "{claim}");
    }
}

/// What a route takes, of two issuers of which it knows both keys, and of the mesh.
fn shown(svids: bool, names: &[&str], token: &str) -> Result<Subject, &'static str> {
    let issuer = |name: &&str| AcceptedIssuer { name: (*name).to_owned(), algorithms: vec![Algorithm::Es256] };
    let accepted = Accepted { svids, issuers: names.iter().map(issuer).collect() };
    let set = |keys: Vec<Value>| Arc::new(key_set(&json!({"keys": keys}), Origin::Issuer));
    let identity = Snapshot {
        token_keys: Arc::new(trusted(&WORLD.bundles(), Origin::WorkloadApi)),
        issuer_keys: Arc::new(IssuerKeys::from([
            (NAME.to_owned(), set(vec![WORLD.k1.jwk("k1")])),
            (OTHER.to_owned(), set(vec![WORLD.other.jwk("k1")])),
        ])),
        ..Snapshot::empty()
    };
    let mut remembered = RememberedTokens::default();
    // A route that takes everything has judged it before.
    let all = Accepted { svids: true, issuers: [NAME, OTHER].iter().map(issuer).collect() };
    let _ = remembered.with(&identity).verify(token.as_bytes(), &all, at(NOW));
    let judged = remembered.with(&identity).verify(token.as_bytes(), &accepted, at(NOW));
    judged.map(|verified| verified.subject.clone()).map_err(|problem| problem.code())
}

const OTHER: &str = "https://other.example";

/// RFC 8725 §3.8: by `iss` alone, whatever keys would fit, and whatever was remembered of the token.
#[test]
fn jw_09_a_token_is_judged_by_the_one_issuer_that_it_names() {
    let token = |claims: &str| WORLD.k1.token(HEADER, claims);
    let own = token(&claims().to_string());
    let crossed = token(&claims_with("iss", json!(OTHER)));
    let mesh = token(&json!({"sub": "spiffe://example.org/a", "aud": AUDIENCE, "exp": NOW + 300}).to_string());
    let claims_both = token(&claims_with("sub", json!("spiffe://example.org/a")));
    let named = |name: &str| Ok(Subject::Named(name.to_owned()));
    assert_eq!(shown(false, &[NAME], &own), named("248289761001"));
    assert_eq!(shown(true, &[OTHER, NAME], &own), named("248289761001"));
    assert_eq!(shown(false, &[OTHER], &own), Err("issuer_unknown"));
    assert_eq!(shown(true, &[], &own), Err("subject_invalid"));
    assert_eq!(shown(false, &[NAME, OTHER], &crossed), Err("signature_invalid"));
    assert_eq!(shown(false, &[NAME], &mesh), Err("issuer_missing"));
    assert!(matches!(shown(true, &[NAME], &mesh), Ok(Subject::Workload(_))));
    // It is never a workload's where its issuer is known.
    assert_eq!(shown(true, &[NAME], &claims_both), named("spiffe://example.org/a"));
    assert!(matches!(shown(true, &[], &claims_both), Ok(Subject::Workload(_))));
}

#[test]
fn what_is_remembered_says_whose_it_is_and_when_it_was_last_shown() {
    let claims = json!({"sub": "spiffe://example.org/a", "aud": AUDIENCE, "exp": NOW + 300});
    let token = WORLD.k1.token(HEADER, &claims.to_string());
    let accepted = Accepted { svids: true, issuers: Vec::new() };
    let token_keys = Arc::new(trusted(&WORLD.bundles(), Origin::WorkloadApi));
    let identity = Snapshot { token_keys, ..Snapshot::empty() };
    let mut remembered = RememberedTokens::default();
    for now in [NOW, NOW + 60] {
        remembered.with(&identity).verify(token.as_bytes(), &accepted, at(now)).unwrap();
    }
    let infos = remembered.infos();
    let found: Vec<_> = infos.iter().map(|info| (info.subject.as_str(), info.is_svid, info.used_at)).collect();
    assert_eq!(found, [("spiffe://example.org/a", true, at(NOW + 60))]);
}
