//! A verified peer.

use crate::identity::AuthorityId;
use crate::telemetry::json::Rendered;
use postern_config::SpiffeId;
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::time::SystemTime;

/// In which role the *peer* presented its SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Client,
    Server,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// A certificate on the path from a leaf to its root, as lists of revoked ones name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Content bytes of its serial number.
    pub serial: Box<[u8]>,
    /// Whose key signed it.
    pub by: AuthorityId,
}

/// What the verifier established about the other side of a connection. Made by `tls/verifier.rs` alone.
#[derive(Debug)]
pub struct Peer {
    pub id: SpiffeId,
    /// As presented, leaf first; kept so that trust can be checked again when bundles change.
    pub chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the leaf's DER.
    pub fingerprint: [u8; 32],
    /// SHA-256 of each certificate's SHA-256, leaf first: no two chains have the same.
    pub chain_fingerprint: [u8; 32],
    /// Lower-case hex.
    pub serial: String,
    pub not_after: SystemTime,
    /// The root that vouched.
    pub authority: AuthorityId,
    /// What its authorities issued, leaf first: lists of theirs may take it back.
    pub issued: Vec<Issued>,
    /// Generation of the identity snapshot that it was verified with.
    pub generation: u64,
    /// What records of the audit log say of it.
    pub rendered: Rendered,
}
