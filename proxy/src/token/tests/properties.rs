//! What holds for any bytes.

use super::cases::{HEADER, ID};
use super::signers::base64url;
use super::{NOW, WORLD, at, expectation, trusted};
use crate::token::{KeySet, Origin, Trust, Verified, judge};
use postern_config::TrustDomain;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

static BUNDLES: LazyLock<HashMap<TrustDomain, Arc<KeySet>>> =
    LazyLock::new(|| trusted(&WORLD.bundles(), Origin::WorkloadApi));
static GOOD: LazyLock<String> = LazyLock::new(|| WORLD.good());

fn judged(token: &[u8]) -> Option<Verified> {
    judge(token, &Trust::TrustDomains(&BUNDLES), &expectation(), at(NOW)).ok()
}

/// Each bit of it matters.
#[test]
fn a_good_token_with_any_bit_changed_is_refused() {
    assert!(judged(GOOD.as_bytes()).is_some());
    for place in 0..GOOD.len() {
        for bit in [0, 1, 5] {
            let mut token = GOOD.clone().into_bytes();
            token[place] ^= 1 << bit;
            assert!(judged(&token).is_none(), "byte {place}, bit {bit}");
        }
    }
}

#[test]
fn a_good_token_that_is_cut_is_refused() {
    for end in 0..GOOD.len() {
        assert!(judged(&GOOD.as_bytes()[..end]).is_none(), "{end}");
        assert!(judged(&GOOD.as_bytes()[end + 1..]).is_none(), "{end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused(token in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(judged(&token).is_none());
    }

    #[test]
    fn any_three_parts_are_refused(header in ".{0,60}", claims in ".{0,60}", signature in prop::collection::vec(any::<u8>(), 0..80)) {
        let parts = [header.as_bytes(), claims.as_bytes(), &signature].map(base64url);
        prop_assert!(judged(parts.join(".").as_bytes()).is_none());
    }

    #[test]
    fn a_good_token_with_any_byte_changed_is_refused(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut token = GOOD.clone().into_bytes();
        let place = place.index(token.len());
        prop_assume!(token[place] != byte);
        token[place] = byte;
        prop_assert!(judged(&token).is_none());
    }

    /// What is signed, and odd, is judged by its rules and never panics.
    #[test]
    fn any_signed_header_and_claims_are_judged(header in "\\{(\"(alg|kid|typ|crit)\":(\"(ES256|k1|JWT)\"|1),?){0,4}\\}", claims in ".{0,80}") {
        let token = WORLD.k1.token(&header, &claims);
        prop_assert!(judged(token.as_bytes()).is_none());
    }

    /// Of signed claims, those are accepted that say who, for whom and until when.
    #[test]
    fn signed_claims_are_accepted_when_they_say_enough(
        sub in prop::option::of(prop::sample::select(vec!["\"spiffe://example.org/a\"", "\"spiffe://example.org\"", "1"])),
        aud in prop::option::of(prop::sample::select(vec!["\"svc\"", "[\"svc\"]", "[\"x\"]", "[1,\"svc\"]", "null"])),
        exp in prop::option::of(0_u64..2 * NOW),
        nbf in prop::option::of(0_u64..2 * NOW),
    ) {
        let claims: Vec<String> = [
            sub.map(|sub| format!("\"sub\":{sub}")),
            aud.map(|aud| format!("\"aud\":{aud}")),
            exp.map(|exp| format!("\"exp\":{exp}")),
            nbf.map(|nbf| format!("\"nbf\":{nbf}")),
        ].into_iter().flatten().collect();
        let enough = sub.is_some_and(|sub| sub.contains(ID))
            && aud.is_some_and(|aud| matches!(aud, "\"svc\"" | "[\"svc\"]"))
            && exp.is_some_and(|exp| exp + 30 > NOW)
            && nbf.is_none_or(|nbf| nbf <= NOW + 30);
        let token = WORLD.k1.token(HEADER, &format!("{{{}}}", claims.join(",")));
        prop_assert_eq!(judged(token.as_bytes()).is_some(), enough);
    }

    #[test]
    fn any_bytes_are_no_key_set(document in prop::collection::vec(any::<u8>(), 0..200)) {
        for origin in [Origin::WorkloadApi, Origin::SpiffeBundle, Origin::Issuer] {
            prop_assert!(KeySet::parse(&document, origin).is_err());
        }
    }

    #[test]
    fn keys_of_any_numbers_do_not_panic(
        x in prop::collection::vec(any::<u8>(), 31..34),
        y in prop::collection::vec(any::<u8>(), 31..34),
        n in prop::collection::vec(any::<u8>(), 250..260),
        e in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let keys = serde_json::json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "a", "x": base64url(&x), "y": base64url(&y)},
            {"kty": "RSA", "kid": "b", "n": base64url(&n), "e": base64url(&e)},
        ]});
        let set = super::key_set(&keys, Origin::Issuer);
        prop_assert_eq!(set.keys().len() + set.ignored().len(), 2);
        // A random point is on the curve about never.
        prop_assert!(set.keys().iter().all(|key| key.key_id.as_deref() == Some("b")));
    }
}
