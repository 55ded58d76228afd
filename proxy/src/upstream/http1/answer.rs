//! The head of an answer (RFC 9112 §4, §6.3), read strictly: where its body ends is said in one way.

use crate::http::http1::Malformed;
use crate::http::http1::chunked::Chunks;
use crate::http::http1::fields::{self, Persistence, Places};
use crate::http::http1::incoming::Incoming;
use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

/// An answer whose head has come.
#[derive(Debug)]
pub struct Answer {
    pub head: Parts,
    pub body: Incoming,
    /// The connection may carry another, when this one is whole.
    pub keeps: bool,
    /// What follows is no HTTP any more: 101, or an agreed CONNECT.
    pub switches: bool,
}

/// Takes a head from the front of `bytes`; interim answers (RFC 9110 §15.2) are passed over. `None`: it has not come whole.
///
/// # Errors
/// It is none, or has two meanings.
pub fn take(bytes: &mut BytesMut, asked: &Method, bytes_max: usize) -> Result<Option<Answer>, Malformed> {
    loop {
        let Some(answer) = take_one(bytes, asked, bytes_max)? else { return Ok(None) };
        let is_interim = answer.head.status.is_informational() && answer.head.status != StatusCode::SWITCHING_PROTOCOLS;
        if !is_interim {
            return Ok(Some(answer));
        }
    }
}

fn take_one(bytes: &mut BytesMut, asked: &Method, bytes_max: usize) -> Result<Option<Answer>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut room = fields::room();
    let mut found = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut found, bytes, &mut room);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= bytes_max => length,
        Ok(httparse::Status::Partial) if bytes.len() < bytes_max => return Ok(None),
        Ok(_) => return Err(Malformed::LongHead(bytes_max)),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::ManyFields),
        Err(error) => return Err(error.into()),
    };
    let status = found.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Status)?;
    let is_http10 = found.version == Some(0);
    let reason = found.reason.filter(|reason| !reason.is_empty() && status.canonical_reason() != Some(reason));
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let places = Places::of(bytes, found.headers);

    let bytes = bytes.split_to(length).freeze();
    let mut framing = Framing::default();
    let fields = places.map(&bytes, |name, value| framing.hear(name, value))?;
    let (mut head, ()) = Response::new(()).into_parts();
    (head.status, head.version, head.headers) = (status, Version::HTTP_11, fields);
    if let Some(reason) = reason {
        head.extensions.insert(reason);
    }
    framing.answer(head, asked, is_http10).map(Some)
}

/// What a head says of its message's end, and of the connection's.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    has_two_lengths: bool,
    is_chunked: bool,
    persistence: Persistence,
}

impl Framing {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Malformed> {
        if *name == CONTENT_LENGTH {
            let length = fields::read_length(value).ok_or(Malformed::Length)?;
            // RFC 9110 §8.6: the same number twice may be taken for one.
            match self.length.replace(length) {
                Some(before) if before != length => return Err(Malformed::TwoLengths),
                before => self.has_two_lengths |= before.is_some(),
            }
        } else if *name == TRANSFER_ENCODING {
            // A coding below the chunks would be lost on the way: the next hop gets the body without the word for it.
            if self.is_chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::Coding);
            }
            self.is_chunked = true;
        } else if *name == CONNECTION {
            self.persistence.hear(value);
        }
        Ok(())
    }

    /// RFC 9112 §6.3, in its order.
    fn answer(self, mut head: Parts, asked: &Method, is_http10: bool) -> Result<Answer, Malformed> {
        let status = head.status;
        let switches = status == StatusCode::SWITCHING_PROTOCOLS || *asked == Method::CONNECT && status.is_success();
        let has_no_body = *asked == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if self.is_chunked && self.length.is_some() {
            return Err(Malformed::TwoWays);
        }
        // RFC 9112 §6.1: HTTP/1.0 knows no codings.
        if self.is_chunked && is_http10 {
            return Err(Malformed::Coding);
        }
        let body = match self.length {
            _ if switches || has_no_body => Incoming::NONE,
            _ if self.is_chunked => Incoming::Chunks(Chunks::default()),
            Some(length) => Incoming::Length(length),
            None => Incoming::UntilEnd { has_ended: false },
        };
        if let Some(length) = self.length.filter(|_| self.has_two_lengths) {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let keeps = self.persistence.lasts(is_http10) && !switches && !matches!(body, Incoming::UntilEnd { .. });
        Ok(Answer { head, body, keeps, switches })
    }
}

#[cfg(test)]
mod tests;
