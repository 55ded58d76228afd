//! What a request and its response look like on the next hop.

use super::decide::Allowed;
use super::headers;
use super::hops::{self, HOPS_HEADER, one_more};
use super::record::Recorder;
use super::respond;
use crate::connection::Connection;
use crate::refusal::{Refusal, Refused};
use crate::upstream::client::HttpVersion;
use crate::upstream::lease::Lease;
use crate::upstream::plan::Security;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

/// Turns the caller's head into the one that goes on. What was decided on goes on unchanged: the path's bytes and the
/// authority as they came.
///
/// # Errors
/// The authority cannot be written in the form that the hop's version wants, or the request goes in a circle.
pub fn prepare(
    head: &mut Parts,
    to: &Allowed,
    listener: Option<String>,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Refused> {
    let was_http2 = head.version == Version::HTTP_2;
    let was_counted = headers::strip_request(&mut head.headers, to.upstream.is_app());
    let hops = if was_counted { one_more(&head.headers)? } else { hops::FIRST };
    match to.upstream.security {
        // Servers outside are none of us, and it is none of their business.
        Security::WebTls { .. } => head.headers.remove(HOPS_HEADER),
        _ => head.headers.insert(HOPS_HEADER, hops),
    };
    match to.version {
        HttpVersion::Http1 => {
            if was_http2 {
                headers::merge_cookies(&mut head.headers);
            }
            to_http1(head, listener, upgrade);
        }
        HttpVersion::Http2 => {
            let authority = authority(head, listener)?;
            to_http2(head, authority)?;
        }
    }
    Ok(())
}

/// The authority as the caller wrote it: absolute form and `:authority` before `Host` (RFC 9112 §3.2.2); that they agree
/// was checked. `listener` stands in where HTTP/1.0 named nothing.
fn authority(head: &Parts, listener: Option<String>) -> Result<Option<Authority>, Refused> {
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.clone()));
    }
    let host = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let Some(host) = host.or(listener.as_ref().map(String::as_bytes)) else { return Ok(None) };
    Authority::try_from(host)
        .map(Some)
        .map_err(|error| Refused::new(Refusal::BadHost, format!("Host is not an authority: {error}")))
}

fn to_http1(head: &mut Parts, listener: Option<String>, upgrade: Option<&HeaderValue>) {
    // An HTTP/1.0 caller's request too: a message that is forwarded has the version of who forwards it (RFC 9110 §6.2), and
    // this connection, unlike the caller's, is kept, chunked and shared by other callers.
    head.version = Version::HTTP_11;
    let host = match head.uri.authority() {
        // `:authority` becomes one.
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        // Without a stand-in there is one `Host`, which goes on as it came.
        None => listener.and_then(|listener| HeaderValue::try_from(listener).ok()),
    };
    if let Some(host) = host {
        head.headers.insert(HOST, host);
    }
    if head.method == Method::CONNECT {
        return;
    }
    let is_origin_form =
        head.uri.authority().is_none() && head.uri.path_and_query().is_some_and(|path| !path.as_str().starts_with('?'));
    if !is_origin_form {
        head.uri = Uri::from(path_of(&head.uri));
    }
    if let Some(token) = upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, token.clone());
    }
}

fn to_http2(head: &mut Parts, authority: Option<Authority>) -> Result<(), Refused> {
    head.version = Version::HTTP_2;
    head.headers.remove(HOST);
    let path = head.uri.path_and_query();
    let is_whole = head.uri.authority().is_some() && path.is_some_and(|path| !path.as_str().starts_with('?'));
    if is_whole || head.method == Method::CONNECT {
        return Ok(());
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(head.uri.scheme().cloned().unwrap_or(Scheme::HTTP));
    parts.authority = authority;
    parts.path_and_query = Some(path_of(&head.uri));
    head.uri = Uri::from_parts(parts)
        .map_err(|error| Refused::new(Refusal::BadHost, format!("HTTP/2 needs an authority: {error}")))?;
    Ok(())
}

/// Path and query, as they go on. `http://shop?page=2` has a path too: an empty one is `/` (RFC 9110 §4.2.3), and `:path` has to
/// begin with it (RFC 9113 §8.3.1).
pub fn path_of(uri: &Uri) -> PathAndQuery {
    match uri.path_and_query() {
        None => PathAndQuery::from_static("/"),
        Some(path) if path.as_str().starts_with('?') => {
            PathAndQuery::from_maybe_shared(format!("/{}", path.as_str())).unwrap_or_else(|_| path.clone())
        }
        Some(path) => path.clone(),
    }
}

/// What goes back to the caller.
pub fn clean_response(
    head: &mut http::response::Parts,
    connection: &Connection,
    lease: &Lease,
    recorder: &mut Recorder,
    switched: bool,
) {
    // Only a verified peer's sidecar can tell us why it refused; from anyone else the header is a forgery.
    let refusal = lease.peer.as_ref().and_then(|_| respond::read_refusal(&head.headers));
    lease.answered(refusal.as_ref().map(|(code, _)| code.as_str()));
    // What is switched in HTTP/2 has no name (RFC 9113 §8.2.2).
    let switches = switched && connection.version() == HttpVersion::Http1;
    let upgrade = switches.then(|| head.headers.get(UPGRADE).cloned()).flatten();
    headers::strip_response(&mut head.headers);
    if let Some((code, decision)) = refusal {
        if let Some(decision) = decision.as_deref().and_then(|decision| HeaderValue::from_str(decision).ok()) {
            head.headers.insert(respond::DECISION_HEADER, decision);
        }
        recorder.remote_refusal(code, decision);
    }
    if let Some(token) = upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, token);
    } else if connection.is_closing() && connection.version() == HttpVersion::Http1 {
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    head.version = Version::default();
}

/// Only HTTP/1.0 may.
pub fn lacks_host(head: &Parts) -> bool {
    head.version == Version::HTTP_10 && head.uri.authority().is_none() && !head.headers.contains_key(HOST)
}

/// A port equal to it is as good as none (THREATS HD-04). The application's side of the hop is `http` unless it says else.
pub fn default_port(head: &Parts) -> u16 {
    if head.uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 }
}

pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::{path_of, to_http2};
    use http::uri::Authority;
    use http::{Request, Uri, Version};

    #[test]
    fn an_empty_path_goes_on_as_a_slash() {
        for (uri, expected) in [
            ("http://shop?page=2", "/?page=2"),
            ("http://shop?", "/?"),
            ("http://shop?a?b", "/?a?b"),
            ("http://shop", "/"),
            ("http://shop/", "/"),
            ("http://shop/orders?page=2", "/orders?page=2"),
            ("/orders//%2e?page=2", "/orders//%2e?page=2"),
            ("*", "*"),
        ] {
            assert_eq!(path_of(&uri.parse::<Uri>().unwrap()).as_str(), expected, "{uri}");
        }
    }

    #[test]
    fn what_goes_on_by_http2_has_scheme_authority_and_a_path_that_begins_with_a_slash() {
        for (uri, expected) in [
            ("http://shop?page=2", "http://shop/?page=2"),
            ("https://shop:8443?page=2", "https://shop:8443/?page=2"),
            ("https://shop/orders?page=2", "https://shop/orders?page=2"),
            ("/orders?page=2", "http://shop/orders?page=2"),
        ] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let mut request = Request::new(());
                *request.uri_mut() = uri.parse().unwrap();
                *request.version_mut() = version;
                let (mut head, ()) = request.into_parts();
                let authority = head.uri.authority().cloned().unwrap_or(Authority::from_static("shop"));
                to_http2(&mut head, Some(authority)).unwrap();
                let path = head.uri.path_and_query().unwrap().as_str();
                let (scheme, authority) = (head.uri.scheme_str().unwrap(), head.uri.authority().unwrap());
                assert_eq!(format!("{scheme}://{authority}{path}"), expected, "{uri}");
            }
        }
    }
}
