//! Why a key of a document is not used: one variant a rule, with where the rule is from.

use super::shown::Shown;
use super::verify::{RSA_BITS_MAX, RSA_BITS_MIN};
use crate::base64::Base64Fault;
use aws_lc_rs::error::KeyRejected;
use std::fmt;

/// An entry of a key set that is passed over.
#[derive(Debug)]
pub struct IgnoredKey {
    /// Its place in `keys`.
    pub index: usize,
    pub key_id: Option<Shown>,
    pub fault: KeyFault,
}

impl IgnoredKey {
    /// Whether a document may well have such a key: one for another purpose. The rest are worth an alarm.
    pub fn is_foreign(&self) -> bool {
        matches!(self.fault, KeyFault::Use | KeyFault::Operations)
    }
}

impl fmt::Display for IgnoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.index)?;
        if let Some(key_id) = &self.key_id {
            write!(f, " (`kid` `{key_id}`)")?;
        }
        write!(f, " {}", self.fault)
    }
}

impl std::error::Error for IgnoredKey {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    #[error("has another `use`, or none where one is needed (RFC 7517 §4.2, JWT-SVID §6.1)")]
    Use,
    #[error("has `key_ops` without `verify` (RFC 7517 §4.3)")]
    Operations,
    #[error("has the key type `{kind}`, which is neither RSA nor EC (RFC 7517 §4.1)")]
    KeyType { kind: Shown },
    #[error("is on the curve `{curve}`, which is none of P-256, P-384 and P-521 (RFC 7518 §6.2.1.1)")]
    Curve { curve: Shown },
    #[error("has the private key beside the public one (RFC 7517 §9.2): whoever reads the document can sign")]
    Private,
    #[error("has no `kid` (JWT-SVID §6.1)")]
    NoKeyId,
    #[error("has a `kid` that is not text (RFC 7517 §4.5)")]
    KeyIdNotText,
    #[error("has a `kid` that is too long for a token to name")]
    KeyIdTooLong,
    #[error("has the `kid` of another key; neither is used")]
    KeyIdTwice,
    #[error("is for the algorithm `{name}`, which is not for tokens or does not fit it (RFC 7517 §4.4)")]
    Algorithm { name: Shown },
    #[error("has no text in `{member}` (RFC 7518 §6)")]
    MemberMissing { member: &'static str },
    #[error("has a `{member}` that is not base64url (RFC 7518 §2)")]
    Encoding { member: &'static str, source: Base64Fault },
    #[error("has a `{member}` that is empty or begins with a zero byte (RFC 7518 §2)")]
    NotMinimal { member: &'static str },
    #[error("has {bits} bits, where RSA keys have {RSA_BITS_MIN} to {RSA_BITS_MAX} (RFC 7518 §3.3)")]
    ModulusBits { bits: usize },
    #[error("has numbers that no RSA key has: an even one, or an exponent below 3 or above 33 bits (RFC 8017 §3.1)")]
    RsaNumbers,
    #[error("has coordinates of {x} and {y} bytes, where the curve's have {expected} (RFC 7518 §6.2.1.2)")]
    CoordinateLength { x: usize, y: usize, expected: usize },
    #[error("is no key of its kind; of EC, its point is not on the curve")]
    Rejected(#[source] KeyRejected),
}
