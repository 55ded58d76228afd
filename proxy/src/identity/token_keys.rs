//! The keys that JWT-SVIDs are verified with: a stream of JWT bundles (Workload API §6.2.2), open for ever beside the one of
//! SVIDs.
//!
//! How it fares says nothing about our identity: what we have stays until the agent says otherwise, and a token of which we
//! do not know the key is refused.

use super::backoff::Backoff;
use super::events::Counters;
use super::message_fault::MessageFault;
use super::proto::JwtBundlesResponse;
use super::publisher::{Publisher, chain};
use super::snapshot::TokenKeys;
use super::supervisor::{SocketIdentity, Wake, wait};
use super::workload_api::{Keepalive, StreamEnd, address_of, fetch_token_keys};
use crate::token::{KeySet, Origin};
use postern_config::identity::Endpoint;
use postern_config::{SpiffeId, TrustDomain};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::Code;

pub(crate) struct TokenKeysSource {
    endpoint: Endpoint,
    publisher: Publisher,
    /// What came last of each trust domain, to tell what changed.
    documents: HashMap<TrustDomain, Vec<u8>>,
    /// Why the stream ended last: said once.
    told: Option<String>,
}

impl TokenKeysSource {
    pub(crate) fn new(endpoint: Endpoint, publisher: Publisher) -> Self {
        Self { endpoint, publisher, documents: HashMap::new(), told: None }
    }

    /// Never returns.
    ///
    /// # Cancellation
    /// Dropping the future closes the stream; what was published stays.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut keepalive = Keepalive::default();
        loop {
            let (socket, started) = (SocketIdentity::of(&self.endpoint), Instant::now());
            let end = self.follow(keepalive, &mut backoff).await;
            self.report(&end);
            if matches!(end, StreamEnd::CutOff) {
                keepalive = keepalive.after_cut_off(started.elapsed());
            }
            let delay = match end {
                StreamEnd::NotSupported { .. } => Backoff::slow(fastrand::f64()),
                _ => backoff.next(fastrand::f64()),
            };
            if wait(&self.endpoint, delay, socket).await == Wake::SocketAppeared {
                backoff.reset();
            }
        }
    }

    async fn follow(&mut self, keepalive: Keepalive, backoff: &mut Backoff) -> StreamEnd {
        let mut stream = match fetch_token_keys(&self.endpoint, keepalive).await {
            Ok(stream) => stream,
            Err(end) => return end,
        };
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return StreamEnd::Ended,
                Err(status) => return status.into(),
            };
            match self.apply(message) {
                Ok(()) => {
                    self.told = None;
                    backoff.reset();
                }
                Err(fault) => self.publisher.discard(&fault),
            }
        }
    }

    /// The whole state (Workload API §4.3): a trust domain that is absent has no keys any more. One whose keys cannot be read
    /// keeps those that it had: it must not be in a foreign domain's power to stop all others.
    ///
    /// # Errors
    /// There is nothing in it, which no agent means (Workload API §4.5).
    fn apply(&mut self, message: JwtBundlesResponse) -> Result<(), MessageFault> {
        if message.bundles.is_empty() {
            return Err(MessageFault::Empty("bundles"));
        }
        let known = self.publisher.store.load().token_keys.clone();
        let (mut documents, mut keys) = (HashMap::new(), TokenKeys::new());
        for (name, document) in message.bundles {
            let id = SpiffeId::parse(&name).ok().filter(|id| id.path().is_empty());
            let Some(trust_domain) = id.map(|id| id.trust_domain()) else {
                Counters::count(&self.publisher.counters.bundles_refused);
                tracing::error!(
                    name = name.escape_debug().to_string(),
                    "keys for tokens of what is no trust domain were refused"
                );
                continue;
            };
            let before = known.get(&trust_domain);
            let is_same = self.documents.get(&trust_domain) == Some(&document);
            let read = match before.filter(|_| is_same) {
                Some(same) => Some(same.clone()),
                None => self.read(&trust_domain, &document).or_else(|| before.cloned()),
            };
            keys.extend(read.map(|set| (trust_domain.clone(), set)));
            documents.insert(trust_domain, document);
        }
        self.documents = documents;
        self.publisher.publish_token_keys(keys);
        Ok(())
    }

    fn read(&self, trust_domain: &TrustDomain, document: &[u8]) -> Option<Arc<KeySet>> {
        match KeySet::parse(document, Origin::WorkloadApi) {
            Ok(set) => {
                for key in set.ignored().iter().filter(|key| !key.is_foreign()) {
                    tracing::warn!(%trust_domain, key_id = ?key.key_id, problem = chain(&key.fault), "a key for tokens is not used");
                }
                Some(Arc::new(set))
            }
            Err(error) => {
                Counters::count(&self.publisher.counters.bundles_refused);
                tracing::error!(%trust_domain, error = chain(&error), "keys for tokens were refused; those that we have stay");
                None
            }
        }
    }

    fn report(&mut self, end: &StreamEnd) {
        let (endpoint, error) = (address_of(&self.endpoint), chain(end));
        if self.told.as_deref() == Some(error.as_str()) {
            return;
        }
        if is_of_keys_alone(end) {
            tracing::warn!(endpoint, error, "the Workload API gives no keys for tokens");
        } else {
            tracing::debug!(endpoint, error, "the stream of keys for tokens ended; will try again");
        }
        if matches!(end, StreamEnd::NotSupported { .. } | StreamEnd::TooLarge) && self.documents.is_empty() {
            // Those that we have are of another agent, which the file no longer names.
            self.publisher.publish_token_keys(TokenKeys::new());
        }
        self.told = Some(error);
    }
}

/// Does it say something about this RPC? Of an agent that is gone or going, the other stream tells.
fn is_of_keys_alone(end: &StreamEnd) -> bool {
    match end {
        StreamEnd::NotSupported { .. } | StreamEnd::TooLarge | StreamEnd::Denied(_) => true,
        // What tonic makes of a connection that breaks.
        StreamEnd::Failed { code, .. } => !matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled),
        StreamEnd::Connect { .. }
        | StreamEnd::ConnectTimeout { .. }
        | StreamEnd::Ended
        | StreamEnd::CutOff
        | StreamEnd::NoToken => false,
    }
}
