//! The one crypto provider: aws-lc-rs, always passed explicitly, never installed for the process.

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::Arc;

/// aws-lc-rs with our key exchanges: the post-quantum hybrid first, then by how common they are. rustls without its
/// default features would not put X25519MLKEM768 first.
///
/// The suite that everybody must implement (RFC 8446 §9.1) comes first: its handshake hashes with SHA-256, for which processors have
/// instructions; SHA-384, of rustls' first one, was 8 % of what a connection costs. A peer may ask for the others.
///
/// Making one costs two short vectors, so a handshake makes its own and there is no global.
pub fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
    // The order of the others stays.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// Random numbers begin with a tenth of a second of measuring the machine's jitter, which the first handshake would wait for,
/// and with it all that its worker serves. A thread of its own does that while the process starts.
pub fn begin_random_numbers() {
    // Without it, the first handshake does it.
    let _ = std::thread::Builder::new().name("randomness".to_owned()).spawn(|| provider().secure_random.fill(&mut [0]));
}
