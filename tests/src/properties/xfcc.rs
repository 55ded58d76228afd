//! Whatever a forwarder sends as `x-forwarded-client-cert`: what goes on names those alone whom it, or who it speaks for, may speak
//! for, and reads again as the same (THREATS HD-10, HD-14).

use super::tokens::spell;
use http::{HeaderMap, HeaderValue};
use postern::http::forwarded::{Forwarded, parse};
use postern_config::{Forwarder, SpiffeId, SpiffePattern};
use std::sync::LazyLock;

const GATEWAY: &str = "spiffe://shop.example/gateway";
const EDGE: &str = "spiffe://edge.example/edge";
const VOCABULARY: &[&str] = &[
    "URI=spiffe://shop.example/web",
    "URI=spiffe://edge.example/edge",
    "URI=spiffe://partner.example/app",
    "URI=spiffe://shop.example/gateway",
    "By=",
    "Hash=00",
    "Subject=\"CN=a\\\"b\"",
    "URI=\"",
    "\"",
    "\\",
    ",",
    ";",
    "=",
    " ",
    "\n",
    "spiffe://",
];

static FORWARDERS: LazyLock<Vec<Forwarder>> = LazyLock::new(|| {
    let pattern = |text: &str| SpiffePattern::parse(text).expect("a pattern");
    let forwarder = |who: &str, whom: &[&str]| Forwarder {
        spiffe: vec![pattern(who)],
        may_speak_for: whom.iter().map(|whom| pattern(whom)).collect(),
    };
    vec![forwarder(GATEWAY, &["spiffe://shop.example/**", EDGE]), forwarder(EDGE, &["spiffe://partner.example/**"])]
});

/// One field a line.
pub(super) fn check(bytes: &[u8]) {
    let peer = SpiffeId::parse(GATEWAY).expect("an ID");
    let mut fields = HeaderMap::new();
    for line in spell(bytes, VOCABULARY).split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line.trim_ascii()) {
            fields.append("x-forwarded-client-cert", value);
        }
    }
    let Ok(Some(forwarded)) = Forwarded::read(&FORWARDERS, &peer, &fields) else { return };
    let kept = parse(forwarded.elements()).expect("what goes on can be read");
    let mut speaker = peer.clone();
    for element in kept.iter().rev() {
        let named = SpiffeId::parse(&element.uri).expect("who is spoken for has an ID");
        let may = |it: &Forwarder| it.is(&speaker) && it.may_speak_for(&named);
        assert!(FORWARDERS.iter().any(may), "{speaker} speaks for {named}");
        speaker = named;
    }
    assert_eq!(forwarded.caller(), Some(&speaker));
    assert!(forwarded.is_still_believed(&FORWARDERS, &peer));
    let mut again = HeaderMap::new();
    again.insert("x-forwarded-client-cert", HeaderValue::from_str(forwarded.elements()).expect("a value"));
    assert_eq!(Forwarded::read(&FORWARDERS, &peer, &again).expect("is believed"), Some(forwarded));
}
