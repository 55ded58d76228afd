//! Trust that was taken back before it expired: CRLs and the deny list, as one immutable part of the identity snapshot.
//!
//! Pure but for [`watch`]: a handshake, a request's token and every re-check ask [`Revocations`], and what is asked of them is
//! found by key, not by walking a list. Whoever publishes a snapshot gets lists bound to the keys of its bundles
//! ([`Revocations::bound_to`]), so no publisher can forget them.

mod denials;
pub mod guard;
pub mod levers;
mod lists;
pub mod watch;

pub use denials::{Denials, Entry, Origin};
pub use guard::{Blast, Gate, Proposal};
pub use levers::Levers;
pub use lists::{BoundLists, LISTS_MAX, RevokedBy};

use crate::identity::{Bundle, Svid};
use crate::tls::crl::Crl;
use crate::tls::{Peer, SvidError};
use crate::token::{Subject, TokenProblem, Verified};
use postern_config::{SpiffeId, StaleCrls, TrustDomain};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

/// Everything that takes trust back.
#[derive(Clone, Default)]
pub struct Revocations {
    /// From the Workload API, the whole of its last message's.
    pub from_source: Vec<Arc<Crl>>,
    /// From the files that the configuration names.
    pub from_files: Vec<Arc<Crl>>,
    pub stale: StaleCrls,
    pub lists: Arc<BoundLists>,
    pub denials: Arc<Denials>,
}

impl Revocations {
    /// The same, with each list bound to the authorities whose keys signed it.
    pub fn bound_to(&self, bundles: &HashMap<TrustDomain, Arc<Bundle>>, svids: &[Arc<Svid>]) -> Self {
        let lists = self.from_source.iter().chain(&self.from_files);
        Self { lists: Arc::new(BoundLists::bind(lists, bundles, svids)), ..self.clone() }
    }

    pub fn crls(&self) -> impl Iterator<Item = &Arc<Crl>> {
        self.from_source.iter().chain(&self.from_files)
    }

    /// # Errors
    /// The peer's certificate, one of its issuers' or the peer itself is no longer to be trusted.
    pub fn check_peer(&self, peer: &Peer, now: SystemTime) -> Result<(), SvidError> {
        self.lists.check(&peer.issued, self.stale, now)?;
        match self.denials.of_peer(peer, now) {
            Some(entry) => Err(SvidError::DenyListed { entry: entry.words() }),
            None => Ok(()),
        }
    }

    /// As [`check_peer`](Self::check_peer), of an SVID of our own.
    ///
    /// # Errors
    /// As there.
    pub fn check_own(&self, svid: &Svid, now: SystemTime) -> Result<(), SvidError> {
        self.lists.check(&svid.issued, self.stale, now)?;
        match self.denials.of_svid(svid, now) {
            Some(entry) => Err(SvidError::DenyListed { entry: entry.words() }),
            None => Ok(()),
        }
    }

    /// # Errors
    /// The token's id or its subject is denied.
    pub fn check_token(&self, token: &Verified, now: SystemTime) -> Result<(), TokenProblem> {
        match self.denials.of_token(token, now) {
            Some(entry) => Err(TokenProblem::DenyListed { entry: entry.words() }),
            None => Ok(()),
        }
    }
}

/// The workload that a token is about, if it is one.
fn workload(token: &Verified) -> Option<&SpiffeId> {
    match &token.subject {
        Subject::Workload(id) => Some(id),
        Subject::Named(_) => None,
    }
}

#[cfg(test)]
mod tests;
