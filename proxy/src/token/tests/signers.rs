//! Keys that sign tokens, for tests: each knows its JWK, and signs whatever it is told to.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};

pub enum Signer {
    EllipticCurve { pair: EcdsaKeyPair, curve: &'static str },
    Rsa(RsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl Signer {
    pub fn p256() -> Self {
        Self::elliptic_curve(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
    }

    pub fn p384() -> Self {
        Self::elliptic_curve(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")
    }

    pub fn p521() -> Self {
        Self::elliptic_curve(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521")
    }

    fn elliptic_curve(algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Self {
        Self::EllipticCurve { pair: EcdsaKeyPair::generate(algorithm).expect("a key"), curve }
    }

    /// P-256 in PKCS #8.
    pub fn from_pkcs8(der: &[u8]) -> Self {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).expect("a P-256 key");
        Self::EllipticCurve { pair, curve: "P-256" }
    }

    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"))
    }

    pub fn edwards() -> Self {
        Self::Edwards(Ed25519KeyPair::generate().expect("a key"))
    }

    /// Its public key.
    pub fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::EllipticCurve { pair, curve } => {
                // SEC 1: 4, then both coordinates.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
                json!({"kty": "EC", "kid": kid, "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Self::Rsa(pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "kid": kid, "n": base64url(modulus), "e": base64url(exponent)})
            }
            Self::Edwards(pair) => {
                json!({"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())})
            }
        }
    }

    /// The public key as others have it in files.
    pub fn spki(&self) -> Vec<u8> {
        match self {
            Self::EllipticCurve { pair, .. } => pair.public_key().as_der().expect("DER").as_ref().to_vec(),
            Self::Rsa(pair) => pair.public_key().as_der().expect("DER").as_ref().to_vec(),
            Self::Edwards(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// By the algorithm of this name; of other kinds of key, by whatever this one can.
    pub fn sign(&self, algorithm: &str, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::EllipticCurve { pair, .. } => pair.sign(&random, signed).expect("a signature").as_ref().to_vec(),
            Self::Edwards(pair) => pair.sign(signed).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, signed, &mut signature).expect("a signature");
                signature
            }
        }
    }

    /// A token with this header and these claims, to the letter; `alg` is taken from the header, if it has one.
    pub fn token(&self, header: &str, claims: &str) -> String {
        self.token_of_parts(&base64url(header.as_bytes()), &base64url(claims.as_bytes()), header)
    }

    /// The parts as they stand, however they are encoded.
    pub fn token_of_parts(&self, header_part: &str, claims_part: &str, header: &str) -> String {
        let header: Value = serde_json::from_str(header).unwrap_or_default();
        let signed = format!("{header_part}.{claims_part}");
        let signature = self.sign(header["alg"].as_str().unwrap_or_default(), signed.as_bytes());
        format!("{signed}.{}", base64url(&signature))
    }
}

/// A token whose "signature" is an HMAC-SHA-256 (RFC 7518 §3.2).
pub fn hmac_token(key: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
    format!("{signed}.{}", base64url(tag.as_ref()))
}

/// Modulus and exponent of PKCS #1's RSAPublicKey: a SEQUENCE of two INTEGERs.
fn rsa_numbers(der: &[u8]) -> (&[u8], &[u8]) {
    let (inner, _) = value(der);
    let (modulus, rest) = value(inner);
    let (exponent, _) = value(rest);
    // INTEGERs have a sign; ours are positive, with a zero byte in front where the first bit would say otherwise.
    (modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent)
}

/// The value of the first element, and what is behind it.
fn value(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, header) = match der[1] {
        short if short < 0x80 => (usize::from(short), 2),
        0x81 => (usize::from(der[2]), 3),
        _ => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
    };
    (&der[header..header + length], &der[header + length..])
}

/// RFC 4648 §5 without padding, written a second time.
pub fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(*chunk.get(at).unwrap_or(&0)));
        text.extend((0..=chunk.len()).map(|at| char::from(ALPHABET[bits >> (18 - 6 * at) & 63])));
    }
    text
}
