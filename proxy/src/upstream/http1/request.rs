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
    fields::write(&head.headers, &mut lines);
    let framing = match head.headers.get(CONTENT_LENGTH) {
        Some(length) => Framing::Length(length.to_str().ok()?.parse().ok()?),
        None if !has_body => {
            // The other side has to be able to tell that there is none, where the method says that there may be one (RFC 9110
            // §8.6).
            if !matches!(head.method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT) {
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

/// RFC 9112 §3.2: origin form, or the authority of a CONNECT.
fn target<'a>(method: &Method, uri: &'a Uri) -> &'a str {
    match uri.authority() {
        Some(authority) if *method == Method::CONNECT => authority.as_str(),
        _ => uri.path_and_query().map_or("/", |path| path.as_str()),
    }
}
