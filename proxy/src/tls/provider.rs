//! The one crypto provider: aws-lc-rs, always passed explicitly, never installed for the process.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::Arc;

/// aws-lc-rs with our key exchanges: the post-quantum hybrid first, then by how common they are. rustls without its
/// default features would not put X25519MLKEM768 first.
///
/// Making one costs two short vectors, so a handshake makes its own and there is no global.
pub fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    Arc::new(CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}
