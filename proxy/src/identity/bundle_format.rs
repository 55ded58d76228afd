//! The SPIFFE bundle format: a JWK Set with a sequence number (SPIFFE Trust Domain and Bundle §4).
//!
//! Pure. What a document must not do is rejected whole: no `keys`, a member twice. What the standard has us ignore is
//! ignored alone, and named, so that an alarm can say why an authority is missing.

use crate::base64::{self, Base64Fault};
use crate::token::jwk_set::{Jwk, JwkSet};
use rustls_pki_types::CertificateDer;
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// As for a message of the Workload API.
pub const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a bundle says. Nothing here has been checked as an authority yet: `tls::bundle::load_bundle` does that.
#[derive(Debug, PartialEq, Eq)]
pub struct SpiffeBundleDocument {
    /// The first certificate of each `x509-svid` entry (X509-SVID §6.2).
    pub x509_authorities: Vec<CertificateDer<'static>>,
    /// Key ids of the `jwt-svid` entries.
    pub jwt_authorities: Vec<String>,
    /// Key ids of the `wit-svid` entries.
    pub wit_authorities: Vec<String>,
    pub sequence: Option<u64>,
    pub refresh_hint_seconds: Option<u64>,
    pub ignored: Vec<Ignored>,
}

impl SpiffeBundleDocument {
    /// Keys for other uses belong in a bundle and are no odd sight; an authority that cannot be read is one.
    pub(crate) fn report_ignored(&self, origin: &str) {
        for ignored in self.ignored.iter().filter(|ignored| !matches!(ignored, Ignored::Use { .. })) {
            tracing::error!(origin, problem = %ignored, "a part of a SPIFFE bundle is ignored");
        }
    }
}

/// A part of a document that is passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("key {index} has no `kty`, or one that is not text (RFC 7517 §4.1)")]
    KeyType { index: usize },
    #[error("key {index} has no `use` that is known (Trust Domain and Bundle §4.2.2)")]
    Use { index: usize },
    #[error("key {index} has no certificate in `x5c` (X509-SVID §6.2)")]
    NoCertificate { index: usize },
    #[error("the first certificate of key {index} is not standard base64 of DER (RFC 7517 §4.7)")]
    Certificate { index: usize, source: Base64Fault },
    #[error("key {index} has no `kid` (JWT-SVID §6.1)")]
    NoKeyId { index: usize },
    #[error("key {index} has the `kid` of another key; neither is used")]
    KeyIdTwice { index: usize },
    #[error("`spiffe_sequence` is not an integer of 64 bits (Trust Domain and Bundle §4.1.1)")]
    Sequence,
    #[error("`spiffe_refresh_hint` is not an integer of 64 bits (Trust Domain and Bundle §4.1.2)")]
    RefreshHint,
}

/// Why a document is rejected: keep the previous one.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("the bundle has {bytes} bytes, more than the {DOCUMENT_BYTES_MAX} read")]
    TooLarge { bytes: usize },
    #[error("the bundle is not a JSON object in which every member occurs once, with an array of objects in `keys`")]
    Json(#[from] serde_json::Error),
    #[error("the bundle has no `keys` (Trust Domain and Bundle §4.1.3)")]
    NoKeys,
}

/// # Errors
/// [`BundleError`]. `"keys": []` is none: it revokes everything.
pub fn parse_spiffe_bundle(document: &[u8]) -> Result<SpiffeBundleDocument, BundleError> {
    if document.len() > DOCUMENT_BYTES_MAX {
        return Err(BundleError::TooLarge { bytes: document.len() });
    }
    let JwkSet { keys, members } = serde_json::from_slice(document)?;
    let keys = keys.ok_or(BundleError::NoKeys)?;
    let mut bundle = read_keys(&keys);
    bundle.sequence = integer(document, &members, "spiffe_sequence").unwrap_or_else(|| {
        bundle.ignored.push(Ignored::Sequence);
        None
    });
    bundle.refresh_hint_seconds = integer(document, &members, "spiffe_refresh_hint").unwrap_or_else(|| {
        bundle.ignored.push(Ignored::RefreshHint);
        None
    });
    Ok(bundle)
}

fn read_keys(keys: &[Jwk]) -> SpiffeBundleDocument {
    let mut bundle = SpiffeBundleDocument {
        x509_authorities: Vec::new(),
        jwt_authorities: Vec::new(),
        wit_authorities: Vec::new(),
        sequence: None,
        refresh_hint_seconds: None,
        ignored: Vec::new(),
    };
    let key_ids = || keys.iter().filter_map(|key| key.text("kid"));
    for (index, key) in keys.iter().enumerate() {
        let read = match (key.text("kty"), key.text("use")) {
            (None, _) => Err(Ignored::KeyType { index }),
            (_, Some("x509-svid")) => first_certificate(key, index).map(|der| bundle.x509_authorities.push(der)),
            (_, Some(usage @ ("jwt-svid" | "wit-svid"))) => match key.text("kid") {
                None | Some("") => Err(Ignored::NoKeyId { index }),
                Some(kid) if key_ids().filter(|other| *other == kid).count() > 1 => Err(Ignored::KeyIdTwice { index }),
                Some(kid) if usage == "jwt-svid" => {
                    bundle.jwt_authorities.push(kid.to_owned());
                    Ok(())
                }
                Some(kid) => {
                    bundle.wit_authorities.push(kid.to_owned());
                    Ok(())
                }
            },
            _ => Err(Ignored::Use { index }),
        };
        bundle.ignored.extend(read.err());
    }
    bundle
}

/// X509-SVID §6.2: of several values of `x5c` the first is the authority, and the rest MUST be ignored.
fn first_certificate(key: &Jwk, index: usize) -> Result<CertificateDer<'static>, Ignored> {
    let first = key.list("x5c").and_then(<[Value]>::first).and_then(Value::as_str);
    let encoded = first.filter(|encoded| !encoded.is_empty()).ok_or(Ignored::NoCertificate { index })?;
    let der = base64::decode(encoded).map_err(|source| Ignored::Certificate { index, source })?;
    Ok(CertificateDer::from(der))
}

/// `Some(None)`: absent. `None`: present, and not an integer of 64 bits.
///
/// A second pass that reads this member alone, because serde_json fails for a number like `1e400` wherever it looks at
/// one, and a field that is rejected must not reject the document.
fn integer(document: &[u8], members: &BTreeSet<String>, member: &'static str) -> Option<Option<u64>> {
    if !members.contains(member) {
        return Some(None);
    }
    OnlyMember(member).deserialize(&mut serde_json::Deserializer::from_slice(document)).ok()
}

/// Reads one member as an integer and looks at no other.
struct OnlyMember(&'static str);

impl<'de> DeserializeSeed<'de> for OnlyMember {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OnlyMember {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<u64>, A::Error> {
        let mut found = None;
        while let Some(member) = map.next_key::<String>()? {
            if member == self.0 {
                found = Some(map.next_value::<u64>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
