//! A SPIFFE bundle (JWK Set) is read as any JSON reader reads it, and what has two meanings is refused.

use postern::identity::bundle_format::parse_spiffe_bundle;
use serde_json::Value;

pub(super) fn check(bytes: &[u8]) {
    let Ok(bundle) = parse_spiffe_bundle(bytes) else { return };
    // serde_json has no numbers beyond a float's range; we pass over them.
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else { return };
    let keys = document["keys"].as_array().expect("it was taken, so it has keys");
    let of_use = |wanted: &str| -> Vec<&Value> {
        keys.iter().filter(|key| key["use"] == wanted && key["kty"].is_string()).collect()
    };
    let certificates: Vec<Vec<u8>> = bundle.x509_authorities.iter().map(|der| der.to_vec()).collect();
    assert!(certificates.len() <= of_use("x509-svid").len(), "an authority from nowhere");
    let authorities = of_use("x509-svid");
    let mut texts = authorities.iter().filter_map(|key| key["x5c"][0].as_str());
    for certificate in &certificates {
        let encoded = base64(certificate);
        assert!(texts.any(|text| text == encoded), "an authority that is no first value of `x5c`, in order");
    }
    for (usage, found) in [("jwt-svid", &bundle.jwt_authorities), ("wit-svid", &bundle.wit_authorities)] {
        for kid in found {
            let all = keys.iter().filter(|key| key["kid"] == kid.as_str()).count();
            assert!(all == 1 && of_use(usage).iter().any(|key| key["kid"] == kid.as_str()), "{kid:?}");
        }
    }
    assert_eq!(bundle.sequence, document["spiffe_sequence"].as_u64());
    assert_eq!(bundle.refresh_hint_seconds, document["spiffe_refresh_hint"].as_u64());
    // Written anew by somebody else, it is the same bundle.
    let again = serde_json::to_vec(&document).expect("JSON");
    let again = parse_spiffe_bundle(&again).expect("it is the same document");
    assert_eq!(again.x509_authorities, bundle.x509_authorities);
}

/// RFC 4648 §4, written a second time.
fn base64(bytes: &[u8]) -> String {
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits: Vec<bool> = group.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect();
        let sextets = bits.chunks(6).map(|chunk| {
            let value = chunk.iter().fold(0, |value, bit| value << 1 | usize::from(*bit));
            alphabet[value << (6 - chunk.len())]
        });
        text.extend(sextets);
        text.extend(std::iter::repeat_n('=', 3 - group.len()));
    }
    text
}
