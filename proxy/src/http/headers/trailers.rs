//! Trailers: which fields may come after a body.

use super::{is_framing_look_alike, strip_hop_by_hop, strip_identity};
use http::header::{HeaderMap, HeaderName};

/// RFC 9110 §6.5.1: no trailer may frame, route, authenticate, modify the request or tell the content's format; a recipient
/// that merges trailers into the header section must not be fooled.
pub fn clean_trailers(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    strip_identity(headers);
    let forbidden: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            NEVER_A_TRAILER.contains(&name.as_str())
                || name.as_str().starts_with("x-forwarded")
                || is_framing_look_alike(name)
        })
        .cloned()
        .collect();
    for name in forbidden {
        headers.remove(name);
    }
}

const NEVER_A_TRAILER: &[&str] = &[
    // framing
    "content-length",
    "te",
    "trailer",
    // routing
    "host",
    "forwarded",
    "via",
    // authentication
    "authentication-info",
    "authorization",
    "cookie",
    "dpop",
    "set-cookie",
    "www-authenticate",
    // request modifiers and response controls
    "age",
    "cache-control",
    "expect",
    "expires",
    "date",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "vary",
    "warning",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    // content format
    "content-encoding",
    "content-range",
    "content-type",
];
