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
    let says_close = head.headers.get_all(CONNECTION).iter().any(|value| value == "close");
    let keeps = asked.keeps && !says_close && framing != Framing::UntilEnd;

    let mut lines = Vec::with_capacity(HEAD_BYTES);
    write_status(head, asked.version, &mut lines);
    for (name, value) in &head.headers {
        if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
            fields::write_one(name, value, &mut lines);
        }
    }
    if !head.headers.contains_key(DATE) {
        fields::write_one(&DATE, &date::now(), &mut lines);
    }
    if !switches {
        write_framing(head, length, framing, has_no_body, &mut lines);
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

fn write_framing(head: &Parts, length: Option<u64>, framing: Framing, has_no_body: bool, lines: &mut Vec<u8>) {
    match framing {
        // RFC 9110 §8.6: of the body that there would have been, with HEAD and 304; never with 1xx and 204.
        Framing::Length(_) if has_no_body => {
            let is_allowed = !head.status.is_informational() && head.status != StatusCode::NO_CONTENT;
            let said = head.headers.get(CONTENT_LENGTH).cloned();
            let said = said.or_else(|| length.filter(|length| *length > 0).map(HeaderValue::from));
            if let Some(said) = said.filter(|_| is_allowed) {
                fields::write_one(&CONTENT_LENGTH, &said, lines);
            }
        }
        Framing::Length(length) => match head.headers.get(CONTENT_LENGTH) {
            // What it is the length of was read by it.
            Some(said) => fields::write_one(&CONTENT_LENGTH, said, lines),
            None => fields::write_one(&CONTENT_LENGTH, &HeaderValue::from(length), lines),
        },
        Framing::Chunks => lines.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::UntilEnd => {}
    }
}

#[cfg(test)]
mod tests;
