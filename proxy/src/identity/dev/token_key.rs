//! The key with which an authority signs JWT-SVIDs.

use super::DevError;
use crate::base64;
use crate::tls::certificate::hex;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use postern_config::SpiffeId;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// SPIRE's default; a workload whose SVIDs live shorter has shorter tokens too.
pub(super) const TOKEN_TTL_MAX: Duration = Duration::from_secs(300);

/// ES256.
pub(super) struct TokenKey {
    pem: Zeroizing<String>,
    pair: EcdsaKeyPair,
    key_id: String,
}

impl TokenKey {
    pub(super) fn generate() -> Result<Self, DevError> {
        Self::open(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
    }

    pub(super) fn from_pem(pem: &str) -> Result<Self, DevError> {
        Self::open(&KeyPair::from_pem(pem)?)
    }

    fn open(key: &KeyPair) -> Result<Self, DevError> {
        let der = Zeroizing::new(key.serialize_der());
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(|_rejected| DevError::TokenKey)?;
        let key_id = hex(&digest(&SHA256, pair.public_key().as_ref()).as_ref()[..16]);
        Ok(Self { pem: Zeroizing::new(key.serialize_pem()), pair, key_id })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// As SPIRE writes it: without `use` (Workload API §6.2.2, "a standard JWK Set").
    pub(super) fn jwk(&self) -> Value {
        // Uncompressed (SEC 1 §2.3.3): 4, x, y.
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "x": base64::encode_url(x),
            "y": base64::encode_url(y),
        })
    }

    /// A JWT-SVID (JWT-SVID §3).
    pub(super) fn issue(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, DevError> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut token_id = [0_u8; 16];
        aws_lc_rs::rand::fill(&mut token_id).map_err(|_unspecified| DevError::Random)?;
        let claims = json!({
            "sub": id.as_str(),
            "aud": audience,
            "exp": seconds + ttl.as_secs().max(1),
            "iat": seconds,
            "jti": hex(&token_id),
        });
        let header = json!({ "alg": "ES256", "kid": self.key_id, "typ": "JWT" });
        let signed = [header, claims].map(|part| base64::encode_url(part.to_string().as_bytes())).join(".");
        let signature =
            self.pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_unspecified| DevError::Random)?;
        Ok(format!("{signed}.{}", base64::encode_url(signature.as_ref())))
    }
}
