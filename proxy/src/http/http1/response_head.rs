//! The head of a response to a caller (RFC 9112 §4, §6, §9).

use super::fields;
use super::outgoing::Framing;
use crate::http::date;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValue, TRANSFER_ENCODING};
use http::response::Parts;
use http::{Method, StatusCode, Version};
use hyper::ext::ReasonPhrase;

/// Room for a head of the usual length.
const HEAD_BYTES: usize = 512;

/// What of the request the form of its response depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub version: Version,
    pub is_head: bool,
    pub is_connect: bool,
    /// Its connection may carry another one.
    pub keeps: bool,
}

impl Asked {
    pub fn of(method: &Method, version: Version, keeps: bool) -> Self {
        Self { version, is_head: *method == Method::HEAD, is_connect: *method == Method::CONNECT, keeps }
    }
}

/// A head as it goes out.
pub struct Written {
    pub lines: Vec<u8>,
    pub framing: Framing,
    /// The connection carries the next one.
    pub keeps: bool,
    /// It is no HTTP any more.
    pub switches: bool,
}

/// `length`: of the body, where it is known.
pub fn write(head: &Parts, length: Option<u64>, asked: Asked) -> Written {
    let status = head.status;
    let switches = status == StatusCode::SWITCHING_PROTOCOLS || asked.is_connect && status.is_success();
    let has_no_body = asked.is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || switches;
    let framing = match length {
        _ if has_no_body => Framing::Length(0),
        Some(length) => Framing::Length(length),
        None if asked.version == Version::HTTP_11 => Framing::Chunks,
        // RFC 9112 §6.1: HTTP/1.0 knows no chunks.
        None => Framing::UntilEnd,
    };
    let mut lines = Vec::with_capacity(HEAD_BYTES);
    write_status(head, asked.version, &mut lines);
    // One walk: a look-up for each of these would hash each of them, for every answer.
    let (mut said_length, mut says_close, mut has_date) = (None, false, false);
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            said_length = Some(value);
        } else if *name != TRANSFER_ENCODING {
            says_close |= *name == CONNECTION && value == "close";
            has_date |= *name == DATE;
            fields::write_one(name, value, &mut lines);
        }
    }
    let keeps = asked.keeps && !says_close && framing != Framing::UntilEnd;
    if !has_date {
        fields::write_one(&DATE, &date::now(), &mut lines);
    }
    if !switches {
        let said = said_length.cloned().or_else(|| length.filter(|length| *length > 0).map(HeaderValue::from));
        write_framing(status, said, framing, has_no_body, &mut lines);
        match asked.version {
            Version::HTTP_11 if !keeps && !says_close => lines.extend_from_slice(b"connection: close\r\n"),
            // RFC 9112 §9.3: who asked for it has to be told.
            Version::HTTP_10 if keeps => lines.extend_from_slice(b"connection: keep-alive\r\n"),
            _ => {}
        }
    }
    lines.extend_from_slice(b"\r\n");
    Written { lines, framing, keeps, switches }
}

/// In the caller's version: what it does not know has to be left out anyway.
fn write_status(head: &Parts, version: Version, lines: &mut Vec<u8>) {
    let reason = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
    let reason = reason.unwrap_or_else(|| head.status.canonical_reason().unwrap_or_default().as_bytes());
    lines.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    lines.extend_from_slice(head.status.as_str().as_bytes());
    lines.push(b' ');
    lines.extend_from_slice(reason);
    lines.extend_from_slice(b"\r\n");
}

/// `said`: the length that the head says, which is how its body was read, else that of the body.
fn write_framing(
    status: StatusCode,
    said: Option<HeaderValue>,
    framing: Framing,
    has_no_body: bool,
    lines: &mut Vec<u8>,
) {
    // RFC 9110 §8.6: of the body that there would have been, with HEAD and 304; never with 1xx and 204.
    let never_has_one = status.is_informational() || status == StatusCode::NO_CONTENT;
    match (framing, said) {
        (Framing::Length(_), Some(said)) if !never_has_one => fields::write_one(&CONTENT_LENGTH, &said, lines),
        (Framing::Length(_), None) if !has_no_body => lines.extend_from_slice(b"content-length: 0\r\n"),
        (Framing::Length(_) | Framing::UntilEnd, _) => {}
        (Framing::Chunks, _) => lines.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

#[cfg(test)]
mod tests;
