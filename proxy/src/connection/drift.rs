//! What is looked at of a connection, and of what is shown by it, besides whether it is valid.

use super::Connection;
use crate::drift;
use crate::policy::{Policy, TokenPlan};
use crate::refusal::Refused;
use crate::tls::Peer;
use crate::token::Verified;
use postern_config::SpiffeId;
use std::net::{IpAddr, SocketAddr};

impl Connection {
    /// Its peer has shown a certificate.
    ///
    /// # Errors
    /// It came from two networks at once, and the file says `deny`.
    pub fn certificate_came(&self, policy: &Policy, peer: &Peer) -> Result<(), Refused> {
        let shared = &self.worker.shared;
        let network = drift::certificate_came(shared, &policy.drift, peer, self.remote_ip(), self.session.id)?;
        self.network.set(network);
        Ok(())
    }

    pub(super) fn certificate_gone(&self) {
        if let (Some(network), Some(peer)) = (self.network.get(), self.peer()) {
            self.worker.shared.drift.certificate_gone(peer, network);
        }
    }

    /// A good token was shown by it. `caller`: who shows it.
    ///
    /// # Errors
    /// As the file says of tokens from two networks, and of those that are about somebody else.
    pub fn token_came(
        &self,
        policy: &Policy,
        plan: &TokenPlan,
        token: &Verified,
        caller: Option<&SpiffeId>,
    ) -> Result<(), Refused> {
        let (shared, id) = (&self.worker.shared, self.session.id);
        if let Some(caller) = caller.filter(|_| !plan.names_forwarders()) {
            drift::token_of_another(shared, &policy.drift, token, caller, id, false)?;
        }
        drift::token_came(shared, &policy.drift, token, self.remote_ip(), id)
    }

    /// The same of one that is not its caller's to show.
    pub fn token_not_bound(&self, policy: &Policy, token: &Verified) {
        if let Some(peer) = self.peer() {
            let (shared, id) = (&self.worker.shared, self.session.id);
            // It is refused by its own name, and this is what else is to be said of it.
            let _ = drift::token_of_another(shared, &policy.drift, token, &peer.id, id, true);
        }
    }

    fn remote_ip(&self) -> Option<IpAddr> {
        self.session.remote.address().map(|address: SocketAddr| address.ip())
    }
}
