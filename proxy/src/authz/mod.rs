//! Whether a known caller may do what it asks. Only this module decides that; *who* the caller is was decided by
//! `tls/verifier.rs`.
//!
//! Nothing is allowed that no rule allows, and nothing that a rule denies. Pure: a compiled rule set, what is known of a
//! request, a verdict.

mod condition;
pub mod explain;
pub mod explanation;
pub mod external;
mod labels;
mod list;
pub mod prefix_index;
mod rule;
pub(crate) mod token_rule;

use crate::http::normalize::Readings;
use crate::refusal::{Refusal, Refused};
use crate::token::Verified;
pub use condition::{ConnectionFacts, TlsFacts};
use http::{HeaderMap, Method, Uri};
pub use labels::Labels;
use list::RuleList;
use postern_config::authz::{Effect, Rules, TimeWindow, Variable};
use postern_config::{PathPattern, SpiffeId};
use rule::Rule;
use std::net::IpAddr;
use std::sync::Arc;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal<'a> {
    /// The SPIFFE ID of a verified SVID.
    Spiffe(&'a SpiffeId),
    /// A plaintext caller, where plaintext is permitted. Only rules that name it match.
    Anonymous,
}

/// What is known of a connection, or of a request on it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub principal: Principal<'a>,
    /// The other end of the connection. `None`: it has no address.
    pub source: Option<IpAddr>,
    /// The port of the application that it is meant for. `None`: not known.
    pub port: Option<u16>,
    pub connection: ConnectionFacts<'a>,
    /// Seconds since 1970. Means something only where a rule has a `time`.
    pub now: i64,
    /// `None`: it is about a connection whose bytes are not read.
    pub request: Option<RequestFacts<'a>>,
}

impl<'a> Asked<'a> {
    /// The original caller. `None`: it is anonymous.
    pub fn caller(&self) -> Option<&'a SpiffeId> {
        let peer = match self.principal {
            Principal::Spiffe(id) => Some(id),
            Principal::Anonymous => None,
        };
        self.request.and_then(|request| request.caller).or(peer)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    pub method: &'a Method,
    /// Lower-case, without port and trailing dot.
    pub host: &'a str,
    pub readings: &'a Readings<'a>,
    /// `None`: they were not kept. That counts against the request.
    pub headers: Option<&'a HeaderMap>,
    /// As it came.
    pub query: Option<&'a str>,
    /// The caller's, where the route wants one: good, for us, and the caller's to show.
    pub token: Option<&'a Verified>,
    /// For whom the peer speaks. `None`: for itself.
    pub caller: Option<&'a SpiffeId>,
}

impl<'a> RequestFacts<'a> {
    /// Of a request to `uri`, whose path was read as `readings`.
    pub fn new(
        method: &'a Method,
        uri: &'a Uri,
        host: &'a str,
        readings: &'a Readings<'a>,
        headers: Option<&'a HeaderMap>,
        token: Option<&'a Verified>,
    ) -> Self {
        Self { method, host, readings, headers, query: uri.query(), token, caller: None }
    }

    /// With the original caller, where the peer speaks for one.
    pub fn for_caller(self, caller: Option<&'a SpiffeId>) -> Self {
        Self { caller, ..self }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// By the rule of this name.
    Allowed {
        rule: Arc<str>,
    },
    /// A rule of `deny` fits.
    Denied {
        rule: Arc<str>,
    },
    /// A rule of `require` does not fit.
    Unmet {
        rule: Arc<str>,
    },
    NotAllowed,
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }

    /// The rule that decided, if one did.
    pub fn rule(&self) -> Option<&Arc<str>> {
        match self {
            Self::Allowed { rule } | Self::Denied { rule } | Self::Unmet { rule } => Some(rule),
            Self::NotAllowed => None,
        }
    }

    /// # Errors
    /// The refusal, for `?`.
    pub fn into_result(self) -> Result<(), Refused> {
        match self {
            Self::Allowed { .. } => Ok(()),
            Self::Denied { rule } => Err(Refused::new(Refusal::Denied, format!("by rule `{rule}`"))),
            Self::Unmet { rule } => Err(Refused::new(Refusal::RequirementUnmet, format!("rule `{rule}`"))),
            Self::NotAllowed => Err(Refusal::NotAllowed.into()),
        }
    }
}

/// Where rules are compiled for.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Of our own workload.
    pub labels: Arc<Labels>,
}

/// The rules of one port or route, compiled: a caller meets only the rules that can name it.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    deny: RuleList,
    require: Vec<Rule>,
    allow: RuleList,
    needs_headers: bool,
    needs_query: bool,
    has_conditions: bool,
}

impl RuleSet {
    pub fn compile(rules: &Rules) -> Self {
        Self::compile_at(&Site::default(), &Rules::default(), rules)
    }

    /// The rules of a route: what its port denies and requires holds there too.
    pub fn compile_at(site: &Site, port: &Rules, route: &Rules) -> Self {
        let mut compiled = Self::default();
        let port_rules = port.deny.iter().map(|rule| (Effect::Deny, rule));
        let port_rules = port_rules.chain(port.require.iter().map(|rule| (Effect::Require, rule)));
        let route_rules = route.deny.iter().map(|rule| (Effect::Deny, rule));
        let route_rules = route_rules.chain(route.require.iter().map(|rule| (Effect::Require, rule)));
        let allow = route.allow.iter().map(|rule| (Effect::Allow, rule));
        for (effect, rule) in port_rules.chain(route_rules).chain(allow) {
            compiled.needs_headers |= !rule.headers.is_empty();
            compiled.needs_query |= !rule.query.is_empty();
            if let Some(when) = &rule.when {
                compiled.has_conditions = true;
                compiled.needs_headers |= when.needs_headers();
                compiled.needs_query |= [Variable::Path, Variable::Query].into_iter().any(|part| when.asks_for(part));
            }
            match effect {
                Effect::Deny => compiled.deny.add(rule, site),
                Effect::Require => compiled.require.push(Rule::compile(rule, site)),
                Effect::Allow => compiled.allow.add(rule, site),
            }
        }
        compiled
    }

    /// Some rule asks for headers: to decide a request again, they have to be kept.
    pub fn needs_headers(&self) -> bool {
        self.needs_headers
    }

    /// Some rule asks for parameters of the query.
    pub fn needs_query(&self) -> bool {
        self.needs_query
    }

    /// Deny, require, allow: the first that speaks decides, and where none does, nothing is allowed.
    ///
    /// Of the rules that allow, the first in the file's order among those that name the caller by its ID, then by a pattern.
    pub fn decide(&self, asked: &Asked<'_>) -> Decision {
        if let Some(rule) = self.deny.first_that_fits(asked, Effect::Deny) {
            return Decision::Denied { rule };
        }
        if let Some(unmet) = self.require.iter().find(|rule| !rule.fits_caller(asked, Effect::Require)) {
            return Decision::Unmet { rule: unmet.name.clone() };
        }
        match self.allow.first_that_fits(asked, Effect::Allow) {
            Some(rule) => Decision::Allowed { rule },
            None => Decision::NotAllowed,
        }
    }
}

/// Whether some `when` asks what time it is.
pub fn some_condition_asks_time<'a>(rules: impl IntoIterator<Item = &'a Rules>) -> bool {
    let mut conditions = rules.into_iter().flat_map(Rules::all).filter_map(|rule| rule.when.as_ref());
    conditions.any(|when| when.asks_for(Variable::Time))
}

/// The windows in which rules fit, each once: when one opens or closes, what lives has to be decided again.
pub fn windows_of<'a>(rules: impl IntoIterator<Item = &'a Rules>) -> Vec<TimeWindow> {
    let mut windows = Vec::new();
    for window in rules.into_iter().flat_map(Rules::all).filter_map(|rule| rule.time) {
        if !windows.contains(&window) {
            windows.push(window);
        }
    }
    windows
}

/// Whether a pattern speaks also of targets that name no path: `CONNECT host:port` and `OPTIONS *`.
pub(crate) fn is_every_path(pattern: &PathPattern) -> bool {
    pattern.to_string() == "/**"
}

#[cfg(test)]
mod tests;
