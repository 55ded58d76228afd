//! One rule, ready to be asked.

use super::condition::holds;
use super::{Asked, Labels, Principal, RequestFacts, Site, token_rule};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, Method};
use postern_config::authz::{
    Condition, ConditionError, Effect, FieldMatch, Principal as Who, Rule as Written, TimeWindow, TokenMatch,
};
use postern_config::{HostPattern, Network, PathPattern, SpiffePattern};
use std::sync::Arc;

/// What a caller's ID captured.
pub type Captured<'a> = [(String, &'a str)];

#[derive(Clone, Debug)]
pub struct Rule {
    pub name: Arc<str>,
    pub who: Who,
    /// Empty, as in all that follow: any.
    pub callers: Vec<SpiffePattern>,
    pub source: Vec<Network>,
    pub time: Option<TimeWindow>,
    pub sni: Vec<HostPattern>,
    pub ports: Vec<u16>,
    pub labels: Vec<FieldMatch>,
    /// Whether this is a place of which it speaks: decided when it was compiled.
    is_here: bool,
    is_about_requests: bool,
    pub methods: Vec<Method>,
    /// Methods or headers were written of which one is none: the rule allows nothing rather than everything.
    never: bool,
    pub hosts: Vec<HostPattern>,
    pub paths: Vec<PathPattern>,
    pub headers: Vec<(HeaderName, FieldMatch)>,
    pub query: Vec<FieldMatch>,
    pub token: Option<TokenMatch>,
    pub when: Option<(Condition, Arc<Labels>)>,
    /// What it asks for, of [`PARTS`] and in their order.
    asks: Vec<Part>,
}

/// What a rule may ask for besides who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// That it speaks of our port, and of a workload like ours.
    Port,
    Labels,
    /// Who asked first.
    Caller,
    Source,
    Time,
    Sni,
    /// That there is a request, and that the rule means something.
    Request,
    Method,
    Host,
    Path,
    Headers,
    Query,
    Token,
    When,
}

/// What costs least comes first.
pub const PARTS: [Part; 14] = [
    Part::Port,
    Part::Labels,
    Part::Caller,
    Part::Source,
    Part::Time,
    Part::Sni,
    Part::Request,
    Part::Method,
    Part::Host,
    Part::Path,
    Part::Headers,
    Part::Query,
    Part::Token,
    Part::When,
];

impl Rule {
    pub fn compile(rule: &Written, site: &Site) -> Self {
        let methods: Vec<Method> = rule.methods.iter().filter_map(|method| method.parse().ok()).collect();
        let headers = rule.headers.iter().filter_map(|field| Some((field.name.parse().ok()?, field.clone())));
        let headers: Vec<_> = headers.collect();
        let never = methods.len() < rule.methods.len() || headers.len() < rule.headers.len();
        let is_asked = |part: &&Part| match part {
            Part::Port => !rule.ports.is_empty(),
            Part::Labels => !rule.labels.is_empty(),
            Part::Caller => !rule.callers.is_empty(),
            Part::Sni => !rule.sni.is_empty(),
            Part::When => rule.when.is_some(),
            Part::Source => !rule.source.is_empty(),
            Part::Time => rule.time.is_some(),
            Part::Request => never || rule.is_about_requests(),
            // Without methods too it asks for something: see there.
            Part::Method => true,
            Part::Host => !rule.hosts.is_empty(),
            Part::Path => !rule.paths.is_empty(),
            Part::Headers => !rule.headers.is_empty(),
            Part::Query => !rule.query.is_empty(),
            Part::Token => rule.token.is_some(),
        };
        Self {
            name: Arc::from(rule.name.as_str()),
            who: rule.who.clone(),
            callers: rule.callers.clone(),
            source: rule.source.clone(),
            time: rule.time,
            sni: rule.sni.clone(),
            ports: rule.ports.clone(),
            labels: rule.labels.clone(),
            is_here: site.labels.fit(&rule.labels),
            is_about_requests: rule.is_about_requests(),
            never,
            asks: PARTS.iter().filter(is_asked).copied().collect(),
            methods,
            hosts: rule.hosts.clone(),
            paths: rule.paths.clone(),
            headers,
            query: rule.query.clone(),
            token: rule.token.clone(),
            when: rule.when.clone().map(|when| (when, site.labels.clone())),
        }
    }

    /// Whether it fits, where the caller is known to be one that it names. `captured`: by the pattern that names it.
    ///
    /// What is not known counts against the request: it fits a rule that denies, and none that allows.
    pub fn fits(&self, asked: &Asked<'_>, captured: &Captured<'_>, effect: Effect) -> bool {
        self.asks.iter().all(|part| self.fits_part(*part, asked, captured, effect))
    }

    /// As [`Rule::fits`], where nobody has looked who it names.
    pub fn fits_caller(&self, asked: &Asked<'_>, effect: Effect) -> bool {
        self.captures(asked.principal).iter().any(|captured| self.fits(asked, captured, effect))
    }

    /// For each way in which it names the caller, what that captures. Empty: it names others.
    pub fn captures<'a>(&self, principal: Principal<'a>) -> Vec<Vec<(String, &'a str)>> {
        match (&self.who, principal) {
            (Who::Anyone, _) | (Who::Anonymous, Principal::Anonymous) => vec![Vec::new()],
            (Who::Spiffe(patterns), Principal::Spiffe(id)) => {
                patterns.iter().filter_map(|pattern| pattern.capture(id)).collect()
            }
            _ => Vec::new(),
        }
    }

    pub fn fits_part(&self, part: Part, asked: &Asked<'_>, captured: &Captured<'_>, effect: Effect) -> bool {
        let of_request = |fits: &dyn Fn(&RequestFacts<'_>) -> bool| asked.request.as_ref().is_none_or(fits);
        match part {
            Part::Port => {
                let fits = |port| self.ports.contains(&port);
                self.ports.is_empty() || asked.port.map_or(effect == Effect::Deny, fits)
            }
            Part::Labels => self.is_here,
            // An anonymous caller has no ID, whatever the rule would do with one.
            Part::Caller => {
                let fits = |id| self.callers.iter().any(|pattern| pattern.matches(id));
                self.callers.is_empty() || asked.caller().is_some_and(fits)
            }
            Part::Sni => {
                let asked_for = asked.connection.tls.and_then(|tls| tls.server_name);
                let fits = |name: &str| self.sni.iter().any(|pattern| pattern.matches_given(name, captured));
                self.sni.is_empty() || asked_for.map_or(effect == Effect::Deny, fits)
            }
            Part::When => self.condition(asked, captured, effect).unwrap_or(effect == Effect::Deny),
            Part::Source => {
                let fits = |source| self.source.iter().any(|network| network.contains(source));
                self.source.is_empty() || asked.source.map_or(effect == Effect::Deny, fits)
            }
            Part::Time => self.time.is_none_or(|time| time.contains(asked.now)),
            Part::Request => {
                let is_unclear = self.never || self.is_about_requests && asked.request.is_none();
                !is_unclear || effect == Effect::Deny
            }
            Part::Method => of_request(&|request| self.fits_method(request, effect)),
            Part::Host => of_request(&|request| {
                self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches_given(request.host, captured))
            }),
            Part::Path => of_request(&|request| self.fits_path(request, captured, effect)),
            Part::Headers => of_request(&|request| self.fits_headers(request.headers, effect)),
            Part::Query => of_request(&|request| self.fits_query(request.query, effect)),
            Part::Token => of_request(&|request| match (&self.token, request.token) {
                (None, _) => true,
                (Some(_), None) => effect == Effect::Deny,
                (Some(wanted), Some(token)) => token_rule::fits(wanted, token, effect),
            }),
        }
    }

    /// Whether its `when` holds, which a rule without one has met.
    ///
    /// # Errors
    /// It could not be decided.
    pub fn condition(
        &self,
        asked: &Asked<'_>,
        captured: &Captured<'_>,
        effect: Effect,
    ) -> Result<bool, ConditionError> {
        self.when.as_ref().map_or(Ok(true), |(when, labels)| holds(when, asked, captured, labels, effect))
    }

    /// Compared exactly (RFC 9110 §9.1: case-sensitive).
    fn fits_method(&self, request: &RequestFacts<'_>, effect: Effect) -> bool {
        match self.methods.is_empty() {
            // What was written is no method: `never` has the answer.
            true if self.never => true,
            // THREATS PN-15: `OPTIONS *` asks about the server as a whole; only a rule that names OPTIONS allows that.
            true => effect != Effect::Allow || request.readings.raw() != "*",
            false => self.methods.contains(request.method),
        }
    }

    /// Where something is allowed by it, every reading has to fit; where something is denied, any.
    fn fits_path(&self, request: &RequestFacts<'_>, captured: &Captured<'_>, effect: Effect) -> bool {
        // What is no path, `*` and the nothing of a CONNECT, is matched by `/**` alone: all others ask for a `/`.
        let fits = |path: &str| self.paths.iter().any(|pattern| pattern.matches_given(path, captured));
        self.paths.is_empty()
            || match effect {
                Effect::Deny => request.readings.any(fits),
                Effect::Require | Effect::Allow => request.readings.all(fits),
            }
    }

    fn fits_headers(&self, headers: Option<&HeaderMap>, effect: Effect) -> bool {
        self.headers.iter().all(|(name, field)| match headers {
            None => effect == Effect::Deny,
            // The application does not get it.
            Some(headers) if effect != Effect::Deny && ends_here(headers, name) => false,
            Some(headers) => fits_values(headers.get_all(name).iter().map(|value| value.as_bytes()), field, effect),
        })
    }

    fn fits_query(&self, query: Option<&str>, effect: Effect) -> bool {
        self.query.iter().all(|field| {
            let parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
            let values: Vec<_> =
                parameters.filter(|(name, _)| *name == *field.name).map(|(_, value)| value.into_owned()).collect();
            fits_values(values.iter().map(String::as_bytes), field, effect)
        })
    }
}

/// RFC 9110 §7.6.1: what `Connection` names does not go on.
pub(super) fn ends_here(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let mut options = value.as_bytes().split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}

/// Nobody knows which of several values the application takes: where something is allowed by them, all have to fit.
fn fits_values<'a>(mut values: impl Iterator<Item = &'a [u8]>, field: &FieldMatch, effect: Effect) -> bool {
    match effect {
        Effect::Deny => values.any(|value| field.matches(value)),
        Effect::Require | Effect::Allow => {
            values.next().is_some_and(|first| field.matches(first)) && values.all(|value| field.matches(value))
        }
    }
}
