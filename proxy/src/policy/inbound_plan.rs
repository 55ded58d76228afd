//! One inbound port, ready to decide.

use super::Policy;
use crate::authz::{Decision, Principal, RuleSet};
use crate::http::normalize::Readings;
use crate::http::route::RouteTable;
use crate::refusal::Refusal;
use crate::telemetry::{Metrics, PortMetrics};
use crate::upstream::plan::ServicePlan;
use http::Method;
use postern_config::{Config, Inbound, Protocol};
use std::sync::Arc;

/// One inbound port, ready to decide.
pub struct InboundPlan {
    pub name: Arc<str>,
    pub config: Inbound,
    rules: RuleSet,
    routes: RouteTable,
    route_plans: Vec<RoutePlan>,
    /// Some rule or route looks at requests: then nothing that is not HTTP passes (DESIGN, "detection memory").
    pub has_l7_rules: bool,
    pub app: Arc<ServicePlan>,
    pub metrics: Arc<PortMetrics>,
}

pub struct RoutePlan {
    pub name: Arc<str>,
    pub lax_path: bool,
    rules: RuleSet,
}

impl InboundPlan {
    pub(super) fn compile(inbound: &Inbound, config: &Config, previous: Option<&Policy>, metrics: &Metrics) -> Self {
        let name: Arc<str> = Arc::from(inbound.name.as_str());
        let looks_at_requests = |rules: &[postern_config::authz::Allow]| {
            rules.iter().any(|rule| !rule.methods.is_empty() || !rule.paths.is_empty())
        };
        let has_l7_rules =
            inbound.protocol == Protocol::Http || !inbound.routes.is_empty() || looks_at_requests(&inbound.allow);
        let app = previous
            .and_then(|previous| previous.doors.values().find_map(|door| door.app_of(&inbound.name)))
            .filter(|before| before.same_app(&inbound.app, &config.timeouts))
            .unwrap_or_else(|| Arc::new(ServicePlan::app(&name, &inbound.app, &config.timeouts, metrics)));
        Self {
            rules: RuleSet::compile(&inbound.allow),
            routes: RouteTable::compile(&inbound.routes),
            route_plans: inbound
                .routes
                .iter()
                .map(|route| RoutePlan {
                    name: Arc::from(route.name.as_str()),
                    lax_path: route.lax_path,
                    rules: RuleSet::compile(&route.allow),
                })
                .collect(),
            has_l7_rules,
            app,
            metrics: metrics.inbound(&inbound.name),
            name,
            config: inbound.clone(),
        }
    }

    /// May some route take a path that strict reading refuses? Only then is the lax reading tried.
    pub fn some_route_is_lax(&self) -> bool {
        self.route_plans.iter().any(|route| route.lax_path)
    }

    /// # Errors
    /// No route, or readings of the path that select different ones. `Ok(None)`: the port has no routes, its own rules
    /// decide.
    pub fn route(&self, host: &str, method: &Method, readings: &Readings<'_>) -> Result<Option<&RoutePlan>, Refusal> {
        if self.route_plans.is_empty() {
            return if method == Method::CONNECT { Err(Refusal::ConnectRefused) } else { Ok(None) };
        }
        self.routes.select(host, method, readings).map(|index| self.route_plans.get(index))
    }

    /// The decision on one request.
    pub fn decide(
        &self,
        route: Option<&RoutePlan>,
        principal: &Principal<'_>,
        method: &Method,
        readings: &Readings<'_>,
    ) -> Decision {
        route.map_or(&self.rules, |route| &route.rules).decide_http(principal, method, readings)
    }

    /// The decision on a whole connection. Only rules that do not look at requests can allow one.
    pub fn decide_l4(&self, principal: &Principal<'_>) -> Decision {
        self.rules.decide_l4(principal)
    }
}
