//! `routes:` of an inbound port.

use crate::authorizer::Authorize;
use crate::authz::{Effect, RawRule, Rule, Rules, check_rules};
use crate::mode::Mode;
use crate::pattern::{HostPattern, PathPattern};
use crate::problem::Place;
use crate::rate_limit::{RateLimit, RawRateLimit};
use crate::read::{Field, Keys, Reader, Section};
use crate::token::{RawBinding, RawToken, RawTokenRule, TokenRule};
use crate::values::{At, Method, Name, OneOrMany, Span};
use schemars::JsonSchema;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique within its port. Default `route-N`.
    pub name: String,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// Upper case as in RFC 9110 §9.1, compared exactly. Empty: any method but CONNECT.
    pub methods: Vec<String>,
    /// Without what the port denies and requires, which holds here too. `allow` is never empty: a route without one has got its
    /// port's.
    pub rules: Rules,
    /// Of its rules. A route that does not say has its port's.
    pub mode: Mode,
    /// What a request has to bring besides. `None`: no token is looked at, and `Authorization` goes on as it came.
    pub token: Option<TokenRule>,
    /// The authorizer that is asked. `None`: nobody.
    pub authorize: Option<String>,
    /// Of its requests, besides the port's. `None`: no limit.
    pub rate_limit: Option<RateLimit>,
    /// CONNECT may use this route. Default false.
    pub connect: bool,
    /// Paths with raw non-ASCII bytes or a stray `%` may use this route. Default false.
    pub lax_path: bool,
    /// From a request's head to the end of its answer. `None`: what the port says.
    pub request_timeout: Option<Duration>,
    pub place: Place,
}

/// How specific a route is for one of its hosts: the host decides first, then the path, then whether methods are named.
/// Of the routes that fit a request the greatest wins; equals that could both fit are a load error (THREATS PN-27), so
/// the choice never depends on the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Specificity {
    host: u64,
    path: u64,
    names_methods: bool,
}

impl Route {
    /// `host`: the one of [`Route::hosts`] that fits the request; `None` for a route of any host.
    pub fn specificity(&self, host: Option<&HostPattern>) -> Specificity {
        Specificity {
            host: host.map_or(0, HostPattern::specificity),
            path: self.path.specificity(),
            names_methods: !self.methods.is_empty(),
        }
    }

    /// Whether some request fits both, with no way to say which is meant.
    pub(crate) fn ties_with(&self, other: &Route) -> bool {
        let path_ties = self.path.specificity() == other.path.specificity() && self.path.could_overlap(&other.path);
        let methods_tie = match (self.methods.is_empty(), other.methods.is_empty()) {
            (true, true) => true,
            (false, false) => self.methods.iter().any(|method| other.methods.contains(method)),
            _ => false,
        };
        let hosts_tie = || match (self.hosts.is_empty(), other.hosts.is_empty()) {
            (true, true) => true,
            (false, false) => self.hosts.iter().any(|host| other.hosts.iter().any(|other| host.ties_with(other))),
            _ => false,
        };
        path_ties && methods_tie && hosts_tie()
    }
}

/// Requests that are decided by rules of their own. The most specific route wins, wherever it stands: host before path,
/// exact path before template before prefix, then one that names methods.
#[derive(JsonSchema)]
#[schemars(rename = "Route", deny_unknown_fields, extend("required" = ["match"]))]
pub(crate) struct RawRoute {
    /// Unique within its port; appears in logs and metrics.
    #[schemars(extend("x-default" = "route-N"))]
    name: Field<Name>,
    /// Which requests take this route.
    #[schemars(rename = "match")]
    matching: Field<RawMatch>,
    /// What is refused, whatever allows it; beside what the port denies.
    deny: Field<Vec<RawRule>>,
    /// What has to hold, all of it; beside what the port requires.
    require: Field<Vec<RawRule>>,
    /// Who may. Without it the port's `allow` holds.
    #[schemars(extend("x-default" = "the port's rules"))]
    allow: Field<Vec<RawRule>>,
    /// What comes of its rules: `enforce`, `observe` or `off`.
    #[schemars(extend("x-default" = "the port's"))]
    mode: Field<Mode>,
    /// Requests have to bring a JWT-SVID for one of these, compared byte by byte: mostly the SPIFFE ID of the workload behind
    /// this sidecar. It is checked and removed before the application sees the request. Needs `binding`.
    #[schemars(extend("x-default" = "no token is wanted"))]
    audience: Field<OneOrMany<At<String>>>,
    /// Whose token a caller may present: `peer` its own alone, `bearer` anybody's, `forwarders: [spiffe://…]` these peers
    /// anybody's and all others their own.
    #[schemars(extend("x-default" = "none; to be written with `audience`"))]
    binding: Field<RawBinding>,
    /// How tokens are read, and what of them the application learns.
    #[schemars(extend("x-default" = "its defaults"))]
    token: Field<RawToken>,
    /// The authorizer that is asked about each request which the rules allow; `none` asks nobody.
    #[schemars(extend("x-default" = "the port's"))]
    authorize: Field<Authorize>,
    /// How many of its requests callers may make; what the port says holds besides.
    #[schemars(extend("x-default" = "no limit"))]
    rate_limit: Field<RawRateLimit>,
    /// Let the CONNECT method use this route; elsewhere it is answered with 405.
    #[schemars(extend("default" = false))]
    connect: Field<bool>,
    /// Let paths with raw non-ASCII bytes or a stray `%` use this route; elsewhere they are answered with 400.
    #[schemars(extend("default" = false))]
    lax_path: Field<bool>,
    /// From a request's head to the end of its answer. When it passes first, the request is refused with 504, or its
    /// answer breaks off.
    #[schemars(extend("x-default" = "the port's"))]
    request_timeout: Field<Span>,
    #[schemars(skip)]
    pub place: Place,
}

impl Section for RawRoute {
    const NAME: &'static str = "a route";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            name: keys.optional("name"),
            matching: keys.required("match", "say which requests take this route: `match: { path: \"/orders/**\" }`"),
            deny: keys.optional("deny"),
            require: keys.optional("require"),
            allow: keys.optional("allow"),
            mode: keys.optional("mode"),
            audience: keys.optional("audience"),
            binding: keys.optional("binding"),
            token: keys.optional("token"),
            authorize: keys.optional("authorize"),
            rate_limit: keys.optional("rate_limit"),
            connect: keys.optional("connect"),
            lax_path: keys.optional("lax_path"),
            request_timeout: keys.optional("request_timeout"),
            place: keys.place(),
        }
    }
}

/// All parts have to fit.
#[derive(Default, JsonSchema)]
#[schemars(rename = "Match", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawMatch {
    /// The request's host is one of these: exact, `*` for one label, `**` first for one or more.
    #[schemars(extend("x-default" = "any"))]
    hosts: Field<OneOrMany<HostPattern>>,
    /// The request's path: exact, `{name}` or `*` for one segment, a final `/**` for the path and everything below.
    #[schemars(extend("default" = "/**"))]
    path: Field<PathPattern>,
    /// The request's method is one of these.
    #[schemars(extend("x-default" = "any but CONNECT"))]
    methods: Field<OneOrMany<Method>>,
}

impl Section for RawMatch {
    const NAME: &'static str = "`match`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { hosts: keys.optional("hosts"), path: keys.optional("path"), methods: keys.optional("methods") }
    }
}

/// What a route gets from its port when it does not say.
#[derive(Clone, Copy)]
pub(crate) struct FromPort<'a> {
    /// `None` where they could not all be read.
    pub allow: Option<&'a [Rule]>,
    pub mode: Mode,
    pub authorize: Option<&'a str>,
}

impl RawRoute {
    /// `number` counts the routes of a port from 1.
    /// `None`: this route's problems have been told.
    pub fn check(self, number: usize, of_port: FromPort<'_>, reader: &mut Reader) -> Option<Route> {
        let place = self.place;
        let FromPort { allow: port_rules, mode, authorize: of_port } = of_port;
        let mode = self.mode.or(mode);
        let name = self.name.into_option().map_or_else(|| format!("route-{number}"), |name| name.0);
        let deny = check_rules(self.deny.into_option().unwrap_or_default(), Effect::Deny, "", reader);
        let require = check_rules(self.require.into_option().unwrap_or_default(), Effect::Require, "", reader);
        let allow_place = self.allow.place().cloned();
        let allow = match (&allow_place, self.allow.into_option()) {
            (Some(place), Some(rules)) if rules.is_empty() => {
                let hint = "name who may, or remove the key: then the port's rules hold";
                reader.problem(place, "the route allows nobody", hint);
                Vec::new()
            }
            (Some(_), rules) => check_rules(rules.unwrap_or_default(), Effect::Allow, "", reader),
            (None, _) => {
                if port_rules.is_some_and(<[Rule]>::is_empty) && mode == Mode::Enforce {
                    let hint = "add `allow:` with who may call, here or at its port";
                    reader.problem(&place, "the route has no rules, and neither has its port", hint);
                }
                port_rules.unwrap_or_default().to_vec()
            }
        };
        let token = RawTokenRule { audience: self.audience, binding: self.binding, token: self.token };
        let token = token.check(&place, reader);
        let matching = self.matching.into_option()?;
        for (key, empty, place) in [
            ("hosts", matching.hosts.get().is_some_and(|hosts| hosts.0.is_empty()), matching.hosts.place()),
            ("methods", matching.methods.get().is_some_and(|methods| methods.0.is_empty()), matching.methods.place()),
        ] {
            // THREATS CF-03: an empty matcher must not come to mean everything.
            if let (true, Some(place)) = (empty, place) {
                reader.problem(place, format!("`{key}` has nothing that could fit"), "name some, or remove the key");
            }
        }
        let authorize = match self.authorize.is_written() {
            true => self.authorize.into_option().and_then(Authorize::into_name),
            false => of_port.map(str::to_owned),
        };
        let rate_limit = self.rate_limit.into_option().and_then(|limit| limit.check(reader));
        let connect = self.connect.or(false);
        let methods: Vec<String> = matching.methods.or_default().0.into_iter().map(|method| method.0).collect();
        if !connect && methods.iter().any(|method| method == "CONNECT") {
            let hint = "add `connect: true` to the route if that is meant";
            reader.problem(&place, "the route names the method CONNECT, which it does not let through", hint);
        }
        Some(Route {
            name,
            hosts: matching.hosts.or_default().0,
            path: match matching.path.is_written() {
                true => matching.path.into_option()?,
                false => PathPattern::everything(),
            },
            methods,
            rules: Rules { deny, require, allow },
            mode,
            token,
            authorize,
            rate_limit,
            connect,
            lax_path: self.lax_path.or(false),
            request_timeout: self.request_timeout.into_option().map(|span| span.0),
            place,
        })
    }
}
