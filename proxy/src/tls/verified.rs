//! Peers that a snapshot has verified: who comes again with the same chain is known, and its path is not searched again.
//!
//! A verdict is a function of chain, role, strictness, bundles and time. The bundles are the snapshot's, so whatever changes
//! them begins with an empty memory; within one, a verdict stands as long as each certificate on the way is valid. That a
//! peer holds the key of its leaf is proven in every handshake all the same (RFC 8446 §4.4.3): rustls asks for that
//! separately.

use crate::identity::{Bundle, Snapshot};
use crate::tls::bundle::chain_digest;
use crate::tls::certificate::{Fields, has_ended};
use crate::tls::peer::{Peer, Role};
use crate::tls::verifier::{Strictness, SvidError, bound, verify_svid};
use postern_config::TrustDomain;
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Chains remembered. A sidecar has few peers; whoever has more verifies some of them again.
const CHAINS_MAX: usize = 256;
/// Longer ones are verified each time.
const CHAIN_BYTES_MAX: usize = 8 * 1024;

/// Only who was let in is remembered, and only when it has proven that it has the key of its leaf: see
/// [`Snapshot::remember`].
#[derive(Default)]
pub struct VerifiedPeers(Mutex<HashMap<Asked, Verified>>);

/// What was asked of the verifier.
#[derive(PartialEq, Eq, Hash)]
pub struct Asked {
    /// SHA-256 of each certificate's, leaf first: no two chains have the same.
    chain: [u8; 32],
    role: Role,
    strictness: Strictness,
}

struct Verified {
    peer: Arc<Peer>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Snapshot {
    /// As [`verify_svid`] by this snapshot's bundles, which is asked only for what is not known, and nobody whose trust was
    /// taken back. Besides the peer, what to
    /// [remember](Self::remember), if it is new.
    ///
    /// # Errors
    /// As [`verify_svid`].
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: SystemTime,
        strictness: Strictness,
    ) -> Result<(Arc<Peer>, Option<Asked>), SvidError> {
        // Before anything of a flood of certificates is hashed.
        bound(chain)?;
        let is_short = chain.iter().map(|certificate| certificate.len()).sum::<usize>() <= CHAIN_BYTES_MAX;
        let asked = is_short.then(|| Asked { chain: chain_digest(chain), role, strictness });
        let (peer, asked) = match asked.as_ref().and_then(|asked| self.verified.recall(asked, now)) {
            Some(peer) => (peer, None),
            None => (Arc::new(verify_svid(chain, &self.bundles, self.generation, role, now, strictness)?), asked),
        };
        // A list may have become stale since it was remembered.
        self.revocations.check_peer(&peer, now)?;
        Ok((peer, asked))
    }

    /// For later: `peer` is the answer to what was asked, and has proven that it has the key.
    pub fn remember(&self, asked: Asked, peer: &Arc<Peer>) {
        if let Some(verified) = Verified::of(peer.clone(), &self.bundles) {
            self.verified.insert(asked, verified);
        }
    }
}

impl VerifiedPeers {
    fn recall(&self, asked: &Asked, now: SystemTime) -> Option<Arc<Peer>> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(asked).filter(|verified| verified.is_valid(now)).map(|verified| verified.peer.clone())
    }

    fn insert(&self, asked: Asked, verified: Verified) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= CHAINS_MAX {
            peers.clear();
        }
        peers.insert(asked, verified);
    }
}

#[cfg(test)]
impl VerifiedPeers {
    pub fn chains(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A snapshot that is made from another one has bundles of its own.
impl Clone for VerifiedPeers {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Verified {
    /// The time for which everything is valid that may be on the path: all that was presented, and the authority in each of
    /// its certificates. `None`: something cannot be read, and was not needed.
    fn of(peer: Arc<Peer>, bundles: &HashMap<TrustDomain, Arc<Bundle>>) -> Option<Self> {
        let bundle = bundles.get(&peer.id.trust_domain())?;
        let vouching = bundle.anchors.iter().filter(|anchor| anchor.authority == peer.authority);
        let mut validity: Vec<_> = vouching.map(|anchor| (anchor.not_before, anchor.not_after)).collect();
        for certificate in &peer.chain {
            let fields = Fields::read(certificate).ok()?;
            validity.push((fields.not_before, fields.not_after));
        }
        let not_before = validity.iter().map(|(not_before, _)| *not_before).max()?;
        let not_after = validity.iter().map(|(_, not_after)| *not_after).min()?;
        Some(Self { peer, not_before, not_after })
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        now >= self.not_before && !has_ended(self.not_after, now)
    }
}
