//! `telemetry:` and `admin:`.

mod raw;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[cfg(test)]
pub(crate) use raw::RawAccessLogFile;
pub(crate) use raw::{RawAdmin, RawTelemetry};

#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// Prometheus `/metrics`. Default `0.0.0.0:15020`. `None`: off.
    pub metrics: Option<SocketAddr>,
    /// `/healthz/ready`. Default `0.0.0.0:15021`. `None`: off.
    pub readiness: Option<SocketAddr>,
    pub access_log: AccessLog,
    /// A filter in the syntax of `RUST_LOG`. Default `info`; `$RUST_LOG` wins.
    pub log: Option<String>,
    pub log_format: LogFormat,
}

/// Istio's numbers, so that scrape configurations and probes carry over (PEERS D3).
impl Default for Telemetry {
    fn default() -> Self {
        Self {
            metrics: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15020))),
            readiness: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15021))),
            access_log: AccessLog::default(),
            log: None,
            log_format: LogFormat::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum AccessLog {
    Off,
    #[default]
    Stdout,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Admin {
    /// The unix socket; its callers are checked by peer credentials. `None`: off.
    pub socket: Option<PathBuf>,
    /// Loopback TCP, read-only, on request.
    pub listen: Option<SocketAddr>,
    /// Users (uid) who may do everything through the socket, besides root and our own.
    pub uids: Vec<u32>,
    /// Users who may ask.
    pub read: Vec<u32>,
    /// Users who may ask, drain, and change what is logged.
    pub operate: Vec<u32>,
    /// Users who may ask, and take trust back.
    pub revoke: Vec<u32>,
}
