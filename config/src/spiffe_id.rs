//! `SpiffeId` and `TrustDomain`: the only types of those names in the workspace.

use std::fmt;
use std::sync::Arc;

/// A trust domain's name, such as `shop.example`. Byte equality; no DNS meaning (SPIFFE-ID §2.1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// # Errors
    /// [`SpiffeIdError`] naming the rule that `name` breaks.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        let id = SpiffeId::parse(&format!("spiffe://{name}"))?;
        if id.trust_domain_name().len() == name.len() {
            Ok(id.trust_domain())
        } else {
            Err(SpiffeIdError::TrustDomainHasPath)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spiffe://trust-domain/path`, or `spiffe://trust-domain` for the trust domain itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Bytes of scheme and trust domain: where the path starts.
    path_start: u16,
}

const SCHEME: &str = "spiffe://";
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
pub(crate) const ID_BYTES_MAX: usize = 2048;

impl SpiffeId {
    /// Reads `text` to the letter of SPIFFE-ID §2; nothing is normalised.
    ///
    /// # Errors
    /// One variant a rule.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > ID_BYTES_MAX {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let name_bytes = rest.find('/').unwrap_or(rest.len());
        let (name, path) = rest.split_at(name_bytes);
        if name.is_empty() {
            return Err(SpiffeIdError::TrustDomainEmpty);
        }
        if name.len() > TRUST_DOMAIN_BYTES_MAX {
            return Err(SpiffeIdError::TrustDomainTooLong);
        }
        if !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
            return Err(SpiffeIdError::TrustDomainCharacter);
        }
        if !path.is_empty() {
            for segment in path[1..].split('/') {
                match segment {
                    "" => return Err(SpiffeIdError::PathEmptySegment),
                    "." | ".." => return Err(SpiffeIdError::PathDotSegment),
                    _ => {}
                }
                if !segment.bytes().all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
                    return Err(SpiffeIdError::PathCharacter);
                }
            }
        }
        Ok(Self { uri: Arc::from(text), path_start: (SCHEME.len() + name_bytes) as u16 })
    }

    pub fn as_str(&self) -> &str {
        &self.uri
    }

    pub fn trust_domain_name(&self) -> &str {
        &self.uri[SCHEME.len()..self.path_start as usize]
    }

    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(Arc::from(self.trust_domain_name()))
    }

    /// The path with its leading `/`, or the empty string.
    pub fn path(&self) -> &str {
        &self.uri[self.path_start as usize..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// The rule of SPIFFE-ID §2 that a text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("does not start with `spiffe://` in lower case (SPIFFE-ID §2)")]
    Scheme,
    #[error("has no trust domain (SPIFFE-ID §2.1)")]
    TrustDomainEmpty,
    #[error("has a trust domain of more than 255 bytes (SPIFFE-ID §2.3)")]
    TrustDomainTooLong,
    #[error("has a character other than a-z 0-9 . - _ in its trust domain (SPIFFE-ID §2.1)")]
    TrustDomainCharacter,
    #[error("is a trust domain's name and may not have a path")]
    TrustDomainHasPath,
    #[error("has an empty path segment or a trailing slash (SPIFFE-ID §2.2)")]
    PathEmptySegment,
    #[error("has a path segment `.` or `..` (SPIFFE-ID §2.2)")]
    PathDotSegment,
    #[error("has a character other than a-z A-Z 0-9 . - _ in its path (SPIFFE-ID §2.2)")]
    PathCharacter,
    #[error("is longer than 2048 bytes (SPIFFE-ID §2.3)")]
    TooLong,
}

#[cfg(test)]
mod tests;
