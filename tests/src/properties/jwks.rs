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
        let is_ignored = |index: usize| set.ignored().iter().any(|ignored| ignored.index == index);
        for key in set.keys() {
            let kid = key.key_id.as_deref();
            let namesakes =
                (0..entries.len()).filter(|at| named(&entries[*at], kid) && may_sign(&entries[*at], origin));
            let (same, others): (Vec<usize>, Vec<usize>) =
                namesakes.partition(|at| thumbprint(&entries[*at]) == Some(key.thumbprint));
            assert!(!same.is_empty(), "{kid:?} is in no entry");
            // Of another key with the same name, all that can be wrong is that it is none.
            assert!(kid.is_none() || others.iter().all(|at| is_ignored(*at)), "{kid:?} is two keys");
            assert!(key.prepared.algorithms().count() > 0 && set.contains(key.thumbprint));
        }
        for (index, entry) in entries.iter().enumerate().filter(|(index, _)| !is_ignored(*index)) {
            let mut used = set.keys().iter().filter(|key| named(entry, key.key_id.as_deref()));
            let is_used = used.any(|key| thumbprint(entry) == Some(key.thumbprint));
            assert!(is_used, "entry {index} is neither used nor ignored");
        }
        // Written anew by somebody else, it is the same set.
        let again = serde_json::to_vec(&document).expect("JSON");
        let again = KeySet::parse(&again, origin).unwrap_or_else(|error| panic!("it is the same document: {error}"));
        assert!(set.keys().iter().map(|key| key.thumbprint).eq(again.keys().iter().map(|key| key.thumbprint)));
    }
}

/// No name is none, and not the empty one.
fn named(entry: &Value, kid: Option<&str>) -> bool {
    entry.get("kid").and_then(Value::as_str) == kid
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
