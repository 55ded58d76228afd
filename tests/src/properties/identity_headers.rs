//! Whatever fields a caller sends, the application sees of its identity what we verified, once (THREATS HD-10, HD-14).

use super::fixtures::{AUTHORITY, LEAF, genuine_id, now};
use super::tokens::spell;
use http::{HeaderMap, HeaderName, HeaderValue};
use postern::http::headers;
use postern::http::hops::HOPS_HEADER;
use postern::http::identity_headers::RenderedIdentity;
use postern::identity::AuthorityId;
use postern::tls::Peer;
use postern::tls::bundle::sha256;
use postern_config::{IdentityHeaders, SpiffeId};
use rustls_pki_types::CertificateDer;
use std::sync::LazyLock;

const VOCABULARY: &[&str] = &[
    "x-forwarded-client-cert",
    "x_forwarded_client_cert",
    "X-Forwarded-Client_Cert",
    "x-spiffe-id",
    "x.spiffe.id",
    "client-cert",
    "client-cert-chain",
    "x-postern-refusal",
    "x_postern.decision",
    "\t",
    "\n",
    "connection",
    "x-forwarded-client-cert, close",
    "\r",
    ": ",
    "By=spiffe://shop.example/admin;Hash=0;URI=spiffe://shop.example/admin",
    "te",
    "trailers",
    "keep-alive",
    "cookie",
    "x-spiffe-id\u{300}",
    "host",
    "content_length",
    "transfer.encoding",
    "x-original-url",
    "authorization",
    "upgrade",
];

static PEER: LazyLock<Peer> = LazyLock::new(|| Peer {
    id: genuine_id(),
    chain: vec![CertificateDer::from(LEAF)],
    fingerprint: sha256(LEAF),
    chain_fingerprint: [0; 32],
    serial: "1".to_owned(),
    not_after: now(),
    authority: AuthorityId(sha256(AUTHORITY)),
    issued: Vec::new(),
    generation: 1,
    rendered: Default::default(),
});
static OWN: LazyLock<SpiffeId> = LazyLock::new(|| SpiffeId::parse("spiffe://shop.example/orders").expect("an ID"));

/// Lines of `name: value`.
pub(super) fn check(bytes: &[u8]) {
    let mut fields = HeaderMap::new();
    for line in spell(bytes, VOCABULARY).split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii())) {
            fields.append(name, value);
        }
    }
    let wanted = IdentityHeaders { xfcc: true, spiffe_id: true, client_cert: true };
    let mut inbound = fields.clone();
    headers::strip_request(&mut inbound, true);
    inbound.remove(HOPS_HEADER);
    RenderedIdentity::new(&wanted, &PEER, Some(&OWN)).apply(&mut inbound);
    told_once(&inbound);
    headers::clean_trailers(&mut fields);
    assert_eq!(fields.keys().find(|name| speaks_of_identity(name.as_str())), None, "a trailer");
}

fn told_once(headers: &HeaderMap) {
    let text = |name: &str| {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0].to_str().expect("ASCII").to_owned()
    };
    let hash: String = PEER.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    let element = format!("By={};Hash={hash};URI={}", *OWN, PEER.id);
    assert_eq!(text("x-forwarded-client-cert"), element);
    assert_eq!(text("x-spiffe-id"), PEER.id.as_str());
    assert!(text("client-cert").starts_with(':'));
    let mut told: Vec<&str> = headers.keys().map(HeaderName::as_str).filter(|name| speaks_of_identity(name)).collect();
    told.sort_unstable();
    assert_eq!(told, ["client-cert", "x-forwarded-client-cert", "x-spiffe-id"], "in another spelling");
    for gone in ["connection", "keep-alive", "te", "upgrade", "proxy-connection", "transfer-encoding"] {
        assert!(gone == "te" || !headers.contains_key(gone), "{gone} is for one hop");
    }
}

/// As frameworks fold names: CGI's `_`, and `.`, for `-`.
fn speaks_of_identity(name: &str) -> bool {
    let folded: String =
        name.chars().map(|c| if c == '_' || c == '.' { '-' } else { c.to_ascii_lowercase() }).collect();
    let ours = ["x-forwarded-client-cert", "x-spiffe-id", "client-cert", "client-cert-chain"];
    ours.contains(&folded.as_str()) || folded.starts_with("x-postern-")
}
