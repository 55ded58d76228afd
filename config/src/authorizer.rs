//! `authorizers:` services that are asked about requests which our own rules allow.

mod raw;

use crate::listener::AppAddress;
use crate::problem::Place;
use schemars::JsonSchema;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

#[cfg(test)]
pub(crate) use raw::RawCheckedBody;
pub(crate) use raw::{Authorize, RawAuthorizer};

/// Envoy's default for its `ext_authz` is the same (PEERS, `ext_authz_filter.rst`).
pub const TIMEOUT_DEFAULT: Duration = Duration::from_millis(200);

/// A service that speaks Envoy's `ext_authz`.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorizer {
    /// Unique; appears in logs and metrics.
    pub name: String,
    pub reach: Reach,
    pub form: CheckForm,
    /// From the question to the whole answer. The request's body is waited for before that.
    pub timeout: Duration,
    pub on_error: OnError,
    /// `None`: it is not shown the request's body.
    pub body: Option<CheckedBody>,
    /// Told with every question (`context_extensions`). gRPC only.
    pub context: BTreeMap<String, String>,
    /// Show it the caller's certificate. gRPC only.
    pub certificate: bool,
    pub place: Place,
}

/// Where an authorizer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// On this host: plaintext does not leave it.
    Local(AppAddress),
    /// The outbound service of this name, with all that protects it.
    Service(String),
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(address) => address.fmt(f),
            Self::Service(name) => write!(f, "service:{name}"),
        }
    }
}

/// What it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckForm {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    Http(HttpCheck),
}

/// Envoy's HTTP form: the request without its body, with another path.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HttpCheck {
    /// Before the request's path. Empty or with a slash in front, none behind.
    pub path_prefix: String,
    /// Of the request's headers, in lower case; besides `host` and `authorization`.
    pub request_headers: Vec<String>,
    /// Of an allowing answer's headers, which go on to the application instead of the caller's.
    pub upstream_headers: Vec<String>,
    /// Of a denying answer's headers, which go to the caller. `None`: all that a response may have.
    pub client_headers: Option<Vec<String>>,
}

/// When there is no answer, or one that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum OnError {
    #[default]
    Refuse,
    /// As if it had been allowed.
    Allow,
}

/// How much of a body it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedBody {
    /// Bytes.
    pub max: usize,
    pub over: OverBody,
}

/// What becomes of a request with a longer body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum OverBody {
    /// 413.
    #[default]
    Refuse,
    /// The authorizer sees its beginning, and that it is one.
    Truncate,
}

#[cfg(test)]
mod tests;
