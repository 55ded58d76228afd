//! mTLS: rustls configuration for both roles, and the verifier that makes a peer known.
//!
//! Only `verifier` decides *who* a peer is. A handshake sees one identity snapshot whole: its configuration is made for
//! it, and the verifier's verdict is read from it afterwards.
//!
//! Reading order: [`verifier`] (the rules), [`path`] and [`bundle`] (what it stands on), [`mesh`] (the handshake), [`web`], [`endpoint`].

pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod crl;
pub mod der;
pub mod endpoint;
pub mod error;
mod handshake;
pub mod mesh;
pub mod path;
pub mod peer;
mod provider;
pub mod svid_error;
pub mod verified;
pub mod verifier;
pub mod web;

#[cfg(test)]
pub(crate) mod tests;

pub use endpoint::EndpointTrust;
pub use error::TlsError;
pub use mesh::{Accept, ClientAlpn, Connect, ServerAlpn, accept, connect};
pub use peer::{Peer, Role};
pub use provider::{begin_random_numbers, provider};
pub use verifier::{Strictness, SvidError, is_strictly_valid, still_trusted, verify_svid};
pub use web::{WebRoots, WebRootsError, WebTls};
