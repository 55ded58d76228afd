//! Header fields that do not go on.

use super::super::hops::HOPS_HEADER;
use super::super::identity_headers::is_reserved;
use super::{folds_to, is_relied_on, list, nominates_no_field};
use http::header::{
    AUTHORIZATION, CONNECTION, EXPECT, Entry, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Removes what is meant for one connection only (RFC 9110 §7.6.1): the fixed list, and what `Connection` nominates.
///
/// A nomination of something relied on is ignored (a request with one has been refused by [`check_framing`](super::check_framing)). `te: trailers`
/// stays: gRPC demands it end to end. `trailer` stays too, for trailers are passed on.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    Found::among(headers).strip_hop_by_hop(headers);
}

/// Removes what a request may not take to the next hop: [`strip_hop_by_hop`], [`strip_identity`], and an expectation, for we
/// answer `100 Continue` ourselves, when the upstream begins to take the body (RFC 9110 §10.1.1). `to_app`: also fields by which
/// some frameworks replace the path that was decided on (Symfony, IIS), or that say where a proxy before us would have sent
/// it (THREATS HD-15).
///
/// True: there is a [`HOPS_HEADER`], which stays, to be counted on.
pub fn strip_request(headers: &mut HeaderMap, to_app: bool) -> bool {
    let found = Found::among(headers);
    found.strip_hop_by_hop(headers);
    if found.reserved {
        strip_named(headers, |name| is_reserved(name) && HOPS_HEADER != *name);
    }
    if found.expectation {
        headers.remove(EXPECT);
    }
    if found.path_override && to_app {
        strip_named(headers, is_path_override);
    }
    found.hops
}

/// Takes the token that was checked away from the application, which has no use for a credential, and sets what it learns of
/// it instead. What the caller wrote under those names, in whatever spelling (THREATS HD-10), goes.
pub fn replace_token(headers: &mut HeaderMap, claims: Vec<(HeaderName, Option<HeaderValue>)>) {
    headers.remove(AUTHORIZATION);
    for (name, value) in claims {
        strip_spelt(headers, std::slice::from_ref(&name));
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Removes fields with these names, in whatever spelling (THREATS HD-10).
pub fn strip_spelt(headers: &mut HeaderMap, names: &[HeaderName]) {
    strip_named(headers, |other| names.iter().any(|name| folds_to(other, name.as_str())));
}

/// What does not go on, found in one walk over the names: most heads have next to nothing of it, and to look for each would
/// hash each name.
#[derive(Default)]
struct Found {
    connection: bool,
    te: bool,
    hop_by_hop: bool,
    expectation: bool,
    hops: bool,
    reserved: bool,
    path_override: bool,
}

impl Found {
    fn among(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            let name = name.as_str();
            match name.as_bytes().first() {
                Some(b'c') if name == "connection" => found.connection = true,
                Some(b't') if name == "te" => found.te = true,
                Some(b'e') if name == "expect" => found.expectation = true,
                Some(b'h' | b'k' | b'p' | b't' | b'u') => found.hop_by_hop |= HOP_BY_HOP.iter().any(|it| it == name),
                Some(b'x') if HOPS_HEADER == *name => found.hops = true,
                Some(b'c' | b'w' | b'x') => {
                    found.reserved |= is_reserved(name);
                    found.path_override |= is_path_override(name);
                }
                _ => {}
            }
        }
        found
    }

    fn strip_hop_by_hop(&self, headers: &mut HeaderMap) {
        if self.connection {
            strip_nominated(headers);
        }
        if self.te {
            keep_trailers_alone(headers);
        }
        if self.hop_by_hop {
            for name in HOP_BY_HOP {
                headers.remove(name);
            }
        }
    }
}

fn strip_nominated(headers: &mut HeaderMap) {
    let nominations: Vec<HeaderValue> = match headers.entry(CONNECTION) {
        // Nearly all there is, and it takes no memory to see that.
        Entry::Occupied(connection) if connection.iter().all(nominates_no_field) => {
            connection.remove_entry_mult();
            Vec::new()
        }
        Entry::Occupied(connection) => connection.remove_entry_mult().1.collect(),
        Entry::Vacant(_) => Vec::new(),
    };
    for option in nominations.iter().filter_map(|value| value.to_str().ok()).flat_map(list) {
        if !is_relied_on(option) && !option.eq_ignore_ascii_case("te") {
            headers.remove(option);
        }
    }
}

fn keep_trailers_alone(headers: &mut HeaderMap) {
    if let Some(value) = headers.get(TE) {
        let wants_trailers =
            value.to_str().is_ok_and(|codings| list(codings).any(|coding| coding.eq_ignore_ascii_case("trailers")));
        if !wants_trailers {
            headers.remove(TE);
        } else if value != "trailers" || headers.get_all(TE).iter().nth(1).is_some() {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Whether a (lower-case) name is one that is for one connection, frames its messages, or replaces the path that was decided
/// on: in any spelling.
pub(crate) fn is_for_connection(name: &str) -> bool {
    let others = [CONNECTION.as_str(), TE.as_str(), TRAILER.as_str()];
    HOP_BY_HOP.iter().map(HeaderName::as_str).chain(others).any(|plain| folds_to(name, plain)) || is_path_override(name)
}

/// RFC 9110 §7.6.1 and, for the two `proxy-auth…`, §11.7: they are between a client and its next proxy.
const HOP_BY_HOP: [HeaderName; 8] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes every header that says who the caller is, in every spelling (DESIGN, ruling "identity headers"), and everything
/// named `x-postern-…`. For heads and for trailers. Without allocation if there is none.
pub fn strip_identity(headers: &mut HeaderMap) {
    strip_named(headers, is_reserved);
}

fn strip_named(headers: &mut HeaderMap, is_meant: impl Fn(&str) -> bool) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_meant(name.as_str())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

fn is_path_override(name: &str) -> bool {
    PATH_OVERRIDES.iter().any(|plain| folds_to(name, plain))
}

const PATH_OVERRIDES: &[&str] =
    &["x-original-url", "x-rewrite-url", "x-envoy-original-path", "x-envoy-original-dst-host"];

/// For a response on its way to the caller: hop-by-hop fields, ours, and names that an application may not say of a caller
/// go (HD-27). Read `x-postern-refusal` of a peer's sidecar before.
pub fn strip_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    strip_identity(headers);
}

#[cfg(test)]
mod tests {
    use super::Found;
    use http::header::{HeaderMap, HeaderName, HeaderValue};

    /// Whatever is found has its price: each name is looked for, in every request.
    #[test]
    fn nothing_is_found_in_a_head_that_has_none_of_it() {
        let names = [
            "accept",
            "cache-control",
            "content-length",
            "cookie",
            "etag",
            "expires",
            "host",
            "if-match",
            "keep",
            "origin",
            "pragma",
            "priority",
            "range",
            "tea",
            "trailer",
            "upgrade-insecure-requests",
            "user-agent",
            "via",
            "warning",
            "x-forwarded-for",
            "x-request-id",
        ];
        let headers: HeaderMap =
            names.into_iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect();
        let Found { connection, te, hop_by_hop, expectation, hops, reserved, path_override } = Found::among(&headers);
        assert_eq!([connection, te, hop_by_hop, expectation, hops, reserved, path_override], [false; 7]);
    }
}
