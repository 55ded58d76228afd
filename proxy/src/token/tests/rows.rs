//! The rows of the checklists, one test each; the cases are in `cases`.

use super::cases::{AUDIENCE, HEADER, ID, Verdict};
use super::{CASES, NOW, WORLD, at, check, expectation, judged, trusted};
use crate::token::judge::{Presenter, Subject, Trust, judge};
use crate::token::jws::TOKEN_BYTES_MAX;
use crate::token::{Expectation, LEEWAY_DEFAULT, Origin, Verified};
use serde_json::json;
use std::time::Duration;

#[test]
fn j_02_all_nine_algorithms() {
    check("J-02");
}

#[test]
fn j_03_none() {
    check("J-03");
}

#[test]
fn j_04_hmac_with_the_public_key() {
    check("J-04");
}

#[test]
fn j_05_eddsa() {
    check("J-05");
}

#[test]
fn j_06_algorithm_and_key_do_not_fit() {
    check("J-06");
}

#[test]
fn j_07_no_audience() {
    check("J-07");
}

#[test]
fn j_08_audience_as_text_or_among_others() {
    check("J-08");
}

#[test]
fn j_09_audience_is_compared_by_bytes() {
    check("J-09");
}

#[test]
fn j_10_no_expiry() {
    check("J-10");
}

#[test]
fn j_12_expiry_as_a_float() {
    check("J-12");
}

#[test]
fn j_13_not_yet_valid() {
    check("J-13");
}

#[test]
fn j_14_signature_or_payload_changed() {
    check("J-14");
}

#[test]
fn j_15_unknown_kid() {
    check("J-15");
}

#[test]
fn j_17_no_bundle_for_the_subject() {
    check("J-17");
}

#[test]
fn j_18_subject_is_no_workload() {
    check("J-18");
}

#[test]
fn j_19_typ() {
    check("J-19");
}

#[test]
fn j_20_without_kid() {
    check("J-20");
}

#[test]
fn j_22_other_serialisations() {
    check("J-22");
}

#[test]
fn j_23_members_twice() {
    check("J-23");
}

#[test]
fn j_24_spare_bits() {
    check("J-24");
}

#[test]
fn j_25_rsa_1024() {
    check("J-25");
}

#[test]
fn j_26_use_of_the_key() {
    check("J-26");
}

#[test]
fn j_29_a_wit_svid_is_no_bearer_token() {
    check("J-29");
}

#[test]
fn jw_01_algorithm_none_and_others() {
    check("JW-01");
}

#[test]
fn jw_02_hmac_with_the_public_key() {
    check("JW-02");
}

#[test]
fn jw_03_key_of_another_kind_or_use() {
    check("JW-03");
}

#[test]
fn jw_04_kid() {
    check("JW-04");
}

#[test]
fn jw_05_audience_malformed() {
    check("JW-05");
}

#[test]
fn jw_06_audience_of_others() {
    check("JW-06");
}

#[test]
fn jw_07_expiry() {
    check("JW-07");
}

#[test]
fn jw_08_not_before_and_issued_at() {
    check("JW-08");
}

#[test]
fn jw_09_subject() {
    check("JW-09");
}

#[test]
fn jw_11_other_serialisations() {
    check("JW-11");
}

#[test]
fn jw_12_bounds() {
    check("JW-12");
}

#[test]
fn jw_13_members_twice() {
    check("JW-13");
}

#[test]
fn jw_14_base64_has_one_spelling() {
    check("JW-14");
}

#[test]
fn jw_15_odd_signatures() {
    check("JW-15");
}

#[test]
fn jw_16_all_nine_algorithms() {
    check("JW-16");
}

#[test]
fn jw_17_key_rotated_out() {
    check("JW-17");
}

#[test]
fn jw_19_no_keys() {
    check("JW-19");
}

#[test]
fn jw_23_an_x509_authority_signs_no_token() {
    check("JW-23");
}

/// JWT-SVID §7.1 leaves `jti` alone, and agents hand one token to several callers.
#[test]
fn j_27_jw_22_the_same_token_again() {
    let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
    let token = WORLD.k1.token(HEADER, &WORLD.claims_with("jti", json!("once")));
    for _ in 0..20 {
        judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expectation(), at(NOW)).expect("accepted");
    }
}

/// A key that was remembered of an accepted token tells when trust in it has ended.
#[test]
fn jw_17_the_authority_is_named() {
    let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
    let verified = good(&WORLD.good());
    let (_, own) = bundles.iter().find(|(name, _)| name.as_str() == "example.org").expect("a bundle");
    let (_, other) = bundles.iter().find(|(name, _)| name.as_str() == "other.org").expect("a bundle");
    assert!(own.contains(verified.authority) && !other.contains(verified.authority));
}

/// What is broken is never as good as absent: every refusal is an error with a name and a source.
#[test]
fn jw_21_every_rule_has_a_code_and_a_section() {
    let codes: std::collections::BTreeSet<_> = CASES
        .iter()
        .filter_map(|case| judged(case, case.token.as_bytes()).err())
        .map(|problem| (problem.code(), problem.section()))
        .collect();
    assert!(codes.len() > 30, "{codes:?}");
    for (code, section) in codes {
        assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
        let known = ["RFC 7", "RFC 8", "JWT-SVID §", "SPIFFE Workload API §", "Trust Domain and Bundle §", "limit: "];
        assert!(known.iter().any(|start| section.starts_with(start)), "{code}: {section}");
    }
}

#[test]
fn every_case_is_of_a_row_that_a_test_has() {
    let this = include_str!("rows.rs");
    for case in CASES.iter() {
        let rows = case.name.split(' ').filter(|word| word.starts_with("J-") || word.starts_with("JW-"));
        let untested: Vec<_> = rows.filter(|row| !this.contains(&format!("check(\"{row}\")"))).collect();
        assert!(untested.is_empty() && case.name.starts_with('J'), "{}: {untested:?}", case.name);
    }
}

/// Tokens and signatures are never in a message, and peers' text is on one line and short.
#[test]
fn messages_never_hold_the_token() {
    for case in CASES.iter().filter(|case| case.verdict != Verdict::Accepted) {
        let problem = judged(case, case.token.as_bytes()).expect_err(&case.name);
        let mut text = format!("{problem} {problem:?}");
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&problem);
        while let Some(error) = cause {
            text.push_str(&format!(" {error} {error:?}"));
            cause = error.source();
        }
        assert!(!text.contains(|c: char| c.is_control()) && text.len() < 4000, "{}: {text}", case.name);
        for part in case.token.split('.').filter(|part| part.len() > 24) {
            assert!(!text.contains(&part[..24]), "{}: {text}", case.name);
        }
    }
}

fn good(token: &str) -> Verified {
    let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
    judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expectation(), at(NOW)).expect("accepted")
}

#[test]
fn says_what_was_verified() {
    let claims = json!({
        "sub": ID, "aud": ["x", AUDIENCE], "exp": NOW as f64 + 300.5, "iss": "https://issuer.example", "jti": "abc",
        "scope": "read  write", "scp": ["admin"], "tenant": {"name": "acme"},
    });
    let verified = good(&WORLD.k1.token(HEADER, &claims.to_string()));
    assert!(matches!(&verified.subject, Subject::Workload(id) if id.as_str() == ID));
    assert_eq!(verified.registered.audience, ["x", AUDIENCE]);
    assert_eq!(verified.registered.issuer.as_deref(), Some("https://issuer.example"));
    assert_eq!(verified.registered.expires_at, at(NOW) + Duration::from_millis(300_500));
    assert_eq!(verified.key_id.as_deref(), Some("k1"));
    assert_eq!(verified.registered.scopes, ["read", "write", "admin"]);
    assert_eq!(serde_json::Value::Object(verified.claims), claims);
    // SHA-256 of "abc", FIPS 180-2 Appendix B.1.
    assert_eq!(verified.id_hash[..4], [0xba, 0x78, 0x16, 0xbf]);
}

/// Without `jti` it is the signed bytes that are told apart, not how they are signed.
#[test]
fn names_a_token_without_jti_by_what_is_signed() {
    let claims = WORLD.claims().to_string();
    let ids: Vec<_> = (0..2).map(|_| good(&WORLD.k1.token(HEADER, &claims)).id_hash).collect();
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], good(&WORLD.k1.token(HEADER, &WORLD.claims_with("x", json!(1)))).id_hash);
}

#[test]
fn leeway_is_the_callers() {
    let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
    let code = |claim: &str, seconds: u64, leeway: Duration| {
        let token = WORLD.k1.token(HEADER, &WORLD.claims_with(claim, json!(seconds)));
        let expected = Expectation { leeway, ..expectation() };
        judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expected, at(NOW))
            .map_err(|problem| problem.code())
            .err()
    };
    for leeway in [Duration::ZERO, LEEWAY_DEFAULT, Duration::from_secs(60)] {
        let seconds = leeway.as_secs();
        assert_eq!(code("exp", NOW - seconds + 1, leeway), None, "{leeway:?}");
        assert_eq!(code("exp", NOW - seconds, leeway), Some("expired"), "{leeway:?}");
        assert_eq!(code("nbf", NOW + seconds, leeway), None, "{leeway:?}");
        assert_eq!(code("nbf", NOW + seconds + 1, leeway), Some("not_yet_valid"), "{leeway:?}");
        assert_eq!(code("iat", NOW + seconds, leeway), None, "{leeway:?}");
        assert_eq!(code("iat", NOW + seconds + 1, leeway), Some("issued_in_future"), "{leeway:?}");
    }
}

/// RFC 7519 §2: a NumericDate is any number of seconds; ours end where RFC 3339 does.
#[test]
fn times_are_read_to_the_end_of_their_range() {
    let verdict = |claim: &str, number: &str| {
        let claims = WORLD.claims_with(claim, serde_json::from_str(number).expect("a number"));
        let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
        let token = WORLD.k1.token(HEADER, &claims);
        judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expectation(), at(NOW))
            .map_err(|problem| problem.code())
    };
    for latest in ["253402300799", "253402300799.0"] {
        assert_eq!(verdict("exp", latest).expect("accepted").registered.expires_at, at(253_402_300_799));
    }
    for above in ["253402300800", "253402300799.5", "253402300800.0"] {
        assert_eq!(verdict("exp", above).expect_err(above), "time_malformed");
    }
    assert_eq!(verdict("exp", "0.5").expect_err("long ago"), "expired");
    assert_eq!(verdict("exp", "0.0").expect_err("nobody filled it in"), "time_malformed");
    assert_eq!(verdict("nbf", "0.0").err(), None);
    assert_eq!(verdict("nbf", "-0.5").expect_err("before 1970"), "time_malformed");
    let late = verdict("nbf", &format!("{NOW}.5")).err();
    assert_eq!(late, None, "within the leeway");
}

/// The bound is a border: at it a token is judged, above it not even taken apart.
#[test]
fn jw_12_a_token_of_the_largest_size_is_judged() {
    let of_size = |bytes: usize| {
        // Spaces in the header make up for the lengths that base64url does not have.
        let header = |spaces: usize| format!("{}{HEADER}", " ".repeat(spaces));
        let claims = |filling: usize| WORLD.claims_with("x", json!("x".repeat(filling)));
        let length = |text: &str| (text.len() * 4).div_ceil(3);
        let fits = |(spaces, filling): &(usize, usize)| {
            // Two dots, and a signature of 64 bytes.
            length(&header(*spaces)) + length(&claims(*filling)) + 2 + 86 == bytes
        };
        let mut all = (0..3).flat_map(|spaces| (12_000..12_200).map(move |filling| (spaces, filling)));
        let (spaces, filling) = all.find(fits).expect("some spelling has this size");
        WORLD.k1.token(&header(spaces), &claims(filling))
    };
    let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
    let verdict = |token: String| {
        judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expectation(), at(NOW))
            .map_err(|problem| problem.code())
    };
    let largest = of_size(TOKEN_BYTES_MAX);
    assert_eq!(largest.len(), TOKEN_BYTES_MAX);
    assert_eq!(verdict(largest).err(), None);
    assert_eq!(verdict(of_size(TOKEN_BYTES_MAX + 1)).err(), Some("token_too_large"));
}

/// RFC 8705 §3: whoever holds the certificate, and nobody else.
#[test]
fn a_token_bound_to_a_certificate_is_its_holders_alone() {
    let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
    let code = |confirmation: serde_json::Value, presenter: Presenter| {
        let token = WORLD.k1.token(HEADER, &WORLD.claims_with("cnf", confirmation));
        let expected = Expectation { presenter, ..expectation() };
        judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expected, at(NOW))
            .map_err(|problem| problem.code())
            .err()
    };
    let bound = json!({"x5t#S256": super::signers::base64url(&[7; 32])});
    assert_eq!(code(bound.clone(), Presenter::Certificate([7; 32])), None);
    assert_eq!(code(bound.clone(), Presenter::Certificate([8; 32])), Some("holder_wrong"));
    assert_eq!(code(bound, Presenter::Unknown), Some("holder_wrong"));
    assert_eq!(code(json!({"jkt": "x"}), Presenter::Unknown), None, "RFC 7800 §3.1: what is not known is ignored");
    let short = json!({"x5t#S256": super::signers::base64url(&[7; 31])});
    for malformed in [json!(null), json!("x"), json!({"x5t#S256": 1}), json!({"x5t#S256": "="}), short] {
        assert_eq!(code(malformed, Presenter::Certificate([7; 32])), Some("confirmation_malformed"));
    }
}

#[test]
fn other_claims_have_their_types_too() {
    let bundles = trusted(&WORLD.bundles(), Origin::WorkloadApi);
    let table = [
        ("iss", json!(1), "issuer_malformed"),
        ("iss", json!(null), "issuer_malformed"),
        ("jti", json!(7), "token_id_malformed"),
        ("scope", json!({"read": true}), "scope_malformed"),
        ("scope", json!(null), "scope_malformed"),
        ("scp", json!(["read", 1]), "scope_malformed"),
    ];
    for (claim, value, code) in table {
        let token = WORLD.k1.token(HEADER, &WORLD.claims_with(claim, value));
        let judged = judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expectation(), at(NOW));
        assert_eq!(judged.expect_err(claim).code(), code);
    }
}
