//! What an operator can say to Postern.
//!
//! One entry, [`Config::load`]: text in, a checked [`Config`] or **all** problems out. This crate opens files and
//! nothing else: no tokio, hyper or rustls, so checking a configuration provably needs no network.
//!
//! Modules in reading order: [`problem`], [`units`], [`spiffe_id`], [`pattern`], then one a section of the file. Within:
//! `include` and `yaml` make one tree of all files, `read` and `values` read it without stopping at a problem, `root`
//! makes the sections a [`Config`], and `cross_check` holds them against each other.

pub mod audit;
pub mod authorizer;
pub mod authz;
pub mod bounds;
pub mod break_glass;
pub mod capture;
mod cross_check;
pub mod deny_list;
pub mod drift;
mod effective;
mod forwarder;
pub mod hardening;
pub mod identity;
mod include;
pub mod issuer;
pub mod listen;
pub mod listener;
pub mod mode;
pub mod network;
pub mod pattern;
pub mod problem;
pub mod rate_limit;
mod read;
pub mod revocation;
mod root;
pub mod route;
mod schema;
pub mod spiffe_id;
pub mod telemetry;
pub mod token;
pub mod tunnel;
pub mod units;
pub mod upstream;
mod values;
pub mod workload;
mod yaml;

use include::Sources;
use read::{FromNode, Reader};
use root::RawConfig;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use audit::{Audit, AuditTarget};
pub use authorizer::{Authorizer, CheckForm, CheckedBody, HttpCheck, OnError, OverBody, Reach};
pub use authz::{Principal, Rule, Rules};
pub use bounds::{Limits, Timeouts};
pub use break_glass::{BreakGlass, Override};
pub use capture::{Capture, CaptureMode, Dns};
pub use deny_list::{Denied, DenyEntry, DenyList};
pub use drift::{Drift, OnDrift};
pub use forwarder::Forwarder;
pub use hardening::Hardening;
pub use identity::{Endpoint, EndpointError, Identity, IdentitySource, SvidSelector};
pub use issuer::{IssuerKeysFrom, TokenIssuer};
pub use listen::ListenAddress;
pub use listener::{AppAddress, AppHttp, IdentityHeaders, Inbound, InboundTls, OnExpiry, Protocol};
pub use mode::Mode;
pub use network::{Destination, Network, NetworkError};
pub use pattern::{Captures, HostPattern, PathPattern, SpiffePattern};
pub use problem::{Place, Problem, Problems};
pub use rate_limit::{CountedBy, RateLimit};
pub use revocation::{Guard, Hold, Revocation, StaleCrls};
pub use route::{Route, Specificity};
pub use schema::{SchemaOf, json_schema, reference};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use telemetry::{AccessLog, Admin, LogFormat, Telemetry};
pub use token::{Binding, ClaimHeader, TokenRule};
pub use tunnel::Tunnel;
pub use upstream::{
    AppToken, Credential, Endpoints, LocalUser, Outbound, Outliers, Resilience, Retries, Service, ServiceLimits,
    ServiceProtocol, Transport,
};
pub use workload::Workload;

/// A whole, checked configuration: what the program runs, not what was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub identity: Identity,
    pub inbound: Vec<Inbound>,
    pub outbound: Outbound,
    /// Services that are asked about requests.
    pub authorizers: Vec<Authorizer>,
    /// `None`: nothing is redirected to us.
    pub capture: Option<Capture>,
    /// `None`: peers have an mTLS connection for each of theirs.
    pub tunnel: Option<Tunnel>,
    pub telemetry: Telemetry,
    /// `None`: decisions are not recorded for proof.
    pub audit: Option<Audit>,
    pub revocation: Revocation,
    /// `None`: nobody can override the rules.
    pub break_glass: Option<BreakGlass>,
    pub drift: Drift,
    pub admin: Admin,
    pub workload: Workload,
    /// Data-plane threads. `None`: the CPU quota of the cgroup rounded up, 2 where there is none.
    pub workers: Option<NonZeroUsize>,
    /// How long a drain may take after SIGTERM. `None`: `TERMINATION_GRACE_PERIOD_SECONDS` (30 s) less a margin.
    pub drain_timeout: Option<Duration>,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub hardening: Hardening,
    /// Every file and directory that was read, to be watched for changes.
    pub sources: Vec<PathBuf>,
}

impl Config {
    /// Reads `path` and everything it includes.
    ///
    /// # Errors
    /// All problems of all files, never the first only.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::from_sources(include::read_file(path))
    }

    /// Reads `text` as if it stood in the file `name`; relative includes are looked up from `name`'s directory.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_str(name: &Path, text: &str) -> Result<Self, Problems> {
        Self::from_sources(include::read_text(name, text))
    }

    fn from_sources(sources: Sources) -> Result<Self, Problems> {
        let mut reader = Reader::with(sources.problems, sources.texts);
        let raw = sources.root.and_then(|root| RawConfig::from_node(&root, &mut reader));
        let config = raw.map(|raw| raw.check(&mut reader));
        // What stands in a file that could not be read might be what the others lack or agree with.
        if let (Some(config), false) = (&config, sources.incomplete) {
            cross_check::cross_check(config, &mut reader);
        }
        match config {
            Some(config) if reader.problems.is_empty() => Ok(Self { sources: sources.paths, ..config }),
            _ => Err(Problems::in_order(reader.problems)),
        }
    }

    /// Whether both mean the same, wherever it was written.
    pub fn same_as(&self, other: &Self) -> bool {
        self.without_places() == other.without_places()
    }

    /// What is let through although rules may refuse it, in words: the ports and routes whose mode is not `enforce`.
    pub fn not_enforced(&self) -> Vec<String> {
        let words = |what: String, mode: Mode| match mode {
            Mode::Enforce => None,
            Mode::Observe => {
                Some(format!("{what} only observes: what its rules refuse is counted, recorded and let through"))
            }
            Mode::Off => Some(format!("the rules of {what} are off: whoever is let in by `tls` may do everything")),
        };
        let mut notes = Vec::new();
        for port in &self.inbound {
            notes.extend(words(format!("port `{}`", port.name), port.mode));
            let others = port.routes.iter().filter(|route| route.mode != port.mode);
            notes.extend(
                others.filter_map(|route| words(format!("route `{}` of port `{}`", route.name, port.name), route.mode)),
            );
        }
        notes
    }

    fn without_places(&self) -> Self {
        let nowhere = Place::command_line();
        let mut config = self.clone();
        config.sources.clear();
        for port in &mut config.inbound {
            port.place = nowhere.clone();
            for route in &mut port.routes {
                route.place = nowhere.clone();
            }
            let routes = port.routes.iter_mut().flat_map(|route| route.rules.all_mut());
            for rule in port.rules.all_mut().chain(routes) {
                rule.place = nowhere.clone();
            }
        }
        if let Some(dns) = config.capture.as_mut().and_then(|capture| capture.dns.as_mut()) {
            dns.place = nowhere.clone();
        }
        if let Some(audit) = &mut config.audit {
            audit.place = nowhere.clone();
        }
        if let Some(tunnel) = &mut config.tunnel {
            tunnel.place = nowhere.clone();
        }
        for authorizer in &mut config.authorizers {
            authorizer.place = nowhere.clone();
        }
        for service in &mut config.outbound.services {
            service.place = nowhere.clone();
        }
        config
    }
}

#[cfg(test)]
mod tests;
