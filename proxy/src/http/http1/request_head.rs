//! The head of a request (RFC 9112 §3, §6.3), read so that nobody behind us can read it otherwise.

use super::Malformed;
use super::chunked::Chunks;
use super::fields::{self, Persistence, Places};
use super::incoming::Incoming;
use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use httparse::{Header, ParserConfig, Status};
use std::mem::MaybeUninit;

/// What `http::Uri` holds.
const TARGET_BYTES_MAX: usize = 65_534;

/// Marks a request whose head two parsers could read differently, in a way that its fields do not show any more.
#[derive(Clone, Copy, Debug)]
pub struct AmbiguousFraming;

/// A request whose head has come.
#[derive(Debug)]
pub struct Head {
    pub parts: Parts,
    /// None where there is no telling: such a head is refused (`headers::check_framing`), and nothing follows it.
    pub body: Incoming,
    /// The caller wants to send another one behind it, and that can be told from this one.
    pub keeps: bool,
    pub expects_continue: bool,
    pub takes_trailers: bool,
    pub asks_upgrade: bool,
}

/// Why a head is none.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("more header fields than allowed")]
    ManyFields,
    #[error("a longer head than allowed")]
    LongHead,
    #[error("a longer target than can be read")]
    LongTarget,
    #[error("a target that is none")]
    Target(#[from] http::uri::InvalidUri),
    #[error("a method that is none")]
    Method(#[from] http::method::InvalidMethod),
}

/// Of one head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    pub fields: usize,
    pub bytes: usize,
}

/// Takes a head from the front of `bytes`. `None`: it has not come whole.
///
/// # Errors
/// It is none, or above the limits.
pub fn take(bytes: &mut BytesMut, limits: HeadLimits) -> Result<Option<Head>, Unreadable> {
    let (mut stack, mut heap) = (fields::room(), Vec::new());
    let room: &mut [MaybeUninit<Header<'_>>] = match stack.get_mut(..limits.fields) {
        Some(room) => room,
        None => {
            heap.resize(limits.fields, MaybeUninit::uninit());
            &mut heap
        }
    };
    let mut found = httparse::Request::new(&mut []);
    let length = match ParserConfig::default().parse_request_with_uninit_headers(&mut found, bytes, room) {
        Ok(Status::Complete(length)) if length <= limits.bytes => length,
        Ok(Status::Partial) if bytes.len() <= limits.bytes => return Ok(None),
        Ok(_) => return Err(Unreadable::LongHead),
        Err(httparse::Error::TooManyHeaders) => return Err(Unreadable::ManyFields),
        Err(error) => return Err(Malformed::from(error).into()),
    };
    let (Some(method), Some(target), Some(version)) = (found.method, found.path, found.version) else {
        return Ok(None);
    };
    if target.len() > TARGET_BYTES_MAX {
        return Err(Unreadable::LongTarget);
    }
    let method = Method::from_bytes(method.as_bytes())?;
    let version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    // RFC 9112 §3.2: no form of a target has a fragment; `Uri` drops it, others match on it.
    let is_ambiguous = target.contains('#') || fields::has_bare_line_feed(&bytes[..length]);
    let start = (target.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
    let target = start..start + target.len();
    let places = Places::of(bytes, found.headers);

    let head = bytes.split_to(length).freeze();
    let mut said = Said::default();
    let uri = Uri::from_maybe_shared(head.slice(target)).map_err(Unreadable::from);
    let read = uri.and_then(|uri| {
        let heard = |name: &HeaderName, value: &HeaderValue| {
            said.hear(name, value);
            Ok(())
        };
        Ok((uri, places.map(&head, heard)?))
    });
    let (uri, fields) = read.inspect_err(|_| {
        // Whoever records it wants to see it.
        let behind = std::mem::take(bytes);
        bytes.extend_from_slice(&head);
        bytes.unsplit(behind);
    })?;
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, version, fields);
    if is_ambiguous {
        parts.extensions.insert(AmbiguousFraming);
    }
    Ok(Some(said.head(parts, is_ambiguous)))
}

/// What a head says of its message's end, and of the connection's.
#[derive(Default)]
struct Said {
    lengths: usize,
    length: Option<u64>,
    codings: usize,
    is_chunked: bool,
    persistence: Persistence,
    expects_continue: bool,
    takes_trailers: bool,
    asks_upgrade: bool,
}

impl Said {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) {
        let bytes = value.as_bytes();
        if *name == CONTENT_LENGTH {
            self.lengths += 1;
            self.length = fields::read_length(value);
        } else if *name == TRANSFER_ENCODING {
            self.codings += 1;
            self.is_chunked = bytes.eq_ignore_ascii_case(b"chunked");
        } else if *name == CONNECTION {
            self.persistence.hear(value);
        } else if *name == EXPECT {
            self.expects_continue = bytes.eq_ignore_ascii_case(b"100-continue");
        } else if *name == TE {
            let mut codings = bytes.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            self.takes_trailers |= codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        } else {
            self.asks_upgrade |= *name == UPGRADE;
        }
    }

    /// RFC 9112 §6.3 and §9.3. What is said twice, or in two ways, is not guessed at.
    fn head(self, parts: Parts, is_ambiguous: bool) -> Head {
        let is_http11 = parts.version == Version::HTTP_11;
        let body = match (self.lengths, self.codings) {
            _ if is_ambiguous => None,
            (0, 0) => Some(Incoming::NONE),
            (1, 0) => self.length.map(Incoming::Length),
            (0, 1) if self.is_chunked && is_http11 => Some(Incoming::Chunks(Chunks::default())),
            _ => None,
        };
        Head {
            parts,
            keeps: self.persistence.lasts(!is_http11) && body.is_some(),
            body: body.unwrap_or(Incoming::NONE),
            expects_continue: self.expects_continue && is_http11,
            takes_trailers: self.takes_trailers,
            asks_upgrade: self.asks_upgrade,
        }
    }
}

/// Has anything of a head come? Empty lines in front of it are passed over (RFC 9112 §2.2).
pub fn has_begun(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
}

#[cfg(test)]
mod tests;
