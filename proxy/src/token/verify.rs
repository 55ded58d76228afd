//! Public keys, prepared so that verifying a signature parses nothing, and the one question that they answer.

use super::algorithm::{Algorithm, KeyKind};
use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
};

/// Bits of a modulus. RFC 7518 §3.3: "A key of size 2048 bits or larger MUST be used"; above, a signature only costs.
pub const RSA_BITS_MIN: usize = 2048;
pub const RSA_BITS_MAX: usize = 8192;

/// A public key with the algorithms that it may verify, each ready.
pub struct PreparedKey {
    ready: Vec<(Algorithm, ParsedPublicKey)>,
}

impl PreparedKey {
    /// Modulus and exponent are big-endian without leading zeros.
    ///
    /// # Errors
    /// They are no RSA key.
    pub fn rsa(modulus: &[u8], exponent: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyRejected> {
        let components = PublicKeyComponents { n: modulus, e: exponent };
        let wanted = algorithms.iter().filter_map(|algorithm| Some((*algorithm, rsa_parameters(*algorithm)?)));
        let ready = wanted.map(|(algorithm, parameters)| Ok((algorithm, components.to_parsed_public_key(parameters)?)));
        Ok(Self { ready: ready.collect::<Result<_, KeyRejected>>()? })
    }

    /// The point in SEC 1's uncompressed form.
    ///
    /// # Errors
    /// It is no point of the curve.
    pub fn elliptic_curve(kind: KeyKind, point: &[u8]) -> Result<Self, KeyRejected> {
        let fixed = kind.algorithms().filter_map(|algorithm| Some((algorithm, ecdsa(algorithm)?)));
        let ready = fixed.map(|(algorithm, fixed)| Ok((algorithm, ParsedPublicKey::new(fixed, point)?)));
        Ok(Self { ready: ready.collect::<Result<_, KeyRejected>>()? })
    }

    /// Takes over what `other`, which is the same key, may verify besides.
    pub(super) fn join(&mut self, other: Self) {
        let more: Vec<_> = other.ready.into_iter().filter(|(algorithm, _)| !self.serves(*algorithm)).collect();
        self.ready.extend(more);
    }

    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.ready.iter().map(|(algorithm, _)| *algorithm)
    }

    pub fn serves(&self, algorithm: Algorithm) -> bool {
        self.algorithms().any(|served| served == algorithm)
    }

    /// Whether this key made `signature` over `signed` by `algorithm`; no when it does not serve the algorithm.
    ///
    /// ECDSA signatures are the two integers in their full length, one behind the other (RFC 7518 §3.4): no DER, no other
    /// length. PSS has a salt as long as the hash (§3.5).
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let ready = self.ready.iter().find(|(served, _)| *served == algorithm);
        ready.is_some_and(|(_, key)| key.verify_sig(signed, signature).is_ok())
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => None,
    }
}

fn ecdsa(algorithm: Algorithm) -> Option<&'static EcdsaVerificationAlgorithm> {
    match algorithm {
        Algorithm::Es256 => Some(&ECDSA_P256_SHA256_FIXED),
        Algorithm::Es384 => Some(&ECDSA_P384_SHA384_FIXED),
        Algorithm::Es512 => Some(&ECDSA_P521_SHA512_FIXED),
        Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512 => None,
    }
}
