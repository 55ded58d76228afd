//! The crate spiffe as oracle for SPIFFE IDs: what it takes, we take, and the other way round, but for its leniencies.

use postern_config::SpiffeId;
use proptest::prelude::{ProptestConfig, Strategy, prop, prop_assert, proptest};

/// spiffe 0.19 takes scheme and trust domain in upper case and lower-cases them; go-spiffe, SPIRE and we refuse: the
/// wire form is lower case (SPIFFE-ID §2.1), and normalising makes two spellings of one identity. It also knows no
/// length limit for the whole ID, where SPIFFE-ID §2.3 has implementations support 2048 bytes.
fn known_difference(text: &str) -> bool {
    let authority_end = text.get(9..).and_then(|rest| rest.find('/')).map_or(text.len(), |end| end + 9);
    let upper = text.get(..authority_end).is_some_and(|head| head.bytes().any(|byte| byte.is_ascii_uppercase()));
    upper || text.len() > 2048
}

fn check(text: &str) -> Result<(), String> {
    let ours = SpiffeId::parse(text);
    let theirs = spiffe::SpiffeId::new(text);
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) if ours.as_str() == theirs.to_string() && ours.path() == theirs.path() => Ok(()),
        (Err(_), Err(_)) => Ok(()),
        (Err(_), Ok(_)) if known_difference(text) => Ok(()),
        _ => Err(format!("{text:?}: ours {ours:?}, theirs {theirs:?}")),
    }
}

/// C-1 of the SPIFFE checklist.
#[test]
fn c_1_agrees_with_spiffe() {
    let longest = format!("spiffe://example.org/{}", "a".repeat(2048 - 21));
    let too_long = format!("{longest}a");
    let domain = |bytes: usize| format!("spiffe://{}/a", "a".repeat(bytes));
    let (domain_longest, domain_too_long) = (domain(255), domain(256));
    let mut texts: Vec<String> = [
        "spiffe://example.org/a",
        "spiffe://example.org",
        "spiffe://example.org/",
        "",
        "spiffe:",
        "spiffe:/a",
        "spiffe://",
        "spiffe:///a",
        "https://example.org/a",
        "spiff://example.org/a",
        "SPIFFE://example.org/a",
        "Spiffe://example.org/a",
        "spiffe://Example.org/a",
        "spiffe://u@example.org/a",
        "spiffe://u:p@example.org/a",
        "spiffe://@example.org/a",
        "spiffe://example.org:80/a",
        "spiffe://example.org:/a",
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
        "spiffe://example.org/...",
        "spiffe://example.org/.a",
        "spiffe://example.org/..a",
        "spiffe://example.org/a.",
        "spiffe://example.org/a/",
        "spiffe://1.2.3.4/a",
        "spiffe://td_1/a",
        "spiffe://-/a",
        "spiffe://../a",
        "spiffe://[::1]/a",
        "spiffe://example.org/A",
        " spiffe://example.org/a",
        "spiffe://example.org/a ",
        "spiffe://example.org/a\t",
        "spiffe://example.org/a\r\n",
        "spiffe://example.org/a\u{200b}",
        "spiffe://example.org/\u{ff41}",
        "spiffe://example.org./a",
    ]
    .map(str::to_owned)
    .into();
    texts.extend([longest, too_long, domain_longest, domain_too_long]);
    for byte in 0..=0x7f_u8 {
        let character = char::from(byte);
        texts.push(format!("spiffe://example.org/a{character}"));
        texts.push(format!("spiffe://example.org{character}/a"));
    }
    let wrong: Vec<_> = texts.iter().filter_map(|text| check(text).err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_agrees_with_spiffe(text in texts()) {
        let outcome = check(&text);
        prop_assert!(outcome.is_ok(), "{outcome:?}");
    }
}

/// Near misses rather than noise: an ID with up to three characters put somewhere.
fn texts() -> impl Strategy<Value = String> {
    let base =
        prop::sample::select(vec!["spiffe://example.org/ns/web/sa/a", "spiffe://td/a", "spiffe://td", "spiffe://"]);
    let edits = prop::collection::vec((0..40_usize, "[ -~\u{e9}\u{0}]|/|\\.|\\.\\."), 0..4);
    (base, edits).prop_map(|(base, edits)| {
        edits.into_iter().fold(base.to_owned(), |mut text, (place, insert)| {
            let place = (place % (text.len() + 1)..=text.len()).find(|at| text.is_char_boundary(*at));
            text.insert_str(place.unwrap_or(0), &insert);
            text
        })
    })
}
