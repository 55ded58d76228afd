//! Which requests may be sent a second time, and how their copy is made (RFC 9110 §9.2.2, RFC 9113 §8.7).

use crate::http::body::RequestBody;
use http::header::UPGRADE;
use http::{Method, Request};
use http_body::Body as _;

const IDEMPOTENT: [Method; 6] =
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];

/// RFC 9110 §9.2.2, and nothing to send again but the head.
pub fn is_replayable(request: &Request<RequestBody>) -> bool {
    let is_idempotent = || IDEMPOTENT.contains(request.method());
    request.body().is_end_stream() && is_idempotent() && !request.headers().contains_key(UPGRADE)
}

/// What was certainly not processed may go out again whatever it is (RFC 9113 §8.7), if its body is still there then.
pub fn may_be_kept(request: &Request<RequestBody>) -> bool {
    *request.method() != Method::CONNECT
}

/// Of a request whose body is being read, the copy gets all of it: as long as it [is there](is_whole).
pub fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(match request.body() {
        RequestBody::Kept(kept) => RequestBody::Kept(kept.again()),
        RequestBody::Own(bytes) => RequestBody::Own(bytes.clone()),
        RequestBody::Empty | RequestBody::Streaming(_) => RequestBody::Empty,
    });
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

pub fn is_whole(copy: &Request<RequestBody>) -> bool {
    match copy.body() {
        RequestBody::Empty | RequestBody::Own(_) => true,
        RequestBody::Kept(kept) => kept.is_whole(),
        RequestBody::Streaming(_) => false,
    }
}

/// What the other side said about a stream that it did not process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprocessed {
    /// This stream alone.
    Stream,
    /// It takes no more streams on this connection.
    GoAway,
}

/// RFC 9113 §8.7: REFUSED_STREAM, and streams above a GOAWAY's last, were not processed. h2 fails no other stream with the
/// GOAWAY that it received; the one that it sends itself says nothing about what the other side has done.
pub fn unprocessed(error: &h2::Error) -> Option<Unprocessed> {
    match error.reason() {
        _ if !error.is_remote() => None,
        _ if error.is_go_away() => Some(Unprocessed::GoAway),
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => Some(Unprocessed::Stream),
        _ => None,
    }
}
