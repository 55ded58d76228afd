//! The outside of a token: JWS compact serialisation (RFC 7515 §7.1), taken apart strictly. Pure; nothing is believed yet.

use super::algorithm::Algorithm;
use super::json;
use super::problem::TokenProblem;
use super::shown::Shown;
use crate::base64;
use memchr::memchr_iter;
use serde_json::{Map, Value};

/// Ours: four times what an issuer with many groups writes, and what header blocks are bounded to anyway.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Bytes of `kid`. Real ones are hashes of up to 64 characters, sometimes a URL.
pub const KEY_ID_BYTES_MAX: usize = 512;

/// Whose rules the header keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// JWT-SVID §2: `alg`, `kid` and `typ` alone, and `typ` is `JWT` or `JOSE`.
    JwtSvid,
    /// RFC 7515 §4: members that are not understood are ignored, but those that change what the bytes mean.
    Issuer,
}

/// A token in its parts. That its signature is anybody's is not known here: see `KeySet::verify`.
pub struct Jws<'a> {
    /// What the signature is over: header and payload as they were sent (RFC 7515 §5.2).
    pub signed: &'a [u8],
    pub header: Header,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

/// What of the JOSE header matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
}

impl<'a> Jws<'a> {
    /// Bounds first, then `alg` ("MUST … be rejected" before all else: JWT-SVID §2.1), then the header, then the rest.
    ///
    /// # Errors
    /// The first rule that the token breaks.
    pub fn read(token: &'a [u8], profile: Profile) -> Result<Self, TokenProblem> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenProblem::TooLarge { bytes: token.len() });
        }
        let mut dots = memchr_iter(b'.', token);
        let (Some(header_end), Some(payload_end), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(TokenProblem::NotCompact { parts: memchr_iter(b'.', token).count() + 1 });
        };
        let header = base64::decode_url(&token[..header_end]).map_err(TokenProblem::HeaderEncoding)?;
        let header = Header::read(&json::object(&header).map_err(TokenProblem::Header)?, profile)?;
        let signature = &token[payload_end + 1..];
        if signature.is_empty() {
            return Err(TokenProblem::SignatureMissing);
        }
        let signature = base64::decode_url(signature).map_err(TokenProblem::SignatureEncoding)?;
        let payload = &token[header_end + 1..payload_end];
        let payload = base64::decode_url(payload).map_err(TokenProblem::PayloadEncoding)?;
        Ok(Self { signed: &token[..payload_end], header, payload, signature })
    }
}

impl Header {
    fn read(members: &Map<String, Value>, profile: Profile) -> Result<Self, TokenProblem> {
        let algorithm = match members.get("alg") {
            Some(Value::String(name)) => name.parse().map_err(TokenProblem::AlgorithmUnknown)?,
            Some(_) => return Err(TokenProblem::AlgorithmNotText),
            None => return Err(TokenProblem::AlgorithmMissing),
        };
        if let Some(member) = members.keys().find(|member| !profile.admits(member)) {
            return Err(TokenProblem::HeaderMember { member: Shown::of(member) });
        }
        match (members.get("typ"), profile) {
            (None, _) | (Some(Value::String(_)), Profile::Issuer) => {}
            // JWT-SVID §2.3: "MUST be either JWT or JOSE". So no WIT-SVID passes for one (WIT-SVID §7.1).
            (Some(Value::String(kind)), Profile::JwtSvid) if kind == "JWT" || kind == "JOSE" => {}
            (Some(Value::String(kind)), Profile::JwtSvid) => {
                return Err(TokenProblem::TypeWrong { found: Shown::of(kind) });
            }
            (Some(_), _) => return Err(TokenProblem::TypeNotText),
        }
        let key_id = match members.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() > KEY_ID_BYTES_MAX => {
                return Err(TokenProblem::KeyIdTooLong { bytes: kid.len() });
            }
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(TokenProblem::KeyIdNotText),
        };
        Ok(Self { algorithm, key_id })
    }
}

impl Profile {
    fn admits(self, member: &str) -> bool {
        match self {
            Self::JwtSvid => matches!(member, "alg" | "kid" | "typ"),
            // RFC 7515 §4.1.11: what `crit` names has to be understood, and nothing here understands more. RFC 7797:
            // `b64` changes what is signed. RFC 7516 §4.1.3: `zip` changes what the payload is.
            Self::Issuer => !matches!(member, "crit" | "b64" | "zip"),
        }
    }
}
