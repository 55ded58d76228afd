//! Drift: what is valid, and not what it was. A certificate or token from two networks, an upstream with another identity, a
//! token of somebody else, a destination that is new, an SVID of ours that changed in a way that renewals do not.
//!
//! What was seen is kept here, for all workers: it is looked at where a connection begins, never for a request, but for tokens
//! where the file asks for it. What is kept is pure (`known.rs`, `own.rs`, `told.rs`); this file counts, logs, records and
//! refuses. Who a peer is and whether it may is decided elsewhere, and before.

mod known;
mod own;
mod told;

use crate::audit::record::Event;
use crate::identity::Snapshot;
use crate::refusal::{Refusal, Refused};
use crate::shared::Shared;
use crate::tls::Peer;
use crate::tls::bundle::sha256;
use crate::tls::certificate::hex;
use crate::token::{Subject, Verified};
use crate::upstream::address::EndpointAddress;
use crate::upstream::plan::ServicePlan;
use known::{Found, Known};
use postern_config::{Drift, Network, OnDrift, SpiffeId, SpiffePattern};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use told::Told;

/// Of some hundred bytes each; as many peers in a `window` are no sidecar's.
const CERTIFICATES_MAX: usize = 16_384;
const TOKENS_MAX: usize = 16_384;
const ENDPOINTS_MAX: usize = 4096;
/// Of 32 bytes each.
const DESTINATIONS_MAX: usize = 4096;

/// What changes later than this after another source was named, is not that source's first answer.
const SOURCE_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// In the order of `postern_drift_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    CertificateFromTwoNetworks,
    TokenFromTwoNetworks,
    TokenOfAnotherSubject,
    UpstreamChangedIdentity,
    NewDestination,
    OwnSvidChanged,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::CertificateFromTwoNetworks,
        Self::TokenFromTwoNetworks,
        Self::TokenOfAnotherSubject,
        Self::UpstreamChangedIdentity,
        Self::NewDestination,
        Self::OwnSvidChanged,
    ];

    /// As the file says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CertificateFromTwoNetworks => "certificate_from_two_networks",
            Self::TokenFromTwoNetworks => "token_from_two_networks",
            Self::TokenOfAnotherSubject => "token_of_another_subject",
            Self::UpstreamChangedIdentity => "upstream_changed_identity",
            Self::NewDestination => "new_destination",
            Self::OwnSvidChanged => "own_svid_changed",
        }
    }
}

/// One drift, for metric, log and record.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub kind: Kind,
    /// Whose certificate or token it is, who answers now, or what is called.
    pub whose: &'a str,
    /// SHA-256 of the certificate, or of the token's id, as other records have it.
    pub credential: Option<&'a [u8; 32]>,
    /// What was seen before. Empty: nothing.
    pub before: &'a str,
    pub now: &'a str,
    pub connection: Option<u64>,
    pub is_denied: bool,
}

impl<'a> Facts<'a> {
    fn new(kind: Kind, whose: &'a str) -> Self {
        Self { kind, whose, credential: None, before: "", now: "", connection: None, is_denied: false }
    }
}

/// What was seen by this process.
pub struct Seen {
    /// By fingerprint, and whether it came by IPv4: callers with addresses of both families have two networks.
    certificates: Mutex<Known<([u8; 32], bool), Network>>,
    /// By the hash of their id.
    tokens: Mutex<Known<([u8; 32], bool), Network>>,
    /// Who answered, by the hash of service, endpoint and who may answer.
    endpoints: Mutex<Known<[u8; 32], SpiffeId>>,
    destinations: Mutex<HashSet<[u8; 32]>>,
    told: Mutex<Told>,
    /// When the file named another source of our identity, until our SVID changed.
    source_changed: Mutex<Option<Instant>>,
    started: Instant,
}

impl Seen {
    pub fn new(now: Instant) -> Self {
        Self {
            certificates: Mutex::new(Known::new(CERTIFICATES_MAX)),
            tokens: Mutex::new(Known::new(TOKENS_MAX)),
            endpoints: Mutex::new(Known::new(ENDPOINTS_MAX)),
            destinations: Mutex::default(),
            told: Mutex::default(),
            source_changed: Mutex::default(),
            started: now,
        }
    }

    /// The file names another source of our identity.
    pub fn expect_own_change(&self) {
        *lock(&self.source_changed) = Some(Instant::now());
    }

    /// Our SVID has changed. Is that the file's doing?
    fn was_own_change_expected(&self) -> bool {
        lock(&self.source_changed).take().is_some_and(|at| at.elapsed() < SOURCE_ANSWERS_WITHIN)
    }

    /// A connection has ended of which [`certificate_came`] said that it is in this network.
    pub fn certificate_gone(&self, peer: &Peer, from: Network) {
        lock(&self.certificates).gone(&(peer.fingerprint, from.is_ipv4()), &from, Instant::now());
    }
}

/// A peer has shown its certificate. `Some`: its network, to be told when the connection ends.
///
/// # Errors
/// `DriftRefused`: it came from another one at the same time, and the file says `deny`.
pub fn certificate_came(
    shared: &Shared,
    config: &Drift,
    peer: &Peer,
    from: Option<IpAddr>,
    connection: u64,
) -> Result<Option<Network>, Refused> {
    let on = config.certificate_from_two_networks;
    let (Some(from), true) = (from, on != OnDrift::Off) else { return Ok(None) };
    let network = network_of(config, from);
    let key = (peer.fingerprint, network.is_ipv4());
    let mut known = lock(&shared.drift.certificates);
    let found = known.see(key, &network, config.window, on == OnDrift::Deny, Instant::now());
    let is_held = known.hold(&key, &network);
    drop(known);
    let facts = Facts::new(Kind::CertificateFromTwoNetworks, peer.id.as_str());
    let (credential, connection) = (Some(&peer.fingerprint), Some(connection));
    moved(shared, on, found, network, Facts { credential, connection, ..facts })?;
    Ok(is_held.then_some(network))
}

/// A token was shown, and is good.
///
/// # Errors
/// `DriftRefused`, where the file says `deny`.
pub fn token_came(
    shared: &Shared,
    config: &Drift,
    token: &Verified,
    from: Option<IpAddr>,
    connection: u64,
) -> Result<(), Refused> {
    let on = config.token_from_two_networks;
    let (Some(from), true) = (from, on != OnDrift::Off) else { return Ok(()) };
    let network = network_of(config, from);
    let key = (token.id_hash, network.is_ipv4());
    let found = lock(&shared.drift.tokens).see(key, &network, config.window, on == OnDrift::Deny, Instant::now());
    let facts = Facts::new(Kind::TokenFromTwoNetworks, token.subject.as_str());
    let (credential, connection) = (Some(&token.id_hash), Some(connection));
    moved(shared, on, found, network, Facts { credential, connection, ..facts })
}

/// `facts`: without what was before, and what is now.
fn moved(
    shared: &Shared,
    on: OnDrift,
    found: Found<Network>,
    network: Network,
    facts: Facts<'_>,
) -> Result<(), Refused> {
    let before = match found {
        Found::AsBefore => return Ok(()),
        Found::Other { before } => before.to_string(),
        // Nothing is known of it: only a denial has to rest on something.
        Found::Full if on == OnDrift::Event => return Ok(()),
        Found::Full => String::new(),
    };
    let (now, is_denied) = (network.to_string(), on == OnDrift::Deny);
    let facts = Facts { before: &before, now: &now, is_denied, ..facts };
    tell(shared, &facts);
    let why = match before.as_str() {
        "" => format!("{}: as many as can be remembered are in use", facts.kind.as_str()),
        before => format!("{}: {} from {now}, and lately from {before}", facts.kind.as_str(), facts.whose),
    };
    if is_denied { Err(Refused::new(Refusal::DriftRefused, why)) } else { Ok(()) }
}

/// A token of somebody who is not the caller, on a route that names no forwarders. `is_refused`: by the route already.
///
/// # Errors
/// `DriftRefused`, where the file says `deny`.
pub fn token_of_another(
    shared: &Shared,
    config: &Drift,
    token: &Verified,
    caller: &SpiffeId,
    connection: u64,
    is_refused: bool,
) -> Result<(), Refused> {
    let (on, whose) = (config.token_of_another_subject, token.subject.as_str());
    if on == OnDrift::Off || !matches!(&token.subject, Subject::Workload(id) if id != caller) {
        return Ok(());
    }
    let is_denied = is_refused || on == OnDrift::Deny;
    let (kind, now) = (Kind::TokenOfAnotherSubject, caller.as_str());
    let (credential, connection) = (Some(&token.id_hash), Some(connection));
    tell(shared, &Facts { now, credential, connection, is_denied, ..Facts::new(kind, whose) });
    if on != OnDrift::Deny {
        return Ok(());
    }
    let why = format!("{}: the token is of {whose}, and was shown by {caller}", kind.as_str());
    Err(Refused::new(Refusal::DriftRefused, why))
}

/// An upstream has proven who it is, and is one of those `expected`.
///
/// # Errors
/// `UpstreamDrift`: it was another one of them lately, and the file says `deny`.
pub fn upstream_answered(
    shared: &Shared,
    config: &Drift,
    plan: &ServicePlan,
    address: &EndpointAddress,
    expected: &[SpiffePattern],
    peer: &Peer,
    connection: u64,
) -> Result<(), Refused> {
    let on = config.upstream_changed_identity;
    if on == OnDrift::Off {
        return Ok(());
    }
    let mut endpoint = format!("{}\0{address}", plan.name);
    expected.iter().for_each(|id| endpoint.extend(["\0", &id.to_string()]));
    let key = sha256(endpoint.as_bytes());
    let is_deny = on == OnDrift::Deny;
    let found = lock(&shared.drift.endpoints).see(key, &peer.id, config.window, is_deny, Instant::now());
    let before = match found {
        Found::AsBefore => return Ok(()),
        Found::Full if !is_deny => return Ok(()),
        Found::Full => String::new(),
        Found::Other { before } => before.to_string(),
    };
    let (kind, whose) = (Kind::UpstreamChangedIdentity, format!("{} at {address}", plan.name));
    let (before, now) = (before.as_str(), peer.id.as_str());
    let (credential, connection) = (Some(&peer.fingerprint), Some(connection));
    tell(shared, &Facts { before, now, credential, connection, is_denied: is_deny, ..Facts::new(kind, &whose) });
    if !is_deny {
        return Ok(());
    }
    let was = if before.is_empty() { "nobody knows who it was" } else { before };
    Err(Refused::new(Refusal::UpstreamDrift, format!("{whose} answers as {now}; before: {was}")))
}

/// The application calls something.
pub fn destination_called(
    shared: &Shared,
    config: &Drift,
    plan: &ServicePlan,
    host: Option<&str>,
    address: &EndpointAddress,
) {
    if config.new_destination == OnDrift::Off || plan.is_app() {
        return;
    }
    let what = match host {
        Some(host) => format!("{} as {host}", plan.name),
        None => format!("{} at {address}", plan.name),
    };
    let mut known = lock(&shared.drift.destinations);
    let key = sha256(what.as_bytes());
    // One for which there is no room is told each time.
    let is_new = if known.len() < DESTINATIONS_MAX { known.insert(key) } else { !known.contains(&key) };
    drop(known);
    if is_new && shared.drift.started.elapsed() >= config.learn {
        let (kind, now) = (Kind::NewDestination, address.to_string());
        tell(shared, &Facts { now: &now, ..Facts::new(kind, &what) });
    }
}

/// Counts each; logs and records one of a kind and somebody in [`told::PAUSE`], with how many were not told.
fn tell(shared: &Shared, facts: &Facts<'_>) {
    shared.metrics.drift(facts.kind);
    let Some(untold) = lock(&shared.drift.told).tell(facts.kind, facts.whose, Instant::now()) else { return };
    let Facts { kind, whose, before, now, is_denied, .. } = *facts;
    let credential = facts.credential.map(|credential| hex(credential)).unwrap_or_default();
    tracing::warn!(
        kind = kind.as_str(),
        whose,
        before,
        now,
        credential,
        is_denied,
        untold,
        "drift: valid, and not what it was"
    );
    shared.audit.event(&Event::Drift { facts, untold });
}

/// Tells what became of our SVIDs. Ends with the store.
pub async fn watch_own(shared: Arc<Shared>) {
    let mut changes = shared.identity.subscribe();
    let mut before = Arc::new(Snapshot::empty());
    loop {
        changes.borrow_and_update();
        let after = shared.identity.load();
        let is_expected = !own::same_svids(&before, &after) && shared.drift.was_own_change_expected();
        if !is_expected && shared.policy().load().drift.own_svid_changed != OnDrift::Off {
            for change in own::changes(&before, &after) {
                let kind = Kind::OwnSvidChanged;
                let (whose, before, now) = (change.svid.id.as_str(), change.before.as_str(), change.now.as_str());
                let credential = Some(&change.svid.fingerprint);
                tell(&shared, &Facts { before, now, credential, ..Facts::new(kind, whose) });
            }
        }
        before = after;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn network_of(config: &Drift, address: IpAddr) -> Network {
    let prefix = if address.to_canonical().is_ipv4() { config.ipv4_prefix } else { config.ipv6_prefix };
    Network::around(address, prefix)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
