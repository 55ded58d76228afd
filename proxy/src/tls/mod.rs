//! mTLS: rustls configuration for both roles, and the verifier that makes a peer known.
//!
//! Only `verifier` decides *who* a peer is. A handshake sees one identity snapshot whole: its configuration is made for
//! it, and the verifier's verdict is read from it afterwards.

pub mod bundle;
pub mod certificate;
pub mod der;
pub mod path;
pub mod peer;
pub mod svid_error;
pub mod verifier;

pub use peer::{Peer, Role};
pub use verifier::{Strictness, SvidError, still_trusted, verify_svid};
