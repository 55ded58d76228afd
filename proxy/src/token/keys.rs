//! Public keys of who signs tokens, from a JWK Set (RFC 7517): read once, strictly, and prepared.
//!
//! Pure. A document with two meanings is rejected whole. A key that we cannot or may not use is ignored alone, and named, so
//! that an alarm can say why an authority is missing.

use super::algorithm::{Algorithm, KeyKind};
use super::jwk_set::{Jwk, JwkSet};
use super::jws::{Jws, KEY_ID_BYTES_MAX};
use super::key_fault::{IgnoredKey, KeyFault};
use super::problem::TokenProblem;
use super::shown::Shown;
use super::verify::{PreparedKey, RSA_BITS_MAX, RSA_BITS_MIN};
use crate::base64;
use crate::identity::bundle_format;
use crate::tls::certificate::hex;
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Where a key set is from, which is what its members mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Workload API §6.2.2: "a standard JWK Set". SPIRE writes no `use` there; one that is there has to be `jwt-svid`.
    WorkloadApi,
    /// Trust Domain and Bundle §4.2.2: a key without `use` is ignored, and JWT-SVID §6.1: those for tokens are
    /// `jwt-svid`, with a `kid`.
    SpiffeBundle,
    /// An OpenID provider's `jwks_uri` (OpenID Connect Discovery §3): `use` is `sig` (RFC 7517 §4.2) or missing.
    Issuer,
}

/// Bytes of an issuer's document.
pub const ISSUER_DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// Keys of a document, usable or not.
pub const KEYS_MAX: usize = 1000;
/// Keys that are tried for a token that names none. A signature costs up to half a millisecond.
pub const CANDIDATES_MAX: usize = 16;

/// RFC 7638: SHA-256 over what makes the key the key it is. Two keys are the same when this is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint(pub [u8; 32]);

/// Keys by their `kid`.
pub struct KeySet {
    keys: Vec<Key>,
    by_key_id: HashMap<String, usize>,
    ignored: Vec<IgnoredKey>,
}

/// A key that can be used.
pub struct Key {
    pub key_id: Option<String>,
    pub thumbprint: Thumbprint,
    pub prepared: PreparedKey,
}

/// Why a document is rejected: keep the previous one.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("the key set has {bytes} bytes, more than the {bytes_max} read")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the key set is not a JSON object in which every member occurs once, with an array of objects in `keys`")]
    Json(#[from] serde_json::Error),
    #[error("the key set has no `keys` (RFC 7517 §5.1)")]
    NoKeys,
    #[error("the key set has {count} keys, more than the {KEYS_MAX} read")]
    TooManyKeys { count: usize },
}

impl KeySet {
    /// # Errors
    /// [`KeySetError`]. `"keys": []` is none: it revokes everything.
    pub fn parse(document: &[u8], origin: Origin) -> Result<Self, KeySetError> {
        let bytes_max = origin.bytes_max();
        if document.len() > bytes_max {
            return Err(KeySetError::TooLarge { bytes: document.len(), bytes_max });
        }
        let JwkSet { keys, .. } = serde_json::from_slice(document)?;
        let entries = keys.ok_or(KeySetError::NoKeys)?;
        if entries.len() > KEYS_MAX {
            return Err(KeySetError::TooManyKeys { count: entries.len() });
        }
        Ok(Self::of(&entries, origin))
    }

    /// No keys: whoever has these is not believed.
    pub fn none() -> Self {
        Self { keys: Vec::new(), by_key_id: HashMap::new(), ignored: Vec::new() }
    }

    fn of(entries: &[Jwk], origin: Origin) -> Self {
        let mut set = Self::none();
        let ignored = |index: usize, fault: KeyFault| {
            let key_id = entries[index].text("kid").map(Shown::of);
            IgnoredKey { index, key_id, fault }
        };
        let mut usable = Vec::new();
        let mut others = HashSet::new();
        for (index, entry) in entries.iter().enumerate() {
            match read_key(entry, origin) {
                Ok(key) => usable.push((index, key)),
                Err(fault) => {
                    others.extend(entry.text("kid"));
                    set.ignored.push(ignored(index, fault));
                }
            }
        }
        // WIT-SVID §6.1: a `kid` is unique across the whole bundle. Others publish keys for encryption beside, under any.
        if origin != Origin::SpiffeBundle {
            others.clear();
        }
        let ambiguous = ambiguous(&usable, others);
        for (index, key) in usable {
            // None is no name, and not the empty one.
            let key_id = key.key_id.as_deref();
            if key_id.is_some_and(|key_id| ambiguous.contains(key_id)) {
                set.ignored.push(ignored(index, KeyFault::KeyIdTwice));
            } else if let Some(same) = key_id.and_then(|key_id| set.by_key_id.get(key_id)) {
                set.keys[*same].prepared.join(key.prepared);
            } else {
                set.add(key);
            }
        }
        set
    }

    fn add(&mut self, key: Key) {
        if let Some(key_id) = &key.key_id {
            self.by_key_id.insert(key_id.clone(), self.keys.len());
        }
        self.keys.push(key);
    }

    /// Whether no key is usable: then nothing that is signed is believed (Trust Domain and Bundle §4.1.3).
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether a token that this key vouched for would still be believed.
    pub fn contains(&self, thumbprint: Thumbprint) -> bool {
        self.keys.iter().any(|key| key.thumbprint == thumbprint)
    }

    /// What the document has besides, in its order but for keys whose `kid` is another's, which come last.
    pub fn ignored(&self) -> &[IgnoredKey] {
        &self.ignored
    }

    /// The key that signed the token.
    ///
    /// # Errors
    /// No key here may have, or none did.
    pub fn verify(&self, token: &Jws<'_>) -> Result<&Key, TokenProblem> {
        let algorithm = token.header.algorithm;
        let candidates = match &token.header.key_id {
            Some(key_id) => vec![self.named(key_id, algorithm)?],
            None => self.unnamed(algorithm)?,
        };
        let verifies = |key: &&Key| key.prepared.verifies(algorithm, token.signed, &token.signature);
        candidates.into_iter().find(verifies).ok_or(TokenProblem::SignatureInvalid)
    }

    fn named(&self, key_id: &str, algorithm: Algorithm) -> Result<&Key, TokenProblem> {
        let known = self.by_key_id.get(key_id).map(|index| &self.keys[*index]);
        let key = known.ok_or_else(|| TokenProblem::KeyUnknown { key_id: Shown::of(key_id) })?;
        if !key.prepared.serves(algorithm) {
            return Err(TokenProblem::KeyUnfit { key_id: Shown::of(key_id), algorithm });
        }
        Ok(key)
    }

    /// JWT-SVID §2.2: `kid` is optional. Each key that fits is tried then, if they are few.
    fn unnamed(&self, algorithm: Algorithm) -> Result<Vec<&Key>, TokenProblem> {
        let candidates: Vec<_> = self.keys.iter().filter(|key| key.prepared.serves(algorithm)).collect();
        match candidates.len() {
            0 => Err(TokenProblem::NoKeyFits { algorithm }),
            1..=CANDIDATES_MAX => Ok(candidates),
            count => Err(TokenProblem::TooManyCandidates { count }),
        }
    }
}

/// The `kid`s under which there is more than one key; `others` are those of entries that are no keys for tokens.
fn ambiguous(usable: &[(usize, Key)], others: HashSet<&str>) -> HashSet<String> {
    let mut first: HashMap<&str, Thumbprint> = HashMap::new();
    let mut ambiguous = HashSet::new();
    for (_, key) in usable {
        let Some(key_id) = key.key_id.as_deref() else { continue };
        let thumbprint = *first.entry(key_id).or_insert(key.thumbprint);
        if thumbprint != key.thumbprint || others.contains(key_id) {
            ambiguous.insert(key_id.to_owned());
        }
    }
    ambiguous
}

impl Origin {
    fn bytes_max(self) -> usize {
        match self {
            Self::WorkloadApi | Self::SpiffeBundle => bundle_format::DOCUMENT_BYTES_MAX,
            Self::Issuer => ISSUER_DOCUMENT_BYTES_MAX,
        }
    }

    /// Values are case-sensitive (RFC 7517 §4.2).
    fn takes_use(self, entry: &Jwk) -> bool {
        match (self, entry.text("use")) {
            (Self::WorkloadApi | Self::SpiffeBundle, Some("jwt-svid")) | (Self::Issuer, Some("sig")) => true,
            (Self::WorkloadApi | Self::Issuer, None) => !entry.has("use"),
            _ => false,
        }
    }
}

fn read_key(entry: &Jwk, origin: Origin) -> Result<Key, KeyFault> {
    if !origin.takes_use(entry) {
        return Err(KeyFault::Use);
    }
    let kind = key_kind(entry)?;
    // RFC 7518 §6.2.2, §6.3.2: whoever could read this document can sign.
    if entry.has("d") {
        return Err(KeyFault::Private);
    }
    let key_id = match entry.text("kid") {
        Some("") | None if origin == Origin::SpiffeBundle => return Err(KeyFault::NoKeyId),
        None if entry.has("kid") => return Err(KeyFault::KeyIdNotText),
        Some(key_id) if key_id.len() > KEY_ID_BYTES_MAX => return Err(KeyFault::KeyIdTooLong),
        key_id => key_id.map(str::to_owned),
    };
    // RFC 7517 §4.3.
    let verifies = |operations: &[Value]| operations.iter().any(|operation| operation.as_str() == Some("verify"));
    if entry.has("key_ops") && !entry.list("key_ops").is_some_and(verifies) {
        return Err(KeyFault::Operations);
    }
    let algorithms = algorithms(entry, kind)?;
    let (prepared, thumbprint) = match kind {
        KeyKind::Rsa => rsa(entry, &algorithms)?,
        KeyKind::P256 => elliptic_curve(entry, kind, "P-256", 32)?,
        KeyKind::P384 => elliptic_curve(entry, kind, "P-384", 48)?,
        KeyKind::P521 => elliptic_curve(entry, kind, "P-521", 66)?,
    };
    Ok(Key { key_id, thumbprint, prepared })
}

fn key_kind(entry: &Jwk) -> Result<KeyKind, KeyFault> {
    match (entry.text("kty"), entry.text("crv")) {
        (Some("RSA"), _) => Ok(KeyKind::Rsa),
        (Some("EC"), Some("P-256")) => Ok(KeyKind::P256),
        (Some("EC"), Some("P-384")) => Ok(KeyKind::P384),
        (Some("EC"), Some("P-521")) => Ok(KeyKind::P521),
        (Some("EC"), curve) => Err(KeyFault::Curve { curve: Shown::of(curve.unwrap_or_default()) }),
        (kind, _) => Err(KeyFault::KeyType { kind: Shown::of(kind.unwrap_or_default()) }),
    }
}

/// RFC 7517 §4.4: `alg` is optional; where it is, the key serves that one alone.
fn algorithms(entry: &Jwk, kind: KeyKind) -> Result<Vec<Algorithm>, KeyFault> {
    let Some(name) = entry.text("alg") else {
        let anything = KeyFault::Algorithm { name: Shown::of("a value that is not text") };
        return if entry.has("alg") { Err(anything) } else { Ok(kind.algorithms().collect()) };
    };
    match name.parse::<Algorithm>() {
        Ok(algorithm) if algorithm.key_kind() == kind => Ok(vec![algorithm]),
        _ => Err(KeyFault::Algorithm { name: Shown::of(name) }),
    }
}

/// RFC 7518 §6.3.1.
fn rsa(entry: &Jwk, algorithms: &[Algorithm]) -> Result<(PreparedKey, Thumbprint), KeyFault> {
    let (modulus_text, modulus) = number(entry, "n")?;
    let (exponent_text, exponent) = number(entry, "e")?;
    let bits = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyFault::ModulusBits { bits });
    }
    // An even modulus has 2 as a factor. An exponent of 1 makes every signature the text itself; above 33 bits nobody
    // has one, and verifying becomes as dear as signing.
    let value = exponent.iter().take(6).fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    if modulus[modulus.len() - 1] & 1 == 0 || value & 1 == 0 || !(3..1 << 33).contains(&value) {
        return Err(KeyFault::RsaNumbers);
    }
    let prepared = PreparedKey::rsa(&modulus, &exponent, algorithms).map_err(KeyFault::Rejected)?;
    let canonical = format!(r#"{{"e":"{exponent_text}","kty":"RSA","n":"{modulus_text}"}}"#);
    Ok((prepared, Thumbprint::of(&canonical)))
}

/// A Base64urlUInt: as few bytes as the number takes (RFC 7518 §2), and not zero.
fn number<'a>(entry: &'a Jwk, member: &'static str) -> Result<(&'a str, Vec<u8>), KeyFault> {
    let (text, bytes) = member_bytes(entry, member)?;
    match bytes.first() {
        None | Some(0) => Err(KeyFault::NotMinimal { member }),
        Some(_) => Ok((text, bytes)),
    }
}

/// RFC 7518 §6.2.1: both coordinates in the full length of the curve's field.
fn elliptic_curve(
    entry: &Jwk,
    kind: KeyKind,
    curve: &str,
    coordinate_bytes: usize,
) -> Result<(PreparedKey, Thumbprint), KeyFault> {
    let (x_text, x) = member_bytes(entry, "x")?;
    let (y_text, y) = member_bytes(entry, "y")?;
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return Err(KeyFault::CoordinateLength { x: x.len(), y: y.len(), expected: coordinate_bytes });
    }
    let prepared = PreparedKey::elliptic_curve(kind, &[&[4], &x[..], &y[..]].concat()).map_err(KeyFault::Rejected)?;
    let canonical = format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x_text}","y":"{y_text}"}}"#);
    Ok((prepared, Thumbprint::of(&canonical)))
}

fn member_bytes<'a>(entry: &'a Jwk, member: &'static str) -> Result<(&'a str, Vec<u8>), KeyFault> {
    let text = entry.text(member).ok_or(KeyFault::MemberMissing { member })?;
    let bytes = base64::decode_url(text.as_bytes()).map_err(|source| KeyFault::Encoding { member, source })?;
    Ok((text, bytes))
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Thumbprint {
    /// RFC 7638 §3: the required members in their order, without whitespace. That base64url has one spelling here makes it
    /// unambiguous.
    fn of(canonical: &str) -> Self {
        let mut thumbprint = [0; 32];
        thumbprint.copy_from_slice(digest(&SHA256, canonical.as_bytes()).as_ref());
        Self(thumbprint)
    }
}
