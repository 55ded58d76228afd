//! What is called: services, and the authorizers that some of them are. What did not change keeps its connections' pools.

use super::{CompileError, Policy};
use crate::authz::external::AuthorizerPlan;
use crate::capture::local_users;
use crate::telemetry::Metrics;
use crate::upstream::plan::ServicePlan;
use crate::upstream::web_clients::WebClients;
use postern_config::{Config, Reach, Transport};
use std::sync::Arc;

/// In the order of the file.
///
/// # Errors
/// What needs files of the system, and did not find them.
pub(super) fn services(
    config: &Config,
    previous: Option<&Policy>,
    metrics: &Metrics,
) -> Result<Vec<Arc<ServicePlan>>, CompileError> {
    let plans_before = previous.map(|previous| previous.services.iter()).into_iter().flatten();
    let mut web_clients = WebClients::following(plans_before);
    let mut services = Vec::with_capacity(config.outbound.services.len());
    for service in &config.outbound.services {
        let service = &*local_users::resolved(service)
            .map_err(|source| CompileError::LocalUser { service: service.name.clone(), source })?;
        let web = match &service.transport {
            Transport::WebTls { roots, .. } => {
                let client = web_clients.get(roots.as_deref());
                Some(client.map_err(|source| CompileError::WebRoots { service: service.name.clone(), source })?)
            }
            Transport::Mesh { .. } | Transport::Plaintext => None,
        };
        let plan = previous
            .and_then(|previous| previous.services.by_name(&service.name))
            .filter(|before| before.same_upstream(service, &config.timeouts, web.clone()))
            .unwrap_or_else(|| Arc::new(ServicePlan::service(service, &config.timeouts, web, metrics)));
        services.push(plan);
    }
    Ok(services)
}

pub(super) fn authorizers(
    config: &Config,
    services: &[Arc<ServicePlan>],
    previous: Option<&Policy>,
    metrics: &Metrics,
) -> Vec<Arc<AuthorizerPlan>> {
    let before = |name: &str| previous?.authorizers.iter().find(|plan| &*plan.name == name);
    let plans = config.authorizers.iter().filter_map(|authorizer| {
        let service = match &authorizer.reach {
            // That it is there was checked when the file was read.
            Reach::Service(name) => services.iter().find(|service| *service.name == **name)?.clone(),
            Reach::Local(address) => before(&authorizer.name)
                .map(|plan| &plan.service)
                .filter(|service| service.same_app(address, &config.timeouts))
                .cloned()
                .unwrap_or_else(|| Arc::new(ServicePlan::authorizer(&authorizer.name, address, &config.timeouts))),
        };
        Some(Arc::new(AuthorizerPlan::new(authorizer, service, metrics.authorizer(&authorizer.name))))
    });
    plans.collect()
}
