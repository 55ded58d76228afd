//! What a handshake established, and what ends it.

use super::{EndCause, Negotiated};
use crate::identity::{Snapshot, SourceStatus, Svid};
use crate::tls::verifier::{Strictness, SvidError, still_trusted};
use crate::tls::{Peer, Role};
use postern_config::OnExpiry;
use std::sync::Arc;
use std::time::SystemTime;

/// What the mTLS handshake established, and with what of ours.
pub struct Trust {
    pub own: Arc<Svid>,
    pub peer: Arc<Peer>,
    pub peer_role: Role,
    pub strictness: Strictness,
    pub on_expiry: OnExpiry,
    pub negotiated: Negotiated,
    /// What the caller asked for when TLS began, if it did.
    pub server_name: Option<Box<str>>,
}

impl Trust {
    /// Of a stream of the connection that this is of: the same identities, and what the stream's own port or service wants
    /// at their end.
    pub fn of_stream(&self, on_expiry: OnExpiry) -> Self {
        Self {
            own: self.own.clone(),
            peer: self.peer.clone(),
            peer_role: self.peer_role,
            strictness: self.strictness,
            on_expiry,
            negotiated: self.negotiated,
            // It asked for the connection's.
            server_name: None,
        }
    }

    /// When the first of the two SVIDs ends.
    pub fn not_after(&self) -> SystemTime {
        self.own.not_after.min(self.peer.not_after)
    }
}

/// The teardown table of the rulings, for changes of identity: what of `trust` ended with `snapshot`?
pub fn trust_end(trust: &Trust, snapshot: &Snapshot) -> Option<EndCause> {
    match snapshot.source {
        SourceStatus::Denied { cut: true, .. } => {
            return Some(EndCause::IdentityWithdrawn);
        }
        // Agents say so in passing: no new handshake, but live connections wait for the grace to pass.
        SourceStatus::Denied { cut: false, .. } => return None,
        SourceStatus::Waiting { .. } | SourceStatus::Connected | SourceStatus::Broken { .. } => {}
    }
    if !snapshot.svids.iter().any(|svid| svid.id == trust.own.id) {
        return Some(EndCause::IdentityWithdrawn);
    }
    let peer = &trust.peer;
    match still_trusted(peer, &snapshot.bundles, trust.peer_role, SystemTime::now(), trust.strictness) {
        Ok(_) => taken_back(trust, snapshot),
        Err(SvidError::NoBundle { .. }) => Some(EndCause::TrustDomainRemoved),
        Err(_) => Some(EndCause::AuthorityRemoved),
    }
}

/// What is still vouched for, and was taken back all the same.
fn taken_back(trust: &Trust, snapshot: &Snapshot) -> Option<EndCause> {
    let now = SystemTime::now();
    let peer = snapshot.revocations.check_peer(&trust.peer, now).err();
    match peer.or_else(|| snapshot.revocations.check_own(&trust.own, now).err())? {
        SvidError::DenyListed { .. } => Some(EndCause::DenyListed),
        // A list that became stale ends no connection: it would have to be looked at by the clock, and those who are there were
        // found good by it.
        SvidError::RevocationStale => None,
        _ => Some(EndCause::CertificateRevoked),
    }
}

/// Is the SVID that the session was made with still the one that a new handshake would use?
pub fn own_svid_rotated(trust: &Trust, snapshot: &Snapshot) -> bool {
    !snapshot.svids.iter().any(|svid| svid.fingerprint == trust.own.fingerprint)
}
