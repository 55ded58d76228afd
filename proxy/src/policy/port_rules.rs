//! The routes and rules of one inbound port, ready to decide.

use super::token_plan::TokenPlan;
use crate::authz::explain::{ConditionFault, Explained};
use crate::authz::external::AuthorizerPlan;
use crate::authz::{Asked, Decision, RuleSet, Site};
use crate::http::normalize::Readings;
use crate::http::route::RouteTable;
use crate::http::target::Target;
use crate::rate_limit::Limiter;
use crate::refusal::{Refusal, Refused};
use http::Method;
use postern_config::{Inbound, Mode, RateLimit, Route, Rules};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The routes and rules of one inbound port, ready to decide.
pub struct PortRules {
    /// The application's.
    port: u16,
    rules: RuleSet,
    pub mode: Mode,
    /// Of all of the port's requests.
    limiter: Option<Arc<Limiter>>,
    authorizer: Option<Arc<AuthorizerPlan>>,
    routes: RouteTable,
    route_plans: Vec<RoutePlan>,
    some_route_is_lax: bool,
}

pub struct RoutePlan {
    pub name: Arc<str>,
    /// `None`: what the port says.
    pub request_timeout: Option<Duration>,
    /// `None`: no token is looked at.
    pub token: Option<TokenPlan>,
    pub mode: Mode,
    authorizer: Option<Arc<AuthorizerPlan>>,
    /// Of its requests.
    limiter: Option<Arc<Limiter>>,
    lax_path: bool,
    rules: RuleSet,
}

/// What rules said, and what comes of it.
#[derive(Debug)]
pub enum Judged {
    /// What they said holds.
    By(Decision),
    /// They said no, and it is let through all the same.
    Observed(Decision),
    /// They said no, and a break-glass override says yes.
    Overridden { rule: Arc<str>, refused: Decision },
    /// They were not asked.
    Off,
}

impl Judged {
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::By(decision) => decision.is_allowed(),
            Self::Observed(_) | Self::Overridden { .. } | Self::Off => true,
        }
    }

    /// What the rules said, where it holds and is no.
    pub fn refusal(&self) -> Option<&Decision> {
        match self {
            Self::By(decision) => Some(decision).filter(|decision| !decision.is_allowed()),
            Self::Observed(_) | Self::Overridden { .. } | Self::Off => None,
        }
    }

    /// What the rules said. `None`: they were not asked.
    pub fn decision(&self) -> Option<&Decision> {
        match self {
            Self::By(decision) | Self::Observed(decision) | Self::Overridden { refused: decision, .. } => {
                Some(decision)
            }
            Self::Off => None,
        }
    }

    /// The rule that spoke, if one did.
    pub fn rule(&self) -> Option<&Arc<str>> {
        match self {
            Self::By(decision) | Self::Observed(decision) => decision.rule(),
            Self::Overridden { rule, .. } => Some(rule),
            Self::Off => None,
        }
    }

    /// What is let through although the rules refuse it: the refusal that would be.
    ///
    /// # Errors
    /// The refusal, for `?`.
    pub fn into_result(self) -> Result<Option<Refused>, Refused> {
        match self {
            Self::By(decision) => decision.into_result().map(|()| None),
            Self::Observed(decision) => Ok(decision.into_result().err()),
            Self::Overridden { .. } | Self::Off => Ok(None),
        }
    }
}

impl RoutePlan {
    fn compile(route: &Route, port: &Rules, site: &Site, authorizers: &[Arc<AuthorizerPlan>]) -> Self {
        Self {
            name: Arc::from(route.name.as_str()),
            request_timeout: route.request_timeout,
            token: route.token.as_ref().map(TokenPlan::compile),
            mode: route.mode,
            limiter: limiter(route.rate_limit),
            authorizer: named(route.authorize.as_deref(), authorizers),
            lax_path: route.lax_path,
            rules: RuleSet::compile_at(site, port, &route.rules),
        }
    }
}

impl PortRules {
    pub fn compile(inbound: &Inbound, site: &Site, authorizers: &[Arc<AuthorizerPlan>]) -> Self {
        let route = |route| RoutePlan::compile(route, &inbound.rules, site, authorizers);
        Self {
            port: inbound.port,
            limiter: limiter(inbound.rate_limit),
            authorizer: named(inbound.authorize.as_deref(), authorizers),
            rules: RuleSet::compile_at(site, &Rules::default(), &inbound.rules),
            mode: inbound.mode,
            routes: RouteTable::compile(&inbound.routes),
            route_plans: inbound.routes.iter().map(route).collect(),
            some_route_is_lax: inbound.routes.iter().any(|route| route.lax_path),
        }
    }

    /// The readings of a request's path, and the route that they select. `None`: the port has no routes, its own rules decide.
    ///
    /// # Errors
    /// The path has no honest reading, no route takes it, or its readings select different ones.
    pub fn route<'a, 't>(
        &'a self,
        target: &Target<'t>,
        method: &Method,
    ) -> Result<(Option<&'a RoutePlan>, Readings<'t>), Refused> {
        // A route may take paths that strict reading refuses; it has to be found first.
        let readings = target.readings(self.some_route_is_lax)?;
        let route = self.route_of(&target.host, method, &readings)?;
        if route.is_some_and(|route| !route.lax_path) {
            target.readings(false)?;
        }
        Ok((route, readings))
    }

    /// As [`PortRules::route`], of readings that were taken before.
    ///
    /// # Errors
    /// No route, or several.
    pub fn route_of(
        &self,
        host: &str,
        method: &Method,
        readings: &Readings<'_>,
    ) -> Result<Option<&RoutePlan>, Refusal> {
        if self.route_plans.is_empty() {
            return if method == Method::CONNECT { Err(Refusal::ConnectRefused) } else { Ok(None) };
        }
        self.routes.select(host, method, readings).map(|index| self.route_plans.get(index))
    }

    /// May some route take a path that strict reading refuses? Only then is the lax reading tried.
    pub fn some_route_is_lax(&self) -> bool {
        self.some_route_is_lax
    }

    /// The decision on a request that takes `route`, or on a whole connection. Only rules that do not look at requests can
    /// allow one.
    pub fn decide(&self, route: Option<&RoutePlan>, asked: &Asked<'_>) -> Decision {
        self.of(route).decide(&self.here(asked))
    }

    /// That, and what comes of it here.
    pub fn judge(&self, route: Option<&RoutePlan>, asked: &Asked<'_>) -> Judged {
        let mode = self.mode_of(route);
        if mode == Mode::Off {
            return Judged::Off;
        }
        let decision = self.decide(route, asked);
        match mode == Mode::Observe && !decision.is_allowed() {
            true => Judged::Observed(decision),
            false => Judged::By(decision),
        }
    }

    pub fn mode_of(&self, route: Option<&RoutePlan>) -> Mode {
        route.map_or(self.mode, |route| route.mode)
    }

    /// A request that no route takes, where that is no reason to refuse it.
    pub fn lets_through(&self, refusal: Refusal, method: &Method) -> bool {
        self.mode_without_route(refusal, method) != Mode::Enforce
    }

    /// Of a request that no route takes. Only what is no matter of rules is refused in every mode.
    pub fn mode_without_route(&self, refusal: Refusal, method: &Method) -> Mode {
        match refusal == Refusal::NoRoute && method != Method::CONNECT {
            true => self.mode,
            false => Mode::Enforce,
        }
    }

    /// What each rule had to say to that.
    pub fn explain(&self, route: Option<&RoutePlan>, asked: &Asked<'_>) -> Vec<Explained> {
        self.of(route).explain(&self.here(asked))
    }

    /// The condition that could not be decided, where that is why `decision` is a refusal.
    pub fn condition_fault(
        &self,
        route: Option<&RoutePlan>,
        asked: &Asked<'_>,
        decision: &Decision,
    ) -> Option<ConditionFault> {
        self.of(route).condition_fault(&self.here(asked), decision)
    }

    fn here<'a>(&self, asked: &Asked<'a>) -> Asked<'a> {
        Asked { port: Some(self.port), ..*asked }
    }

    /// To decide a request on `route` again, its query has to be kept.
    pub fn needs_query(&self, route: Option<&RoutePlan>) -> bool {
        self.of(route).needs_query()
    }

    /// To decide a request on `route` again, its headers have to be kept.
    pub fn needs_headers(&self, route: Option<&RoutePlan>) -> bool {
        self.of(route).needs_headers()
    }

    /// Who is asked about requests that the rules allow. `None`: nobody.
    pub fn authorizer<'a>(&'a self, route: Option<&'a RoutePlan>) -> Option<&'a Arc<AuthorizerPlan>> {
        route.map_or(&self.authorizer, |route| &route.authorizer).as_ref()
    }

    /// Keeps the counts of `before` where its limits are the same.
    pub fn continuing(mut self, before: &Self) -> Self {
        keep(&mut self.limiter, &before.limiter);
        for route in &mut self.route_plans {
            if let Some(before) = before.route_plans.iter().find(|before| before.name == route.name) {
                keep(&mut route.limiter, &before.limiter);
            }
        }
        self
    }

    /// The limits that a request on `route` counts in.
    pub fn limiters<'a>(&'a self, route: Option<&'a RoutePlan>) -> impl Iterator<Item = &'a Arc<Limiter>> {
        self.limiter.iter().chain(route.and_then(|route| route.limiter.as_ref()))
    }

    fn of<'a>(&'a self, route: Option<&'a RoutePlan>) -> &'a RuleSet {
        route.map_or(&self.rules, |route| &route.rules)
    }
}

fn limiter(limit: Option<RateLimit>) -> Option<Arc<Limiter>> {
    limit.map(|limit| Arc::new(Limiter::new(limit, Instant::now())))
}

fn keep(now: &mut Option<Arc<Limiter>>, before: &Option<Arc<Limiter>>) {
    if let (Some(now), Some(before)) = (now, before)
        && now.limit == before.limit
    {
        *now = before.clone();
    }
}

/// That it is there was checked when the file was read.
fn named(name: Option<&str>, authorizers: &[Arc<AuthorizerPlan>]) -> Option<Arc<AuthorizerPlan>> {
    let name = name?;
    authorizers.iter().find(|plan| &*plan.name == name).cloned()
}
