//! One workload of the provider: what it is entitled to, what it was issued, and the streams that tell it.

use super::authority::{Issued, TrustDomainAuthorities};
use super::{DevError, DevWorkload};
use crate::identity::proto::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};
use postern_config::{SpiffeId, TrustDomain};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// A reader that is this many messages behind is dropped; it reconnects and gets the newest state.
const STREAM_BACKLOG: usize = 64;

pub(super) type Authorities = HashMap<TrustDomain, TrustDomainAuthorities>;
pub(super) type MessageStream<M> = ReceiverStream<Result<M, Status>>;

pub(super) struct Workload {
    pub(super) name: String,
    pub(super) socket: PathBuf,
    pub(super) svids: Vec<(SpiffeId, Option<String>)>,
    state: Mutex<State>,
}

struct State {
    federates_with: Vec<TrustDomain>,
    withdrawn: bool,
    /// One for each of `svids`, in their order.
    issued: Vec<Issued>,
    reissue_at: SystemTime,
    svid_message: X509svidResponse,
    bundles_message: X509BundlesResponse,
    svid_streams: Streams<X509svidResponse>,
    bundle_streams: Streams<X509BundlesResponse>,
    token_keys_message: JwtBundlesResponse,
    token_key_streams: Streams<JwtBundlesResponse>,
}

/// Which leaves a change replaces. Bundles are always those of the moment.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Reissue<'a> {
    Nothing,
    All,
    Of(&'a TrustDomain),
}

impl Workload {
    /// As the provider was told.
    pub(super) fn open(workload: DevWorkload, state_dir: &Path) -> Result<Self, DevError> {
        let DevWorkload { name, socket, svids, federates_with } = workload;
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !plain || name.starts_with('.') || name == "control" {
            return Err(DevError::WorkloadName(name));
        }
        if svids.is_empty() {
            return Err(DevError::NoIdentity(name));
        }
        let socket = socket.unwrap_or_else(|| state_dir.join(format!("{name}.sock")));
        Ok(Self::new(name, socket, svids, federates_with))
    }

    fn new(
        name: String,
        socket: PathBuf,
        svids: Vec<(SpiffeId, Option<String>)>,
        federates_with: Vec<TrustDomain>,
    ) -> Self {
        let state = State {
            federates_with,
            withdrawn: false,
            issued: Vec::new(),
            reissue_at: SystemTime::UNIX_EPOCH,
            svid_message: X509svidResponse::default(),
            bundles_message: X509BundlesResponse::default(),
            svid_streams: Streams(Vec::new()),
            bundle_streams: Streams(Vec::new()),
            token_keys_message: JwtBundlesResponse::default(),
            token_key_streams: Streams(Vec::new()),
        };
        Self { name, socket, svids, state: Mutex::new(state) }
    }

    /// Makes the state of the moment and sends it to every open stream.
    pub(super) fn refresh(
        &self,
        authorities: &Authorities,
        reissue: Reissue<'_>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(), DevError> {
        let mut state = self.lock();
        let first_time = state.issued.is_empty();
        for (index, (id, _hint)) in self.svids.iter().enumerate() {
            let trust_domain = id.trust_domain();
            let wanted = first_time || reissue == Reissue::All || reissue == Reissue::Of(&trust_domain);
            if !wanted {
                continue;
            }
            let issued = authority_of(authorities, &trust_domain)?.issue(id, ttl, now)?;
            match state.issued.get_mut(index) {
                Some(slot) => *slot = issued,
                None => state.issued.push(issued),
            }
        }
        let earliest = state.issued.iter().map(|issued| issued.not_after).min().unwrap_or(now + ttl);
        state.reissue_at = now + earliest.duration_since(now).unwrap_or_default() / 2;
        self.compose(&mut state, authorities, now)?;
        state.announce();
        Ok(())
    }

    /// True when the earliest SVID is past half of its life.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.lock().reissue_at <= now
    }

    /// The leaves that it has now, each with its trust domain.
    pub(super) fn chains(&self) -> Vec<(TrustDomain, Vec<u8>)> {
        let state = self.lock();
        let issued = self.svids.iter().zip(&state.issued);
        issued.map(|((id, _), issued)| (id.trust_domain(), issued.chain.clone())).collect()
    }

    pub(super) fn withdraw(&self) {
        let mut state = self.lock();
        state.withdrawn = true;
        state.svid_streams.end(&no_identity());
        state.bundle_streams.end(&no_identity());
        state.token_key_streams.end(&no_identity());
    }

    pub(super) fn restore(&self) {
        self.lock().withdrawn = false;
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.lock().withdrawn
    }

    pub(super) fn set_federation(&self, trust_domain: &TrustDomain, federated: Federated) {
        let mut state = self.lock();
        state.federates_with.retain(|known| known != trust_domain);
        if federated == Federated::Yes {
            state.federates_with.push(trust_domain.clone());
        }
    }

    pub(super) fn push_raw(&self, message: X509svidResponse) {
        self.lock().svid_streams.send(&Ok(message));
    }

    /// The current message at once, later ones as they come.
    pub(super) fn open_svids(&self) -> Result<MessageStream<X509svidResponse>, Status> {
        let mut state = self.lock();
        if state.withdrawn {
            return Err(no_identity());
        }
        let first = state.svid_message.clone();
        Ok(state.svid_streams.open(first))
    }

    pub(super) fn open_bundles(&self) -> Result<MessageStream<X509BundlesResponse>, Status> {
        let mut state = self.lock();
        if state.withdrawn {
            return Err(no_identity());
        }
        let first = state.bundles_message.clone();
        Ok(state.bundle_streams.open(first))
    }

    pub(super) fn open_token_keys(&self) -> Result<MessageStream<JwtBundlesResponse>, Status> {
        let mut state = self.lock();
        if state.withdrawn {
            return Err(no_identity());
        }
        let first = state.token_keys_message.clone();
        Ok(state.token_key_streams.open(first))
    }

    pub(super) fn token_keys(&self) -> Result<JwtBundlesResponse, Status> {
        let state = self.lock();
        if state.withdrawn { Err(no_identity()) } else { Ok(state.token_keys_message.clone()) }
    }

    /// Streams do not outlive the server that carries them.
    pub(super) fn close_streams(&self) {
        let mut state = self.lock();
        state.svid_streams.0.clear();
        state.bundle_streams.0.clear();
        state.token_key_streams.0.clear();
    }

    fn compose(&self, state: &mut State, authorities: &Authorities, now: SystemTime) -> Result<(), DevError> {
        let mut bundles = BTreeMap::new();
        let mut federated = BTreeMap::new();
        let mut token_keys = BTreeMap::new();
        for trust_domain in &state.federates_with {
            let authority = authority_of(authorities, trust_domain)?;
            federated.insert(format!("spiffe://{trust_domain}"), authority.bundle());
            token_keys.insert(format!("spiffe://{trust_domain}"), authority.token_keys());
        }
        let mut svids = Vec::with_capacity(self.svids.len());
        for ((id, hint), issued) in self.svids.iter().zip(&state.issued) {
            let trust_domain = id.trust_domain();
            let authority = authority_of(authorities, &trust_domain)?;
            let bundle = authority.bundle();
            token_keys.insert(format!("spiffe://{trust_domain}"), authority.token_keys());
            bundles.insert(format!("spiffe://{trust_domain}"), bundle.clone());
            svids.push(X509svid {
                spiffe_id: id.to_string(),
                x509_svid: issued.chain.clone(),
                x509_svid_key: issued.key_pkcs8.to_vec(),
                bundle,
                hint: hint.clone().unwrap_or_default(),
            });
        }
        bundles.extend(federated.clone());
        let mut crl = Vec::new();
        let known = self.svids.iter().map(|(id, _)| id.trust_domain()).chain(state.federates_with.iter().cloned());
        for trust_domain in known.collect::<BTreeSet<_>>() {
            crl.extend(authority_of(authorities, &trust_domain)?.crls(now)?);
        }
        state.svid_message = X509svidResponse { svids, crl: crl.clone(), federated_bundles: federated };
        state.bundles_message = X509BundlesResponse { crl, bundles };
        state.token_keys_message = JwtBundlesResponse { bundles: token_keys };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a workload is told a foreign trust domain's bundle.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Federated {
    Yes,
    No,
}

impl State {
    fn announce(&mut self) {
        self.svid_streams.send(&Ok(self.svid_message.clone()));
        self.bundle_streams.send(&Ok(self.bundles_message.clone()));
        self.token_key_streams.send(&Ok(self.token_keys_message.clone()));
    }
}

/// Open streams of one RPC.
struct Streams<M>(Vec<mpsc::Sender<Result<M, Status>>>);

impl<M: Clone> Streams<M> {
    fn open(&mut self, first: M) -> MessageStream<M> {
        let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
        // A new channel is empty, so the first message fits; were it not so, `retain` in `send` drops the sender.
        if sender.try_send(Ok(first)).is_ok() {
            self.0.push(sender);
        }
        ReceiverStream::new(receiver)
    }

    fn send(&mut self, message: &Result<M, Status>) {
        self.0.retain(|sender| sender.try_send(message.clone()).is_ok());
    }

    fn end(&mut self, status: &Status) {
        self.send(&Err(status.clone()));
        self.0.clear();
    }
}

pub(super) fn authority_of<'a>(
    authorities: &'a Authorities,
    trust_domain: &TrustDomain,
) -> Result<&'a TrustDomainAuthorities, DevError> {
    authorities.get(trust_domain).ok_or_else(|| DevError::UnknownTrustDomain(trust_domain.clone()))
}

/// SPIRE's words for the same.
pub(super) fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}
