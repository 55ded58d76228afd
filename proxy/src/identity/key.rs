//! Private keys between the wire or file they came in and rustls: not printed, and zeroized as far as our own buffers
//! go (the transport's and the crypto library's copies are theirs).

use crate::tls::der::{INTEGER, Reader, SEQUENCE};
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A private key as it came. Zeroized on drop; `Debug` prints `[redacted]`.
pub struct PrivateKeyBytes(Zeroizing<PrivateKeyDer<'static>>);

impl PrivateKeyBytes {
    /// A key of the Workload API, which is PKCS#8 or nothing. Takes the buffer itself, so that no copy stays behind.
    pub fn pkcs8(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bytes))))
    }

    /// The first key of a PEM file, where PKCS#1 and SEC 1 are usual as well.
    ///
    /// # Errors
    /// As the PEM reader says; it does not repeat the content.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, rustls_pki_types::pem::Error> {
        PrivateKeyDer::from_pem_slice(pem).map(|key| Self(Zeroizing::new(key)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.secret_der().is_empty()
    }

    /// # Errors
    /// [`KeyFault`].
    pub(crate) fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyFault> {
        if let PrivateKeyDer::Pkcs8(key) = &*self.0 {
            require_pkcs8(key.secret_pkcs8_der())?;
        }
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.0).map_err(KeyFault::Unsupported)
    }
}

impl fmt::Debug for PrivateKeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What is wrong with a private key. Never its bytes.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    #[error("the key is not unencrypted PKCS#8 DER (SPIFFE Workload API §5.1)")]
    NotPkcs8,
    #[error("the key is of a kind that cannot sign here (RSA, ECDSA and Ed25519 can)")]
    Unsupported(#[source] rustls::Error),
}

/// RFC 5958 §2: SEQUENCE { version INTEGER, algorithm SEQUENCE, … }. PKCS#1 has an INTEGER second, SEC 1 an OCTET
/// STRING, an encrypted key starts with a SEQUENCE; a crypto library may read some of those as well, the standard
/// does not.
fn require_pkcs8(bytes: &[u8]) -> Result<(), KeyFault> {
    let not_pkcs8 = |_encoding| KeyFault::NotPkcs8;
    let mut outer = Reader::new(bytes);
    let info = outer.element().map_err(not_pkcs8)?;
    if info.tag != SEQUENCE || !outer.at_end() {
        return Err(KeyFault::NotPkcs8);
    }
    let mut fields = Reader::new(info.content);
    let version = fields.element().map_err(not_pkcs8)?;
    if version.tag != INTEGER || fields.peek() != Some(SEQUENCE) {
        return Err(KeyFault::NotPkcs8);
    }
    Ok(())
}
