//! `deny:`, `require:` and `allow:`: who may do what.

mod condition;
mod conditions;
mod raw;
mod time_window;
mod token_match;

use crate::network::Network;
use crate::pattern::{HostPattern, PathPattern, SpiffePattern};
use crate::problem::Place;

pub(crate) use condition::environment;
pub use condition::{Condition, ConditionError, Fact, Facts, NamedTexts, Variable};
pub(crate) use conditions::Fields;
pub use conditions::{FieldMatch, TextPattern, is_hidden_header};
pub(crate) use raw::{RawRule, check_rules};
#[cfg(test)]
pub(crate) use time_window::RawTimeWindow;
pub use time_window::TimeWindow;
pub(crate) use time_window::{Moment, print_moment};
#[cfg(test)]
pub(crate) use token_match::RawTokenMatch;
pub use token_match::TokenMatch;

/// The rules of a port, or of a route.
///
/// A request is refused when a rule of `deny` fits it, or one of `require` does not, or none of `allow` does: in this
/// order, so that nothing can be allowed that is denied. A port's `deny` and `require` hold on all of its routes, its `allow`
/// on those that have none of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    pub deny: Vec<Rule>,
    pub require: Vec<Rule>,
    pub allow: Vec<Rule>,
}

impl Rules {
    pub fn all(&self) -> impl Iterator<Item = &Rule> {
        self.deny.iter().chain(&self.require).chain(&self.allow)
    }

    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Rule> {
        self.deny.iter_mut().chain(&mut self.require).chain(&mut self.allow)
    }
}

/// Which list a rule stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    Deny,
    Require,
    Allow,
}

impl Effect {
    /// As the key in the file, and the beginning of default names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Require => "require",
            Self::Allow => "allow",
        }
    }
}

/// One rule: all of its parts hold, or it does not fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// For logs: `NAME` if it has one, else `allow-N`.
    pub name: String,
    pub who: Principal,
    /// Original callers, where a forwarder speaks for them; empty: any. No pattern captures.
    pub callers: Vec<SpiffePattern>,
    /// What it says of the connection and the moment.
    pub source: Vec<Network>,
    pub time: Option<TimeWindow>,
    /// The name that the caller asked for when TLS began.
    pub sni: Vec<HostPattern>,
    /// What it says of us: the port of the application, and the labels of our workload.
    pub ports: Vec<u16>,
    pub labels: Vec<FieldMatch>,
    /// What it says of the request. Empty, each: any.
    pub methods: Vec<String>,
    pub hosts: Vec<HostPattern>,
    pub paths: Vec<PathPattern>,
    pub headers: Vec<FieldMatch>,
    pub query: Vec<FieldMatch>,
    /// `None`: nothing is asked of the caller's token.
    pub token: Option<TokenMatch>,
    /// `None`: no condition besides.
    pub when: Option<Condition>,
    pub place: Place,
}

impl Rule {
    /// That says who and nothing else.
    pub fn about(name: String, who: Principal, place: Place) -> Self {
        Self {
            name,
            who,
            callers: Vec::new(),
            source: Vec::new(),
            time: None,
            sni: Vec::new(),
            ports: Vec::new(),
            labels: Vec::new(),
            methods: Vec::new(),
            hosts: Vec::new(),
            paths: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            token: None,
            when: None,
            place,
        }
    }

    /// Whether it can only be decided when a request has been read.
    pub fn is_about_requests(&self) -> bool {
        !(self.methods.is_empty()
            && self.hosts.is_empty()
            && self.paths.is_empty()
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.token.is_none()
            && !self.when.as_ref().is_some_and(Condition::is_about_requests))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// A verified SPIFFE ID that matches one of these.
    Spiffe(Vec<SpiffePattern>),
    /// A plaintext caller; only rules that name it match it.
    Anonymous,
    /// Whoever it is. Not for rules that allow.
    Anyone,
}
