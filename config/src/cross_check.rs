//! Rules between sections: what is right by itself and wrong beside something else.

use crate::Config;
use crate::audit::AuditTarget;
use crate::authorizer::Reach;
use crate::capture;
use crate::identity::IdentitySource;
use crate::listen::ListenAddress;
use crate::listener::{AppAddress, Inbound, InboundTls};
use crate::network::Destination;
use crate::pattern::SpiffePattern;
use crate::problem::Place;
use crate::read::{Listener, Reader};
use crate::route::Route;
use crate::telemetry::AccessLog;
use crate::token::Binding;
use crate::upstream::{Endpoints, Service, ServiceProtocol, Transport};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Tells the problems of what could be read.
pub(crate) fn cross_check(config: &Config, reader: &mut Reader) {
    inbound_names_and_ports(&config.inbound, reader);
    for port in &config.inbound {
        routes(port, reader);
        tokens(port, &config.identity.source, reader);
    }
    for service in config.outbound.services.iter().filter(|service| service.credential.is_some()) {
        if matches!(config.identity.source, IdentitySource::Files { .. }) {
            let hint = "take the identity from a Workload API (`identity: { workload_api: unix://… }`), or remove `credential`";
            reader.problem(&service.place, "there are no tokens to send: files bring none", hint);
        }
    }
    authorizers(config, reader);
    service_names(&config.outbound.services, reader);
    service_hosts(&config.outbound.services, reader);
    service_addresses(config, reader);
    loops(config, reader);
    if let Some(dns) = config.capture.as_ref().and_then(|capture| capture.dns.as_ref()) {
        capture::dns::check_hosts(dns, &config.outbound.services, reader);
    }
    if let Some(tunnel) = &config.tunnel
        && config.inbound.is_empty()
    {
        let hint = "declare ports below `inbound:`, or remove `tunnel`";
        reader.problem(&tunnel.place, "nothing can be reached through the tunnel: no port is declared", hint);
    }
    log_files(config, reader);
    listeners(reader);
}

/// Two logs in one place cannot be told apart, and one of them is to be proven whole.
fn log_files(config: &Config, reader: &mut Reader) {
    let Some(audit) = &config.audit else { return };
    let (shared, hint) = match (&audit.to, &config.telemetry.access_log) {
        (AuditTarget::Stdout, AccessLog::Stdout) => {
            ("standard output".to_owned(), "write `telemetry: { access_log: off }`, or give one of the two a file")
        }
        (AuditTarget::File { path, .. }, AccessLog::File(other)) if path == other => {
            (path.display().to_string(), "give each a file of its own")
        }
        _ => return,
    };
    reader.problem(&audit.place, format!("`audit` and `telemetry.access_log` both write to {shared}"), hint);
}

/// A service that is reached at one of our own outbound listeners is this proxy calling itself without end.
fn loops(config: &Config, reader: &mut Reader) {
    let services = &config.outbound.services;
    let listeners = services.iter().filter_map(|service| service.listen.as_ref()).chain(&config.outbound.listen);
    let own: Vec<SocketAddr> = listeners.clone().filter_map(ListenAddress::tcp).collect();
    for port in &config.inbound {
        let AppAddress::Unix(app) = &port.app else { continue };
        if listeners.clone().any(|listener| listener.unix() == Some(app)) {
            let what =
                format!("the application of `{}` would be an outbound listener of this file, {}", port.name, port.app);
            reader.problem(&port.place, what, "write the socket that the application itself listens on");
        }
    }
    for service in services {
        let Endpoints::Static(endpoints) = &service.endpoints else { continue };
        let reaches_itself = |endpoint: &&SocketAddr| own.iter().any(|listen| takes(*listen, **endpoint));
        if let Some(endpoint) = endpoints.iter().find(reaches_itself) {
            let what =
                format!("service `{}` would connect to an outbound listener of this file, {endpoint}", service.name);
            reader.problem(&service.place, what, "write the address of the peer's sidecar or server");
        }
    }
}

/// Whether connections to `address` on this host arrive at `listen`.
pub(crate) fn takes(listen: SocketAddr, address: SocketAddr) -> bool {
    let ip_fits = listen.ip() == address.ip() || (listen.ip().is_unspecified() && address.ip().is_loopback());
    ip_fits && listen.port() == address.port()
}

fn inbound_names_and_ports(inbound: &[Inbound], reader: &mut Reader) {
    let mut names = HashMap::new();
    let mut ports = HashMap::new();
    for port in inbound {
        if let Some(first) = ports.insert(port.port, &port.place) {
            let hint = "keep one of the two, with the rules of both";
            reader.problem(
                &port.place,
                format!("port {} is written twice; it stands at {first} already", port.port),
                hint,
            );
        } else {
            // The same port twice mostly has the same default name twice, which need not be told as well.
            unique(&mut names, "inbound port", &port.name, &port.place, reader);
        }
    }
}

/// One that is a service has to be one that is known without a request: where it is, and who it is.
fn authorizers(config: &Config, reader: &mut Reader) {
    let mut names = HashMap::new();
    for authorizer in &config.authorizers {
        unique(&mut names, "authorizer", &authorizer.name, &authorizer.place, reader);
        let Reach::Service(name) = &authorizer.reach else { continue };
        let Some(service) = config.outbound.services.iter().find(|service| service.name == *name) else {
            let hint = "declare it in `outbound.services`, or write the name of one that is";
            let what = format!("authorizer `{}` is the service `{name}`, which is not declared", authorizer.name);
            reader.problem(&authorizer.place, what, hint);
            continue;
        };
        let (what, hint) = match (&service.endpoints, &service.transport) {
            _ if matches!(service.protocol, ServiceProtocol::Tcp | ServiceProtocol::Tls) => {
                ("does not speak HTTP", "write `protocol: http` there")
            }
            (Endpoints::Host { .. }, _) => ("is where a request says", "give it `endpoints: { dns: HOST:PORT }`"),
            (_, Transport::Mesh { identity, .. }) if identity.iter().any(SpiffePattern::has_capture) => {
                ("is a template", "declare one with a fixed `identity`")
            }
            _ => continue,
        };
        let what = format!("authorizer `{}` is the service `{name}`, which {what}", authorizer.name);
        reader.problem(&authorizer.place, what, hint);
    }
}

fn service_names(services: &[Service], reader: &mut Reader) {
    let mut names = HashMap::new();
    for service in services {
        unique(&mut names, "service", &service.name, &service.place, reader);
    }
}

/// Tells a name that is used twice.
pub(crate) fn unique<'a>(
    names: &mut HashMap<&'a str, &'a Place>,
    kind: &str,
    name: &'a str,
    place: &'a Place,
    reader: &mut Reader,
) {
    if let Some(first) = names.get(name) {
        let what = format!("the {kind} name `{name}` is used twice; it stands at {first} already");
        reader.problem(place, what, "write another `name:`; logs and metrics tell them apart by it");
        return;
    }
    names.insert(name, place);
}

/// Names, and ties (THREATS PN-27): which route a request takes must not depend on the order of the file.
fn routes(port: &Inbound, reader: &mut Reader) {
    let mut names = HashMap::new();
    // Only paths of the same rank can tie, and an exact one only with itself: ten thousand are not compared in pairs.
    let mut by_path: HashMap<(u64, Option<&str>), Vec<&Route>> = HashMap::new();
    for route in &port.routes {
        unique(&mut names, "route", &route.name, &route.place, reader);
        let earlier = by_path.entry((route.path.specificity(), route.path.exact())).or_default();
        if let Some(first) = earlier.iter().find(|first| route.ties_with(first)) {
            let what = format!(
                "route `{}` and route `{}` (at {}) fit the same requests, and neither is more specific",
                route.name, first.name, first.place
            );
            reader.problem(&route.place, what, "tell them apart by host, path or methods, or make one of them");
        }
        earlier.push(route);
    }
}

/// Keys for tokens come with the Workload API, and a caller without a certificate is nobody whose own a token could be.
fn tokens(port: &Inbound, source: &IdentitySource, reader: &mut Reader) {
    // A rule of a port holds on its routes; those with rules of their own have no use for its `allow`.
    let takes_none = |route: &Route| route.token.is_none();
    let on_all = port.routes.is_empty() || port.routes.iter().any(takes_none);
    let of_port = port.rules.deny.iter().chain(&port.rules.require).filter(|_| on_all);
    let own_allow = port.rules.allow.iter().filter(|_| port.routes.is_empty());
    let of_routes = port.routes.iter().filter(|route| takes_none(route)).flat_map(|route| route.rules.all());
    for rule in of_port.chain(own_allow).chain(of_routes).filter(|rule| rule.token.is_some()) {
        let hint = "add `audience` and `binding` to each route that the rule is for, or remove `token` from the rule";
        let what = format!("rule `{}` asks for what a token says, and where it holds no token is taken", rule.name);
        reader.problem(&rule.place, what, hint);
    }
    for route in &port.routes {
        let Some(token) = &route.token else { continue };
        if token.takes_svids && matches!(source, IdentitySource::Files { .. }) {
            let hint =
                "take the identity from a Workload API (`identity: { workload_api: unix://… }`), or remove `audience`";
            reader.problem(&route.place, "no token can be verified: files bring no keys for them", hint);
        }
        if port.tls == InboundTls::Off && token.binding != Binding::Bearer {
            let hint = "write `tls: strict` at the port; or `binding: bearer`, and whoever has a token may use it";
            reader.problem(
                &route.place,
                "the token has to be its caller's, and with `tls: off` nobody knows the caller",
                hint,
            );
        }
    }
}

/// The same for hosts of services.
fn service_hosts(services: &[Service], reader: &mut Reader) {
    let mut exact: HashMap<&str, &Service> = HashMap::new();
    let mut wildcards: Vec<(&crate::HostPattern, &Service)> = Vec::new();
    for service in services {
        for host in &service.hosts {
            // Exact hosts go by a table: ten thousand of them are not compared with each other. One of them never ties
            // with a wildcard, which has fewer labels written out.
            let other = match host.exact() {
                Some(text) => exact.insert(text, service),
                None => {
                    let other = wildcards.iter().find(|(other, _)| host.ties_with(other)).map(|(_, other)| *other);
                    wildcards.push((host, service));
                    other
                }
            };
            let Some(other) = other else { continue };
            let what = match std::ptr::eq(other, service) {
                true => {
                    format!("service `{}` has two hosts that fit the same requests, one of them `{host}`", service.name)
                }
                false => format!(
                    "host `{host}` of service `{}` and a host of service `{}` (at {}) fit the same requests, and neither \
                     is more specific",
                    service.name, other.name, other.place
                ),
            };
            reader.problem(&service.place, what, "write more of one host's labels out, or remove it");
        }
    }
}

/// Destinations of captured connections: none twice, and none where nothing is captured.
fn service_addresses(config: &Config, reader: &mut Reader) {
    let captures = config.capture.as_ref().is_some_and(|capture| capture.outbound.is_some());
    let mut known: HashMap<Destination, &Service> = HashMap::new();
    for service in &config.outbound.services {
        if !captures && !service.addresses.is_empty() {
            let what = format!("`addresses` of service `{}` are for captured connections, and none are", service.name);
            reader.problem(&service.place, what, "add `capture: { outbound: 15001 }`, or remove `addresses`");
        }
        for destination in &service.addresses {
            let Some(other) = known.insert(*destination, service) else { continue };
            let what =
                format!("{destination} leads to `{}` and to `{}` (at {})", service.name, other.name, other.place);
            reader.problem(&service.place, what, "keep it at one of the two");
        }
    }
}

/// Two sockets for one address: `SO_REUSEPORT` would hide it, and half the connections would go astray.
fn listeners(reader: &mut Reader) {
    let listeners = std::mem::take(&mut reader.listeners);
    let mut by_port: HashMap<u16, Vec<&Listener>> = HashMap::new();
    let mut by_path: HashMap<&Path, Vec<&Listener>> = HashMap::new();
    for listener in &listeners {
        // Port 0 is another one each time.
        let same = match &listener.address {
            ListenAddress::Tcp(address) if address.port() == 0 => continue,
            ListenAddress::Tcp(address) => by_port.entry(address.port()).or_default(),
            ListenAddress::Unix(path) => by_path.entry(path).or_default(),
        };
        if let Some(other) = same.iter().find(|other| overlap(&other.address, &listener.address)) {
            // A default that nobody wrote has no place; what was written has.
            let (here, there) = if listener.place.is_some() { (listener, *other) } else { (*other, listener) };
            let at = there.place.as_ref().map_or("the default".to_owned(), |place| format!("at {place}"));
            let what = format!(
                "{} listens on {}, which {} takes already ({}, {at})",
                here.whose, here.address, there.whose, there.address
            );
            let place = here.place.clone().unwrap_or_else(Place::command_line);
            let hint = match listener.address {
                ListenAddress::Tcp(_) => "write another port for one of the two",
                ListenAddress::Unix(_) => "write another path for one of the two",
            };
            reader.problem(&place, what, hint);
        }
        same.push(listener);
    }
    reader.listeners = listeners;
}

/// Whether sockets on the same port of both addresses get in each other's way. `[::]` takes IPv4 as well, unless the
/// host says otherwise.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (Some(one), Some(other)) = (one.tcp(), other.tcp()) else { return one == other };
    let (one, other) = (one.ip(), other.ip());
    let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let same_family = one.is_ipv4() == other.is_ipv4();
    one == other || one == all || other == all || (same_family && (one.is_unspecified() || other.is_unspecified()))
}

#[cfg(test)]
mod tests;
