//! The head of a request (RFC 9112 §3).

use crate::http::http1::fields;
use crate::http::http1::outgoing::Framing;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{Method, Uri};

/// Room for a head of the usual length.
const HEAD_BYTES: usize = 1024;

/// The head's lines, and how the body behind it is framed. `None`: it says a length that is none.
pub fn write_head(head: &Parts, has_body: bool) -> Option<(Vec<u8>, Framing)> {
    let mut lines = Vec::with_capacity(HEAD_BYTES);
    lines.extend_from_slice(head.method.as_str().as_bytes());
    lines.push(b' ');
    lines.extend_from_slice(target(&head.method, &head.uri).as_bytes());
    lines.extend_from_slice(b" HTTP/1.1\r\n");
    let mut length = None;
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            length = Some(value);
        }
        fields::write_one(name, value, &mut lines);
    }
    let framing = match length {
        Some(length) => Framing::Length(fields::read_length(length)?),
        None if !has_body => {
            if may_have_body(&head.method) {
                lines.extend_from_slice(b"content-length: 0\r\n");
            }
            Framing::Length(0)
        }
        None => {
            lines.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunks
        }
    };
    lines.extend_from_slice(b"\r\n");
    Some((lines, framing))
}

/// Then the other side has to be told where there is none (RFC 9110 §8.6).
pub fn may_have_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT)
}

/// RFC 9112 §3.2: origin form, or the authority of a CONNECT.
fn target<'a>(method: &Method, uri: &'a Uri) -> &'a str {
    match uri.authority() {
        Some(authority) if *method == Method::CONNECT => authority.as_str(),
        _ => uri.path_and_query().map_or("/", |path| path.as_str()),
    }
}
