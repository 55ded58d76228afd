//! `identity:` where the workload's SVIDs and bundles come from, and how strict we are about them.

use crate::spiffe_id::{SpiffeId, TrustDomain};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub source: IdentitySource,
    /// The SVID that listeners and services use unless they name another.
    pub svid: SvidSelector,
    /// How long `PermissionDenied` has to last before live connections are cut. Default 30 s.
    pub permission_denied_grace: Duration,
    /// Accept leaves without basicConstraints or with non-critical keyUsage. Nothing else. Default false.
    pub compat: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum IdentitySource {
    /// The SPIFFE Workload API. `None`: `$SPIFFE_ENDPOINT_SOCKET`, resolved by the command, not here.
    WorkloadApi { endpoint: Option<Endpoint> },
    /// PEM files, watched.
    Files { certificate: PathBuf, key: PathBuf, bundle: PathBuf, federated: Vec<(TrustDomain, PathBuf)> },
}

/// A Workload API endpoint address (SPIFFE Workload Endpoint §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Which of the SVIDs that the source gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum SvidSelector {
    /// The first (Workload API §8).
    #[default]
    Default,
    Id(SpiffeId),
    /// Workload API §5.2.1: the first with this hint.
    Hint(String),
}
