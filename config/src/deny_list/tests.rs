use super::{Denied, DenyList};
use crate::pattern::SpiffePattern;
use crate::spiffe_id::TrustDomain;
use std::path::Path;

fn read(text: &str) -> Result<DenyList, String> {
    DenyList::from_str(Path::new("deny.yaml"), text).map_err(|problems| problems.to_string())
}

fn entry(what: &str) -> String {
    format!(
        "deny:\n  - {what}\n    reason: seen in a core dump\n    author: alice\n    expires: 2026-12-24T00:00:00Z\n"
    )
}

#[test]
fn an_entry_says_whom_why_who_and_until_when() {
    let fingerprint = "AB:".repeat(31) + "ab";
    for (text, what) in [
        (
            "spiffe: spiffe://shop.example/ns/*/sa/web",
            Denied::Spiffe(SpiffePattern::parse("spiffe://shop.example/ns/*/sa/web").unwrap()),
        ),
        (&format!("certificate: \"{fingerprint}\""), Denied::Certificate([0xab; 32])),
        ("serial: \"00:0F:a1\"", Denied::Serial { serial: "fa1".into(), trust_domain: None }),
        (
            "serial: \"7b\"\n    trust_domain: shop.example",
            Denied::Serial { serial: "7b".into(), trust_domain: Some(TrustDomain::parse("shop.example").unwrap()) },
        ),
        ("token: 6ff1", Denied::TokenId("6ff1".into())),
    ] {
        let list = read(&entry(text)).unwrap_or_else(|problems| panic!("{text}: {problems}"));
        let [entry] = list.entries.as_slice() else { panic!("{list:?}") };
        assert_eq!((&entry.what, entry.expires), (&what, 1_798_070_400), "{text}");
        assert_eq!((entry.reason.as_str(), entry.author.as_str()), ("seen in a core dump", "alice"));
        assert_eq!(entry.expires_text(), "2026-12-24T00:00:00Z");
    }
    assert_eq!(read("deny: []\n"), Ok(DenyList::default()));
}

#[test]
fn the_pages_own_list_can_be_read() {
    let page = include_str!("../../../docs/revocation.md");
    let list = page.split("```yaml\n").find_map(|block| block.strip_prefix("# deny.yaml\n")).expect("it is there");
    let list = read(list.split("```").next().unwrap_or_default()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(list.entries.len(), 2);
}

#[test]
fn what_is_no_entry_is_refused_with_its_place() {
    for (text, expected) in [
        (entry("spiffe: spiffe://shop.example/a\n    token: b"), "deny.yaml:2:5: an entry denies exactly one thing"),
        (entry("trust_domain: shop.example"), "says whose `serial` is meant"),
        (entry("spiffe: spiffe://*/a"), "deny.yaml:2:13"),
        (entry("spiffe: \"spiffe://shop.example/{a}\""), "captures what nothing here asks for"),
        (entry("certificate: abcd"), "`abcd` is not a SHA-256 of 64 hex digits"),
        (entry("serial: \"0x12\""), "is not a serial number in hex"),
        (entry("serial: 12"), "write it in quotes"),
        ("deny:\n  - spiffe: spiffe://shop.example/a\n".to_owned(), "`reason` is missing"),
        ("denied: []\n".to_owned(), "known keys are `deny`"),
        (entry("spiffe: spiffe://shop.example/a").replace("2026-12-24T00:00:00Z", "tomorrow"), "is not a moment"),
        (entry(&format!("token: {}", "a".repeat(201))), "201 bytes are more than the 200"),
        (String::new(), "the file is empty"),
        ("deny: []\ninclude: Cargo.toml\n".to_owned(), "deny.yaml:2:1: this file includes no others"),
    ] {
        let problems = read(&text).expect_err(&text);
        assert!(problems.contains(expected), "{text}\n{problems}");
    }
}

#[test]
fn serial_numbers_are_compared_without_what_people_write_around_them() {
    for (text, expected) in
        [("00", Some("0")), ("0A", Some("a")), ("a:b", Some("ab")), ("", None), (":", None), ("g", None)]
    {
        assert_eq!(Denied::serial(text).as_deref(), expected, "{text}");
    }
    assert_eq!(Denied::serial(&"1".repeat(81)), None);
}
