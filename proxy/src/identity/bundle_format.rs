//! The SPIFFE bundle format: a JWK Set with a sequence number (SPIFFE Trust Domain and Bundle §4).
//!
//! Pure. What a document must not do is rejected whole: no `keys`, a member twice. What the standard has us ignore is
//! ignored alone, and named, so that an alarm can say why an authority is missing.

use super::base64::{self, Base64Fault};
use rustls_pki_types::CertificateDer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
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
    let Outline { keys, members } = serde_json::from_slice(document)?;
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
    let key_ids = || keys.iter().filter_map(|key| text(key, "kid"));
    for (index, key) in keys.iter().enumerate() {
        let read = match (text(key, "kty"), text(key, "use")) {
            (None, _) => Err(Ignored::KeyType { index }),
            (_, Some("x509-svid")) => first_certificate(key, index).map(|der| bundle.x509_authorities.push(der)),
            (_, Some(usage @ ("jwt-svid" | "wit-svid"))) => match text(key, "kid") {
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
    let first = key.0.get("x5c").and_then(Value::as_array).and_then(|values| values.first()).and_then(Value::as_str);
    let encoded = first.filter(|encoded| !encoded.is_empty()).ok_or(Ignored::NoCertificate { index })?;
    let der = base64::decode(encoded).map_err(|source| Ignored::Certificate { index, source })?;
    Ok(CertificateDer::from(der))
}

fn text<'a>(key: &'a Jwk, member: &str) -> Option<&'a str> {
    key.0.get(member).and_then(Value::as_str)
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

/// The members that decide anything, each at most once.
struct Outline {
    keys: Option<Vec<Jwk>>,
    members: BTreeSet<String>,
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OutlineVisitor)
    }
}

struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWK Set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        let mut outline = Outline { keys: None, members: BTreeSet::new() };
        while let Some(member) = map.next_key::<String>()? {
            if member == "keys" {
                outline.keys = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if let Some(twice) = outline.members.replace(member) {
                return Err(A::Error::custom(format_args!("member {twice:?} occurs twice")));
            }
        }
        Ok(outline)
    }
}

/// Those members of a JWK that we read; the key material of tokens is not ours to judge here.
struct Jwk(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Jwk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(JwkVisitor)
    }
}

struct JwkVisitor;

impl<'de> Visitor<'de> for JwkVisitor {
    type Value = Jwk;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWK")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Jwk, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(member) = map.next_key::<String>()? {
            let value = match member.as_str() {
                "kty" | "use" | "kid" | "x5c" => map.next_value::<TextOrList>()?.0,
                _ => map.next_value::<IgnoredAny>().map(|_ignored| Value::Null)?,
            };
            if let Some(_twice) = members.insert(member, value) {
                return Err(A::Error::custom("a member of a key occurs twice"));
            }
        }
        Ok(Jwk(members))
    }
}

/// A text, a list of texts, or `Null` for everything else.
struct TextOrList(Value);

impl<'de> Deserialize<'de> for TextOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrListVisitor)
    }
}

struct TextOrListVisitor;

impl<'de> Visitor<'de> for TextOrListVisitor {
    type Value = TextOrList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::String(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TextOrList, A::Error> {
        let mut texts = Vec::new();
        while let Some(TextOrList(text)) = list.next_element()? {
            texts.push(text);
        }
        Ok(TextOrList(Value::Array(texts)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextOrList, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(TextOrList(Value::Null))
    }

    fn visit_bool<E>(self, _: bool) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }

    fn visit_u64<E>(self, _: u64) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }

    fn visit_i64<E>(self, _: i64) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }

    fn visit_f64<E>(self, _: f64) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }

    fn visit_unit<E>(self) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }
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
