//! A key set's keys are those that any JSON reader finds in the document, and none that it should not have.

use aws_lc_rs::digest::{SHA256, digest};
use postern::token::{KeySet, Origin, Thumbprint};
use serde_json::Value;

pub(super) fn check(bytes: &[u8]) {
    for origin in [Origin::WorkloadApi, Origin::SpiffeBundle, Origin::Issuer] {
        let Ok(set) = KeySet::parse(bytes, origin) else { continue };
        // serde_json has no numbers beyond a float's range; we pass over them.
        let Ok(document) = serde_json::from_slice::<Value>(bytes) else { continue };
        let entries = document["keys"].as_array().expect("it was taken, so it has keys");
        assert!(set.keys().len() + set.ignored().len() <= entries.len(), "a key from nowhere");
        for key in set.keys() {
            let kid = key.key_id.as_deref();
            let same = |entry: &&Value| entry.get("kid").and_then(Value::as_str) == kid;
            let named: Vec<&Value> = entries.iter().filter(same).filter(|entry| may_sign(entry, origin)).collect();
            assert!(named.iter().any(|entry| thumbprint(entry) == Some(key.thumbprint)), "{kid:?} is in no entry");
            let another = named.iter().filter_map(|entry| thumbprint(entry)).any(|other| other != key.thumbprint);
            // Of another key with the same name, all that can be wrong is that it is none.
            assert!(kid.is_none() || !another || set.ignored().len() >= named.len() - 1, "{kid:?} is two keys");
            assert!(key.prepared.algorithms().count() > 0 && set.contains(key.thumbprint));
        }
        // Written anew by somebody else, it is the same set.
        let again = serde_json::to_vec(&document).expect("JSON");
        let again = KeySet::parse(&again, origin).unwrap_or_else(|error| panic!("it is the same document: {error}"));
        assert!(set.keys().iter().map(|key| key.thumbprint).eq(again.keys().iter().map(|key| key.thumbprint)));
    }
}

fn may_sign(entry: &Value, origin: Origin) -> bool {
    let usage = entry.get("use").map(|usage| usage.as_str().unwrap_or("(not text)"));
    let used = match origin {
        Origin::WorkloadApi => matches!(usage, None | Some("jwt-svid")),
        Origin::SpiffeBundle => usage == Some("jwt-svid"),
        Origin::Issuer => matches!(usage, None | Some("sig")),
    };
    used && entry.get("d").is_none() && (entry["kty"] == "RSA" || entry["kty"] == "EC")
}

/// RFC 7638, written a second time: what serde_json writes of texts in base64url is canonical.
fn thumbprint(entry: &Value) -> Option<Thumbprint> {
    let members: &[&str] = if entry["kty"] == "RSA" { &["e", "kty", "n"] } else { &["crv", "kty", "x", "y"] };
    let texts = members.iter().map(|member| Some(format!("\"{member}\":\"{}\"", entry[*member].as_str()?)));
    let canonical = format!("{{{}}}", texts.collect::<Option<Vec<_>>>()?.join(","));
    Some(Thumbprint(digest(&SHA256, canonical.as_bytes()).as_ref().try_into().ok()?))
}
