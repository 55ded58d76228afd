//! `outbound:` where the application may go, and who has to answer there.

mod credential;
mod raw;
mod resilience;

use crate::identity::SvidSelector;
use crate::listen::ListenAddress;
use crate::listener::OnExpiry;
use crate::network::Destination;
use crate::pattern::{HostPattern, SpiffePattern};
use crate::problem::Place;
use schemars::JsonSchema;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use credential::{AppToken, Credential};
#[cfg(test)]
pub(crate) use credential::{RawCredentialKinds, RawJwtSvid};
pub(crate) use raw::RawOutbound;
#[cfg(test)]
pub(crate) use raw::{RawEndpoints, RawService};
pub(crate) use resilience::Percent;
pub use resilience::{Outliers, Resilience, Retries, ServiceLimits};
#[cfg(test)]
pub(crate) use resilience::{RawOutliers, RawRetries, RawServiceLimits};

/// What no service covers is refused.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Outbound {
    /// Listeners shared by all services: the service is found by host/authority.
    pub listen: Vec<ListenAddress>,
    pub services: Vec<Service>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique; appears in logs and metrics.
    pub name: String,
    /// Found by these on shared listeners. May have captures (a template).
    pub hosts: Vec<HostPattern>,
    /// Found by these when captured: where the application meant to go.
    pub addresses: Vec<Destination>,
    /// A local listener of its own: everything that arrives there goes to this service.
    pub listen: Option<ListenAddress>,
    /// The local users that may use it. Empty: all.
    pub users: Vec<LocalUser>,
    pub endpoints: Endpoints,
    pub protocol: ServiceProtocol,
    pub transport: Transport,
    /// Only with [`Transport::Mesh`], and for requests.
    pub credential: Option<Credential>,
    pub on_expiry: OnExpiry,
    /// How long one TCP connect may take. `None`: `timeouts.connect`.
    pub connect_timeout: Option<Duration>,
    pub resilience: Resilience,
    pub place: Place,
}

/// A user of this host, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LocalUser {
    Id(u32),
    /// Of the host's user database, which is asked when the file comes into force.
    Name(String),
}

/// What the application speaks to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum ServiceProtocol {
    Http,
    Tcp,
    /// TLS of its own, which is passed through. Its SNI may name the service.
    Tls,
    #[default]
    Detect,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoints {
    Static(Vec<SocketAddr>),
    /// Resolved again and again; all addresses of both families are used.
    Dns {
        host: String,
        port: u16,
    },
    /// The host that the request named (it matched `hosts`), at this port or, when `None`, the port that it named. Of a
    /// captured connection: where it was meant to go, at this port or that one.
    Host {
        port: Option<u16>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    /// mTLS with our SVID to a peer whose SPIFFE ID matches one of `identity` (which may hold captures of `hosts`).
    Mesh {
        identity: Vec<SpiffePattern>,
        svid: SvidSelector,
        /// The port of the peer's tunnel. `None`: an mTLS connection for each.
        tunnel: Option<u16>,
    },
    /// TLS to a server of the Web PKI. `roots`: a PEM file instead of the system's. `server_name`: instead of the host.
    WebTls {
        server_name: Option<String>,
        roots: Option<PathBuf>,
    },
    Plaintext,
}
