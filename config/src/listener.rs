//! `inbound:` the ports on which peers reach the application.

mod raw;

use crate::authz::{Rule, Rules};
use crate::forwarder::Forwarder;
use crate::identity::SvidSelector;
use crate::mode::Mode;
use crate::problem::Place;
use crate::rate_limit::RateLimit;
use crate::read::{FromNode, Reader};
use crate::route::Route;
use crate::yaml::Node;
use schemars::JsonSchema;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(test)]
pub(crate) use raw::RawIdentityHeaders;
pub(crate) use raw::RawInbound;

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
    /// Who may speak for others. Empty: every peer speaks for itself.
    pub forwarders: Vec<Forwarder>,
    /// Decide L4 connections, and routes as [`Rules`] says.
    pub rules: Rules,
    /// Of its rules. Default `enforce`.
    pub mode: Mode,
    /// Most specific wins, whatever the order. Empty: one route for everything, with the port's rules.
    pub routes: Vec<Route>,
    /// The authorizer that is asked, on routes that do not say. `None`: nobody.
    pub authorize: Option<String>,
    /// Of all of the port's requests. `None`: no limit.
    pub rate_limit: Option<RateLimit>,
    /// L4 connections whose SVID (ours or the peer's) expires.
    pub on_expiry: OnExpiry,
    /// From a request's head to the end of its answer, in routes that do not say. `None`: no limit.
    pub request_timeout: Option<Duration>,
    pub place: Place,
}

impl Inbound {
    /// The port's and its routes'.
    pub fn rule_sets(&self) -> impl Iterator<Item = &Rules> {
        std::iter::once(&self.rules).chain(self.routes.iter().map(|route| &route.rules))
    }

    /// Some rule or route looks at requests: then nothing that is not HTTP passes (DESIGN, "detection memory").
    pub fn is_about_requests(&self) -> bool {
        self.protocol == Protocol::Http
            || self.authorize.is_some()
            || self.rate_limit.is_some()
            || !self.forwarders.is_empty()
            || !self.routes.is_empty()
            || self.rules.all().any(Rule::is_about_requests)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AppAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// As it is written in the file.
impl fmt::Display for AppAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Tcp,
    #[default]
    Detect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
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

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self { xfcc: true, spiffe_id: true, client_cert: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum OnExpiry {
    #[default]
    Keep,
    Cut,
}

impl FromNode for Protocol {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("http", Self::Http), ("tcp", Self::Tcp), ("detect", Self::Detect)])
    }
}

impl FromNode for InboundTls {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("strict", Self::Strict), ("permissive", Self::Permissive), ("off", Self::Off)])
    }
}

impl FromNode for AppHttp {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("same", Self::Same), ("1", Self::Http1), ("2", Self::Http2)])
    }
}

impl JsonSchema for AppHttp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AppHttp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": ["same", 1, 2] })
    }
}

impl FromNode for OnExpiry {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("keep", Self::Keep), ("cut", Self::Cut)])
    }
}
