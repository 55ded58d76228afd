//! What an authorizer is asked.

use super::plan::AuthorizerPlan;
use super::proto::{
    Address, AddressKind, AttributeContext, CheckRequest, HttpRequest, Peer, Pipe, Request, SocketAddress,
};
use crate::base64;
use crate::http::forward::path_of;
use crate::http::request::version_text;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
use postern_config::{CheckForm, HttpCheck};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

/// Says whether an authorizer sees all of a body, as Envoy does.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// One end of the caller's connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Party<'a> {
    pub address: Option<SocketAddr>,
    pub socket: Option<&'a Path>,
    /// SPIFFE ID. Empty: none.
    pub principal: &'a str,
    /// DER, where it is to be shown.
    pub certificate: Option<&'a [u8]>,
}

/// What a question is made of. The head is the one that would go on: nothing in it is forged, and a token that was checked is
/// no longer there.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub head: &'a Parts,
    /// The caller's; `head` has the next hop's.
    pub version: Version,
    /// As Envoy says it: that of the connection in HTTP/1, the caller's word in HTTP/2.
    pub scheme: &'a str,
    /// The decision id.
    pub id: &'a str,
    pub source: Party<'a>,
    pub destination: Party<'a>,
    pub time: SystemTime,
    pub body: Option<&'a SentBody>,
    /// Bytes of the body that have come so far.
    pub received: u64,
}

/// What it is shown of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentBody {
    pub bytes: Bytes,
    pub is_partial: bool,
}

/// `CheckRequest`, with its attributes filled as Envoy fills them.
pub fn grpc_question(plan: &AuthorizerPlan, facts: &Facts<'_>) -> CheckRequest {
    let head = facts.head;
    let (path, host) = (path_of(&head.uri), authority(head));
    let mut headers = joined(&head.headers);
    for (name, value) in
        [(":method", head.method.as_str()), (":path", path.as_str()), (":authority", &host), (":scheme", facts.scheme)]
    {
        headers.insert(name.to_owned(), value.to_owned());
    }
    // In `body` only what is text; protobuf has no other strings.
    let (mut body, mut raw_body) = (String::new(), Vec::new());
    if let Some(sent) = facts.body {
        match std::str::from_utf8(&sent.bytes) {
            Ok(text) => text.clone_into(&mut body),
            Err(_) => raw_body = sent.bytes.to_vec(),
        }
        headers.insert(PARTIAL_BODY.to_owned(), sent.is_partial.to_string());
    }
    let http = HttpRequest {
        id: facts.id.to_owned(),
        method: head.method.as_str().to_owned(),
        headers,
        path: path.as_str().to_owned(),
        host,
        scheme: facts.scheme.to_owned(),
        size: i64::try_from(facts.received).unwrap_or(i64::MAX),
        protocol: format!("HTTP/{}", version_text(facts.version)),
        body,
        raw_body,
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(&facts.source)),
            destination: Some(peer(&facts.destination)),
            request: Some(Request { time: Some(facts.time.into()), http: Some(http) }),
            context_extensions: plan.config.context.clone(),
        }),
    }
}

/// Head and body of the HTTP form: the request's method and host, its path behind the prefix, and the headers that the file
/// names.
///
/// # Errors
/// The path is none any more.
pub fn http_question(
    plan: &AuthorizerPlan,
    facts: &Facts<'_>,
) -> Result<(http::Request<()>, Bytes), http::uri::InvalidUri> {
    let head = facts.head;
    let prefix = match &plan.config.form {
        CheckForm::Http(HttpCheck { path_prefix, .. }) => path_prefix.as_str(),
        CheckForm::Grpc => "",
    };
    let path = path_of(&head.uri);
    // `*` of OPTIONS.
    let slash = if path.as_str().starts_with('/') { "" } else { "/" };
    let mut question = http::Request::new(());
    *question.method_mut() = head.method.clone();
    *question.uri_mut() = Uri::try_from(format!("{prefix}{slash}{path}"))?;
    let headers = question.headers_mut();
    if let Ok(host) = HeaderValue::try_from(authority(head)) {
        headers.insert(HOST, host);
    }
    let is_wanted = |name: &HeaderName| *name == AUTHORIZATION || plan.request_headers.contains(name);
    for (name, value) in head.headers.iter().filter(|(name, _)| is_wanted(name) && !is_of_message(name)) {
        headers.append(name.clone(), value.clone());
    }
    let body = facts.body.map(|sent| sent.bytes.clone()).unwrap_or_default();
    if let Some(sent) = facts.body {
        let partial = if sent.is_partial { "true" } else { "false" };
        headers.insert(HeaderName::from_static(PARTIAL_BODY), HeaderValue::from_static(partial));
        if let Some(kind) = head.headers.get(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, kind.clone());
        }
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok((question, body))
}

/// The question is a message of its own.
fn is_of_message(name: &HeaderName) -> bool {
    *name == HOST || *name == CONTENT_LENGTH || *name == http::header::CONNECTION || *name == http::header::UPGRADE
}

fn authority(head: &Parts) -> String {
    let host = || head.headers.get(HOST).and_then(|host| host.to_str().ok());
    head.uri.authority().map(|it| it.as_str()).or_else(host).unwrap_or_default().to_owned()
}

/// Lower-case, one value for each; what is no text is replaced. `Host` is `:authority`, and what only sidecars say to each
/// other is nobody else's.
fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut joined = BTreeMap::new();
    for name in headers.keys().filter(|name| **name != HOST && !name.as_str().starts_with("x-postern-")) {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        // RFC 9110 §5.3, and RFC 9113 §8.2.3 for cookies.
        let separator = if *name == COOKIE { "; " } else { "," };
        joined.insert(name.as_str().to_owned(), values.collect::<Vec<_>>().join(separator));
    }
    joined
}

fn peer(party: &Party<'_>) -> Peer {
    let kind = match (party.address, party.socket) {
        (Some(address), _) => Some(AddressKind::Socket(SocketAddress {
            address: address.ip().to_string(),
            port_value: Some(address.port().into()),
        })),
        (None, Some(path)) => Some(AddressKind::Pipe(Pipe { path: path.to_string_lossy().into_owned() })),
        (None, None) => None,
    };
    Peer {
        address: kind.map(|kind| Address { kind: Some(kind) }),
        principal: party.principal.to_owned(),
        certificate: party.certificate.map(escaped_pem).unwrap_or_default(),
    }
}

/// Envoy's "URL-encoded PEM" (RFC 7468, RFC 3986 §2.1).
fn escaped_pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let text = base64::encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(LINE) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    let mut escaped = String::with_capacity(pem.len() + pem.len() / 8);
    for character in pem.chars() {
        match character {
            '\n' => escaped.push_str("%0A"),
            ' ' => escaped.push_str("%20"),
            '+' => escaped.push_str("%2B"),
            '/' => escaped.push_str("%2F"),
            '=' => escaped.push_str("%3D"),
            plain => escaped.push(plain),
        }
    }
    escaped
}
