//! `telemetry:` and `admin:`.

use std::net::SocketAddr;
use std::path::PathBuf;

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

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum AccessLog {
    Off,
    #[default]
    Stdout,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
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
    /// Users (uid) who may read and change through the socket, besides root and our own.
    pub uids: Vec<u32>,
}
