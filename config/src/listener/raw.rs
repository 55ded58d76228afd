//! An inbound port as it is written, and its checks.

use super::{AppAddress, AppHttp, IdentityHeaders, Inbound, InboundTls, OnExpiry, Protocol};
use crate::authorizer::Authorize;
use crate::authz::{Effect, Principal, RawRule, Rule, Rules, check_rules};
use crate::cross_check::{takes, unique};
use crate::forwarder::RawForwarder;
use crate::identity::SvidSelector;
use crate::listen::read_socket_path;
use crate::mode::Mode;
use crate::problem::Place;
use crate::rate_limit::RawRateLimit;
use crate::read::{Field, FromNode, Keys, Listener, Reader, Section};
use crate::route::{FromPort, RawRoute};
use crate::values::{Address, Name, Span};
use crate::yaml::Node;
use schemars::JsonSchema;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

/// A port of the application, and who may reach it. What no rule allows is refused.
#[derive(JsonSchema)]
#[schemars(rename = "Inbound", deny_unknown_fields, extend("required" = ["port"]))]
pub(crate) struct RawInbound {
    /// Unique; appears in logs and metrics.
    #[schemars(extend("x-default" = "inbound-PORT"))]
    name: Field<Name>,
    /// The application's port: what callers believe to connect to.
    #[schemars(range(min = 1, max = 65535))]
    port: Field<u16>,
    /// Where Postern listens for callers. Without it the port gets captured connections only.
    listen: Field<Address>,
    /// Where the application listens: `IP:PORT`, or `unix:/PATH`.
    #[schemars(extend("x-default" = "127.0.0.1:PORT"))]
    app: Field<AppAddress>,
    /// What callers speak. `detect` reads their first bytes, and costs protocols in which the server speaks first a
    /// wait of `timeouts.detect`: declare those `tcp`.
    #[schemars(extend("default" = "detect"))]
    protocol: Field<Protocol>,
    /// `strict`: mTLS or nothing. `permissive`: plaintext callers too, as the principal `anonymous`. `off`: plaintext
    /// only.
    #[schemars(extend("default" = "strict"))]
    tls: Field<InboundTls>,
    /// The HTTP version towards the application: the caller's (`same`), 1 or 2.
    #[schemars(extend("default" = "same"))]
    app_http: Field<AppHttp>,
    /// The SVID that callers are shown.
    #[schemars(extend("x-default" = "that of `identity`"))]
    svid: Field<SvidSelector>,
    /// The request headers that tell the application who called. What callers send under these names never arrives.
    identity_headers: Field<RawIdentityHeaders>,
    /// The proxies that may speak for others: the `x-forwarded-client-cert` that they send is checked, kept and extended; everybody
    /// else's is replaced. Then the port carries nothing that is not HTTP.
    #[schemars(extend("x-default" = "none: every peer speaks for itself alone"))]
    forwarders: Field<Vec<RawForwarder>>,
    /// What is refused, whatever allows it; on all routes.
    deny: Field<Vec<RawRule>>,
    /// What has to hold, all of it; on all routes.
    require: Field<Vec<RawRule>>,
    /// Who may. Decides L4 connections, and the routes that have no `allow` of their own.
    allow: Field<Vec<RawRule>>,
    /// What comes of the rules: `enforce`; `observe`, which counts and records what they refuse, and lets it through; `off`, which
    /// does not ask them. Who a caller is, and its tokens, are checked in any case.
    #[schemars(extend("default" = "enforce"))]
    mode: Field<Mode>,
    /// HTTP requests with rules of their own. With routes, a request that fits none of them is refused.
    routes: Field<Vec<RawRoute>>,
    /// The authorizer that is asked about each request which the rules allow, on routes that do not say. Then the port carries
    /// nothing that is not HTTP.
    #[schemars(extend("x-default" = "none"))]
    authorize: Field<Authorize>,
    /// How many requests callers may make, on all routes together. Then the port carries nothing that is not HTTP.
    #[schemars(extend("x-default" = "no limit"))]
    rate_limit: Field<RawRateLimit>,
    /// What happens to L4 connections when an SVID they were made with expires: `keep` them, or `cut`.
    #[schemars(extend("default" = "keep"))]
    on_expiry: Field<OnExpiry>,
    /// From a request's head to the end of its answer, in routes that do not say. When it passes first, the request is
    /// refused with 504, or its answer breaks off.
    #[schemars(extend("x-default" = "none: as long as something of it moves"))]
    request_timeout: Field<Span>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawInbound {
    const NAME: &'static str = "an inbound port";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            name: keys.optional("name"),
            port: keys.required("port", "write the application's port, such as `port: 8080`"),
            listen: keys.optional("listen"),
            app: keys.optional("app"),
            protocol: keys.optional("protocol"),
            tls: keys.optional("tls"),
            app_http: keys.optional("app_http"),
            svid: keys.optional("svid"),
            identity_headers: keys.optional("identity_headers"),
            forwarders: keys.optional("forwarders"),
            deny: keys.optional("deny"),
            require: keys.optional("require"),
            allow: keys.optional("allow"),
            mode: keys.optional("mode"),
            routes: keys.optional("routes"),
            authorize: keys.optional("authorize"),
            rate_limit: keys.optional("rate_limit"),
            on_expiry: keys.optional("on_expiry"),
            request_timeout: keys.optional("request_timeout"),
            place: keys.place(),
        }
    }
}

impl RawInbound {
    /// `None`: this port's problems have been told.
    pub fn check(self, reader: &mut Reader) -> Option<Inbound> {
        self.refuse_what_has_no_effect(reader);
        let place = self.place;
        let rules_written = self.allow.is_written();
        let rules_readable = !rules_written || self.allow.get().is_some();
        let routes_written = self.routes.is_written();
        let rules_place = self.allow.place().unwrap_or(&place).clone();
        let raw_rules = self.allow.into_option().unwrap_or_default();
        let raw_rule_count = raw_rules.len();
        let allow = check_rules(raw_rules, Effect::Allow, "", reader);
        let deny = check_rules(self.deny.into_option().unwrap_or_default(), Effect::Deny, "port-", reader);
        let require = check_rules(self.require.into_option().unwrap_or_default(), Effect::Require, "port-", reader);
        let mode = self.mode.or_default();
        let enforces = mode == Mode::Enforce;
        if allow.is_empty() && raw_rule_count == 0 && rules_readable && !routes_written && enforces {
            let hint = "add `allow:` with who may call: `- spiffe: spiffe://…`";
            reader.problem(&rules_place, "the port allows nobody", hint);
        }
        let all_rules_read = rules_readable && allow.len() == raw_rule_count;
        let port_rules = all_rules_read.then_some(&allow[..]);
        let raw_routes = self.routes.into_option().unwrap_or_default().into_iter().enumerate();
        let authorize = self.authorize.into_option().and_then(Authorize::into_name);
        let of_port = FromPort { allow: port_rules, mode, authorize: authorize.as_deref() };
        let routes = raw_routes.filter_map(|(index, route)| route.check(index + 1, of_port, reader)).collect();
        let forwarders = self.forwarders.into_option().unwrap_or_default().into_iter();
        let forwarders = forwarders.filter_map(|forwarder| forwarder.check(reader)).collect();
        let (listen_place, app_place) = (self.listen.place().cloned(), self.app.place().cloned());
        let port = self.port.into_option()?;
        let app = match app_place {
            Some(_) => self.app.into_option()?,
            None => AppAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        };
        let inbound = Inbound {
            name: self.name.into_option().map_or_else(|| format!("inbound-{port}"), |name| name.0),
            port,
            listen: self.listen.into_option().map(|listen| listen.0),
            app,
            protocol: self.protocol.or_default(),
            tls: self.tls.or_default(),
            app_http: self.app_http.or_default(),
            svid: self.svid.or(reader.svid.clone()),
            identity_headers: self.identity_headers.into_option().map(RawIdentityHeaders::check).unwrap_or_default(),
            forwarders,
            rules: Rules { deny, require, allow },
            mode,
            routes,
            authorize,
            rate_limit: self.rate_limit.into_option().and_then(|limit| limit.check(reader)),
            on_expiry: self.on_expiry.or_default(),
            request_timeout: self.request_timeout.into_option().map(|span| span.0),
            place,
        };
        refuse_loop(&inbound, listen_place.as_ref(), reader);
        refuse_rules_that_never_fit(&inbound, reader);
        if let (Some(address), Some(place)) = (inbound.listen, listen_place) {
            let whose = format!("inbound `{}`", inbound.name);
            reader.listeners.push(Listener { address: address.into(), whose, place: Some(place) });
        }
        Some(inbound)
    }

    /// Keys that this port's protocol or TLS makes meaningless: whoever wrote them expects something else.
    fn refuse_what_has_no_effect(&self, reader: &mut Reader) {
        if self.protocol.get() == Some(&Protocol::Tcp) {
            let http_only = [
                ("routes", self.routes.place()),
                ("app_http", self.app_http.place()),
                ("authorize", self.authorize.place()),
                ("rate_limit", self.rate_limit.place()),
                ("identity_headers", self.identity_headers.place()),
                ("forwarders", self.forwarders.place()),
                ("request_timeout", self.request_timeout.place()),
            ];
            for (key, place) in http_only {
                if let Some(place) = place {
                    let hint = format!("remove `{key}`, or write `protocol: http`");
                    reader.problem(place, format!("`{key}` is for HTTP, and the port's protocol is `tcp`"), hint);
                }
            }
        }
        if let (Some(InboundTls::Off), Some(place)) = (self.tls.get(), self.svid.place()) {
            let hint = "remove `svid`, or write `tls: strict`";
            reader.problem(place, "`svid` has no effect with `tls: off`", hint);
        }
        if let (Some(InboundTls::Off), Some(place)) = (self.tls.get(), self.forwarders.place()) {
            let hint = "remove `forwarders`, or write `tls: strict`";
            reader.problem(place, "with `tls: off` nobody is known to be a forwarder", hint);
        }
    }
}

/// A listener that takes its own connections to the application would connect to itself without end.
fn refuse_loop(inbound: &Inbound, listen_place: Option<&Place>, reader: &mut Reader) {
    let (Some(listen), AppAddress::Tcp(app), Some(place)) = (inbound.listen, &inbound.app, listen_place) else {
        return;
    };
    if takes(listen, *app) {
        let what = format!("listening on {listen} takes the address of the application itself ({app})");
        reader.problem(place, what, "listen on another port, such as 15006, or let the application move");
    }
}

fn refuse_rules_that_never_fit(inbound: &Inbound, reader: &mut Reader) {
    unique_names(inbound, reader);
    // A route without `allow` of its own has got the port's: those are the same rule, told once.
    for rule in inbound.rule_sets().flat_map(Rules::all) {
        if let Some((what, hint)) = why_never(inbound, rule) {
            reader.problem(&rule.place, format!("rule `{}` can never match: {what}", rule.name), hint);
        }
        if inbound.protocol == Protocol::Tcp && rule.is_about_requests() {
            let hint = "remove what it says of requests, or write `protocol: http`";
            let what = format!("rule `{}` is about requests, and the port's protocol is `tcp`", rule.name);
            reader.problem(&rule.place, what, hint);
        }
    }
}

/// Records name the rule that decided: which one has to be clear.
fn unique_names(inbound: &Inbound, reader: &mut Reader) {
    let mut of_port = HashMap::new();
    for rule in inbound.rules.all() {
        unique(&mut of_port, "rule", &rule.name, &rule.place, reader);
    }
    for route in &inbound.routes {
        let mut names = of_port.clone();
        let is_own = |rule: &&Rule| !inbound.rules.allow.iter().any(|other| other.place == rule.place);
        // The port's `allow` does not hold where there is another.
        for rule in &inbound.rules.allow {
            names.remove(rule.name.as_str());
        }
        for rule in route.rules.all().filter(is_own) {
            unique(&mut names, "rule", &rule.name, &rule.place, reader);
        }
    }
}

fn why_never(inbound: &Inbound, rule: &Rule) -> Option<(&'static str, &'static str)> {
    match (&rule.who, inbound.tls) {
        (Principal::Anonymous, InboundTls::Strict) => Some((
            "the port's `tls: strict` lets no plaintext caller in",
            "write `tls: permissive` to let plaintext callers in, or `spiffe:` to name who may",
        )),
        (_, InboundTls::Off) if !rule.sni.is_empty() => Some((
            "with `tls: off` nobody asks for a name when TLS begins",
            "remove `sni`, or write `hosts:` for what requests ask for",
        )),
        (Principal::Spiffe(_), InboundTls::Off) => Some((
            "with `tls: off` nobody shows a SPIFFE ID",
            "write `tls: strict` (or `permissive`), or `anonymous: true` if everybody may",
        )),
        _ => None,
    }
}

/// Which headers tell the application who called.
#[derive(JsonSchema)]
#[schemars(rename = "IdentityHeaders", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawIdentityHeaders {
    /// `x-forwarded-client-cert` with `By`, `Hash` and `URI`, as Envoy sets it.
    #[schemars(extend("default" = true))]
    xfcc: Field<bool>,
    /// `x-spiffe-id` with the caller's SPIFFE ID.
    #[schemars(extend("default" = true))]
    spiffe_id: Field<bool>,
    /// `client-cert` with the caller's certificate (RFC 9440).
    #[schemars(extend("default" = false))]
    client_cert: Field<bool>,
}

impl Section for RawIdentityHeaders {
    const NAME: &'static str = "`identity_headers`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            xfcc: keys.optional("xfcc"),
            spiffe_id: keys.optional("spiffe_id"),
            client_cert: keys.optional("client_cert"),
        }
    }
}

impl RawIdentityHeaders {
    fn check(self) -> IdentityHeaders {
        let defaults = IdentityHeaders::default();
        IdentityHeaders {
            xfcc: self.xfcc.or(defaults.xfcc),
            spiffe_id: self.spiffe_id.or(defaults.spiffe_id),
            client_cert: self.client_cert.or(defaults.client_cert),
        }
    }
}

impl FromNode for AppAddress {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "`IP:PORT` or `unix:/PATH`")?;
        let Some(path) = text.strip_prefix("unix:") else {
            let address = Address::from_node(node, reader)?.0;
            if address.ip().is_unspecified() || address.port() == 0 {
                reader.wrong(node, "is not an address to connect to", "write `127.0.0.1:8080` or `[::1]:8080`");
                return None;
            }
            return Some(Self::Tcp(address));
        };
        read_socket_path(node, path, "/run/app.sock", reader).map(Self::Unix)
    }
}

impl JsonSchema for AppAddress {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AppAddress".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "title": "IP:port or unix:/path" })
    }
}
