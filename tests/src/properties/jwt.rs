//! A token that passes was signed, and means what any JSON reader finds in it.
//!
//! Without a line break the bytes are a token as it comes. With one they are a header and claims, which the fixtures' key
//! signs: random bytes get past no signature.

use super::fixtures::{KEY, TRUST_DOMAIN, now};
use super::signers::{Signer, base64url};
use postern::token::{Algorithm, Expectation, Issuer, KeySet, Origin, Presenter, Subject, Trust, Verified, judge};
use postern_config::{SpiffeId, TrustDomain};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

/// Signed once by the fixtures' key; expires in the year 2126.
const GENUINE: &str = include_str!("fixtures/token.jwt");
const ISSUER: &str = "https://issuer.example";
const KID: &str = "k1";
const LEEWAY: f64 = 30.0;

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::from_pkcs8(KEY));
static AUDIENCES: LazyLock<Vec<String>> = LazyLock::new(|| vec!["svc".to_owned()]);
static BUNDLES: LazyLock<HashMap<TrustDomain, Arc<KeySet>>> =
    LazyLock::new(|| HashMap::from([(TrustDomain::parse(TRUST_DOMAIN).expect("a trust domain"), keys())]));
static ISSUERS: LazyLock<[Issuer; 1]> =
    LazyLock::new(|| [Issuer { name: ISSUER.to_owned(), algorithms: Algorithm::ALL.to_vec(), keys: keys() }]);

fn keys() -> Arc<KeySet> {
    let document = json!({"keys": [SIGNER.jwk(KID)]}).to_string();
    Arc::new(KeySet::parse(document.as_bytes(), Origin::WorkloadApi).expect("a key set"))
}

pub(super) fn check(bytes: &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        None => received(bytes),
        Some(end) => signed(&bytes[..end], &bytes[end + 1..]),
    }
}

fn received(token: &[u8]) {
    let (genuine, _) = GENUINE.rsplit_once('.').expect("a token");
    for verified in judged(token) {
        assert!(token.starts_with(genuine.as_bytes()), "nobody signed it, and it passed: {verified:?}");
    }
}

fn signed(header: &[u8], claims: &[u8]) {
    let token = SIGNER.token_of_parts(&base64url(header), &base64url(claims), "");
    for verified in judged(token.as_bytes()) {
        let header: Value = serde_json::from_slice(header).expect("a header that any reader understands");
        let claims: Value = serde_json::from_slice(claims).expect("claims that any reader understands");
        assert_eq!(header["alg"], "ES256");
        assert!(header["kid"] == KID || header.get("kid").is_none(), "{header}");
        assert_eq!(Value::Object(verified.claims.clone()), claims);
        assert_eq!(verified.subject.as_str(), claims["sub"]);
        let is_ours = |audience: &Value| *audience == "svc";
        assert!(is_ours(&claims["aud"]) || claims["aud"].as_array().is_some_and(|list| list.iter().any(is_ours)));
        let now = now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!(claims["exp"].as_f64().is_some_and(|exp| exp > now - LEEWAY), "{claims}");
        for claim in ["nbf", "iat"] {
            let time = claims.get(claim).map_or(Some(0.0), Value::as_f64);
            assert!(time.is_some_and(|time| (0.0..=now + LEEWAY).contains(&time)), "{claims}");
        }
        match &verified.subject {
            Subject::Workload(id) => {
                let parsed = SpiffeId::parse(id.as_str()).expect("an ID");
                assert!(parsed.trust_domain_name() == TRUST_DOMAIN && parsed.path().len() > 1, "{id}");
                let members = header.as_object().expect("an object").keys();
                assert!(members.into_iter().all(|member| ["alg", "kid", "typ"].contains(&member.as_str())), "{header}");
                assert!(header.get("typ").is_none_or(|kind| kind == "JWT" || kind == "JOSE"), "{header}");
            }
            Subject::Named(_) => assert_eq!(claims["iss"], ISSUER),
        }
    }
}

/// As a JWT-SVID, and as the issuer's.
fn judged(token: &[u8]) -> Vec<Verified> {
    let leeway = Duration::from_secs_f64(LEEWAY);
    let expected = Expectation { audiences: &AUDIENCES, leeway, presenter: Presenter::Unknown };
    let trusts = [Trust::TrustDomains(&BUNDLES), Trust::Issuers(&*ISSUERS)];
    let verdicts = trusts.iter().map(|trust| judge(token, trust, &expected, now()));
    // What is refused says so in words, whatever the bytes were.
    let accepted =
        verdicts.filter_map(|verdict| verdict.map_err(|problem| assert!(!problem.to_string().is_empty())).ok());
    accepted.collect()
}

#[cfg(test)]
mod tests {
    use super::{GENUINE, ISSUER, KID, SIGNER, judged};
    use crate::properties::fixtures::ID;
    use serde_json::json;
    use std::path::Path;

    /// After the fixtures themselves: `POSTERN_BLESS=1 cargo test -p postern-tests --lib token_is_made`.
    #[test]
    fn the_token_is_made_when_asked_for() {
        if std::env::var_os("POSTERN_BLESS").is_none() {
            return;
        }
        let header = json!({"alg": "ES256", "kid": KID, "typ": "JWT"}).to_string();
        let claims = json!({"sub": ID, "aud": ["svc"], "exp": 4_922_208_000_u64, "iss": ISSUER});
        let token = SIGNER.token(&header, &claims.to_string());
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpora/jwt/genuine");
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/properties/fixtures/token.jwt"), &token)
            .unwrap();
        std::fs::write(corpus, &token).unwrap();
    }

    #[test]
    fn the_token_is_genuine() {
        assert_eq!(judged(GENUINE.as_bytes()).len(), 2);
    }
}
