//! Header fields: what a strict proxy refuses, and what does not go on.
//!
//! The head has been parsed when we see it: what could be parsed, and the next hop may read differently, is refused here
//! (THREATS SM and HD). Stripping comes before anything of ours is added, so that no caller can take
//! away, or forge, what we say. Pure.

mod strip;
mod trailers;

pub(crate) use strip::is_for_connection;
pub use strip::{replace_token, strip_hop_by_hop, strip_identity, strip_request, strip_response, strip_spelt};
pub use trailers::clean_trailers;

use super::http1::fields::read_length;
use super::http1::request_head::AmbiguousFraming;
use super::identity_headers::is_reserved;
use crate::refusal::{Refusal, Refused};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Version};

/// Refuses heads above the limits. HTTP/1's bytes are counted where they are read; HTTP/2's are not, because h2 would
/// refuse them without anybody knowing.
///
/// # Errors
/// `HeadersTooLarge`, and which limit it was.
pub fn check_size(parts: &Parts, fields_max: usize, bytes_max: usize) -> Result<(), Refused> {
    if parts.headers.len() > fields_max {
        return Err(Refused::new(Refusal::HeadersTooLarge, too_many_fields(fields_max)));
    }
    if parts.version == Version::HTTP_2 && list_size(parts) > bytes_max {
        return Err(Refused::new(Refusal::HeadersTooLarge, too_many_bytes(bytes_max)));
    }
    Ok(())
}

pub fn too_many_fields(fields_max: usize) -> String {
    format!("more than {fields_max} header fields")
}

pub fn too_many_bytes(bytes_max: usize) -> String {
    format!("a head of more than {bytes_max} bytes")
}

/// RFC 9113 §6.5.2: "the uncompressed size of field lines, including the length of the name and value in units of octets
/// plus an overhead of 32 octets for each field line". Of the pseudo-header fields the two long ones count.
fn list_size(parts: &Parts) -> usize {
    const OVERHEAD: usize = 32;
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD).sum::<usize>();
    let path = parts.uri.path_and_query().map_or(0, |path| path.as_str().len() + ":path".len() + OVERHEAD);
    let authority = parts.uri.authority().map_or(0, |it| it.as_str().len() + ":authority".len() + OVERHEAD);
    fields + path + authority
}

/// Refuses ambiguous framing, and header tricks with one purpose only.
///
/// # Errors
/// `BadRequest` (answer and close), or `ExpectationRefused`.
pub fn check_framing(parts: &Parts) -> Result<Checked, Refusal> {
    if parts.extensions.get::<AmbiguousFraming>().is_some() {
        return Err(Refusal::BadRequest);
    }
    // One walk: a look-up for each of these names would hash each of them, in every request.
    let mut told = Told::default();
    for (name, value) in &parts.headers {
        let bytes = value.as_bytes();
        // RFC 9113 §8.2.1: such a message is malformed; h2 keeps the spaces (HD-25).
        if bytes.first().is_some_and(is_blank) || bytes.last().is_some_and(is_blank) || is_framing_look_alike(name) {
            return Err(Refusal::BadRequest);
        }
        told.hear(name, value);
    }
    check_body_length(parts.version, &told)?;
    // RFC 9110 §9.3.6: what follows is the tunnel's.
    if parts.method == Method::CONNECT && (told.coding.is_some() || told.length.is_some_and(|length| length != "0")) {
        return Err(Refusal::BadRequest);
    }
    if told.connection {
        check_connection(&parts.headers)?;
    }
    // RFC 9110 §10.1.1: an HTTP/1.0 expectation is ignored; one that is not known is answered by 417.
    if parts.version > Version::HTTP_10 {
        let known = told.expectation.is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if !known || told.expectations > 1 {
            return Err(Refusal::ExpectationRefused);
        }
    }
    Ok(Checked { has_upgrade: told.upgrade })
}

/// A head without ambiguities.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// There is an `Upgrade`: see [`requested_upgrade`].
    pub has_upgrade: bool,
}

/// What a head says of its framing: the first of each field, and how many there are.
#[derive(Default)]
struct Told<'a> {
    coding: Option<&'a HeaderValue>,
    codings: usize,
    length: Option<&'a HeaderValue>,
    lengths: usize,
    expectation: Option<&'a HeaderValue>,
    expectations: usize,
    connection: bool,
    upgrade: bool,
}

impl<'a> Told<'a> {
    fn hear(&mut self, name: &HeaderName, value: &'a HeaderValue) {
        let (first, count) = if *name == TRANSFER_ENCODING {
            (&mut self.coding, &mut self.codings)
        } else if *name == CONTENT_LENGTH {
            (&mut self.length, &mut self.lengths)
        } else if *name == EXPECT {
            (&mut self.expectation, &mut self.expectations)
        } else {
            self.connection |= *name == CONNECTION;
            self.upgrade |= *name == UPGRADE;
            return;
        };
        first.get_or_insert(value);
        *count += 1;
    }
}

/// RFC 9112 §6: one way to tell a body's length, or none.
fn check_body_length(version: Version, told: &Told<'_>) -> Result<(), Refusal> {
    if told.codings > 1 || told.lengths > 1 || (told.coding.is_some() && told.length.is_some()) {
        return Err(Refusal::BadRequest);
    }
    // Of lists such as `gzip, chunked`, who decodes the gzip is anybody's guess.
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if told.coding.is_some_and(|value| version != Version::HTTP_11 || !is_chunked(value)) {
        return Err(Refusal::BadRequest);
    }
    if told.length.is_some_and(|value| read_length(value).is_none()) { Err(Refusal::BadRequest) } else { Ok(()) }
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `Transfer_Encoding` and `content.length`: to an application behind CGI rules they *are* the framing (SM-06).
fn is_framing_look_alike(name: &HeaderName) -> bool {
    let name = name.as_str();
    let real = match name.len() {
        17 => "transfer-encoding",
        14 => "content-length",
        _ => return false,
    };
    name != real && folds_to(name, real)
}

/// Whether `name` is `plain` when every character but letters and digits is read as `-`, as CGI, WSGI and PHP do when they
/// make a variable's name of it.
pub(crate) fn folds_to(name: &str, plain: &str) -> bool {
    name.len() == plain.len()
        && name
            .bytes()
            .zip(plain.bytes())
            .all(|(byte, plain)| byte == plain || (plain == b'-' && !byte.is_ascii_alphanumeric()))
}

/// A connection option that names a field which we, or whoever is behind us, rely on is a trick to have it deleted on the
/// way. RFC 9110 §7.6.1: "A sender MUST NOT send a connection option corresponding to a field that is intended for all
/// recipients of the content".
fn check_connection(headers: &HeaderMap) -> Result<(), Refusal> {
    for value in headers.get_all(CONNECTION).iter().filter(|value| !nominates_no_field(value)) {
        let options = value.to_str().or(Err(Refusal::BadRequest))?;
        for option in list(options) {
            if !option.bytes().all(is_token_byte) || is_relied_on(option) {
                return Err(Refusal::BadRequest);
            }
        }
    }
    Ok(())
}

/// The protocol that the caller wants to switch to (RFC 9110 §7.8), if that is for us to pass on.
///
/// HTTP/1.1 only. `h2c`, `TLS/…` and `HTTP/…` would take the connection out of our sight and are as good as not asked for
/// (SM-20).
///
/// # Errors
/// `UpgradeRefused`: it has a body, which one side could take for bytes of the new protocol (SM-21). `BadRequest`: malformed.
pub fn requested_upgrade(parts: &Parts) -> Result<Option<HeaderValue>, Refusal> {
    let headers = &parts.headers;
    if parts.version != Version::HTTP_11 || parts.method == Method::CONNECT || !headers.contains_key(UPGRADE) {
        return Ok(None);
    }
    let is_option = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(list);
    if !is_option.into_iter().any(|option| option.eq_ignore_ascii_case("upgrade")) {
        return Ok(None);
    }
    let mut wanted = String::new();
    for value in headers.get_all(UPGRADE) {
        for protocol in list(value.to_str().or(Err(Refusal::BadRequest))?) {
            if !protocol.bytes().all(|byte| is_token_byte(byte) || byte == b'/') {
                return Err(Refusal::BadRequest);
            }
            if !is_other_transport(protocol) {
                wanted.push_str(if wanted.is_empty() { "" } else { ", " });
                wanted.push_str(protocol);
            }
        }
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    let has_body =
        headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_body {
        return Err(Refusal::UpgradeRefused);
    }
    HeaderValue::try_from(wanted).map(Some).or(Err(Refusal::BadRequest))
}

fn is_other_transport(protocol: &str) -> bool {
    let name = protocol.split_once('/').map_or(protocol, |(name, _)| name);
    ["h2c", "h2", "http", "tls"].iter().any(|transport| name.eq_ignore_ascii_case(transport))
}

fn nominates_no_field(value: &HeaderValue) -> bool {
    [b"keep-alive".as_slice(), b"close", b"upgrade"].iter().any(|option| value.as_bytes().eq_ignore_ascii_case(option))
}

/// Fields that decide, authenticate or frame somewhere, so that no connection option may delete them.
fn is_relied_on(option: &str) -> bool {
    let is_named = |names: &[&str]| names.iter().any(|name| option.eq_ignore_ascii_case(name));
    let starts_with = |prefix: &str| option.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    is_named(RELIED_ON)
        || RELIED_ON_PREFIXES.iter().any(|prefix| starts_with(prefix))
        || is_reserved(&option.to_ascii_lowercase())
}

const RELIED_ON: &[&str] = &[
    "authorization",
    "cache-control",
    "cookie",
    "date",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "location",
    "origin",
    "range",
    "referer",
    "set-cookie",
    "signature",
    "signature-input",
    "traceparent",
    "tracestate",
    "vary",
    "via",
    "www-authenticate",
    "x-real-ip",
    "x-request-id",
];

const RELIED_ON_PREFIXES: &[&str] = &["content-", "x-b3-", "x-envoy-", "x-forwarded-", "x-original-", "x-remote-"];

/// RFC 9113 §8.2.3: cookie crumbs "MUST be concatenated into a single octet string using the two-octet delimiter of 0x3B,
/// 0x20" before they go on to HTTP/1.1 (HD-24).
pub fn merge_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let Some(second) = crumbs.next() else { return };
    let mut merged = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        merged.extend_from_slice(b"; ");
        merged.extend_from_slice(crumb.as_bytes());
    }
    // Cannot fail: every byte was in a header value. If it did, to lose the cookie is the safe side.
    match HeaderValue::from_maybe_shared(bytes::Bytes::from(merged)) {
        Ok(mut merged) => {
            merged.set_sensitive(true);
            headers.insert(COOKIE, merged);
        }
        Err(_) => {
            headers.remove(COOKIE);
        }
    }
}

/// The elements of a comma-separated list (RFC 9110 §5.6.1), empty ones left out.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(|element| element.trim_matches([' ', '\t'])).filter(|element| !element.is_empty())
}

/// RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
