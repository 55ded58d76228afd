use super::{Denials, Entry, Origin};
use crate::identity::AuthorityId;
use crate::tls::Peer;
use postern_config::{DenyList, SpiffeId};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// 2026-12-24.
const CHRISTMAS: u64 = 1_798_070_400;

fn denials(entries: &[&str]) -> Denials {
    let text = entries.iter().fold("deny:\n".to_owned(), |text, entry| {
        text + "  - { " + entry + ", reason: lost, author: alice, expires: 2026-12-24T00:00:00Z }\n"
    });
    let list = DenyList::from_str(Path::new("deny.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}"));
    let entry = |denied| Arc::new(Entry { number: 0, origin: Origin::File, denied });
    Denials::new(list.entries.into_iter().map(entry).collect())
}

fn peer(id: &str) -> Peer {
    Peer {
        id: SpiffeId::parse(id).expect("an ID"),
        chain: Vec::new(),
        fingerprint: [0xab; 32],
        chain_fingerprint: [0; 32],
        serial: "00fa1e".to_owned(),
        not_after: SystemTime::now(),
        authority: AuthorityId([1; 32]),
        issued: Vec::new(),
        generation: 1,
        rendered: Default::default(),
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn finds_whom_and_what_the_list_denies() {
    let web = peer("spiffe://shop.example/ns/web/sa/frontend");
    let fingerprint = format!("certificate: {}", "ab".repeat(32));
    for (entry, denied) in [
        ("spiffe: spiffe://shop.example/ns/web/sa/frontend", true),
        ("spiffe: spiffe://shop.example/ns/*/sa/frontend", true),
        ("spiffe: spiffe://shop.example/**", true),
        ("spiffe: spiffe://shop.example/ns/web/sa/frontend2", false),
        ("spiffe: spiffe://shop.example.org/**", false),
        (&fingerprint, true),
        ("serial: \"fa1e\"", true),
        ("serial: \"fa:1e\", trust_domain: shop.example", true),
        ("serial: \"fa1e\", trust_domain: partner.example", false),
        ("serial: \"fa1f\"", false),
        ("token: fa1e", false),
    ] {
        let found = denials(&[entry]).of_peer(&web, at(CHRISTMAS - 1)).map(Entry::words);
        assert_eq!(found.is_some(), denied, "{entry}: {found:?}");
        assert!(found.is_none_or(|words| words.ends_with(": lost (alice)")));
    }
}

#[test]
fn an_entry_acts_until_it_expires() {
    let web = peer("spiffe://shop.example/web");
    let list = denials(&["spiffe: spiffe://shop.example/web", "serial: \"fa1e\""]);
    assert!(list.of_peer(&web, at(CHRISTMAS - 1)).is_some());
    assert!(list.of_peer(&web, at(CHRISTMAS)).is_none());
}

#[test]
fn one_that_has_expired_does_not_hide_another() {
    let mut list = DenyList::from_str(
        Path::new("deny.yaml"),
        "deny:\n\
         - { spiffe: spiffe://shop.example/web, reason: a, author: b, expires: 2020-01-01T00:00:00Z }\n\
         - { spiffe: spiffe://shop.example/web, reason: c, author: d, expires: 2026-12-24T00:00:00Z }\n",
    )
    .expect("a list");
    let entry = |denied| Arc::new(Entry { number: 0, origin: Origin::File, denied });
    let list = Denials::new(list.entries.drain(..).map(entry).collect());
    let found = list.of_peer(&peer("spiffe://shop.example/web"), at(CHRISTMAS - 1));
    assert_eq!(found.map(|entry| entry.denied.reason.as_str()), Some("c"));
}
