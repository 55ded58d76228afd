//! The crates jsonwebtoken and spiffe as oracles for tokens: what we accept, they accept. Where they do not, the difference is
//! listed with its reason. (What they accept and we refuse is no question: each such rule has a case and a source of its own.)

use cases::{AUDIENCE, Case, LEEWAY, World, all, with};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Validation};
use postern::token::{Expectation, KeySet, Origin, Presenter, Trust, Verified, judge};
use postern_config::TrustDomain;
use postern_tests::properties::signers;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[allow(dead_code, reason = "shared with the proxy's own tests, which use all of it")]
#[path = "../../proxy/src/token/tests/cases.rs"]
pub(crate) mod cases;

/// Case, oracle, and why it refuses what we accept.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("J-02 JW-16 ES512", "jsonwebtoken", "knows no ES512"),
    ("J-02 JW-16 ES512", "spiffe", "knows no ES512, because jsonwebtoken does not"),
    ("J-20 JW-04 no kid", "spiffe", "wants a `kid`, which JWT-SVID §2.2 leaves out at will"),
    ("J-20 no kid, 16 candidates", "spiffe", "wants a `kid`, which JWT-SVID §2.2 leaves out at will"),
    ("J-12 JW-07 exp as float", "spiffe", "reads whole seconds alone, where RFC 7519 §2 allows others"),
    ("JW-07 exp 20 s ago", "spiffe", "allows clocks no difference"),
];

struct Oracles {
    now: SystemTime,
    bundles: Vec<(&'static str, Value)>,
    trusted: HashMap<TrustDomain, Arc<KeySet>>,
}

impl Oracles {
    fn new(now: SystemTime, bundles: &[(&'static str, Value)], origin: Origin) -> Self {
        let bundle = |(name, document): &(&str, Value)| {
            let keys = KeySet::parse(document.to_string().as_bytes(), origin).expect("a key set");
            (TrustDomain::parse(name).expect("a trust domain"), Arc::new(keys))
        };
        Self { now, bundles: bundles.to_vec(), trusted: bundles.iter().map(bundle).collect() }
    }

    fn ours(&self, token: &str) -> Option<Verified> {
        let audiences = [AUDIENCE.to_owned()];
        let leeway = Duration::from_secs(LEEWAY);
        let expected = Expectation { audiences: &audiences, leeway, presenter: Presenter::Unknown };
        judge(token.as_bytes(), &Trust::TrustDomains(&self.trusted), &expected, self.now).ok()
    }

    /// The names of the oracles that refuse what we found good.
    fn refusing(&self, token: &str, verified: &Verified) -> Vec<&'static str> {
        let subject = verified.subject.as_str();
        let (_, keys) =
            self.bundles.iter().find(|(name, _)| subject.starts_with(&format!("spiffe://{name}/"))).expect("a bundle");
        let keys = keys["keys"].as_array().expect("keys");
        // Which key it is, is not asked of them when the token does not say it.
        let named =
            keys.iter().filter(|key| verified.key_id.is_none() || key["kid"].as_str() == verified.key_id.as_deref());
        let by_jsonwebtoken = named.clone().any(|key| jsonwebtoken_accepts(token, verified, key));
        let by_spiffe = spiffe_accepts(token, &self.bundles);
        let verdicts = [("jsonwebtoken", by_jsonwebtoken), ("spiffe", by_spiffe)];
        verdicts.into_iter().filter(|(_, accepted)| !accepted).map(|(name, _)| name).collect()
    }
}

fn jsonwebtoken_accepts(token: &str, verified: &Verified, key: &Value) -> bool {
    // It knows no such name for a use.
    let mut key = key.clone();
    key.as_object_mut().expect("a key").remove("use");
    let Ok(algorithm) = verified.algorithm.name().parse() else { return false };
    let Ok(key) = serde_json::from_value::<Jwk>(key) else { return false };
    let Ok(key) = DecodingKey::from_jwk(&key) else { return false };
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    match jsonwebtoken::decode::<Value>(token, &key, &validation) {
        Ok(decoded) => {
            assert_eq!(decoded.claims, Value::Object(verified.claims.clone()), "one token, two meanings");
            true
        }
        Err(_) => false,
    }
}

fn spiffe_accepts(token: &str, bundles: &[(&'static str, Value)]) -> bool {
    let mut set = JwtBundleSet::new();
    for (name, document) in bundles {
        let mut bundle = JwtBundle::new(spiffe::TrustDomain::new(name).expect("a trust domain"));
        for key in document["keys"].as_array().expect("keys") {
            // It reads no `use`; keys for other purposes are for others to leave out.
            if key.get("use").is_none_or(|usage| usage == "jwt-svid") {
                bundle.add_jwk_authority_json(key.to_string().as_bytes()).expect("a key");
            }
        }
        set.add_bundle(bundle);
    }
    JwtSvid::parse_and_validate(token, &set, &[AUDIENCE]).is_ok()
}

/// In whole seconds, as the cases have it; the oracles read the clock.
fn now() -> (u64, SystemTime) {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    (seconds, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[test]
fn j_02_jw_16_every_accepted_case_is_accepted_by_others() {
    let (seconds, at) = now();
    let world = World::new(seconds);
    let mut accepted = 0;
    let mut found = BTreeSet::new();
    for Case { name, token, bundles, spiffe_bundles, .. } in all(&world) {
        let origin = if spiffe_bundles { Origin::SpiffeBundle } else { Origin::WorkloadApi };
        let oracles = Oracles::new(at, &bundles, origin);
        let Some(verified) = oracles.ours(&token) else { continue };
        accepted += 1;
        for oracle in oracles.refusing(&token, &verified) {
            found.insert((name.clone(), oracle));
        }
    }
    assert!(accepted > 20, "{accepted} cases are accepted");
    let listed: BTreeSet<_> = DIFFERENCES.iter().map(|(case, oracle, _)| ((*case).to_owned(), *oracle)).collect();
    let unlisted: Vec<_> = found.difference(&listed).collect();
    assert!(unlisted.is_empty(), "they refuse, and it is not listed: {unlisted:#?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "listed, but they agree now: {gone:#?}");
}

/// Headers and claims put together from parts that are right and parts that are odd; each is signed.
#[test]
fn whatever_signed_token_we_accept_they_accept() {
    let (seconds, at) = now();
    let world = World::new(seconds);
    let oracles = Oracles::new(at, &world.bundles(), Origin::WorkloadApi);
    let sometimes = |good: Value, odd: Vec<Value>| {
        let odd = prop::sample::select(odd).prop_map(Some);
        prop_oneof![6 => Just(Some(good)), 2 => odd, 1 => Just(None)]
    };
    let header = (
        sometimes(json!("ES256"), vec![json!("none"), json!("HS256"), json!("ES384"), json!(["ES256"]), json!(null)]),
        sometimes(json!("k1"), vec![json!("o1"), json!(""), json!(1), json!("rsa")]),
        sometimes(json!("JWT"), vec![json!("JOSE"), json!("jwt"), json!(null), json!("wit+jwt")]),
    );
    let other = ["spiffe://other.org/a", "spiffe://example.org", "spiffe://EXAMPLE.org/a", "a", ""].map(|id| json!(id));
    let times = || {
        vec![json!("1"), json!(null), json!(-1), json!(1e300), json!(seconds + 3600), json!(seconds - 3600), json!(0)]
    };
    let claims = (
        sometimes(json!(cases::ID), other.to_vec()),
        sometimes(json!(AUDIENCE), vec![json!([AUDIENCE]), json!([1, AUDIENCE]), json!([]), json!("SVC"), json!(null)]),
        sometimes(json!(seconds + 300), times()),
        sometimes(json!(seconds), times()),
        sometimes(json!(seconds), times()),
        any::<bool>(),
    );
    let config = ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() };
    let accepted = Cell::new(0);
    let outcome =
        TestRunner::new(config).run(&(header, claims), |((alg, kid, typ), (sub, aud, exp, nbf, iat, more))| {
            let object = |members: [(&str, Option<Value>); 6]| -> Value {
                let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
                Value::Object(members.collect())
            };
            let none = ("", None);
            let header =
                object([("alg", alg), ("kid", kid.clone()), ("typ", typ), none.clone(), none.clone(), none.clone()]);
            let claims = object([("sub", sub), ("aud", aud), ("exp", exp), ("nbf", nbf), ("iat", iat), none]);
            let claims = if more { with(claims, &json!({"a": {"b": [1, 0.5, "ä"]}})) } else { claims };
            let token = world.k1.token(&header.to_string(), &claims.to_string());
            if let Some(verified) = oracles.ours(&token) {
                accepted.set(accepted.get() + 1);
                let refusing = oracles.refusing(&token, &verified);
                // As in the list above.
                let listed = if kid.is_none() { &["spiffe"][..] } else { &[] };
                assert!(refusing.iter().all(|oracle| listed.contains(oracle)), "{refusing:?} refuse {header} {claims}");
            }
            Ok(())
        });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(accepted.get() > 20, "{} are accepted: what is random is too odd", accepted.get());
}
