//! Who called, told to the application: `x-forwarded-client-cert`, `x-spiffe-id` and RFC 9440's `client-cert`.
//!
//! Built from the verified peer alone: SPIFFE ID and fingerprint, of which neither can hold a character that the headers'
//! grammar gives a meaning to (HD-14). The certificate's subject and other names are never quoted.

use super::forwarded::Forwarded;
use super::headers::folds_to;
use crate::base64;
use crate::tls::Peer;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use postern_config::{IdentityHeaders, SpiffeId};
use std::fmt::Write;

pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub const X_SPIFFE_ID: HeaderName = HeaderName::from_static("x-spiffe-id");
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// The values for one connection, made once: to set them is a clone of shared bytes.
#[derive(Clone, Debug, Default)]
pub struct RenderedIdentity {
    values: Vec<(HeaderName, HeaderValue)>,
}

impl RenderedIdentity {
    /// `own` is the SVID that we presented to `peer`. A value that is no header value is left out, never altered (HD-21);
    /// with the types above there is none.
    pub fn new(wanted: &IdentityHeaders, peer: &Peer, own: Option<&SpiffeId>) -> Self {
        let mut values = Vec::new();
        let mut add = |wanted: bool, name: HeaderName, render: &dyn Fn() -> String| {
            if let Some(value) = wanted.then(render).and_then(|text| HeaderValue::try_from(text).ok()) {
                values.push((name, value));
            }
        };
        add(wanted.xfcc, X_FORWARDED_CLIENT_CERT, &|| forwarded_client_cert(peer, own));
        add(wanted.spiffe_id, X_SPIFFE_ID, &|| peer.id.as_str().to_owned());
        if let Some(leaf) = peer.chain.first() {
            // RFC 9440 §2.1: a Structured Field Byte Sequence of the certificate's DER.
            add(wanted.client_cert, CLIENT_CERT, &|| format!(":{}:", base64::encode(leaf)));
        }
        Self { values }
    }

    /// Sets the values in a head from which [`strip_request`](super::headers::strip_request) has taken the caller's.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.values {
            headers.insert(name, value.clone());
        }
    }

    /// As [`apply`](Self::apply), of a peer that speaks for somebody: our element comes after those that are believed. Where the
    /// application wants no `x-forwarded-client-cert`, it gets none of those either.
    pub fn apply_after(&self, forwarded: &Forwarded, headers: &mut HeaderMap) {
        self.apply(headers);
        if let Some(ours) = headers.get(X_FORWARDED_CLIENT_CERT) {
            let chain = [forwarded.elements().as_bytes(), b",", ours.as_bytes()].concat();
            // What is believed is printable; should it be no value all the same, ours stands alone.
            if let Ok(chain) = HeaderValue::from_bytes(&chain) {
                headers.insert(X_FORWARDED_CLIENT_CERT, chain);
            }
        }
    }
}

/// Whether a (lower-case) header name is one that only we may say, in any spelling.
pub(crate) fn is_reserved(name: &str) -> bool {
    match (name.as_bytes().first(), name.len()) {
        (Some(b'c'), 11) => folds_to(name, "client-cert"),
        (Some(b'c'), 17) => folds_to(name, "client-cert-chain"),
        // "…MUST include the static metadata key `workload.spiffe.io`" (SPIFFE Workload Endpoint §3), against request forgery:
        // so nobody may have it said for him (THREATS NW-09).
        (Some(b'w'), 18) => folds_to(name, "workload-spiffe-io"),
        (Some(b'x'), 11) if folds_to(name, "x-spiffe-id") => true,
        (Some(b'x'), 23) if folds_to(name, "x-forwarded-client-cert") => true,
        (Some(b'x'), OUR_PREFIX_BYTES..) => {
            name.get(..OUR_PREFIX_BYTES).is_some_and(|start| folds_to(start, OUR_PREFIX))
        }
        _ => false,
    }
}

const OUR_PREFIX: &str = "x-postern-";
const OUR_PREFIX_BYTES: usize = OUR_PREFIX.len();

/// Envoy's grammar: one element, for we are the only proxy that vouches (PEERS D4: sanitize and set).
fn forwarded_client_cert(peer: &Peer, own: Option<&SpiffeId>) -> String {
    let mut element = String::with_capacity(256);
    if let Some(own) = own {
        element.push_str("By=");
        element.push_str(own.as_str());
        element.push(';');
    }
    element.push_str("Hash=");
    for byte in peer.fingerprint {
        // Writing to a String cannot fail.
        let _ = write!(element, "{byte:02x}");
    }
    element.push_str(";URI=");
    element.push_str(peer.id.as_str());
    element
}

#[cfg(test)]
mod tests;
