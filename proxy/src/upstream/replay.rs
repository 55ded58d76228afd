//! Which requests may be sent a second time, and how their copy is made (RFC 9110 §9.2.2).

use crate::http::body::RequestBody;
use http::{Method, Request};
use hyper::body::Body;

/// RFC 9110 §9.2.2, and nothing to send again but the head.
pub fn is_replayable(request: &Request<RequestBody>) -> bool {
    let method = request.method();
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];
    idempotent.contains(method)
        && request.body().is_end_stream()
        && !request.headers().contains_key(http::header::UPGRADE)
}

pub fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// RFC 9113 §8.7: REFUSED_STREAM, and streams above a GOAWAY's last, were not processed.
pub fn was_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return h2.reason() == Some(h2::Reason::REFUSED_STREAM) || h2.is_go_away();
        }
        source = inner.source();
    }
    false
}
