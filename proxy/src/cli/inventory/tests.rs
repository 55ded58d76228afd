use super::against::{Entries, Findings, compare};
use super::{printable, render, render_findings};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

fn entry(path: &str, expires_at: &Value) -> Value {
    json!({
        "id": "1", "spiffe_id": { "trust_domain": "shop.example", "path": path },
        "parent_id": { "trust_domain": "shop.example", "path": "/agent" }, "selectors": [], "expires_at": expires_at,
    })
}

fn inventory(own: &str, seen: &[&str]) -> Value {
    let seen: Vec<_> = seen.iter().map(|id| json!({ "spiffe_id": id })).collect();
    json!({
        "identities": { "svids": [{ "spiffe_id": own, "expires_in_seconds": 100 }] },
        "peers": [], "seen": seen, "seen_not_kept": 0,
    })
}

#[test]
fn names_what_is_unknown_stale_and_unused() {
    let text = json!({
        "entries": [
            entry("/orders", &json!("0")), entry("/web", &json!("0")), entry("/old", &json!("500")),
            entry("/twice", &json!("500")), entry("/twice", &json!("0")), entry("/billing", &json!(0)),
        ],
        "next_page_token": "",
    });
    let entries = Entries::read(&text).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let seen = ["web", "old", "twice", "thief"].map(|name| format!("spiffe://shop.example/{name}"));
    let mut seen: Vec<_> = seen.iter().map(String::as_str).collect();
    seen.push("spiffe://partner.example/caller");
    let mut first = inventory("spiffe://shop.example/orders", &seen);
    first["caller_tokens"] = json!([{ "spiffe_id": "spiffe://shop.example/passed" }, { "spiffe_id": null }]);
    let found = compare(&entries, std::slice::from_ref(&first), now);
    let expected = Findings {
        unknown: vec!["spiffe://shop.example/passed".into(), "spiffe://shop.example/thief".into()],
        stale: vec!["spiffe://shop.example/old: its entry has expired".into()],
        unused: vec!["spiffe://shop.example/billing".into()],
        elsewhere: 1,
        not_kept: 0,
    };
    assert_eq!(found, expected);
    // Another sidecar is the one that was missing, and holds one that nobody registered.
    let mut second = inventory("spiffe://shop.example/billing", &[]);
    let gone = json!({ "spiffe_id": "spiffe://shop.example/gone", "expires_in_seconds": -5 });
    second["identities"]["svids"].as_array_mut().unwrap().push(gone);
    let found = compare(&entries, &[first, second], now);
    assert!(found.unused.is_empty());
    let stale = &found.stale;
    assert!(stale.contains(&"spiffe://shop.example/gone: our SVID has expired".to_owned()), "{stale:?}");
    assert!(stale.contains(&"spiffe://shop.example/gone: our SVID has no entry".to_owned()), "{stale:?}");
    assert!(
        render_findings(&found)
            .contains("unknown: it has proven this identity, and no entry has it\n  spiffe://shop.example/passed\n  spiffe://shop.example/thief\n")
    );
    assert_eq!(
        render_findings(&Findings::default()),
        "every entry is used, and everything that is used has an entry\n"
    );
}

#[test]
fn reads_pages_and_refuses_what_is_no_list_of_entries() {
    let page = json!({ "entries": [entry("/web", &json!("0"))] });
    assert!(Entries::read(&json!([page, { "entries": [] }])).is_ok());
    for wrong in
        [json!({}), json!([1]), json!({ "entries": [{}] }), json!({ "entries": [entry("/a", &json!("soon"))] })]
    {
        assert!(Entries::read(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn one_table_has_all_that_is_held_and_seen() {
    let sha256 = "ab".repeat(32);
    let inventory = json!({
        "started_at": "2026-11-23T08:00:00Z", "policy": { "digest": "0123456789abcdef", "generation": 3 },
        "identities": {
            "svids": [{
                "spiffe_id": "spiffe://shop.example/web", "sha256": sha256, "serial": "0a", "age_seconds": 60,
                "expires_in_seconds": 3600,
            }],
            "tokens": [{
                "spiffe_id": "spiffe://shop.example/web", "audience": "spiffe://shop.example/b", "age_seconds": null,
                "expires_in_seconds": null, "uses": 1, "last_use_at": "2026-11-23T08:30:00Z",
            }],
            "bundles": [{ "trust_domain": "shop.example", "authorities": [{ "id": sha256, "age_seconds": 90, "expires_in_seconds": -5 }] }],
            "token_keys": [{ "trust_domain": "shop.example", "keys": [{ "key_id": "k1" }] }],
            "issuer_keys": [{ "issuer": "https://ci.example", "keys": [{ "key_id": null }] }],
        },
        "peers": [{ "spiffe_id": "spiffe://shop.example/a\u{1b}", "sha256": sha256, "expires_in_seconds": 59, "connections": 2 }],
        "caller_tokens": [{
            "subject": "spiffe://shop.example/a", "audience": ["b", "c"], "age_seconds": 5, "expires_in_seconds": 295,
            "last_use_at": "2026-11-23T08:31:00Z",
        }],
        "seen": [{}, {}],
        "revocation_lists": [{ "authority": null, "sha256": sha256, "stale": true }],
        "denied": [{ "denied": "token x", "expires": "2026-11-24T00:00:00Z" }],
        "break_glass": { "until": "2026-11-23T09:00:00Z", "reason": "INC-1" },
    });
    let expected = "\
policy 0123456789ab, generation 3

KIND             OF                         WHICH                    AGE     EXPIRY          USE
own SVID         spiffe://shop.example/web  abababababababab         1m 0s   in 1h 0m        serial 0a
own token        spiffe://shop.example/web  spiffe://shop.example/b  -       -               1 use, the last 2026-11-23T08:30:00Z
authority        shop.example               abababababababab         1m 30s  EXPIRED 5s ago
token key        shop.example               k1                       -       -
token key        https://ci.example         -                        -       -
peer             spiffe://shop.example/a?   abababababababab         -       in 59s          2 live connections
caller's token   spiffe://shop.example/a    b c                      5s      in 4m 55s       used 2026-11-23T08:31:00Z
revocation list  -                          abababababababab         -       -               STALE

seen since 2026-11-23T08:00:00Z: 2 SPIFFE IDs
denied until 2026-11-24T00:00:00Z: token x
BREAK-GLASS until 2026-11-23T09:00:00Z: INC-1
";
    assert_eq!(printable(&render(&inventory)), expected);
}
