//! `inbound:` the ports on which peers reach the application.

use crate::authz::Allow;
use crate::identity::SvidSelector;
use crate::problem::Place;
use crate::route::Route;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq)]
pub struct Inbound {
    /// Unique; appears in logs and metrics. Default `inbound-PORT`.
    pub name: String,
    /// The application's port: what a captured connection was addressed to.
    pub port: u16,
    /// Where we listen. `None`: captured connections only.
    pub listen: Option<SocketAddr>,
    /// Default `127.0.0.1:PORT`.
    pub app: AppAddress,
    pub protocol: Protocol,
    pub tls: InboundTls,
    pub app_http: AppHttp,
    pub svid: SvidSelector,
    pub identity_headers: IdentityHeaders,
    /// Rules of the port: decide L4 connections, and the routes that have none of their own.
    pub allow: Vec<Allow>,
    /// Most specific wins, whatever the order. Empty: one route for everything, with the port's rules.
    pub routes: Vec<Route>,
    /// L4 connections whose SVID (ours or the peer's) expires.
    pub on_expiry: OnExpiry,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AppAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    Http,
    Tcp,
    #[default]
    Detect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum InboundTls {
    /// mTLS or nothing.
    #[default]
    Strict,
    /// mTLS, or plaintext as the principal `anonymous`.
    Permissive,
    /// Plaintext only, as `anonymous`.
    Off,
}

/// HTTP version towards the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum AppHttp {
    /// The caller's.
    #[default]
    Same,
    Http1,
    Http2,
}

/// Which headers tell the application who called. All are always stripped first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    /// `x-forwarded-client-cert`. Default true.
    pub xfcc: bool,
    /// `x-spiffe-id`. Default true.
    pub spiffe_id: bool,
    /// RFC 9440 `client-cert`. Default false.
    pub client_cert: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnExpiry {
    #[default]
    Keep,
    Cut,
}
