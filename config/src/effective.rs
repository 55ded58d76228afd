//! A configuration written out: every default filled in, in one fixed order.

mod audit;
mod authorizer;
mod bounds;
mod rate_limit;
mod rule;
mod service;
mod token;
mod write_yaml;

use crate::Config;
use crate::break_glass::BreakGlass;
use crate::capture::{Capture, CaptureMode, Dns, Ports};
use crate::forwarder::Forwarder;
use crate::identity::{BundleEndpoint, EndpointProfile, Identity, IdentitySource, SvidSelector};
use crate::listen::ListenAddress;
use crate::listener::{AppHttp, Inbound, InboundTls, OnExpiry, Protocol};
use crate::revocation::{Hold, Revocation};
use crate::route::Route;
use crate::telemetry::{AccessLog, LogFormat};
use crate::units::print_duration;
use serde_json::{Map, Value, json};
use std::fmt::Display;
use std::path::Path;
use write_yaml::write_value;

impl Config {
    /// What is in force, as the file would say it. The order is fixed, so equal configurations give equal bytes: a hash
    /// of them is the policy's digest. What is decided when the program runs (`workers`, `drain_timeout`, …) is left
    /// out unless it was written.
    pub fn effective_json(&self) -> Value {
        let mut root = Map::new();
        root.insert("identity".into(), identity(&self.identity));
        let issuers = || self.identity.issuers.iter().map(|issuer| token::issuer(issuer)).collect();
        put(&mut root, "issuers", (!self.identity.issuers.is_empty()).then(issuers));
        let authorizers = self.authorizers.iter().map(authorizer::authorizer).collect();
        put(&mut root, "authorizers", (!self.authorizers.is_empty()).then_some(authorizers));
        root.insert("inbound".into(), self.inbound.iter().map(inbound).collect());
        root.insert("outbound".into(), outbound(self));
        put(&mut root, "capture", self.capture.as_ref().map(capture));
        put(
            &mut root,
            "tunnel",
            self.tunnel.as_ref().map(|it| json!({ "listen": words(&it.listen), "svid": svid(&it.svid) })),
        );
        root.insert("telemetry".into(), telemetry(self));
        put(&mut root, "audit", self.audit.as_ref().map(audit::audit));
        root.insert("revocation".into(), revocation(&self.revocation));
        put(&mut root, "break_glass", self.break_glass.as_ref().map(break_glass));
        root.insert("drift".into(), self.drift.effective_json());
        root.insert("admin".into(), admin(self));
        put(&mut root, "workers", self.workers.map(|workers| json!(workers.get())));
        put(&mut root, "drain_timeout", self.drain_timeout.map(|span| json!(print_duration(span))));
        root.insert("timeouts".into(), bounds::timeouts(&self.timeouts));
        root.insert("limits".into(), bounds::limits(&self.limits));
        put(&mut root, "workload", self.workload.has_labels().then(|| self.workload.effective_json()));
        root.insert("hardening".into(), self.hardening.effective_json());
        Value::Object(root)
    }

    /// [`Config::effective_json`] as a file that, read again, means the same.
    pub fn to_effective_yaml(&self) -> String {
        let mut text = String::new();
        write_value(&mut text, &self.effective_json(), 0);
        text
    }
}

fn put(into: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        into.insert(key.to_owned(), value);
    }
}

fn words<T: Display>(values: &[T]) -> Value {
    values.iter().map(ToString::to_string).collect()
}

fn path(path: &Path) -> Value {
    json!(path.to_string_lossy())
}

fn identity(identity: &Identity) -> Value {
    let mut section = Map::new();
    match &identity.source {
        IdentitySource::WorkloadApi { endpoint } => {
            put(&mut section, "workload_api", endpoint.as_ref().map(|endpoint| json!(endpoint.to_string())));
        }
        IdentitySource::Files { certificate, key, bundle, federated } => {
            let federated: Map<String, Value> =
                federated.iter().map(|(domain, file)| (domain.to_string(), path(file))).collect();
            let files = json!({
                "certificate": path(certificate), "key": path(key), "bundle": path(bundle), "federated": federated,
            });
            section.insert("files".into(), files);
        }
    }
    let federation: Value = identity.federation.iter().map(bundle_endpoint).collect();
    put(&mut section, "federation", (!identity.federation.is_empty()).then_some(federation));
    section.insert("svid".into(), svid(&identity.svid));
    let grace = print_duration(identity.permission_denied_grace);
    section.insert("permission_denied_grace".into(), json!(grace));
    section.insert("compat".into(), json!(identity.compat));
    Value::Object(section)
}

fn bundle_endpoint(endpoint: &BundleEndpoint) -> Value {
    let mut section = Map::new();
    section.insert("trust_domain".into(), json!(endpoint.trust_domain.as_str()));
    section.insert("url".into(), json!(endpoint.url.to_string()));
    match &endpoint.profile {
        EndpointProfile::HttpsWeb { roots } => {
            section.insert("profile".into(), json!("https_web"));
            put(&mut section, "roots", roots.as_deref().map(path));
        }
        EndpointProfile::HttpsSpiffe { id, bootstrap } => {
            section.insert("profile".into(), json!("https_spiffe"));
            section.insert("spiffe_id".into(), json!(id.as_str()));
            section.insert("bootstrap".into(), path(bootstrap));
        }
    }
    section.insert("follow_redirects".into(), json!(endpoint.follow_redirects));
    put(&mut section, "keep", endpoint.keep.as_deref().map(path));
    Value::Object(section)
}

fn svid(selector: &SvidSelector) -> Value {
    match selector {
        SvidSelector::Default => json!("default"),
        SvidSelector::Id(id) => json!({ "id": id.as_str() }),
        SvidSelector::Hint(hint) => json!({ "hint": hint }),
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Tcp => "tcp",
        Protocol::Detect => "detect",
    }
}

fn on_expiry(on_expiry: OnExpiry) -> &'static str {
    match on_expiry {
        OnExpiry::Keep => "keep",
        OnExpiry::Cut => "cut",
    }
}

fn inbound(port: &Inbound) -> Value {
    let mut section = Map::new();
    section.insert("name".into(), json!(port.name));
    section.insert("port".into(), json!(port.port));
    put(&mut section, "listen", port.listen.map(|listen| json!(listen.to_string())));
    section.insert("app".into(), json!(port.app.to_string()));
    section.insert("protocol".into(), json!(protocol(port.protocol)));
    let tls = match port.tls {
        InboundTls::Strict => "strict",
        InboundTls::Permissive => "permissive",
        InboundTls::Off => "off",
    };
    section.insert("tls".into(), json!(tls));
    let has_http = port.protocol != Protocol::Tcp;
    let app_http = match port.app_http {
        AppHttp::Same => json!("same"),
        AppHttp::Http1 => json!(1),
        AppHttp::Http2 => json!(2),
    };
    let headers = json!({
        "xfcc": port.identity_headers.xfcc,
        "spiffe_id": port.identity_headers.spiffe_id,
        "client_cert": port.identity_headers.client_cert,
    });
    // Keys that would have no effect are refused when they are read.
    put(&mut section, "app_http", has_http.then_some(app_http));
    put(&mut section, "svid", (port.tls != InboundTls::Off).then(|| svid(&port.svid)));
    put(&mut section, "identity_headers", has_http.then_some(headers));
    let forwarder = |it: &Forwarder| json!({ "spiffe": words(&it.spiffe), "may_speak_for": words(&it.may_speak_for) });
    let forwarders = || port.forwarders.iter().map(forwarder).collect::<Value>();
    put(&mut section, "forwarders", (!port.forwarders.is_empty()).then(forwarders));
    rule::rules(&mut section, &port.rules);
    section.insert("mode".into(), json!(port.mode.as_str()));
    let routes: Value = port.routes.iter().map(route).collect();
    put(&mut section, "routes", (!port.routes.is_empty()).then_some(routes));
    put(&mut section, "authorize", port.authorize.as_ref().map(|name| json!(name)));
    put(&mut section, "rate_limit", port.rate_limit.map(rate_limit::rate_limit));
    section.insert("on_expiry".into(), json!(on_expiry(port.on_expiry)));
    put(&mut section, "request_timeout", port.request_timeout.map(|span| json!(print_duration(span))));
    Value::Object(section)
}

fn route(route: &Route) -> Value {
    let mut matching = Map::new();
    put(&mut matching, "hosts", (!route.hosts.is_empty()).then(|| words(&route.hosts)));
    matching.insert("path".into(), json!(route.path.to_string()));
    put(&mut matching, "methods", (!route.methods.is_empty()).then(|| words(&route.methods)));
    let mut section = Map::new();
    section.insert("name".into(), json!(route.name));
    section.insert("match".into(), Value::Object(matching));
    rule::rules(&mut section, &route.rules);
    section.insert("mode".into(), json!(route.mode.as_str()));
    if let Some(token) = &route.token {
        token::insert(&mut section, token);
    }
    section.insert("authorize".into(), json!(route.authorize.as_deref().unwrap_or("none")));
    put(&mut section, "rate_limit", route.rate_limit.map(rate_limit::rate_limit));
    section.insert("connect".into(), json!(route.connect));
    section.insert("lax_path".into(), json!(route.lax_path));
    put(&mut section, "request_timeout", route.request_timeout.map(|span| json!(print_duration(span))));
    Value::Object(section)
}

fn outbound(config: &Config) -> Value {
    let listeners = config.outbound.services.iter().filter_map(|service| service.listen.as_ref());
    let addresses = listeners.chain(&config.outbound.listen).filter_map(ListenAddress::tcp);
    let open = addresses.into_iter().any(|address| !address.ip().is_loopback());
    json!({
        "default": "deny",
        "listen": words(&config.outbound.listen),
        "open_listeners": open,
        "services": config.outbound.services.iter().map(service::service).collect::<Value>(),
    })
}

fn capture(capture: &Capture) -> Value {
    let mut section = Map::new();
    put(&mut section, "inbound", capture.inbound.map(|port| json!(port)));
    put(&mut section, "outbound", capture.outbound.map(|port| json!(port)));
    let mode = match capture.mode {
        CaptureMode::Redirect => "redirect",
        CaptureMode::Tproxy => "tproxy",
    };
    put(&mut section, "mode", capture.inbound.map(|_| json!(mode)));
    let redirect = &capture.redirect;
    let ports = |ports: &Ports| match ports {
        Ports::All => json!("all"),
        Ports::Only(ports) => json!(ports),
    };
    let rules = json!({
        "exempt_users": redirect.exempt_users,
        "inbound_ports": ports(&redirect.inbound_ports),
        "exclude_inbound_ports": redirect.exclude_inbound_ports,
        "outbound_ports": ports(&redirect.outbound_ports),
        "exclude_outbound_ports": redirect.exclude_outbound_ports,
        "only_networks": words(&redirect.only_networks),
        "exclude_networks": words(&redirect.exclude_networks),
        "exclude_interfaces": redirect.exclude_interfaces,
        "mark": format!("{:#x}", redirect.mark),
        "closed_egress": redirect.closed_egress,
    });
    section.insert("redirect".into(), rules);
    put(&mut section, "dns", capture.dns.as_ref().map(dns));
    Value::Object(section)
}

fn dns(dns: &Dns) -> Value {
    let mut section = Map::new();
    section.insert("listen".into(), json!(dns.listen));
    // What is left out is read from /etc/resolv.conf.
    put(&mut section, "upstreams", (!dns.upstreams.is_empty()).then(|| words(&dns.upstreams)));
    put(&mut section, "search", dns.search.as_deref().map(words));
    section.insert("virtual_networks".into(), words(&dns.virtual_networks));
    section.insert("ttl".into(), json!(print_duration(dns.ttl)));
    put(&mut section, "loopback_nameservers", dns.loopback_nameservers.as_deref().map(words));
    put(&mut section, "resolver_users", dns.resolver_users.as_deref().map(words));
    Value::Object(section)
}

fn telemetry(config: &Config) -> Value {
    let telemetry = &config.telemetry;
    let listen =
        |address: Option<std::net::SocketAddr>| address.map_or("off".to_owned(), |address| address.to_string());
    let mut section = Map::new();
    section.insert("metrics".into(), json!(listen(telemetry.metrics)));
    section.insert("readiness".into(), json!(listen(telemetry.readiness)));
    let access_log = match &telemetry.access_log {
        AccessLog::Off => json!("off"),
        AccessLog::Stdout => json!("stdout"),
        AccessLog::File(file) => json!({ "file": path(file) }),
    };
    section.insert("access_log".into(), access_log);
    put(&mut section, "log", telemetry.log.as_ref().map(|log| json!(log)));
    let log_format = match telemetry.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    section.insert("log_format".into(), json!(log_format));
    Value::Object(section)
}

fn revocation(revocation: &Revocation) -> Value {
    let mut section = Map::new();
    put(&mut section, "deny_list", revocation.deny_list.as_deref().map(path));
    section.insert("crls".into(), revocation.crls.iter().map(|file| path(file)).collect());
    section.insert("stale_crls".into(), json!(revocation.stale_crls.as_str()));
    let hold = match revocation.guard.hold {
        Hold::Off => "off".to_owned(),
        Hold::For(time) => print_duration(time),
        Hold::UntilTold => "until_told".to_owned(),
    };
    let guard = json!({
        "share": format!("{}%", revocation.guard.share_percent),
        "connections": revocation.guard.connections_min,
        "hold": hold,
    });
    section.insert("guard".into(), guard);
    Value::Object(section)
}

fn break_glass(section: &BreakGlass) -> Value {
    let keys: Value = section.keys.iter().map(|file| path(file)).collect();
    json!({ "file": path(&section.file), "keys": keys, "longest": print_duration(section.longest) })
}

fn admin(config: &Config) -> Value {
    let mut section = Map::new();
    put(&mut section, "socket", config.admin.socket.as_deref().map(path));
    put(&mut section, "listen", config.admin.listen.map(|listen| json!(listen.to_string())));
    let users = [
        ("uids", &config.admin.uids),
        ("read", &config.admin.read),
        ("operate", &config.admin.operate),
        ("revoke", &config.admin.revoke),
    ];
    for (key, users) in users {
        put(&mut section, key, config.admin.socket.is_some().then(|| json!(users)));
    }
    Value::Object(section)
}
