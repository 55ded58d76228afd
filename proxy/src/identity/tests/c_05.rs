//! Conformance C-5, as far as X.509 goes: documents in the SPIFFE bundle format.

use super::fixtures::Ca;
use crate::base64::{self, Base64Fault};
use crate::identity::bundle_format::{BundleError, Ignored, SpiffeBundleDocument, parse_spiffe_bundle};
use crate::tls::bundle::load_bundle;
use postern_config::TrustDomain;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::SystemTime;

/// Only the standard alphabet matters here, and speed does not.
pub(super) fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        (0..4).map(move |at| (at, bits)).map(|(at, bits)| (at, ALPHABET[(bits >> (18 - 6 * at)) as usize & 63] as char))
    };
    let digit = |(chunk, (at, character))| if at <= chunk { character } else { '=' };
    bytes.chunks(3).flat_map(|chunk| group(chunk).map(move |digit| (chunk.len(), digit))).map(digit).collect()
}

fn x509(ca: &Ca) -> Value {
    json!({"use": "x509-svid", "kty": "EC", "x5c": [encode(&ca.der)]})
}

fn parse(document: Value) -> Result<SpiffeBundleDocument, BundleError> {
    parse_spiffe_bundle(document.to_string().as_bytes())
}

fn parse_keys(keys: impl IntoIterator<Item = Value>) -> SpiffeBundleDocument {
    parse(json!({"keys": keys.into_iter().collect::<Vec<_>>()})).unwrap()
}

#[test]
fn b_01_one_key_of_each_use() {
    let ca = Ca::new("example.org");
    let bundle = parse(json!({
        "keys": [x509(&ca), {"use": "jwt-svid", "kty": "EC", "kid": "j"}, {"use": "wit-svid", "kty": "EC", "kid": "w"}],
        "spiffe_sequence": 7, "spiffe_refresh_hint": 300, "unknown": {"x": [1, 1e3]},
    }))
    .unwrap();
    assert_eq!(bundle.x509_authorities.len(), 1);
    assert_eq!(bundle.x509_authorities[0].as_ref(), ca.der);
    assert_eq!((bundle.jwt_authorities, bundle.wit_authorities), (vec!["j".to_owned()], vec!["w".to_owned()]));
    assert_eq!((bundle.sequence, bundle.refresh_hint_seconds), (Some(7), Some(300)));
    assert_eq!(bundle.ignored, []);
}

#[test]
fn b_02_a_document_without_keys_is_rejected() {
    assert!(matches!(parse(json!({"spiffe_sequence": 1})), Err(BundleError::NoKeys)));
    assert_eq!(parse(json!({"keys": []})).unwrap().x509_authorities, [], "empty is not absent");
    for wrong in [json!({"keys": null}), json!({"keys": {}}), json!({"keys": ["x"]}), json!([]), json!("keys")] {
        assert!(matches!(parse(wrong.clone()), Err(BundleError::Json(_))), "{wrong}");
    }
    assert!(matches!(parse_spiffe_bundle(b"{\"keys\": []} x"), Err(BundleError::Json(_))), "trailing bytes");
}

#[test]
fn a_member_twice_is_rejected() {
    let ca = Ca::new("example.org");
    let key = x509(&ca);
    for document in [
        format!("{{\"keys\": [{key}], \"keys\": []}}"),
        format!("{{\"spiffe_sequence\": 1, \"keys\": [{key}], \"spiffe_sequence\": 2}}"),
        "{\"keys\": [{\"kty\": \"EC\", \"use\": \"jwt-svid\", \"use\": \"x509-svid\"}]}".to_owned(),
        "{\"keys\": [], \"k\\u0065ys\": []}".to_owned(),
    ] {
        assert!(matches!(parse_spiffe_bundle(document.as_bytes()), Err(BundleError::Json(_))), "{document}");
    }
}

#[test]
fn b_05_a_key_without_a_known_use_is_ignored() {
    let ca = Ca::new("example.org");
    let with_use = |usage: Value| {
        let mut key = x509(&ca);
        key["use"] = usage;
        key
    };
    let mut without = x509(&ca);
    without.as_object_mut().unwrap().remove("use");
    let bundle =
        parse_keys([x509(&ca), without, with_use(json!("sig")), with_use(json!("X509-SVID")), with_use(json!(5))]);
    assert_eq!(bundle.x509_authorities.len(), 1);
    assert_eq!(bundle.ignored, [1, 2, 3, 4].map(|index| Ignored::Use { index }));
    let mut without = x509(&ca);
    without.as_object_mut().unwrap().remove("kty");
    assert_eq!(parse_keys([without]).ignored, [Ignored::KeyType { index: 0 }]);
}

#[test]
fn b_06_an_x509_key_without_x5c_is_ignored() {
    let bare = json!({"use": "x509-svid", "kty": "EC"});
    let bundle = parse_keys([
        bare.clone(),
        json!({"use": "x509-svid", "kty": "EC", "x5c": []}),
        json!({"use": "x509-svid", "kty": "EC", "x5c": 1e3}),
        json!({"use": "x509-svid", "kty": "EC", "x5c": [{}]}),
    ]);
    assert_eq!(bundle.x509_authorities, []);
    assert_eq!(bundle.ignored, [0, 1, 2, 3].map(|index| Ignored::NoCertificate { index }));
}

/// X509-SVID §6.2: "the first … MUST be used, the rest ignored"; a second that is no base64 does no harm.
#[test]
fn b_07_of_several_x5c_values_the_first_is_used() {
    let ca = Ca::new("example.org");
    let bundle = parse_keys([json!({"use": "x509-svid", "kty": "EC", "x5c": [encode(&ca.der), "not base64"]})]);
    assert_eq!(bundle.x509_authorities[0].as_ref(), ca.der);
    assert_eq!(bundle.ignored, []);
}

#[test]
fn b_08_x5c_in_base64url_or_pem_is_ignored_with_an_alarm() {
    // Bytes whose encoding has both of the characters in which the alphabets differ.
    let url = encode(&[0xfb, 0xff, 0xbf]).replace('+', "-").replace('/', "_");
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    for text in [url.as_str(), &format!("{pem:<60}")] {
        let bundle = parse_keys([json!({"use": "x509-svid", "kty": "EC", "x5c": [text]})]);
        let source = Base64Fault::Character;
        assert_eq!(bundle.ignored, [Ignored::Certificate { index: 0, source }], "{text}");
    }
}

#[test]
fn b_11_a_sequence_that_is_no_integer_rejects_the_field_alone() {
    let sequence = |text: &str| {
        let document = format!("{{\"keys\": [], \"spiffe_sequence\": {text}, \"spiffe_refresh_hint\": 60}}");
        let bundle = parse_spiffe_bundle(document.as_bytes()).unwrap();
        assert_eq!(bundle.refresh_hint_seconds, Some(60), "{text}");
        (bundle.sequence, bundle.ignored)
    };
    assert_eq!(sequence("9223372036854775808"), (Some(1 << 63), vec![]));
    for wrong in ["1e400", "\"7\"", "-1", "1.5", "null", "{}", "18446744073709551616"] {
        assert_eq!(sequence(wrong), (None, vec![Ignored::Sequence]), "{wrong}");
    }
}

#[test]
fn b_15_a_bundle_with_nothing_usable_is_empty() {
    let bundle =
        parse_keys([json!({"use": "sig", "kty": "EC"}), json!({"use": "x509-svid", "kty": "EC", "x5c": ["MAA="]})]);
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let (loaded, problems) = load_bundle(trust_domain, bundle.x509_authorities, SystemTime::now());
    assert_eq!((loaded.anchors.len(), problems.len()), (0, 1));
}

#[test]
fn token_keys_need_a_key_id_of_their_own() {
    let key = |usage: &str, kid: Value| json!({"use": usage, "kty": "EC", "kid": kid});
    let bundle = parse_keys([
        key("jwt-svid", json!("a")),
        key("jwt-svid", Value::Null),
        key("jwt-svid", json!("twice")),
        key("wit-svid", json!("twice")),
    ]);
    assert_eq!(bundle.jwt_authorities, ["a"]);
    assert_eq!(bundle.wit_authorities, [""; 0]);
    assert_eq!(
        bundle.ignored,
        [Ignored::NoKeyId { index: 1 }, Ignored::KeyIdTwice { index: 2 }, Ignored::KeyIdTwice { index: 3 }]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_answered_without_panic(document in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse_spiffe_bundle(&document);
    }

    /// Whatever certificates go in as text come out as bytes, in order, whatever else the document has.
    #[test]
    fn certificates_survive_the_format(
        certificates in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..64), 0..8),
        sequence in any::<u64>(),
        noise in "[a-z]{1,8}",
    ) {
        let keys: Vec<Value> = certificates
            .iter()
            .map(|der| json!({"kty": "EC", "use": "x509-svid", "x5c": [encode(der)], "crv": noise, "n": [sequence]}))
            .collect();
        let document = json!({"keys": keys, "spiffe_sequence": sequence, format!("x_{noise}"): {"keys": 1}});
        let bundle = parse(document).unwrap();
        let found: Vec<&[u8]> = bundle.x509_authorities.iter().map(AsRef::as_ref).collect();
        prop_assert_eq!(found, certificates);
        prop_assert_eq!(bundle.sequence, Some(sequence));
    }

    #[test]
    fn base64_has_one_spelling(text in "[A-Za-z0-9+/=]{0,24}") {
        if let Ok(bytes) = base64::decode(&text) {
            prop_assert_eq!(encode(&bytes), text);
        }
    }
}
