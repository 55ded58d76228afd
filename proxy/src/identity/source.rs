//! Starts the source that the configuration names. The one entry for `app.rs`.

use super::events::Counters;
use super::federation::Relationship;
use super::file_content::FilePaths;
use super::files::FilesSource;
use super::grace;
use super::issuer_asks::Askable;
use super::issuers::IssuerKeysSource;
use super::publisher::Publisher;
use super::store::IdentityStore;
use super::supervisor::Supervisor;
use super::token_keys::TokenKeysSource;
use super::workload_api::address_of;
use crate::tasks;
use crate::tls::Strictness;
use postern_config::IssuerKeysFrom;
use postern_config::identity::{Endpoint, Identity, IdentitySource};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Which profile of the Workload API a process needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// SVIDs of our own with all bundles: a proxy.
    SvidsAndBundles,
    /// Bundles alone: a process that validates and is nobody itself (Workload API §5.2.2).
    BundlesOnly,
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(
        "there is no Workload API endpoint: set `identity.workload_api` in the file or SPIFFE_ENDPOINT_SOCKET in the environment"
    )]
    NoEndpoint,
}

/// The running source. It stops when this is dropped; what it published stays in the store.
#[must_use = "the source stops when its handle is dropped"]
pub struct SourceHandle {
    tasks: Vec<AbortHandle>,
    /// Where tokens can be had. `None`: nowhere.
    pub endpoint: Option<Endpoint>,
    /// Who can be asked for newer keys.
    pub issuers: Arc<Askable>,
}

impl Drop for SourceHandle {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts the tasks of the configured source on the current runtime. They run until the handle is dropped, whatever the
/// agent or the files do.
///
/// `environment` is what `$SPIFFE_ENDPOINT_SOCKET` says; the configuration wins over it (Workload Endpoint §4).
///
/// # Errors
/// [`SourceError`].
pub fn spawn(
    config: &Identity,
    environment: Option<Endpoint>,
    store: Arc<IdentityStore>,
    counters: Arc<Counters>,
) -> Result<SourceHandle, SourceError> {
    // What can fail comes before anything is begun, or forgotten that the source before this one brought.
    let endpoint = match &config.source {
        IdentitySource::WorkloadApi { endpoint } => {
            Some(endpoint.clone().or(environment).ok_or(SourceError::NoEndpoint)?)
        }
        IdentitySource::Files { .. } => None,
    };
    let strictness = if config.compat { Strictness::Compat } else { Strictness::Strict };
    let publisher = Publisher { store: store.clone(), counters };
    let federated: Vec<_> = config.federation.iter().map(|endpoint| &endpoint.trust_domain).collect();
    publisher.keep_fetched_of(&federated);
    publisher.counters.keep_fetches_of(&federated);
    let relationships = config.federation.iter().map(|endpoint| {
        let relationship = Relationship::new(endpoint.clone(), publisher.clone(), strictness);
        tasks::spawn(relationship.run()).abort_handle()
    });
    let mut tasks: Vec<AbortHandle> = relationships.collect();
    publisher.keep_issuers(&config.issuers);
    publisher.counters.keep_issuers(&config.issuers);
    let mut issuers = Askable::new();
    for issuer in &config.issuers {
        let (keys, ask) = IssuerKeysSource::new(issuer.clone(), publisher.clone());
        tasks.push(tasks::spawn(keys.run()).abort_handle());
        if !matches!(issuer.keys, IssuerKeysFrom::File(_)) {
            issuers.insert(issuer.issuer.clone(), ask);
        }
    }
    tasks.push(tasks::spawn(grace::enforce(store, config.permission_denied_grace)).abort_handle());
    if let Some(endpoint) = &endpoint {
        warn_of_distant(endpoint);
        let keys = TokenKeysSource::new(endpoint.clone(), publisher.clone());
        tasks.push(tasks::spawn(keys.run()).abort_handle());
        let (endpoint, profile) = (endpoint.clone(), Profile::SvidsAndBundles);
        let supervisor = Supervisor { endpoint, profile, strictness, publisher: publisher.clone() };
        tasks.push(tasks::spawn(supervisor.run()).abort_handle());
    }
    if let IdentitySource::Files { certificate, key, bundle, federated } = &config.source {
        let paths = FilePaths {
            certificate: certificate.clone(),
            key: key.clone(),
            bundle: bundle.clone(),
            federated: federated.clone(),
        };
        tasks.push(tasks::spawn(FilesSource::new(paths, strictness, publisher).run()).abort_handle());
    }
    Ok(SourceHandle { tasks, endpoint, issuers: Arc::new(issuers) })
}

/// Follows the bundles of an agent alone, for a process that validates and has no identity.
pub fn spawn_bundles_only(endpoint: Endpoint, store: Arc<IdentityStore>, counters: Arc<Counters>) -> SourceHandle {
    warn_of_distant(&endpoint);
    let publisher = Publisher { store, counters };
    let supervisor = Supervisor { endpoint, profile: Profile::BundlesOnly, strictness: Strictness::Strict, publisher };
    SourceHandle { tasks: vec![tasks::spawn(supervisor.run()).abort_handle()], endpoint: None, issuers: Arc::default() }
}

/// Workload Endpoint §3: the endpoint is not encrypted, so it has to be local.
fn warn_of_distant(endpoint: &Endpoint) {
    let Endpoint::Tcp(address) = endpoint else { return };
    let local = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    if !local {
        tracing::warn!(
            endpoint = address_of(endpoint),
            "the Workload API endpoint is not local: keys cross a network in the clear"
        );
    }
}
