//! mTLS: rustls configuration for both roles, and the verifier that makes a peer known.
//!
//! Only `verifier` decides *who* a peer is. A handshake sees one identity snapshot whole: its configuration is made for
//! it, and the verifier's verdict is read from it afterwards.

pub mod peer;

pub use peer::{Peer, Role};
