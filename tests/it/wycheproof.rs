//! Wycheproof's signatures and keys for JOSE: tokens that others made to be refused.
//!
//! Each group is a key set and some JWS; payloads are no claims, so what is asked is whether the signature is believed. What
//! differs from the corpus' expectation is listed with its reason, and nothing else may.

use crate::limbo::corpora;
use anyhow::{Context, Result};
use postern::token::jws::{Jws, Profile};
use postern::token::{KeySet, Origin};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[test]
fn jw_14_jw_15_wycheproof_signatures() -> Result<()> {
    compare("wycheproof-json_web_signature_test.json", 401, SIGNATURES)
}

#[test]
fn jw_03_wycheproof_keys() -> Result<()> {
    compare("wycheproof-json_web_key_test.json", 20, KEYS)
}

/// Our verdict, and the tests that expect another; why, beside each.
type Differences = &'static [(&'static str, &'static [u64])];

const SIGNATURES: Differences = &[
    // HMAC is for nobody's tokens here (JWT-SVID §2.1).
    ("algorithm_unknown", &[1, 348, 352, 357, 358, 359, 373, 376, 377]),
    // The key says PS256 and the signature is PS384: RFC 7517 §4.4 has `alg` mean the algorithm that the key is for.
    ("key_unfit", &[346, 350]),
    // The key says ES521, which is no algorithm. ES512 has the example of RFC 7515 as known answer, beside the code.
    ("key_unknown", &[347, 351]),
    // Characters that are not in the alphabet, to be skipped: no (RFC 7515 §2, RFC 4648 §3.3).
    ("header_encoding", &[372]),
];

const KEYS: Differences = &[
    ("algorithm_unknown", &[2, 13, 14, 15]),
    // Weak primes of some smart cards (ROCA): whether its key is any good is the issuer's matter, which we trust or do not.
    ("accepted", &[7]),
];

fn compare(file: &str, at_least: usize, differences: Differences) -> Result<()> {
    let file = corpora().join(file);
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("SKIPPED {}: it is absent; set POSTERN_CORPORA", file.display());
        return Ok(());
    };
    let corpus: Value = serde_json::from_str(&text)?;
    let mut found = BTreeMap::new();
    let mut asked = 0;
    for group in corpus["testGroups"].as_array().context("no groups")? {
        let keys = group.get("public").unwrap_or(&group["private"]);
        let document = if keys.get("keys").is_some() { keys.clone() } else { json!({"keys": [keys]}) };
        let keys = KeySet::parse(document.to_string().as_bytes(), Origin::Issuer)?;
        for test in group["tests"].as_array().context("no tests")? {
            asked += 1;
            // JSON serialisation stands there as JSON.
            let token = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
            let verdict = Jws::read(token.as_bytes(), Profile::Issuer).and_then(|jws| keys.verify(&jws).map(|_key| ()));
            if verdict.is_ok() != (test["result"] == "valid") {
                let words = verdict.map_or_else(|problem| problem.code(), |()| "accepted");
                found.insert(test["tcId"].as_u64().context("no id")?, (words, test["comment"].to_string()));
            }
        }
    }
    assert!(asked >= at_least, "the corpus has {asked} tests only");
    let listed: BTreeMap<u64, &str> =
        differences.iter().flat_map(|(verdict, ids)| ids.iter().map(|id| (*id, *verdict))).collect();
    let unlisted: Vec<_> = found.iter().filter(|(id, (verdict, _))| listed.get(id) != Some(verdict)).collect();
    assert!(unlisted.is_empty(), "differs from the corpus and is not listed: {unlisted:#?}");
    let gone: Vec<_> = listed.keys().filter(|id| !found.contains_key(id)).collect();
    assert!(gone.is_empty(), "listed, but differs no more: {gone:?}");
    Ok(())
}
