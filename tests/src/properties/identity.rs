//! A SPIFFE ID is what SPIFFE-ID §2 says, to the letter, and nothing is lost or changed of it.

use super::tokens::spell;
use postern_config::{SpiffeId, SpiffePattern, TrustDomain};

const VOCABULARY: &[&str] = &[
    "spiffe://",
    "shop.example",
    "/ns/",
    "/sa/",
    "web",
    "SPIFFE://",
    "/",
    "//",
    ".",
    "..",
    "/./",
    "/../",
    "*",
    "/*",
    "/**",
    "%2f",
    ":8443",
    "user@",
    "?q",
    "#f",
    "é",
    "_",
    "-",
    "Shop.example",
    "{ns}",
    "\0",
    "/*/",
    "**",
];

pub(super) fn check(bytes: &[u8]) {
    let Ok(text) = String::from_utf8(spell(bytes, VOCABULARY)) else { return };
    let parsed = SpiffeId::parse(&text);
    assert_eq!(parsed.is_ok(), is_spiffe_id(&text), "{text:?}: {parsed:?}");
    if let Ok(id) = &parsed {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
        assert_eq!(TrustDomain::parse(id.trust_domain_name()), Ok(id.trust_domain()));
    }
    pattern(&text, parsed.as_ref().ok());
}

fn pattern(text: &str, id: Option<&SpiffeId>) {
    const STRANGERS: [&str; 3] =
        ["spiffe://shop.example/ns/web/sa/frontend", "spiffe://partner.example/ns/web", "spiffe://shop.example"];
    let Ok(pattern) = SpiffePattern::parse(text) else { return };
    let again = SpiffePattern::parse(&pattern.to_string()).expect("what was printed can be read");
    if let Some(exact) = pattern.exact() {
        assert!(pattern.matches(&exact), "{text:?} does not match itself");
        assert!(id.is_none_or(|id| *id == exact), "{text:?} is the pattern of another ID");
    }
    for stranger in STRANGERS {
        let stranger = SpiffeId::parse(stranger).expect("an ID");
        let matches = pattern.matches(&stranger);
        assert_eq!(matches, again.matches(&stranger), "{text:?}");
        // A pattern never reaches into another trust domain, nor beyond what stands before its first wildcard.
        let plain = text.split(['*', '{']).next().unwrap_or_default();
        let plain = plain.trim_end_matches('/');
        assert!(!matches || stranger.as_str().starts_with(plain), "{text:?} matches {stranger}");
        assert!(!matches || pattern.trust_domain_name() == stranger.trust_domain_name(), "{text:?} matches {stranger}");
    }
}

/// Written from the standard a second time.
fn is_spiffe_id(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else { return false };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let is_name = |text: &str, upper: bool| {
        !text.is_empty()
            && text.chars().all(|character| match character {
                'a'..='z' | '0'..='9' | '.' | '-' | '_' => true,
                'A'..='Z' => upper,
                _ => false,
            })
    };
    let segments = parts.all(|segment| is_name(segment, true) && segment != "." && segment != "..");
    text.len() <= 2048 && is_name(domain, false) && domain.len() <= 255 && segments
}
