//! An authorizer, ready to be asked.

use crate::telemetry::AuthorizerCounters;
use crate::upstream::plan::ServicePlan;
use http::HeaderName;
use http::uri::Authority;
use postern_config::{Authorizer, CheckForm};
use std::sync::Arc;

/// An authorizer, ready to be asked.
pub struct AuthorizerPlan {
    pub name: Arc<str>,
    pub config: Authorizer,
    /// How it is reached.
    pub service: Arc<ServicePlan>,
    /// What it is called in HTTP.
    pub authority: Authority,
    /// Those that the file names for the HTTP form.
    pub request_headers: Vec<HeaderName>,
    pub upstream_headers: Vec<HeaderName>,
    pub client_headers: Option<Vec<HeaderName>>,
    pub counters: Arc<AuthorizerCounters>,
}

impl AuthorizerPlan {
    pub fn new(config: &Authorizer, service: Arc<ServicePlan>, counters: Arc<AuthorizerCounters>) -> Self {
        // The file's names are tokens in lower case.
        let names = |names: &[String]| names.iter().filter_map(|name| name.parse().ok()).collect::<Vec<HeaderName>>();
        let (request_headers, upstream_headers, client_headers) = match &config.form {
            CheckForm::Grpc => (Vec::new(), Vec::new(), None),
            CheckForm::Http(http) => {
                (names(&http.request_headers), names(&http.upstream_headers), http.client_headers.as_deref().map(names))
            }
        };
        let exact = service.hosts.iter().find_map(|host| host.exact()).unwrap_or("localhost");
        Self {
            name: Arc::from(config.name.as_str()),
            authority: Authority::try_from(exact).unwrap_or(Authority::from_static("localhost")),
            config: config.clone(),
            service,
            request_headers,
            upstream_headers,
            client_headers,
            counters,
        }
    }
}
