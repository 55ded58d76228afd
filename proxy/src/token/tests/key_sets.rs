//! JWK Sets: what is read, what is ignored and why, what is rejected whole.

use super::cases::with;
use super::signers::{Signer, base64url};
use super::{WORLD, key_set};
use crate::token::key_fault::KeyFault;
use crate::token::keys::{CANDIDATES_MAX, ISSUER_DOCUMENT_BYTES_MAX, KEYS_MAX, KeySet, KeySetError, Origin};
use crate::token::{Algorithm, Thumbprint};
use serde_json::{Value, json};

const ORIGINS: [Origin; 3] = [Origin::WorkloadApi, Origin::SpiffeBundle, Origin::Issuer];

/// `kid`s of usable keys, and what is said of the others.
fn read(keys: &[Value], origin: Origin) -> (Vec<String>, Vec<String>) {
    let set = key_set(&json!({"keys": keys}), origin);
    let usable = set.keys().iter().map(|key| key.key_id.clone().unwrap_or_default()).collect();
    (usable, set.ignored().iter().map(ToString::to_string).collect())
}

fn ignored(key: Value, origin: Origin) -> String {
    let (usable, mut ignored) = read(&[key], origin);
    assert!(usable.is_empty(), "{usable:?}");
    ignored.pop().expect("it is named")
}

fn error(document: &[u8], origin: Origin) -> KeySetError {
    KeySet::parse(document, origin).err().expect("rejected")
}

/// RFC 7638 §3.1.
#[test]
fn thumbprints_are_those_of_the_rfc() {
    let key = json!({
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
    });
    let set = key_set(&json!({"keys": [key]}), Origin::Issuer);
    let Thumbprint(thumbprint) = set.keys()[0].thumbprint;
    assert_eq!(base64url(&thumbprint), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

#[test]
fn use_means_what_the_origin_says() {
    let key = |usage: Option<&str>| match usage {
        Some(usage) => with(WORLD.k1.jwk("k1"), &json!({"use": usage})),
        None => WORLD.k1.jwk("k1"),
    };
    let table = [
        (None, [true, false, true]),
        (Some("jwt-svid"), [true, true, false]),
        (Some("sig"), [false, false, true]),
        (Some("x509-svid"), [false; 3]),
        (Some("wit-svid"), [false; 3]),
        (Some("enc"), [false; 3]),
        (Some("JWT-SVID"), [false; 3]),
        (Some(""), [false; 3]),
    ];
    for (usage, expected) in table {
        let found = ORIGINS.map(|origin| read(&[key(usage)], origin).0.len() == 1);
        assert_eq!(found, expected, "{usage:?}");
    }
    let odd = with(WORLD.k1.jwk("k1"), &json!({"use": 1}));
    assert!(ORIGINS.iter().all(|origin| read(std::slice::from_ref(&odd), *origin).0.is_empty()));
}

#[test]
fn keys_serve_the_algorithms_of_their_kind() {
    let algorithms = |key: Value| -> Vec<Algorithm> {
        key_set(&json!({"keys": [key]}), Origin::WorkloadApi).keys()[0].prepared.algorithms().collect()
    };
    assert_eq!(algorithms(WORLD.rsa.jwk("k")), Algorithm::ALL[..6]);
    assert_eq!(algorithms(WORLD.k1.jwk("k")), [Algorithm::Es256]);
    assert_eq!(algorithms(WORLD.p384.jwk("k")), [Algorithm::Es384]);
    assert_eq!(algorithms(WORLD.p521.jwk("k")), [Algorithm::Es512]);
    assert_eq!(algorithms(with(WORLD.rsa.jwk("k"), &json!({"alg": "PS384"}))), [Algorithm::Ps384]);
}

#[test]
fn one_key_with_several_algorithms_is_one_key() {
    let as_algorithm = |name: &str| with(WORLD.rsa.jwk("k"), &json!({"alg": name}));
    let keys = [as_algorithm("RS256"), as_algorithm("PS256"), as_algorithm("RS256")];
    let set = key_set(&json!({"keys": keys}), Origin::Issuer);
    assert_eq!(set.keys().len(), 1);
    assert_eq!(set.keys()[0].prepared.algorithms().collect::<Vec<_>>(), [Algorithm::Rs256, Algorithm::Ps256]);
    assert_eq!(set.ignored().len(), 0);
}

#[test]
fn what_cannot_be_used_is_named() {
    let k1 = |members: Value| with(WORLD.k1.jwk("k1"), &members);
    let rsa = |members: Value| with(WORLD.rsa.jwk("r"), &members);
    let x = WORLD.k1.jwk("k1")["x"].clone();
    let wide = base64url(&[0xff; 1025]);
    let mut even = vec![0xff; 256];
    even[255] = 0xfe;
    let table = [
        (k1(json!({"use": "enc"})), "another `use`"),
        (k1(json!({"kty": 1})), "the key type ``"),
        (k1(json!({"kty": "oct"})), "the key type `oct`"),
        (WORLD.edwards.jwk("k1"), "the key type `OKP`"),
        (k1(json!({"kty": "ec"})), "the key type `ec`"),
        (k1(json!({"crv": "secp256k1"})), "the curve `secp256k1`"),
        (k1(json!({"crv": "P-384"})), "coordinates of 32 and 32 bytes, where the curve's have 48"),
        (k1(json!({"crv": null})), "the curve ``"),
        (k1(json!({"d": "AA"})), "the private key"),
        (k1(json!({"kid": 5})), "a `kid` that is not text"),
        (k1(json!({"kid": "k".repeat(513)})), "too long"),
        (k1(json!({"key_ops": ["sign"]})), "`key_ops` without `verify`"),
        (k1(json!({"key_ops": []})), "`key_ops` without `verify`"),
        (k1(json!({"key_ops": "verify"})), "`key_ops` without `verify`"),
        (k1(json!({"alg": "ES521"})), "the algorithm `ES521`"),
        (k1(json!({"alg": "RS256"})), "the algorithm `RS256`"),
        (k1(json!({"alg": 7})), "the algorithm `a value that is not text`"),
        (k1(json!({"x": null})), "no text in `x`"),
        (k1(json!({"x": "+AAA"})), "a `x` that is not base64url"),
        (k1(json!({"x": "AA=="})), "a `x` that is not base64url"),
        (k1(json!({"x": base64url(&[1; 31])})), "coordinates of 31 and 32 bytes"),
        (k1(json!({"x": base64url(&[0; 33])})), "coordinates of 33 and 32 bytes"),
        (k1(json!({"y": x})), "its point is not on the curve"),
        (k1(json!({"x": base64url(&[0; 32]), "y": base64url(&[0; 32])})), "its point is not on the curve"),
        (k1(json!({"x": base64url(&[0xff; 32])})), "its point is not on the curve"),
        (rsa(json!({"n": null})), "no text in `n`"),
        (rsa(json!({"n": ""})), "a `n` that is empty"),
        (rsa(json!({"n": base64url(&[&[0][..], &[0xff; 256]].concat())})), "begins with a zero byte"),
        (rsa(json!({"n": base64url(&[0xff; 128])})), "has 1024 bits"),
        (rsa(json!({"n": base64url(&[&[0x7f][..], &[0xff; 255]].concat())})), "has 2047 bits"),
        (rsa(json!({"n": wide})), "has 8200 bits"),
        (rsa(json!({"n": base64url(&even)})), "an even one"),
        (rsa(json!({"e": "AQ"})), "an exponent below 3"),
        (rsa(json!({"e": "Ag"})), "an even one"),
        (rsa(json!({"e": "AAEAAQ"})), "begins with a zero byte"),
        (rsa(json!({"e": base64url(&[0xff; 5])})), "above 33 bits"),
        (rsa(json!({"e": base64url(&[0xff; 256])})), "above 33 bits"),
    ];
    for (key, words) in table {
        let said = ignored(key.clone(), Origin::WorkloadApi);
        assert!(said.starts_with("key 0") && said.contains(words), "{key}: {said}");
    }
    let without = |kid: Value| with(WORLD.k1.jwk(""), &json!({"kid": kid, "use": "jwt-svid"}));
    for kid in [json!(""), json!(null)] {
        assert!(ignored(without(kid), Origin::SpiffeBundle).contains("no `kid` (JWT-SVID §6.1)"));
    }
}

#[test]
fn rsa_keys_are_taken_to_the_end_of_their_range() {
    let usable = |modulus: &[u8], exponent: &[u8]| {
        let key = json!({"kty": "RSA", "kid": "r", "n": base64url(modulus), "e": base64url(exponent)});
        read(&[key], Origin::Issuer).0.len() == 1
    };
    let (least, most) = ([&[0x80][..], &[0xff; 255]].concat(), [0xff; 1024]);
    for modulus in [&least[..], &most] {
        assert!(usable(modulus, &[1, 0, 1]), "{} bytes", modulus.len());
    }
    assert!(usable(&least, &[3]) && !usable(&least, &[1]));
    assert!(usable(&least, &[1, 0xff, 0xff, 0xff, 0xff]) && !usable(&least, &[2, 0, 0, 0, 1]));
    assert!(!usable(&least, &[]) && !usable(&least, &[0]) && !usable(&least, &[3, 0, 0, 0, 0, 0, 1]));
}

#[test]
fn keys_for_other_purposes_are_no_alarm() {
    let keys = [with(WORLD.k1.jwk("a"), &json!({"use": "enc"})), with(WORLD.k1.jwk("b"), &json!({"kty": "oct"}))];
    let set = key_set(&json!({"keys": keys}), Origin::Issuer);
    assert_eq!(set.ignored().iter().map(|ignored| ignored.is_foreign()).collect::<Vec<_>>(), [true, false]);
}

/// A key without `kid` is one that tokens without `kid` can be verified with, outside SPIFFE bundles.
#[test]
fn keys_without_kid_are_kept() {
    let mut key = WORLD.k1.jwk("");
    key.as_object_mut().expect("a key").remove("kid");
    assert_eq!(read(std::slice::from_ref(&key), Origin::Issuer).0, [""]);
    assert_eq!(read(&[key.clone(), key], Origin::WorkloadApi).0, ["", ""]);
}

/// Such a key was once taken for a second entry of the one in front of it: it was lost, or verified in that one's name.
#[test]
fn a_key_without_kid_is_not_the_one_whose_kid_is_empty() {
    let mut nameless = WORLD.other.jwk("");
    nameless.as_object_mut().expect("a key").remove("kid");
    for origin in [Origin::WorkloadApi, Origin::Issuer] {
        for empty in [WORLD.k1.jwk(""), WORLD.rsa.jwk("")] {
            let set = key_set(&json!({"keys": [empty, nameless]}), origin);
            assert_eq!(set.keys().iter().map(|key| key.key_id.as_deref()).collect::<Vec<_>>(), [Some(""), None]);
            assert!(set.keys()[0].thumbprint != set.keys()[1].thumbprint && set.ignored().is_empty());
        }
        let (usable, ignored) = read(&[WORLD.k1.jwk(""), WORLD.rsa.jwk(""), nameless.clone()], origin);
        assert_eq!((usable.len(), ignored.len()), (1, 2), "{ignored:?}");
    }
}

#[test]
fn a_kid_of_two_keys_is_nobodys() {
    let (one, other, third) = (WORLD.k1.jwk("k"), WORLD.other.jwk("k"), WORLD.rsa.jwk("r"));
    for origin in [Origin::WorkloadApi, Origin::Issuer] {
        let (usable, ignored) = read(&[one.clone(), other.clone(), third.clone(), one.clone()], origin);
        assert_eq!(usable, ["r"]);
        assert_eq!(ignored.len(), 3);
        assert!(
            ignored.iter().all(|said| said.contains("`kid` `k`") && said.contains("neither is used")),
            "{ignored:?}"
        );
        assert_eq!(read(&[one.clone(), one.clone()], origin).0, ["k"], "one key, twice");
        // An issuer may have a key for encryption under the same name.
        let encryption = with(other.clone(), &json!({"use": "enc"}));
        assert_eq!(read(&[one.clone(), encryption], origin).0, ["k"]);
    }
    // Not in a SPIFFE bundle: a `kid` is unique across all of it.
    let of = |key: &Value, usage: &str| with(key.clone(), &json!({"use": usage}));
    let (usable, ignored) = read(&[of(&one, "jwt-svid"), of(&other, "wit-svid")], Origin::SpiffeBundle);
    assert!(usable.is_empty() && ignored.len() == 2, "{ignored:?}");
    assert_eq!(read(&[of(&one, "jwt-svid"), of(&one, "jwt-svid")], Origin::SpiffeBundle).0, ["k"]);
}

#[test]
fn documents_with_two_meanings_are_rejected_whole() {
    for origin in ORIGINS {
        for document in
            ["", "[]", "{\"keys\": {}}", "{\"keys\": [1]}", "{\"keys\": []} x", "{\"keys\": [], \"keys\": []}"]
        {
            assert!(matches!(error(document.as_bytes(), origin), KeySetError::Json(_)), "{document}");
        }
        let twice = br#"{"keys": [{"kty": "EC", "kid": "a", "kid": "b"}]}"#;
        assert!(matches!(error(twice, origin), KeySetError::Json(_)));
        assert!(matches!(error(b"{}", origin), KeySetError::NoKeys));
        assert!(key_set(&json!({"keys": [], "spiffe_sequence": 1}), origin).is_empty());
    }
}

#[test]
fn documents_have_bounds() {
    let padded = |bytes: usize| {
        let document = json!({"keys": [WORLD.k1.jwk("k1")], "x": ""}).to_string();
        document.replace("\"x\":\"\"", &format!("\"x\":\"{}\"", "x".repeat(bytes - document.len())))
    };
    assert!(KeySet::parse(padded(ISSUER_DOCUMENT_BYTES_MAX).as_bytes(), Origin::Issuer).is_ok());
    let above = padded(ISSUER_DOCUMENT_BYTES_MAX + 1);
    assert!(matches!(error(above.as_bytes(), Origin::Issuer), KeySetError::TooLarge { .. }));
    assert!(KeySet::parse(above.as_bytes(), Origin::SpiffeBundle).is_ok());
    let many = |count: usize| json!({"keys": vec![json!({}); count]}).to_string();
    assert!(KeySet::parse(many(KEYS_MAX).as_bytes(), Origin::Issuer).is_ok());
    let above = error(many(KEYS_MAX + 1).as_bytes(), Origin::Issuer);
    assert!(matches!(above, KeySetError::TooManyKeys { count } if count == KEYS_MAX + 1));
    assert_eq!(CANDIDATES_MAX, 16);
}

/// RFC 7515 Appendix A.4, which is the one known answer for ES512.
#[test]
fn verifies_the_example_of_rfc_7515() {
    let key = json!({
        "kty": "EC", "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    });
    let token = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    let keys = key_set(&json!({"keys": [key]}), Origin::Issuer);
    let jws = crate::token::jws::Jws::read(token.as_bytes(), crate::token::jws::Profile::Issuer).expect("a JWS");
    assert_eq!(jws.payload, b"Payload");
    assert!(keys.verify(&jws).is_ok());
}

/// Two keys that differ in one bit have two names.
#[test]
fn thumbprints_tell_keys_apart() {
    let prints: Vec<_> = [Signer::p256(), Signer::p256()]
        .iter()
        .map(|signer| key_set(&json!({"keys": [signer.jwk("k")]}), Origin::Issuer).keys()[0].thumbprint)
        .collect();
    assert_ne!(prints[0], prints[1]);
    assert!(matches!(KeyFault::Use.to_string(), text if text.contains("RFC 7517")));
}
