//! One inbound port, ready to decide.

use super::Policy;
use super::port_rules::{PortRules, RoutePlan};
use crate::authz::Site;
use crate::authz::explain::ConditionFault;
use crate::authz::external::AuthorizerPlan;
use crate::refusal::Refused;
use crate::telemetry::{Metrics, PortMetrics};
use crate::upstream::plan::ServicePlan;
use postern_config::{Config, Inbound};
use std::sync::Arc;
use std::time::Duration;

/// One inbound port, ready to decide.
pub struct InboundPlan {
    pub name: Arc<str>,
    pub config: Inbound,
    pub rules: PortRules,
    /// Some rule or route looks at requests: then nothing that is not HTTP passes (DESIGN, "detection memory").
    pub has_l7_rules: bool,
    pub app: Arc<ServicePlan>,
    pub metrics: Arc<PortMetrics>,
}

impl InboundPlan {
    pub(super) fn compile(
        inbound: &Inbound,
        config: &Config,
        site: &Site,
        authorizers: &[Arc<AuthorizerPlan>],
        previous: Option<&Policy>,
        metrics: &Metrics,
    ) -> Self {
        let name: Arc<str> = Arc::from(inbound.name.as_str());
        let app = previous
            .and_then(|previous| previous.doors.values().find_map(|door| door.inbound_of(&inbound.name)))
            .map(|before| before.app.clone())
            .filter(|before| before.same_app(&inbound.app, &config.timeouts))
            .unwrap_or_else(|| Arc::new(ServicePlan::app(&name, &inbound.app, &config.timeouts, metrics)));
        let rules = PortRules::compile(inbound, site, authorizers);
        let before =
            previous.and_then(|previous| previous.doors.values().find_map(|door| door.inbound_of(&inbound.name)));
        Self {
            rules: match before {
                Some(before) => rules.continuing(&before.rules),
                None => rules,
            },
            has_l7_rules: inbound.is_about_requests(),
            app,
            metrics: metrics.inbound(&inbound.name),
            name,
            config: inbound.clone(),
        }
    }

    /// A refusal by a condition that could not be decided is counted, and says why.
    pub fn undecided(&self, refused: Refused, fault: Option<ConditionFault>) -> Refused {
        let Some(ConditionFault { rule, error }) = fault else { return refused };
        let so_far = self.metrics.condition_failed();
        // Callers may cause it as often as they like: after the first, only each doubling is worth a line.
        if so_far.is_power_of_two() {
            tracing::warn!(port = %self.name, %rule, %error, so_far, "the `when` of a rule could not be decided, and refused");
        }
        Refused::new(refused.refusal, format!("the `when` of rule `{rule}` could not be decided: {error}"))
    }

    /// From the head of a request on `route` to the end of its answer.
    pub fn request_timeout(&self, route: Option<&RoutePlan>) -> Option<Duration> {
        route.and_then(|route| route.request_timeout).or(self.config.request_timeout)
    }
}
