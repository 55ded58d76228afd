//! What rules ask of a caller's token.

use super::{WEB, connection, id, readings, who};
use crate::authz::{Asked, Decision, Principal, RequestFacts, RuleSet};
use crate::token::tests::signers::Signer;
use crate::token::{KeySet, Origin, Trust, Verified, verify_signature};
use http::Method;
use postern_config::authz::{Effect, FieldMatch, Rule, Rules, TextPattern, TokenMatch};
use postern_config::{Place, TrustDomain};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

fn token() -> Verified {
    let signer = Signer::p256();
    let keys = json!({ "keys": [signer.jwk("k1")] }).to_string();
    let keys = KeySet::parse(keys.as_bytes(), Origin::WorkloadApi).unwrap();
    let bundles = HashMap::from([(TrustDomain::parse("shop.example").unwrap(), Arc::new(keys))]);
    let claims = json!({
        "sub": WEB, "aud": "orders", "exp": 4_000_000_000_u64, "iss": "https://issuer.example", "scope": "read write",
        "tenant": "acme", "level": 3, "staff": true, "groups": ["ops", "dev"], "act": { "sub": "x" }, "mixed": ["a", {}],
    });
    let token = signer.token(r#"{"alg":"ES256","kid":"k1"}"#, &claims.to_string());
    verify_signature(token.as_bytes(), &Trust::TrustDomains(&bundles)).unwrap()
}

fn patterns(texts: &[&str]) -> Vec<TextPattern> {
    texts.iter().map(|text| TextPattern::parse(text).unwrap()).collect()
}

fn claim(name: &str, values: &[&str]) -> TokenMatch {
    let claims = vec![FieldMatch { name: name.to_owned(), values: patterns(values) }];
    TokenMatch { claims, ..TokenMatch::default() }
}

/// Whether a rule of this kind fits.
fn fits(effect: Effect, wanted: TokenMatch, token: Option<&Verified>) -> bool {
    let about = |name: &str| Rule::about(name.to_owned(), who(&["spiffe://shop.example/**"]), Place::command_line());
    let rule = Rule { token: Some(wanted), ..about("asked") };
    let mut rules = Rules { allow: vec![about("all")], ..Rules::default() };
    match effect {
        Effect::Allow => rules.allow = vec![rule],
        Effect::Deny => rules.deny.push(rule),
        Effect::Require => rules.require.push(rule),
    }
    let (caller, read) = (id(WEB), readings("/orders/7"));
    let method = Method::GET;
    let facts =
        RequestFacts { method: &method, host: "h", readings: &read, headers: None, query: None, token, caller: None };
    let principal = Principal::Spiffe(&caller);
    let decision = RuleSet::compile(&rules).decide(&Asked { request: Some(facts), ..connection(&principal) });
    match effect {
        Effect::Deny => matches!(decision, Decision::Denied { .. }),
        Effect::Allow | Effect::Require => decision.is_allowed(),
    }
}

#[test]
fn each_part_of_what_a_token_says_can_be_asked_for() {
    let token = token();
    let subject = |texts: &[&str]| TokenMatch { subjects: patterns(texts), ..TokenMatch::default() };
    let issuer = |texts: &[&str]| TokenMatch { issuers: patterns(texts), ..TokenMatch::default() };
    let scopes = |texts: &[&str]| TokenMatch {
        scopes: texts.iter().map(|text| (*text).to_owned()).collect(),
        ..TokenMatch::default()
    };
    for (wanted, expected) in [
        (subject(&[WEB]), true),
        (subject(&["spiffe://shop.example/*"]), true),
        (subject(&["spiffe://other.example/*"]), false),
        (issuer(&["https://issuer.example"]), true),
        (issuer(&["https://issuer.example/"]), false),
        (scopes(&["write", "read"]), true),
        (scopes(&["read", "admin"]), false),
        (claim("tenant", &["acme"]), true),
        (claim("tenant", &["ac*", "x"]), true),
        (claim("tenant", &["ACME"]), false),
        (claim("level", &["3"]), true),
        (claim("staff", &["true"]), true),
        (claim("groups", &["dev"]), true),
        (claim("groups", &["admin"]), false),
        (claim("nothing", &["*"]), false),
    ] {
        for effect in [Effect::Allow, Effect::Require, Effect::Deny] {
            assert_eq!(fits(effect, wanted.clone(), Some(&token)), expected, "{effect:?} {wanted:?}");
        }
    }
}

/// What cannot be compared, and a token that is not there, count against the request.
#[test]
fn what_is_not_known_is_denied_and_never_allowed() {
    let token = token();
    for wanted in [claim("act", &["*"]), claim("mixed", &["a"])] {
        assert!(fits(Effect::Deny, wanted.clone(), Some(&token)));
        assert!(!fits(Effect::Allow, wanted.clone(), Some(&token)));
        assert!(!fits(Effect::Require, wanted, Some(&token)));
    }
    let wanted = claim("tenant", &["acme"]);
    assert!(fits(Effect::Deny, wanted.clone(), None));
    assert!(!fits(Effect::Allow, wanted.clone(), None) && !fits(Effect::Require, wanted, None));
}
