//! What an operator can say to Postern.
//!
//! One entry, [`Config::load`]: text in, a checked [`Config`] or **all** problems out. This crate opens files and
//! nothing else: no tokio, hyper or rustls, so checking a configuration provably needs no network.
//!
//! Modules in reading order: [`problem`], [`units`], [`spiffe_id`], [`pattern`], then one a section of the file.

pub mod authz;
pub mod identity;
pub mod listener;
pub mod pattern;
pub mod problem;
pub mod route;
pub mod spiffe_id;
pub mod telemetry;
pub mod units;
pub mod upstream;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use identity::{Identity, IdentitySource, SvidSelector};
pub use listener::{AppAddress, AppHttp, IdentityHeaders, Inbound, InboundTls, OnExpiry, Protocol};
pub use pattern::{HostPattern, PathPattern, SpiffePattern};
pub use problem::{Place, Problem, Problems};
pub use route::Route;
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use telemetry::{Admin, Telemetry};
pub use upstream::{Endpoints, Outbound, Service, Transport};

/// A whole, checked configuration: what the program runs, not what was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub identity: Identity,
    pub inbound: Vec<Inbound>,
    pub outbound: Outbound,
    pub telemetry: Telemetry,
    pub admin: Admin,
    /// Data-plane threads. `None`: the CPU quota of the cgroup rounded up, 2 where there is none.
    pub workers: Option<NonZeroUsize>,
    /// How long a drain may take after SIGTERM. `None`: `TERMINATION_GRACE_PERIOD_SECONDS` (30 s) less a margin.
    pub drain_timeout: Option<Duration>,
    pub timeouts: Timeouts,
    pub limits: Limits,
    /// Every file and directory that was read, to be watched for changes.
    pub sources: Vec<PathBuf>,
}

/// Deadlines that hold for every listener and service (PEERS D1, last column).
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Accept to the end of the TLS handshake, both directions. Default 5 s.
    pub handshake: Duration,
    /// Waiting for the first bytes of an undeclared protocol. Default 1 s.
    pub detect: Duration,
    /// TCP connect to a remote endpoint. Default 3 s.
    pub connect: Duration,
    /// TCP connect to the local application. Default 1 s.
    pub connect_app: Duration,
    /// A request's head, from its first byte (or the start of a new connection). Default 10 s.
    pub request_headers: Duration,
    /// An HTTP connection without a request. Default 10 min.
    pub http_idle: Duration,
    /// A pooled idle connection to the application. Default 3 s.
    pub pool_idle_app: Duration,
    /// A pooled idle connection to a peer. Default 30 s.
    pub pool_idle: Duration,
    /// An L4 tunnel without a byte in either direction. Default 1 h.
    pub tcp_idle: Duration,
    /// A tunnel of which one direction has ended. Default 50 s (below conntrack's 60 s).
    pub half_close_linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            detect: Duration::from_secs(1),
            connect: Duration::from_secs(3),
            connect_app: Duration::from_secs(1),
            request_headers: Duration::from_secs(10),
            http_idle: Duration::from_secs(600),
            pool_idle_app: Duration::from_secs(3),
            pool_idle: Duration::from_secs(30),
            tcp_idle: Duration::from_secs(3600),
            half_close_linger: Duration::from_secs(50),
        }
    }
}

/// Bounds that hold for every listener and service (PEERS D2, last column; DESIGN, rulings).
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request's or response's head. Default 64 KiB.
    pub header_bytes: usize,
    /// Header fields of a head. Default 100.
    pub headers: usize,
    /// Concurrent streams a caller may open on an HTTP/2 connection. Default 256.
    pub h2_streams: u32,
    /// Idle connections kept per endpoint and worker. Default 256.
    pub pool_idle_per_endpoint: usize,
    /// Live connections of the whole process. `None`: 80 % of the descriptor limit, divided by two sockets each.
    pub connections: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_bytes: 64 * 1024, headers: 100, h2_streams: 256, pool_idle_per_endpoint: 256, connections: None }
    }
}

impl Config {
    /// Reads `path` and everything it includes.
    ///
    /// # Errors
    /// All problems of all files, never the first only.
    pub fn load(path: &std::path::Path) -> Result<Self, Problems> {
        let _ = path;
        Err(Problems::default())
    }

    /// Reads `text` as if it stood in the file `name`; relative includes are looked up from `name`'s directory.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_str(name: &std::path::Path, text: &str) -> Result<Self, Problems> {
        let _ = (name, text);
        Err(Problems::default())
    }
}
