use super::RenderedIdentity;
use crate::base64;
use crate::http::headers::strip_identity;
use crate::identity::AuthorityId;
use crate::tls::Peer;
use http::header::{HeaderMap, HeaderValue};
use postern_config::{IdentityHeaders, SpiffeId};
use std::time::SystemTime;

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

fn peer() -> Peer {
    Peer {
        id: id("spiffe://shop.example/ns/web/sa/frontend"),
        chain: vec![vec![0x30, 0x03, 0x02, 0x01, 0x05].into()],
        fingerprint: [0xAB; 32],
        chain_fingerprint: [0; 32],
        serial: "01".to_owned(),
        not_after: SystemTime::UNIX_EPOCH,
        authority: AuthorityId([0; 32]),
        issued: Vec::new(),
        generation: 1,
        rendered: Default::default(),
    }
}

fn set(headers: &mut HeaderMap, wanted: &IdentityHeaders, peer: &Peer, own: Option<&SpiffeId>) {
    strip_identity(headers);
    RenderedIdentity::new(wanted, peer, own).apply(headers);
}

const ALL: IdentityHeaders = IdentityHeaders { xfcc: true, spiffe_id: true, client_cert: true };

#[test]
fn sets_what_the_verified_peer_says_and_nothing_of_the_callers() {
    let mut headers = HeaderMap::new();
    for name in
        ["x-forwarded-client-cert", "x_forwarded_client_cert", "x-spiffe-id", "client-cert", "client-cert-chain"]
    {
        headers.append(name, HeaderValue::from_static("forged"));
    }
    set(&mut headers, &ALL, &peer(), Some(&id("spiffe://shop.example/orders")));
    let element = format!(
        "By=spiffe://shop.example/orders;Hash={};URI=spiffe://shop.example/ns/web/sa/frontend",
        "ab".repeat(32)
    );
    assert_eq!(headers.len(), 3);
    assert_eq!(headers["x-forwarded-client-cert"], element.as_str());
    assert_eq!(headers["x-spiffe-id"], "spiffe://shop.example/ns/web/sa/frontend");
    assert_eq!(headers["client-cert"], ":MAMCAQU=:");
}

#[test]
fn sets_only_what_is_wanted() {
    let mut headers = HeaderMap::new();
    let wanted = IdentityHeaders { xfcc: true, spiffe_id: false, client_cert: false };
    RenderedIdentity::new(&wanted, &peer(), None).apply(&mut headers);
    assert_eq!(headers.len(), 1);
    assert!(headers["x-forwarded-client-cert"].to_str().is_ok_and(|value| value.starts_with("Hash=ab")));
    let none = IdentityHeaders { xfcc: false, ..wanted };
    headers.insert("x-spiffe-id", HeaderValue::from_static("forged"));
    set(&mut headers, &none, &peer(), None);
    assert!(headers.is_empty());
}

#[test]
fn encodes_base64_with_padding() {
    // RFC 4648 §10.
    for (plain, encoded) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64::encode(plain.as_bytes()), encoded);
    }
    assert_eq!(base64::encode(&[0xFB, 0xFF, 0xFE]), "+//+");
}

#[test]
fn hd_14_hd_21_nothing_of_a_certificate_can_make_an_element_or_a_line() {
    // The ID is the only text of the peer's that is said, and the parser takes nothing that the grammar of the header uses.
    for byte in 0_u8..=0x7F {
        let text = format!("spiffe://shop.example/a{}b", char::from(byte));
        let Ok(id) = SpiffeId::parse(&text) else { continue };
        assert!(byte.is_ascii_alphanumeric() || b"-._/".contains(&byte), "{byte:#x}");
        let mut headers = HeaderMap::new();
        set(&mut headers, &ALL, &Peer { id: id.clone(), ..peer() }, Some(&id));
        let value = headers["x-forwarded-client-cert"].to_str().expect("text");
        assert_eq!((value.matches(';').count(), value.matches(',').count(), value.matches('"').count()), (2, 0, 0));
        assert_eq!(headers["x-spiffe-id"], text.as_str());
    }
    for text in [
        "spiffe://shop.example/x\";URI=spiffe://shop.example/admin",
        "spiffe://shop.example/a,b",
        "spiffe://shop.example/\u{e9}",
    ] {
        assert!(SpiffeId::parse(text).is_err(), "{text:?}");
    }
    // Neither can its size: an ID ends at 2048 bytes (SPIFFE-ID §2.3), and a chain is base64 or nothing.
    assert!(SpiffeId::parse(&format!("spiffe://shop.example/{}", "a".repeat(60 << 10))).is_err());
    let odd = Peer { chain: vec![b"x\r\nhost: evil\r\n\";".to_vec().into()], ..peer() };
    let mut headers = HeaderMap::new();
    set(&mut headers, &ALL, &odd, None);
    let certificate = headers["client-cert"].to_str().expect("text");
    assert!(certificate.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":+/=".contains(&byte)), "{certificate}");
}
