use super::{BYTES_MAX, ELEMENTS_MAX, Forwarded, Malformed, parse};
use crate::refusal::Refusal;
use http::{HeaderMap, HeaderValue};
use postern_config::{Forwarder, SpiffeId, SpiffePattern};

const WEB: &str = "spiffe://shop.example/web";
const GATEWAY: &str = "spiffe://shop.example/gateway";
const EDGE: &str = "spiffe://edge.example/edge";

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

fn forwarder(spiffe: &str, may_speak_for: &[&str]) -> Forwarder {
    let pattern = |text: &&str| SpiffePattern::parse(text).expect("a pattern");
    Forwarder { spiffe: vec![pattern(&spiffe)], may_speak_for: may_speak_for.iter().map(pattern).collect() }
}

/// The gateway speaks for the shop and the edge, the edge for partners.
fn forwarders() -> Vec<Forwarder> {
    vec![forwarder(GATEWAY, &["spiffe://shop.example/**", EDGE]), forwarder(EDGE, &["spiffe://partner.example/**"])]
}

fn fields(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append("x-forwarded-client-cert", HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

/// The original caller and what is kept, or the refusal.
fn read(peer: &str, values: &[&str]) -> Result<Option<(String, String)>, Refusal> {
    let read = Forwarded::read(&forwarders(), &id(peer), &fields(values)).map_err(|refused| refused.refusal)?;
    Ok(read.map(|it| (it.caller().expect("a caller").to_string(), it.elements().to_owned())))
}

#[test]
fn reads_envoys_grammar_and_nothing_else() {
    let uris = |text: &str| parse(text).map(|all| all.into_iter().map(|it| it.uri).collect::<Vec<_>>());
    for (text, expected) in [
        ("URI=spiffe://a/b", vec!["spiffe://a/b"]),
        ("By=spiffe://a/b;Hash=00;Subject=\"\";uri=spiffe://a/c", vec!["spiffe://a/c"]),
        ("Hash=00;URI=x , Hash=01;URI=y", vec!["x", "y"]),
        ("Hash=00", vec![""]),
        ("URI=", vec![""]),
        (r#"Subject="CN=a\",URI=evil;b";URI=x"#, vec!["x"]),
        (r#"URI="a\\b,c;d=e""#, vec![r"a\b,c;d=e"]),
    ] {
        assert_eq!(uris(text), Ok(expected.into_iter().map(str::to_owned).collect()), "{text}");
    }
    for (text, expected) in [
        ("", Malformed::NotAPair),
        ("URI=x,", Malformed::NotAPair),
        (",URI=x", Malformed::NotAPair),
        ("URI=x;", Malformed::NotAPair),
        ("URI=x;;Hash=1", Malformed::NotAPair),
        ("URI", Malformed::NotAPair),
        ("=x", Malformed::NotAPair),
        ("U RI=x", Malformed::NotAPair),
        ("URI=x y", Malformed::NotAPair),
        ("URI=x=y", Malformed::NotAPair),
        ("URI=x\"y\"", Malformed::NotAPair),
        ("URI=\"x\"y", Malformed::NotAPair),
        ("URI=\"x", Malformed::BadQuotes),
        ("URI=\"x\\", Malformed::BadQuotes),
        ("URI=x;URI=y", Malformed::SeveralUris),
        ("URI=\"a\tb\"", Malformed::NotPrintable),
    ] {
        assert_eq!(uris(text), Err(expected), "{text:?}");
    }
}

#[test]
fn holds_at_its_bounds() {
    let elements = |count: usize| vec!["Hash=00"; count].join(",");
    assert!(parse(&elements(ELEMENTS_MAX)).is_ok());
    assert_eq!(parse(&elements(ELEMENTS_MAX + 1)), Err(Malformed::TooManyElements));
    let long = |bytes: usize| format!("URI={WEB};Hash={}", "0".repeat(bytes - WEB.len() - "URI=;Hash=".len()));
    assert!(read(GATEWAY, &[&long(BYTES_MAX - 1)]).is_ok());
    assert_eq!(read(GATEWAY, &[&long(BYTES_MAX)]), Err(Refusal::BadRequest));
    // Of all fields together.
    assert_eq!(read(GATEWAY, &[&long(BYTES_MAX / 2), &long(BYTES_MAX / 2)]), Err(Refusal::BadRequest));
}

#[test]
fn believes_as_far_as_each_may_speak_for_the_next() {
    let partner = "spiffe://partner.example/app";
    let says = |id: &str| format!("By=x;URI={id}");
    let kept = |caller: &str, elements: String| Ok(Some((caller.to_owned(), elements)));
    // Of nobody else anything is read, not even what is malformed.
    assert_eq!(read(WEB, &[&says(GATEWAY)]), Ok(None));
    assert_eq!(read(WEB, &["\"\""]), Ok(None));
    // Nothing said: it speaks for itself.
    assert_eq!(read(GATEWAY, &[]), Ok(None));
    assert_eq!(read(GATEWAY, &[&says(WEB)]), kept(WEB, says(WEB)));
    // What somebody said who is no forwarder does not go on.
    assert_eq!(read(GATEWAY, &[&format!("{},{}", says(EDGE), says(WEB))]), kept(WEB, says(WEB)));
    // One further, in one field or in two.
    let chain = format!("{},{}", says(partner), says(EDGE));
    assert_eq!(read(GATEWAY, &[&chain]), kept(partner, chain.clone()));
    assert_eq!(read(GATEWAY, &[&says(partner), &says(EDGE)]), kept(partner, chain.clone()));
    // The gateway may not speak for partners, nor the edge for the shop.
    for refused in [says(partner), format!("{},{}", says(WEB), says(EDGE)), says("")] {
        assert_eq!(read(GATEWAY, &[&refused]), Err(Refusal::ForwardedCallerRefused), "{refused}");
    }
    assert_eq!(read(GATEWAY, &["Hash=00"]), Err(Refusal::ForwardedCallerRefused));
    assert_eq!(read(GATEWAY, &["URI=https://shop.example/web"]), Err(Refusal::ForwardedCallerRefused));
    assert_eq!(read(GATEWAY, &["URI"]), Err(Refusal::BadRequest));
}

#[test]
fn is_believed_only_while_each_may_speak_for_the_next() {
    let headers = fields(&["URI=spiffe://partner.example/app,URI=spiffe://edge.example/edge"]);
    let forwarded = Forwarded::read(&forwarders(), &id(GATEWAY), &headers).expect("is believed").expect("a caller");
    assert!(forwarded.is_still_believed(&forwarders(), &id(GATEWAY)));
    assert!(!forwarded.is_still_believed(&[], &id(GATEWAY)));
    assert!(!forwarded.is_still_believed(&forwarders()[..1], &id(GATEWAY)));
    assert!(!forwarded.is_still_believed(&forwarders()[1..], &id(GATEWAY)));
}
