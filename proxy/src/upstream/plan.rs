//! An upstream as compiled from the configuration: a declared service, one instance of a template, or our application.

mod requested;

use super::discovery::EndpointSource;
use super::reserved::may_be_dialled;
use crate::capture::local_users::AllowedUsers;
use crate::lookup::Lookup;
use crate::telemetry::{Metrics, PortMetrics};
use crate::tls::web::WebTls;
use postern_config::pattern::Captures;
use postern_config::{
    AppAddress, Credential, Destination, Endpoints, HostPattern, OnExpiry, Place, Resilience, Service, ServiceProtocol,
    SpiffePattern, SvidSelector, Timeouts, Transport,
};
use requested::address_of;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use requested::Requested;

/// How to reach an upstream and whom to expect there.
pub struct ServicePlan {
    pub name: Arc<str>,
    pub hosts: Vec<HostPattern>,
    /// Where captured connections to it were meant to go.
    addresses: Vec<Destination>,
    pub protocol: ServiceProtocol,
    /// The local users that may use it.
    pub users: AllowedUsers,
    pub security: Security,
    pub credential: Option<Credential>,
    pub source: EndpointSource,
    /// The address to connect from: the caller's, which is not ours (TPROXY).
    pub from: Option<IpAddr>,
    pub on_expiry: OnExpiry,
    pub connect_timeout: Duration,
    pub pool_idle: Duration,
    pub resilience: Resilience,
    pub metrics: Arc<PortMetrics>,
    /// What it was made from; equal means the plan, and with it the pools, can stay. An instance has its template's.
    origin: Arc<Origin>,
}

/// Equal when it is one and the same.
struct SameWebTls(Arc<WebTls>);

impl PartialEq for SameWebTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[derive(PartialEq)]
enum Origin {
    /// The client is compared by what it is: the same path may hold other roots.
    Service(Box<Service>, Duration, Duration, Option<SameWebTls>),
    App(AppAddress, Duration, Duration),
}

/// What protects the hop.
pub enum Security {
    /// mTLS with one of these.
    Mesh {
        expected: Vec<SpiffePattern>,
        svid: SvidSelector,
        /// The port of the peer's tunnel, where connections are streams of one that is shared.
        tunnel: Option<u16>,
    },
    WebTls {
        client: Arc<WebTls>,
        server_name: Option<Arc<str>>,
    },
    Plaintext,
    /// The local application.
    App,
}

impl ServicePlan {
    pub fn service(service: &Service, timeouts: &Timeouts, web: Option<Arc<WebTls>>, metrics: &Metrics) -> Self {
        let origin = Arc::new(service_origin(service, timeouts, web.clone()));
        let security = match (&service.transport, web) {
            (Transport::Mesh { identity, svid, tunnel }, _) => {
                Security::Mesh { expected: identity.clone(), svid: svid.clone(), tunnel: *tunnel }
            }
            (Transport::WebTls { server_name, .. }, Some(client)) => {
                let name = server_name.as_deref().or_else(|| fixed_name(service));
                Security::WebTls { client, server_name: name.map(Arc::from) }
            }
            (Transport::WebTls { .. }, None) => unreachable!("the policy makes a WebTls for every such service"),
            (Transport::Plaintext, _) => Security::Plaintext,
        };
        Self {
            name: Arc::from(service.name.as_str()),
            hosts: service.hosts.clone(),
            addresses: service.addresses.clone(),
            protocol: service.protocol,
            users: AllowedUsers::of(&service.users),
            security,
            credential: service.credential.clone(),
            source: EndpointSource::from(&service.endpoints),
            from: None,
            on_expiry: service.on_expiry,
            connect_timeout: service.connect_timeout.unwrap_or(timeouts.connect),
            pool_idle: timeouts.pool_idle,
            resilience: service.resilience.clone(),
            metrics: metrics.outbound(&service.name),
            origin,
        }
    }

    pub fn app(name: &Arc<str>, app: &AppAddress, timeouts: &Timeouts, metrics: &Metrics) -> Self {
        Self::on_this_host(name.clone(), app, Security::App, timeouts, metrics.inbound(name))
    }

    /// An authorizer beside us, called in plaintext. What is counted of it, is counted elsewhere.
    pub fn authorizer(name: &str, address: &AppAddress, timeouts: &Timeouts) -> Self {
        Self::on_this_host(Arc::from(name), address, Security::Plaintext, timeouts, Arc::default())
    }

    fn on_this_host(
        name: Arc<str>,
        app: &AppAddress,
        security: Security,
        timeouts: &Timeouts,
        metrics: Arc<PortMetrics>,
    ) -> Self {
        Self {
            name,
            hosts: Vec::new(),
            addresses: Vec::new(),
            protocol: ServiceProtocol::Detect,
            users: AllowedUsers::All,
            security,
            credential: None,
            source: match app {
                AppAddress::Tcp(address) => EndpointSource::Static(Arc::from([*address])),
                AppAddress::Unix(path) => EndpointSource::Unix(path.clone()),
            },
            from: None,
            on_expiry: OnExpiry::Keep,
            connect_timeout: timeouts.connect_app,
            pool_idle: timeouts.pool_idle_app,
            resilience: Resilience::default(),
            metrics,
            origin: Arc::new(app_origin(app, timeouts)),
        }
    }

    /// Would [`ServicePlan::service`] make the same of these?
    pub fn same_upstream(&self, service: &Service, timeouts: &Timeouts, web: Option<Arc<WebTls>>) -> bool {
        *self.origin == service_origin(service, timeouts, web)
    }

    pub fn same_app(&self, app: &AppAddress, timeouts: &Timeouts) -> bool {
        *self.origin == app_origin(app, timeouts)
    }

    /// Are they the same plan, or instances of the same template? Then nothing about them changed.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.origin, &other.origin)
    }

    /// A plan that needs the requested host: to know where, or whom to expect.
    pub fn is_template(&self) -> bool {
        matches!(self.source, EndpointSource::RequestedHost { .. })
            || matches!(&self.security, Security::WebTls { server_name: None, .. })
            || matches!(&self.security, Security::Mesh { expected, .. } if expected.iter().any(|id| !id.captures().is_empty()))
    }

    /// The plan for what was asked of a template. `None`: that does not fill it.
    pub fn instance(&self, requested: Requested<'_>) -> Option<Self> {
        let host = requested.host.unwrap_or_default();
        let pattern = self.hosts.iter().find_map(|pattern| pattern.matches(host).map(|captures| (pattern, captures)));
        let captured = requested.original.is_some();
        let (pattern, captures): (Option<&HostPattern>, Captures<'_>) = match pattern {
            Some((pattern, captures)) => (Some(pattern), captures),
            None if captured => (None, Captures::default()),
            None => return None,
        };
        let security = match &self.security {
            Security::Mesh { expected, svid, tunnel } => Security::Mesh {
                expected: expected.iter().map(|id| id.expand(&captures)).collect::<Option<Vec<_>>>()?,
                svid: svid.clone(),
                tunnel: *tunnel,
            },
            Security::WebTls { client, server_name } => Security::WebTls {
                client: client.clone(),
                server_name: Some(server_name.clone().or_else(|| requested.host.map(Arc::from))?),
            },
            Security::Plaintext => Security::Plaintext,
            Security::App => return None,
        };
        let source = match &self.source {
            EndpointSource::RequestedHost { port } => {
                let asked = requested.port.or(requested.original.map(|original| original.port()));
                let port = port.or(asked).unwrap_or(match self.security {
                    Security::WebTls { .. } => 443,
                    _ => 80,
                });
                let address = match requested.original {
                    Some(original) => Some(original.ip()),
                    None => address_of(host),
                };
                match address {
                    // What a resolver's answer may not be, a caller may not ask for either, unless the file wrote it first.
                    Some(address)
                        if !may_be_dialled(address)
                            && !self.names(address)
                            && (captured || pattern.is_none_or(|pattern| pattern.exact().is_none())) =>
                    {
                        return None;
                    }
                    Some(address) => EndpointSource::Static(Arc::from([SocketAddr::new(address, port)])),
                    None => EndpointSource::Dns { host: Arc::from(host), port, of_template: true },
                }
            }
            other => other.clone(),
        };
        Some(Self {
            name: self.name.clone(),
            hosts: Vec::new(),
            addresses: Vec::new(),
            protocol: self.protocol,
            users: self.users.clone(),
            security,
            credential: self.credential.clone(),
            source,
            from: None,
            on_expiry: self.on_expiry,
            connect_timeout: self.connect_timeout,
            pool_idle: self.pool_idle,
            resilience: self.resilience.clone(),
            metrics: self.metrics.clone(),
            origin: self.origin.clone(),
        })
    }

    /// Our application, called with a caller's own address.
    pub fn called_from(&self, caller: IpAddr) -> Self {
        Self {
            name: self.name.clone(),
            hosts: Vec::new(),
            addresses: Vec::new(),
            users: self.users.clone(),
            protocol: self.protocol,
            security: Security::App,
            credential: None,
            source: self.source.clone(),
            from: Some(caller),
            on_expiry: self.on_expiry,
            connect_timeout: self.connect_timeout,
            pool_idle: self.pool_idle,
            resilience: self.resilience.clone(),
            metrics: self.metrics.clone(),
            origin: self.origin.clone(),
        }
    }

    /// Does the file write this very address as a destination?
    fn names(&self, address: IpAddr) -> bool {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        self.addresses.iter().any(|it| it.network.prefix() == whole && it.network.contains(address))
    }

    pub fn is_app(&self) -> bool {
        matches!(self.security, Security::App)
    }
}

/// The one name that a service is known by, if there is one.
fn fixed_name(service: &Service) -> Option<&str> {
    match (service.hosts.as_slice(), &service.endpoints) {
        ([host], _) if host.exact().is_some() => host.exact(),
        ([], Endpoints::Dns { host, .. }) => Some(host),
        _ => None,
    }
}

fn service_origin(service: &Service, timeouts: &Timeouts, web: Option<Arc<WebTls>>) -> Origin {
    let connect = service.connect_timeout.unwrap_or(timeouts.connect);
    // Where it is written, and where we listen for it, says nothing about the upstream.
    let service = Service { place: Place::command_line(), listen: None, ..service.clone() };
    Origin::Service(Box::new(service), connect, timeouts.pool_idle, web.map(SameWebTls))
}

fn app_origin(app: &AppAddress, timeouts: &Timeouts) -> Origin {
    Origin::App(app.clone(), timeouts.connect_app, timeouts.pool_idle_app)
}

impl From<&Endpoints> for EndpointSource {
    fn from(endpoints: &Endpoints) -> Self {
        match endpoints {
            Endpoints::Static(addresses) => Self::Static(Arc::from(addresses.as_slice())),
            Endpoints::Dns { host, port } => {
                Self::Dns { host: Arc::from(host.as_str()), port: *port, of_template: false }
            }
            Endpoints::Host { port } => Self::RequestedHost { port: *port },
        }
    }
}

type ByAddress = HashMap<SocketAddr, Option<usize>>;

/// What is written goes before the addresses of endpoints.
fn destinations(all: &[Arc<ServicePlan>]) -> (ByAddress, Vec<(Destination, usize)>) {
    let (mut by_address, mut by_network) = (HashMap::new(), Vec::new());
    for (index, service) in all.iter().enumerate() {
        let EndpointSource::Static(endpoints) = &service.source else { continue };
        for endpoint in endpoints.iter() {
            by_address.entry(*endpoint).and_modify(|known| *known = None).or_insert(Some(index));
        }
    }
    for (index, service) in all.iter().enumerate() {
        for destination in &service.addresses {
            match destination.exact() {
                Some(address) => {
                    by_address.insert(address, Some(index));
                }
                None => by_network.push((*destination, index)),
            }
        }
    }
    by_network.sort_by_key(|(destination, _)| std::cmp::Reverse(destination.specificity()));
    (by_address, by_network)
}

/// Which service a host means. Exact hosts by hash, patterns by specificity.
pub struct ServiceTable {
    all: Vec<Arc<ServicePlan>>,
    exact: Lookup<String, usize>,
    /// Most specific first.
    patterns: Vec<(HostPattern, usize)>,
    /// Destinations that are one address and port. `None`: endpoints of several services, which the host has to tell apart.
    by_address: ByAddress,
    /// All others, most specific first.
    by_network: Vec<(Destination, usize)>,
}

impl ServiceTable {
    pub fn compile(all: Vec<Arc<ServicePlan>>) -> Self {
        let mut exact = Lookup::default();
        let mut patterns = Vec::new();
        for (index, service) in all.iter().enumerate() {
            for host in &service.hosts {
                match host.exact() {
                    Some(name) => {
                        exact.insert(name.to_owned(), index);
                    }
                    None => patterns.push((host.clone(), index)),
                }
            }
        }
        patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.specificity()));
        let (by_address, by_network) = destinations(&all);
        Self { all, exact, patterns, by_address, by_network }
    }

    /// The service of a captured connection, by where it was meant to go.
    pub fn by_address(&self, original: SocketAddr) -> Option<&Arc<ServicePlan>> {
        let index = match self.by_address.get(&original) {
            Some(index) => *index,
            None => self.by_network.iter().find(|(it, _)| it.contains(original)).map(|(_, index)| *index),
        };
        index.map(|index| &self.all[index])
    }

    /// `host` is in lower case, without port and trailing dot.
    pub fn by_host(&self, host: &str) -> Option<&Arc<ServicePlan>> {
        let index = match self.exact.get(host) {
            Some(index) => Some(*index),
            None => self.patterns.iter().find(|(pattern, _)| pattern.matches(host).is_some()).map(|(_, index)| *index),
        };
        index.map(|index| &self.all[index])
    }

    pub fn by_name(&self, name: &str) -> Option<Arc<ServicePlan>> {
        self.all.iter().find(|service| &*service.name == name).cloned()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServicePlan>> {
        self.all.iter()
    }
}
