//! The conformance cases for JWT-SVIDs (SPIFFE checklist C-3), and those of the threat catalogue (JW) that a token and some
//! keys decide: one table for the verifier, the command and the oracles.

use super::signers::{Signer, base64url, hmac_token};
use serde_json::{Value, json};

/// What a verifier should say: the stable code of the rule broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    Refused(&'static str),
}

pub use Verdict::{Accepted, Refused};

pub const ID: &str = "spiffe://example.org/a";
pub const AUDIENCE: &str = "svc";
/// Seconds that clocks may be apart in these cases.
pub const LEEWAY: u64 = 30;

pub struct Case {
    /// Row of the checklist, then the variant.
    pub name: String,
    pub token: String,
    /// Trust domains and their keys.
    pub bundles: Vec<(&'static str, Value)>,
    /// Whether the keys are SPIFFE bundles, and not as the Workload API has them.
    pub spiffe_bundles: bool,
    pub verdict: Verdict,
}

/// The fixtures of the checklist: the keys of two trust domains. `now` is in seconds since 1970.
pub struct World {
    pub now: u64,
    pub k1: Signer,
    pub p384: Signer,
    pub p521: Signer,
    pub rsa: Signer,
    pub edwards: Signer,
    /// The only key of `other.org`.
    pub other: Signer,
}

impl World {
    pub fn new(now: u64) -> Self {
        Self {
            now,
            k1: Signer::p256(),
            p384: Signer::p384(),
            p521: Signer::p521(),
            rsa: Signer::rsa(),
            edwards: Signer::edwards(),
            other: Signer::p256(),
        }
    }

    pub fn keys(&self) -> Vec<Value> {
        vec![
            self.k1.jwk("k1"),
            self.p384.jwk("p384"),
            self.p521.jwk("p521"),
            self.rsa.jwk("rsa"),
            self.edwards.jwk("edwards"),
        ]
    }

    pub fn bundles(&self) -> Vec<(&'static str, Value)> {
        vec![("example.org", json!({"keys": self.keys()})), ("other.org", json!({"keys": [self.other.jwk("o1")]}))]
    }

    pub fn claims(&self) -> Value {
        json!({"sub": ID, "aud": [AUDIENCE], "exp": self.now + 300, "iat": self.now})
    }

    /// The claims, with one set.
    pub fn claims_with(&self, claim: &str, value: Value) -> String {
        let mut claims = self.claims();
        claims[claim] = value;
        claims.to_string()
    }

    fn claims_without(&self, claim: &str) -> String {
        let mut claims = self.claims();
        claims.as_object_mut().expect("claims").shift_remove(claim);
        claims.to_string()
    }

    pub fn good(&self) -> String {
        self.k1.token(HEADER, &self.claims().to_string())
    }

    /// Against the usual bundles.
    fn case(&self, name: impl Into<String>, token: impl Into<String>, verdict: Verdict) -> Case {
        let (name, token) = (name.into(), token.into());
        Case { name, token, bundles: self.bundles(), spiffe_bundles: false, verdict }
    }

    fn header(&self, name: impl Into<String>, header: &str, verdict: Verdict) -> Case {
        self.case(name, self.k1.token(header, &self.claims().to_string()), verdict)
    }

    fn claim(&self, name: impl Into<String>, claim: &str, value: Value, verdict: Verdict) -> Case {
        self.case(name, self.k1.token(HEADER, &self.claims_with(claim, value)), verdict)
    }

    /// A good token against other keys of example.org.
    fn against(&self, name: impl Into<String>, keys: Vec<Value>, verdict: Verdict) -> Case {
        let bundles = vec![("example.org", json!({"keys": keys}))];
        Case { bundles, ..self.case(name, self.good(), verdict) }
    }
}

pub const HEADER: &str = r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#;

/// A JWK with more members, or others.
pub fn with(mut jwk: Value, members: &Value) -> Value {
    for (member, value) in members.as_object().expect("members") {
        jwk[member] = value.clone();
    }
    jwk
}

pub fn all(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for rows in [algorithms, keys, bundles, audiences, times, subjects, headers, encodings, bounds, signatures] {
        cases.extend(rows(world));
    }
    cases
}

fn algorithms(world: &World) -> Vec<Case> {
    let claims = world.claims().to_string();
    let signed = |name: &str, algorithm: &str, kid: &str, signer: &Signer, verdict: Verdict| {
        let header = json!({"alg": algorithm, "kid": kid}).to_string();
        world.case(name, signer.token(&header, &claims), verdict)
    };
    let mut cases = Vec::new();
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        cases.push(signed(&format!("J-02 JW-16 {algorithm}"), algorithm, "rsa", &world.rsa, Accepted));
    }
    cases.push(signed("J-02 JW-16 ES256", "ES256", "k1", &world.k1, Accepted));
    cases.push(signed("J-02 JW-16 ES384", "ES384", "p384", &world.p384, Accepted));
    cases.push(signed("J-02 JW-16 ES512", "ES512", "p521", &world.p521, Accepted));

    let unsigned = |header: &str| format!("{}.{}.", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let unknown = Refused("algorithm_unknown");
    for name in ["none", "nOnE", "None", "NONE", ""] {
        let header = json!({"alg": name, "kid": "k1"}).to_string();
        cases.push(world.case(format!("J-03 JW-01 alg {name:?}, no signature"), unsigned(&header), unknown));
        cases.push(world.header(format!("J-03 JW-01 alg {name:?}, signed"), &header, unknown));
    }
    cases.push(signed("J-05 JW-01 EdDSA", "EdDSA", "edwards", &world.edwards, unknown));
    for name in ["ES256K", "HS256", "HS512", "es256", "ES256 ", "RSA1_5", "Ed25519"] {
        cases.push(signed(&format!("JW-01 alg {name:?}"), name, "k1", &world.k1, unknown));
    }
    cases.push(world.header("JW-01 no alg", r#"{"kid":"k1"}"#, Refused("algorithm_missing")));
    cases.push(world.header("JW-01 alg in a list", r#"{"alg":["ES256"],"kid":"k1"}"#, Refused("algorithm_not_text")));
    cases.push(world.header("JW-01 alg null", r#"{"alg":null,"kid":"k1"}"#, Refused("algorithm_not_text")));
    cases.push(world.case("JW-01 ES256 without signature", unsigned(HEADER), Refused("signature_missing")));

    let spki = world.k1.spki();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64url(&spki));
    let jwk = world.k1.jwk("k1");
    let hmac_header = r#"{"alg":"HS256","kid":"k1"}"#;
    for (what, key) in [
        ("DER", spki.clone()),
        ("PEM", pem.into_bytes()),
        ("JWK", jwk.to_string().into_bytes()),
        ("x", jwk["x"].as_str().expect("x").as_bytes().to_vec()),
    ] {
        cases.push(world.case(format!("J-04 JW-02 {what}"), hmac_token(&key, hmac_header, &claims), unknown));
        let renamed = hmac_token(&key, HEADER, &claims);
        cases.push(world.case(format!("J-04 JW-02 {what}, as ES256"), renamed, Refused("signature_invalid")));
    }

    let unfit = Refused("key_unfit");
    cases.push(signed("J-06 JW-03 RS256 with an EC key", "RS256", "k1", &world.rsa, unfit));
    cases.push(signed("J-06 JW-03 ES256 with an RSA key", "ES256", "rsa", &world.k1, unfit));
    cases.push(signed("J-06 JW-03 ES384 with a P-256 key", "ES384", "k1", &world.k1, unfit));
    cases.push(signed("J-06 JW-03 ES256 with a P-384 key", "ES256", "p384", &world.p384, unfit));
    cases.push(signed("J-06 ES512 with a P-384 key", "ES512", "p384", &world.p384, unfit));
    cases
}

fn keys(world: &World) -> Vec<Case> {
    let unknown = Refused("key_unknown");
    let claims = world.claims().to_string();
    let mut cases = Vec::new();
    for kid in ["unknown", "K1", "k1 ", "", "../../x", "' OR 1=1", "k1\u{0}", "o1"] {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        cases.push(world.header(format!("J-15 JW-04 kid {kid:?}"), &header, unknown));
    }
    let foreign = world.other.token(r#"{"alg":"ES256","kid":"o1"}"#, &claims);
    cases.push(world.case("J-15 JW-04 a key of another trust domain", foreign, unknown));
    for (kid, verdict) in
        [(512, "key_unknown"), (513, "key_id_too_long"), (16 * 1024, "token_too_large"), (64 * 1024, "token_too_large")]
    {
        let header = json!({"alg": "ES256", "kid": "k".repeat(kid)}).to_string();
        cases.push(world.header(format!("JW-04 JW-12 kid of {kid} bytes"), &header, Refused(verdict)));
    }
    for kid in ["null", "1", "[\"k1\"]", "{}"] {
        let header = format!(r#"{{"alg":"ES256","kid":{kid}}}"#);
        cases.push(world.header(format!("JW-04 kid {kid}"), &header, Refused("key_id_not_text")));
    }

    cases.push(world.header("J-20 JW-04 no kid", r#"{"alg":"ES256"}"#, Accepted));
    let without_kid = world.k1.token(r#"{"alg":"ES256"}"#, &claims);
    let many = |count: usize| -> Vec<Value> {
        let others = (1..count).map(|index| Signer::p256().jwk(&format!("x{index}")));
        others.chain([world.k1.jwk("k1"), world.rsa.jwk("rsa"), world.p384.jwk("p384")]).collect()
    };
    let among = |name: &str, keys: Vec<Value>, verdict: Verdict| Case {
        token: without_kid.clone(),
        ..world.against(name, keys, verdict)
    };
    cases.push(among("J-20 no kid, 16 candidates", many(16), Accepted));
    cases.push(among("J-20 no kid, 17 candidates", many(17), Refused("too_many_candidates")));
    cases.push(among("J-20 no kid, none fits", vec![world.rsa.jwk("rsa")], Refused("no_key_fits")));
    cases.push(among("J-20 no kid, another's key", vec![world.other.jwk("o1")], Refused("signature_invalid")));

    let duplicate = vec![world.k1.jwk("k1"), world.other.jwk("k1"), world.rsa.jwk("rsa")];
    cases.push(world.against("JW-04 kid of two keys", duplicate, unknown));
    cases.push(world.against("JW-04 kid twice, one key", vec![world.k1.jwk("k1"), world.k1.jwk("k1")], Accepted));
    cases.push(world.against("JW-17 the key was rotated out", vec![world.other.jwk("k2")], unknown));
    cases
}

fn bundles(world: &World) -> Vec<Case> {
    let unknown = Refused("key_unknown");
    let beside = || world.rsa.jwk("rsa");
    let with_k1 = |members: Value| vec![with(world.k1.jwk("k1"), &members), beside()];
    let mut cases = vec![
        world.against("J-26 use absent", with_k1(json!({})), Accepted),
        world.against("J-26 use jwt-svid", with_k1(json!({"use": "jwt-svid"})), Accepted),
        world.against("JW-03 alg fits", with_k1(json!({"alg": "ES256", "key_ops": ["verify"]})), Accepted),
    ];
    for (name, members) in [
        ("J-26 JW-23 use x509-svid", json!({"use": "x509-svid"})),
        ("J-26 use wit-svid", json!({"use": "wit-svid"})),
        ("JW-03 use enc", json!({"use": "enc"})),
        ("JW-03 use JWT-SVID", json!({"use": "JWT-SVID"})),
        ("JW-03 use not text", json!({"use": 1})),
        ("JW-03 alg of another curve", json!({"alg": "ES384"})),
        ("JW-03 alg of another kind", json!({"alg": "RS256"})),
        ("JW-03 alg unknown", json!({"alg": "HS256"})),
        ("JW-03 alg not text", json!({"alg": ["ES256"]})),
        ("JW-03 key_ops without verify", json!({"key_ops": ["sign"]})),
        ("JW-03 key_ops not a list", json!({"key_ops": "verify"})),
        ("JW-03 oct", json!({"kty": "oct", "k": "AAAA"})),
        ("JW-03 the private key", json!({"d": "AAAA"})),
    ] {
        cases.push(world.against(name, with_k1(members), unknown));
    }
    let in_bundle = |name: &str, key: Value, verdict: Verdict| {
        let keys = json!({"keys": [key, with(beside(), &json!({"use": "jwt-svid"}))]});
        Case { bundles: vec![("example.org", keys)], spiffe_bundles: true, ..world.case(name, world.good(), verdict) }
    };
    let k1 = |members: Value| with(world.k1.jwk("k1"), &members);
    cases.push(in_bundle("J-26 SPIFFE bundle, use jwt-svid", k1(json!({"use": "jwt-svid"})), Accepted));
    cases.push(in_bundle("J-26 SPIFFE bundle, use absent", k1(json!({})), unknown));
    cases.push(in_bundle("J-26 SPIFFE bundle, use sig", k1(json!({"use": "sig"})), unknown));

    let weak = json!({"kty": "RSA", "kid": "weak", "e": "AQAB", "n": base64url(&[0xff; 128])});
    let token = world.rsa.token(r#"{"alg":"RS256","kid":"weak"}"#, &world.claims().to_string());
    cases.push(Case { token, ..world.against("J-25 RSA of 1024 bits", vec![weak, beside()], unknown) });
    cases.push(world.against("JW-19 an empty bundle", vec![], Refused("empty_bundle")));
    cases.push(world.against("JW-19 nothing usable", vec![world.edwards.jwk("k1")], Refused("empty_bundle")));
    let none = Case { bundles: vec![], ..world.case("JW-19 no bundle", world.good(), Refused("no_bundle")) };
    cases.push(none);
    cases
}

fn audiences(world: &World) -> Vec<Case> {
    let (missing, malformed) = (Refused("audience_missing"), Refused("audience_malformed"));
    let mut cases = vec![
        world.case("J-07 JW-05 no aud", world.k1.token(HEADER, &world.claims_without("aud")), missing),
        world.claim("J-07 JW-05 aud []", "aud", json!([]), missing),
        world.claim("J-07 JW-05 aud \"\"", "aud", json!(""), malformed),
        world.claim("J-07 aud [1]", "aud", json!([1]), malformed),
        world.claim("JW-05 aud null", "aud", json!(null), malformed),
        world.claim("JW-05 aud 5", "aud", json!(5), malformed),
        world.claim("JW-05 aud {}", "aud", json!({}), malformed),
        world.claim("JW-05 aud {svc}", "aud", json!({"svc": "svc"}), malformed),
        world.claim("JW-05 aud [5, svc]", "aud", json!([5, "svc"]), malformed),
        world.claim("JW-05 aud [\"\", svc]", "aud", json!(["", "svc"]), malformed),
        world.claim("JW-05 aud [[svc]]", "aud", json!([["svc"]]), malformed),
        world.claim("J-08 aud as text", "aud", json!("svc"), Accepted),
        world.claim("J-08 JW-06 aud of two", "aud", json!(["x", "svc"]), Accepted),
        world.claim("J-08 aud of 32", "aud", json!(many_audiences(31)), Accepted),
        world.claim("JW-05 aud of 33", "aud", json!(many_audiences(32)), Refused("too_many_audiences")),
    ];
    for other in ["SVC", "svc/", "svc.evil", "sv", " svc", "svc ", "svc\u{0}", "x"] {
        cases.push(world.claim(format!("J-09 JW-06 aud {other:?}"), "aud", json!(other), Refused("audience_wrong")));
    }
    cases
}

fn many_audiences(others: usize) -> Vec<String> {
    (0..others).map(|index| format!("x{index}")).chain([AUDIENCE.to_owned()]).collect()
}

fn times(world: &World) -> Vec<Case> {
    let now = world.now;
    let expired = Refused("expired");
    let malformed = Refused("time_malformed");
    let mut cases = vec![
        world.case(
            "J-10 JW-07 no exp",
            world.k1.token(HEADER, &world.claims_without("exp")),
            Refused("expiry_missing"),
        ),
        world.claim("J-12 JW-07 exp as float", "exp", json!(now as f64 + 300.5), Accepted),
        world.claim("JW-07 exp 20 s ago", "exp", json!(now - LEEWAY + 10), Accepted),
        world.claim("JW-07 exp 30 s ago", "exp", json!(now - LEEWAY), expired),
        world.claim("JW-07 exp 61 s ago", "exp", json!(now - 61), expired),
        world.claim("JW-07 exp in 1970", "exp", json!(1), expired),
        world.claim("JW-07 exp in 100 years", "exp", json!(now + 100 * 365 * 86_400), Accepted),
        world.claim("J-13 nbf in 5 min", "nbf", json!(now + 300), Refused("not_yet_valid")),
        world.claim("JW-08 nbf in 1 h", "nbf", json!(now + 3600), Refused("not_yet_valid")),
        world.claim("JW-08 nbf in 31 s", "nbf", json!(now + LEEWAY + 1), Refused("not_yet_valid")),
        world.claim("JW-08 nbf now", "nbf", json!(now), Accepted),
        world.claim("JW-08 nbf 0", "nbf", json!(0), Accepted),
        world.claim("JW-08 iat in 1 h", "iat", json!(now + 3600), Refused("issued_in_future")),
        world.claim("JW-08 iat in 20 s", "iat", json!(now + LEEWAY - 10), Accepted),
    ];
    for value in ["\"1\"", "null", "-1", "0", "1e300", "true", "[1]", "{}", "253402300800", "18446744073709551616"] {
        let claims = format!(r#"{{"sub":"{ID}","aud":"svc","exp":{value}}}"#);
        let row = if matches!(value, "\"1\"" | "null") { "J-10 JW-07" } else { "JW-07" };
        cases.push(world.case(format!("{row} exp {value}"), world.k1.token(HEADER, &claims), malformed));
    }
    for claim in ["nbf", "iat"] {
        for value in [json!("1"), json!(null), json!(-1), json!([now])] {
            cases.push(world.claim(format!("JW-08 {claim} {value}"), claim, value, malformed));
        }
    }
    cases
}

fn subjects(world: &World) -> Vec<Case> {
    let invalid = Refused("subject_invalid");
    let mut cases = vec![
        world.case(
            "J-18 JW-09 no sub",
            world.k1.token(HEADER, &world.claims_without("sub")),
            Refused("subject_missing"),
        ),
        world.claim("J-18 sub empty", "sub", json!(""), Refused("subject_malformed")),
        world.claim("JW-09 sub 5", "sub", json!(5), Refused("subject_malformed")),
        world.claim("JW-09 sub in a list", "sub", json!([ID]), Refused("subject_malformed")),
        world.claim("J-18 JW-09 a trust domain", "sub", json!("spiffe://example.org"), Refused("subject_without_path")),
        world.claim("J-17 no bundle", "sub", json!("spiffe://third.org/c"), Refused("no_bundle")),
        world.claim("J-17 another spelling", "sub", json!("spiffe://example.org./a"), Refused("no_bundle")),
        world.claim("JW-09 another trust domain", "sub", json!("spiffe://other.org/a"), Refused("key_unknown")),
        world.claim("J-18 longest", "sub", json!(format!("spiffe://example.org/{}", "a".repeat(2027))), Accepted),
        world.claim("J-18 too long", "sub", json!(format!("spiffe://example.org/{}", "a".repeat(2028))), invalid),
        world.claim("J-18 odd and right", "sub", json!("spiffe://example.org/.../.a/A-_"), Accepted),
    ];
    // C-1 of the checklist.
    for subject in [
        "foo",
        "spiffe:",
        "spiffe:/a",
        "spiffe://",
        "spiffe:///a",
        "https://example.org/a",
        "spiff://example.org/a",
        "SPIFFE://example.org/a",
        "Spiffe://example.org/a",
        "spiffe://Example.org/a",
        "spiffe://example.org/",
        "spiffe://u@example.org/a",
        "spiffe://u:p@example.org/a",
        "spiffe://@example.org/a",
        "spiffe://example.org:1/a",
        "spiffe://example.org/a?x=1",
        "spiffe://example.org/a?",
        "spiffe://example.org/a#f",
        "spiffe://example.org/a#",
        "spiffe://example.org/%41",
        "spiffe://ex%61mple.org/a",
        "spiffe://example.org//a",
        "spiffe://example.org/a//b",
        "spiffe://example.org/a/./b",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/.",
        "spiffe://example.org/..",
        "spiffe://example.org/a/",
        " spiffe://example.org/a",
        "spiffe://example.org/a ",
        "spiffe://example.org/a\n",
        "spiffe://example.org/a\t",
        "spiffe://example.org/a\u{200b}",
        "spiffe://ｅxample.org/a",
        "spiffe://example.org/a\u{0}",
    ] {
        cases.push(world.claim(format!("J-18 JW-09 sub {subject:?}"), "sub", json!(subject), invalid));
    }
    cases
}

fn headers(world: &World) -> Vec<Case> {
    let mut cases = vec![world.header("J-19 no typ", r#"{"alg":"ES256","kid":"k1"}"#, Accepted)];
    for (kind, verdict) in [
        ("\"JWT\"", Accepted),
        ("\"JOSE\"", Accepted),
        ("\"jwt\"", Refused("type_wrong")),
        ("\"at+jwt\"", Refused("type_wrong")),
        ("\"wit+jwt\"", Refused("type_wrong")),
        ("\"application/jwt\"", Refused("type_wrong")),
        ("\"\"", Refused("type_wrong")),
        ("null", Refused("type_not_text")),
        ("[\"JWT\"]", Refused("type_not_text")),
    ] {
        let header = format!(r#"{{"alg":"ES256","kid":"k1","typ":{kind}}}"#);
        cases.push(world.header(format!("J-19 typ {kind}"), &header, verdict));
    }
    let mut wit = world.claims();
    wit["cnf"] = json!({"jwk": with(world.other.jwk("c"), &json!({"alg": "ES256"}))});
    let wit_header = r#"{"alg":"ES256","kid":"k1","typ":"wit+jwt"}"#;
    cases.push(world.case("J-29 a WIT-SVID", world.k1.token(wit_header, &wit.to_string()), Refused("type_wrong")));

    for member in ["jku", "x5u", "jwk", "x5c", "x5t", "x5t#S256", "crit", "b64", "zip", "cty", "enc", "kid2", ""] {
        let header = json!({"alg": "ES256", "kid": "k1", member: "x"}).to_string();
        cases.push(world.header(format!("JW-11 header member {member:?}"), &header, Refused("header_member")));
    }
    let own_key = json!({"alg": "ES256", "jwk": world.other.jwk("x")}).to_string();
    let token = world.other.token(&own_key, &world.claims().to_string());
    cases.push(world.case("JW-11 its own key in jwk", token, Refused("header_member")));

    let twice = Refused("header_member_twice");
    for (what, header) in [
        ("alg", r#"{"alg":"ES256","alg":"ES256","kid":"k1"}"#),
        ("alg, none last", r#"{"alg":"ES256","kid":"k1","alg":"none"}"#),
        ("alg, escaped", r#"{"alg":"ES256","kid":"k1","\u0061lg":"none"}"#),
        ("kid", r#"{"alg":"ES256","kid":"k1","kid":"k2"}"#),
    ] {
        cases.push(world.header(format!("J-23 JW-13 {what} twice"), header, twice));
    }
    let exp = world.now + 300;
    for (what, claims) in [
        ("sub", format!(r#"{{"sub":"{ID}","sub":"spiffe://example.org/b","aud":"svc","exp":{exp}}}"#)),
        ("aud", format!(r#"{{"sub":"{ID}","aud":"x","aud":"svc","exp":{exp}}}"#)),
        ("exp", format!(r#"{{"sub":"{ID}","aud":"svc","exp":1,"exp":{exp}}}"#)),
        ("a private claim", format!(r#"{{"sub":"{ID}","aud":"svc","exp":{exp},"a":1,"a":2}}"#)),
        ("a claim within", format!(r#"{{"sub":"{ID}","aud":"svc","exp":{exp},"a":{{"b":1,"b":2}}}}"#)),
    ] {
        let token = world.k1.token(HEADER, &claims);
        cases.push(world.case(format!("J-23 JW-13 {what} twice"), token, Refused("claim_twice")));
    }
    cases
}

fn encodings(world: &World) -> Vec<Case> {
    let good = world.good();
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let not_compact = Refused("not_compact");
    let flattened = json!({"protected": header, "payload": claims, "signature": signature}).to_string();
    let general = json!({"payload": claims, "signatures": [{"protected": header, "signature": signature}]}).to_string();
    let mut cases = vec![
        world.case("J-22 JW-11 JSON serialisation, flattened", flattened, not_compact),
        world.case("J-22 JW-11 JSON serialisation, general", general, not_compact),
        world.case("J-22 JW-01 empty", "", not_compact),
        world.case("J-22 JW-01 one part", header, not_compact),
        world.case("J-22 JW-01 two parts", format!("{header}.{claims}"), not_compact),
        world.case("J-22 JW-01 four parts", format!("{good}.{signature}"), not_compact),
        world.case("J-22 JW-01 a dot behind", format!("{good}."), not_compact),
        world.case("J-22 JW-01 a dot in front", format!(".{good}"), not_compact),
        world.case("JW-01 JW-11 five parts, as of a JWE", format!("{good}.{claims}.{signature}"), not_compact),
        world.case("JW-11 detached", format!("{header}..{signature}"), Refused("claims_malformed")),
        world.case("JW-11 nested", world.k1.token(HEADER, &good), Refused("claims_malformed")),
        world.case("JW-01 two dots", "..", Refused("header_malformed")),
        world.case("J-22 JW-14 newline behind", format!("{good}\n"), Refused("signature_encoding")),
        world.case("J-22 JW-14 space behind", format!("{good} "), Refused("signature_encoding")),
        world.case("JW-14 space in front", format!(" {good}"), Refused("header_encoding")),
        world.case("JW-14 not ASCII", format!("{good}é"), Refused("signature_encoding")),
        world.case("J-22 JW-14 signature padded", format!("{good}=="), Refused("signature_encoding")),
    ];
    let signed_as = |name: &str, header: &str, claims: &str, code: &'static str| {
        world.case(name, world.k1.token_of_parts(header, claims, HEADER), Refused(code))
    };
    // Signed as it stands, so that the encoding alone is at fault.
    let odd = base64url(&[world.claims().to_string().as_bytes(), b" "].concat());
    let ragged = if odd.len().is_multiple_of(4) { base64url(world.claims().to_string().as_bytes()) } else { odd };
    let padding = "=".repeat(4 - ragged.len() % 4);
    cases.push(signed_as("J-22 JW-14 claims padded", header, &format!("{ragged}{padding}"), "payload_encoding"));
    cases.push(signed_as("J-22 JW-14 header padded", &format!("{header}="), claims, "header_encoding"));
    let standard = base64url(world.claims_with("x", json!("???>>>ÿÿÿ")).as_bytes()).replace('-', "+").replace('_', "/");
    assert!(standard.contains(['+', '/']), "{standard}");
    cases.push(signed_as("J-22 JW-14 the other alphabet", header, &standard, "payload_encoding"));
    cases.push(signed_as("J-24 JW-14 claims, spare bits", header, &spare_bit_set(&ragged), "payload_encoding"));
    cases.push(world.case(
        "J-24 JW-14 signature, spare bits",
        format!("{header}.{claims}.{}", spare_bit_set(signature)),
        Refused("signature_encoding"),
    ));
    cases.push(signed_as(
        "JW-14 a line break within",
        header,
        &format!("{}\n{}", &claims[..4], &claims[4..]),
        "payload_encoding",
    ));
    cases
}

/// The same bytes for a reader that does not look: the last character's lowest bit is one that encodes nothing.
fn spare_bit_set(part: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    assert!(!part.len().is_multiple_of(4), "every bit counts here");
    let (rest, last) = part.split_at(part.len() - 1);
    let value = ALPHABET.find(last).expect("base64url");
    format!("{rest}{}", &ALPHABET[value + 1..value + 2])
}

fn bounds(world: &World) -> Vec<Case> {
    let deep =
        |levels: usize| format!(r#"{{"alg":"ES256","kid":"k1","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let deep_claim = |levels: usize| {
        let nested = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        world.k1.token(HEADER, &world.claims_with("x", serde_json::from_str(&nested).expect("lists")))
    };
    let filled = |bytes: usize| {
        let at_least = world.k1.token(HEADER, &world.claims_with("x", json!(""))).len();
        let filling = "x".repeat((bytes - at_least) * 3 / 4);
        world.k1.token(HEADER, &world.claims_with("x", json!(filling)))
    };
    let too_large = Refused("token_too_large");
    vec![
        world.case("JW-12 16 KiB", filled(16 * 1024), Accepted),
        world.case("JW-12 17 KiB", filled(17 * 1024), too_large),
        world.case("JW-12 1 MiB", "a".repeat(1024 * 1024), too_large),
        world.case("JW-12 100 000 dots", ".".repeat(100_000), too_large),
        world.case("JW-12 16 000 dots", ".".repeat(16_000), Refused("not_compact")),
        world.header("JW-12 header nested 5 000 deep", &deep(5_000), Refused("header_too_deep")),
        world.header("JW-12 header nested 10 000 deep", &deep(10_000), too_large),
        world.case("JW-12 claims 16 deep", deep_claim(15), Accepted),
        world.case("JW-12 claims 17 deep", deep_claim(16), Refused("claims_too_deep")),
        world.case("JW-12 claims that are a list", world.k1.token(HEADER, "[]"), Refused("claims_malformed")),
        world.case("JW-12 claims that are no JSON", world.k1.token(HEADER, "{"), Refused("claims_malformed")),
        world.case(
            "JW-12 a number beyond floats",
            world.k1.token(HEADER, r#"{"x":1e400}"#),
            Refused("claims_malformed"),
        ),
        world.case("JW-12 two objects", world.k1.token(HEADER, "{}{}"), Refused("claims_malformed")),
    ]
}

fn signatures(world: &World) -> Vec<Case> {
    let good = world.good();
    let (signed, signature) = good.rsplit_once('.').expect("parts");
    let invalid = Refused("signature_invalid");
    let genuine = world.k1.sign("ES256", signed.as_bytes());
    let made = |name: &str, bytes: &[u8]| world.case(name, format!("{signed}.{}", base64url(bytes)), invalid);
    let mut flipped = genuine.clone();
    flipped[40] ^= 1;
    let (r, s) = genuine.split_at(32);
    let (zero, one) = ([0; 32], [&[0; 31][..], &[1]].concat());
    let order = P256_ORDER;
    let mut less_one = order;
    less_one[31] -= 1;
    let swapped = world.k1.token(HEADER, &world.claims_with("sub", json!("spiffe://example.org/b")));
    let (swapped, _) = swapped.rsplit_once('.').expect("parts");
    let rsa_header = r#"{"alg":"RS256","kid":"rsa"}"#;
    let pss_header = r#"{"alg":"PS256","kid":"rsa"}"#;
    let claims = world.claims().to_string();
    let parts = |header: &str| format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let as_other = |name: &str, header: &str, algorithm: &str| {
        let signature = world.rsa.sign(algorithm, parts(header).as_bytes());
        world.case(name, format!("{}.{}", parts(header), base64url(&signature)), invalid)
    };
    vec![
        world.case("J-14 control", format!("{signed}.{}", base64url(&genuine)), Accepted),
        made("J-14 a bit flipped", &flipped),
        world.case("J-14 payload swapped", format!("{swapped}.{signature}"), invalid),
        world.case("J-14 another's signature", world.other.token(HEADER, &claims), invalid),
        made("JW-15 cut", &genuine[..63]),
        made("JW-15 a byte behind", &[&genuine[..], &[0]].concat()),
        made("JW-15 half", r),
        made("JW-15 DER", &der(r, s)),
        made("JW-15 r = 0", &[&zero[..], s].concat()),
        made("JW-15 s = 0", &[r, &zero].concat()),
        made("JW-15 r = s = 0", &[zero, zero].concat()),
        made("JW-15 r = s = 1", &[&one[..], &one].concat()),
        made("JW-15 r = n", &[&order[..], s].concat()),
        made("JW-15 s = n", &[r, &order].concat()),
        made("JW-15 s = n - 1", &[r, &less_one].concat()),
        made("JW-15 r = s = n - 1", &[less_one, less_one].concat()),
        made("JW-15 exchanged", &[s, r].concat()),
        as_other("JW-15 PS256 for RS256", rsa_header, "PS256"),
        as_other("JW-15 RS256 for PS256", pss_header, "RS256"),
        as_other("JW-15 RS512 for RS256", rsa_header, "RS512"),
        as_other("JW-15 PS512 for PS256", pss_header, "PS512"),
    ]
}

/// SEC 2 §2.4.2.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The signature as X.509 has it.
fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
        let sign = if bytes[start] & 0x80 == 0 { &[][..] } else { &[0] };
        let value = [sign, &bytes[start..]].concat();
        [&[2, value.len() as u8][..], &value].concat()
    };
    let (r, s) = (integer(r), integer(s));
    [&[0x30, (r.len() + s.len()) as u8][..], &r, &s].concat()
}
