//! The immutable plan that one request sees whole: everything that configuration time can do once is done here.

mod compile_error;
mod descriptors;
mod digest;
mod inbound_plan;
pub mod labels;
mod ourselves;
mod port_rules;
mod token_plan;
mod upstreams;

use crate::authz::external::AuthorizerPlan;
use crate::authz::{Labels, Site, some_condition_asks_time, windows_of};
use crate::break_glass::InForce;
use crate::dns::DnsPlan;
use crate::lookup::Lookup;
use crate::session::Direction;
use crate::telemetry::{Metrics, PortMetrics};
use crate::tls::verifier::Strictness;
use crate::tls::web::WebRoots;
use crate::upstream::plan::{ServicePlan, ServiceTable};
use crate::upstream::web_clients::client_of;
use postern_config::authz::TimeWindow;
use postern_config::{
    AppAddress, CaptureMode, Config, Drift, Inbound, Limits, ListenAddress, SvidSelector, Timeouts, Transport,
};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;

pub use compile_error::CompileError;
use digest::digest;
pub use inbound_plan::InboundPlan;
use ourselves::OwnListeners;
pub use port_rules::{Judged, PortRules, RoutePlan};
pub use token_plan::TokenPlan;

/// Counts connections of peers that carry streams; no port can have this name.
pub const TUNNEL_NAME: &str = "(tunnel)";

/// Counts outbound traffic for which no service was found; no service can have this name.
pub const UNROUTED: &str = "(unknown)";

/// Where a connection came in, stable over reloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// A listening address.
    At(SocketAddr),
    /// A unix socket of ours.
    Socket(Arc<Path>),
    /// A port of the application: what was meant for it was captured, or is a stream of a tunnel.
    Port(u16),
}

impl Door {
    pub fn of(listen: &ListenAddress) -> Self {
        match listen {
            ListenAddress::Tcp(address) => Self::At(*address),
            ListenAddress::Unix(path) => Self::Socket(path.clone()),
        }
    }

    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Socket(path) => Some(path),
            Self::At(_) | Self::Port(_) => None,
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

/// What stands behind a door.
#[derive(Clone)]
pub enum DoorPlan {
    /// Peers → our application.
    Inbound(Arc<InboundPlan>),
    /// Peers → streams, each for the door of a port.
    Tunnel(Arc<TunnelPlan>),
    /// Our application → this service.
    Service(Arc<ServicePlan>),
    /// Our application → the service that the request names.
    Shared,
    /// Captured: peers → the door of the port that was meant.
    CapturedInbound,
    /// Captured: our application → the service that request, server name or destination names.
    CapturedOutbound,
}

/// The listener for connections that carry streams.
pub struct TunnelPlan {
    pub name: Arc<str>,
    pub svid: SvidSelector,
    pub metrics: Arc<PortMetrics>,
}

pub struct Policy {
    /// Rises by one with every publication.
    pub generation: u64,
    /// SHA-256 of the effective configuration, hex.
    pub digest: Arc<str>,
    doors: Lookup<Door, DoorPlan>,
    /// Doors of earlier configurations, of which the listener is closed: what came through them is decided by the port or
    /// service of the same name, which listens elsewhere now. An entry goes when its name does.
    moved: Lookup<Door, DoorPlan>,
    pub services: ServiceTable,
    authorizers: Vec<Arc<AuthorizerPlan>>,
    /// `None`: names are not captured.
    pub dns: Option<Arc<DnsPlan>>,
    pub timeouts: Arc<Timeouts>,
    pub limits: Arc<Limits>,
    pub strictness: Strictness,
    pub connections_max: usize,
    /// Some service is not for all local users.
    pub restricts_users: bool,
    /// Counts what no service was found for.
    pub unrouted: Arc<PortMetrics>,
    /// Captured inbound connections arrive with their destination unchanged.
    pub transparent: bool,
    /// Told apart by the packet filter, where we may set it.
    pub mark: Option<NonZeroU32>,
    /// What listens, to tell what would come back to us.
    own: OwnListeners,
    /// Those of all rules.
    /// Overrides what rules refuse.
    pub break_glass: InForce,
    windows: Vec<TimeWindow>,
    asks_time: bool,
    /// Of our own workload.
    pub labels: Arc<Labels>,
    pub drift: Drift,
}

/// What the application meant, as far as is known.
#[derive(Default)]
pub struct Destined {
    pub service: Option<Arc<ServicePlan>>,
    /// The name whose address it asked for, where that says more than the request does.
    pub host: Option<Arc<str>>,
}

impl Policy {
    /// As [`Policy::compile_labelled`], of a workload without labels.
    ///
    /// # Errors
    /// As there.
    pub fn compile(config: &Config, previous: Option<&Policy>, metrics: &Metrics) -> Result<Self, CompileError> {
        Self::compile_labelled(config, Labels::default(), previous, metrics)
    }

    /// Builds the whole plan; what did not change since `previous` keeps its connections' pools.
    ///
    /// # Errors
    /// What needs files of the system, and did not find them.
    pub fn compile_labelled(
        config: &Config,
        labels: Labels,
        previous: Option<&Policy>,
        metrics: &Metrics,
    ) -> Result<Self, CompileError> {
        let site = Site { labels: Arc::new(labels) };
        let mut doors = Lookup::default();
        let strictness = if config.identity.compat { Strictness::Compat } else { Strictness::Strict };
        let services = upstreams::services(config, previous, metrics)?;
        let authorizers = upstreams::authorizers(config, &services, previous, metrics);
        for inbound in &config.inbound {
            let plan = Arc::new(InboundPlan::compile(inbound, config, &site, &authorizers, previous, metrics));
            if config.tunnel.is_some() || config.capture.as_ref().is_some_and(|capture| capture.inbound.is_some()) {
                doors.insert(Door::Port(inbound.port), DoorPlan::Inbound(plan.clone()));
            }
            if let Some(address) = inbound.listen {
                doors.insert(Door::At(address), DoorPlan::Inbound(plan));
            }
        }
        if let Some(tunnel) = &config.tunnel {
            let metrics = metrics.inbound(TUNNEL_NAME);
            let plan = Arc::new(TunnelPlan { name: Arc::from(TUNNEL_NAME), svid: tunnel.svid.clone(), metrics });
            doors.extend(tunnel.listen.iter().map(|address| (Door::At(*address), DoorPlan::Tunnel(plan.clone()))));
        }
        for (plan, service) in services.iter().zip(&config.outbound.services) {
            if let Some(address) = &service.listen {
                doors.insert(Door::of(address), DoorPlan::Service(plan.clone()));
            }
        }
        for address in &config.outbound.listen {
            doors.insert(Door::of(address), DoorPlan::Shared);
        }
        if let Some(capture) = &config.capture {
            let inbound = capture.inbound.into_iter().flat_map(|port| [any(port), any_v6(port)]);
            doors.extend(inbound.map(|address| (Door::At(address), DoorPlan::CapturedInbound)));
            let outbound = capture.outbound.into_iter().flat_map(|port| {
                [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
            });
            doors.extend(outbound.map(|address| (Door::At(address), DoorPlan::CapturedOutbound)));
        }
        let dns = DnsPlan::compile(config, previous.and_then(|previous| previous.dns.as_deref()))?.map(Arc::new);
        let moved = previous.map_or_else(Lookup::default, |previous| moved(previous, &doors));
        Ok(Self {
            generation: previous.map_or(1, |previous| previous.generation + 1),
            digest: digest(config, &site.labels).into(),
            doors,
            moved,
            restricts_users: services.iter().any(|service| !service.users.is_all()),
            services: ServiceTable::compile(services),
            authorizers,
            dns,
            timeouts: Arc::new(config.timeouts.clone()),
            limits: Arc::new(config.limits.clone()),
            strictness,
            connections_max: config.limits.connections.unwrap_or_else(descriptors::connections_max),
            unrouted: metrics.outbound(UNROUTED),
            transparent: config.capture.as_ref().is_some_and(|capture| capture.mode == CaptureMode::Tproxy),
            mark: config.capture.as_ref().map(|capture| capture.redirect.mark),
            own: OwnListeners::of(config),
            break_glass: previous.map_or_else(InForce::default, |previous| previous.break_glass.clone()),
            windows: windows_of(config.inbound.iter().flat_map(Inbound::rule_sets)),
            asks_time: some_condition_asks_time(config.inbound.iter().flat_map(Inbound::rule_sets)),
            labels: site.labels,
            drift: config.drift,
        })
    }

    /// Seconds since 1970, where some rule asks for the time; else nobody looks.
    pub fn now(&self) -> i64 {
        match self.windows.is_empty() && !self.asks_time {
            true => 0,
            false => OffsetDateTime::now_utc().unix_timestamp(),
        }
    }

    /// Which of the rules' windows are open. When that changes, what lives has to be decided again.
    pub fn windows_open(&self, now: i64) -> Vec<bool> {
        self.windows.iter().map(|window| window.contains(now)).collect()
    }

    /// Do the files of Web PKI roots that `config` names, and the system's, hold what they held when this was compiled?
    /// One that cannot be read does not.
    pub fn roots_are_current(&self, config: &Config) -> bool {
        config.outbound.services.iter().all(|service| {
            let Transport::WebTls { roots, .. } = &service.transport else { return true };
            let plan = self.services.by_name(&service.name);
            let found = WebRoots::read(roots.as_deref());
            plan.as_deref().and_then(client_of).is_some_and(|client| found.is_ok_and(|found| client.trusts(&found)))
        })
    }

    /// Does /etc/resolv.conf, as far as `config` relies on it, say what it said when this was compiled?
    pub fn names_are_current(&self, config: &Config) -> bool {
        let dns = config.capture.as_ref().and_then(|capture| capture.dns.as_ref());
        self.dns.as_ref().zip(dns).is_none_or(|(plan, dns)| plan.is_current(dns))
    }

    pub fn door(&self, door: &Door) -> Option<&DoorPlan> {
        self.doors.get(door).or_else(|| self.moved.get(door))
    }

    /// A declared port on which connections of peers are captured. `None`: none are.
    pub fn captured_port(&self) -> Option<u16> {
        if !self.doors.values().any(|plan| matches!(plan, DoorPlan::CapturedInbound)) {
            return None;
        }
        let ports = self.doors.keys().filter_map(|door| if let Door::Port(port) = door { Some(*port) } else { None });
        ports.min()
    }

    /// Are connections of the application to come in at a port for captured ones?
    pub fn expects_outbound(&self) -> bool {
        self.doors.values().any(|plan| matches!(plan, DoorPlan::CapturedOutbound))
    }

    /// What a captured connection was meant for, as far as its destination says.
    pub fn destined(&self, original: SocketAddr) -> Destined {
        if self.dialled(original).is_none() {
            // Given out by `capture.dns`, so that the destination says which name was meant.
            let found = self.dns.as_ref().and_then(|dns| dns.addresses.service_of(original.ip()));
            let service = found.as_ref().and_then(|(service, _)| self.services.by_name(service));
            return Destined { service, host: found.map(|(_, host)| host) };
        }
        Destined { service: self.services.by_address(original).cloned(), host: None }
    }

    /// `original` itself, unless nothing real is there.
    pub fn dialled(&self, original: SocketAddr) -> Option<SocketAddr> {
        let is_virtual = self.dns.as_ref().is_some_and(|dns| dns.addresses.is_virtual(original.ip()));
        (!is_virtual).then_some(original)
    }

    /// The service of a request: by its host, else by what its connection was meant for.
    pub fn service_of_request(&self, host: &str, original: Option<SocketAddr>) -> Destined {
        match (self.services.by_host(host), original) {
            (Some(service), _) => Destined { service: Some(service.clone()), host: None },
            (None, Some(original)) => self.destined(original),
            (None, None) => Destined::default(),
        }
    }

    /// What to listen on, and what for.
    pub fn listening(&self) -> impl Iterator<Item = (&Door, &DoorPlan)> + '_ {
        self.doors.iter().filter(|(door, _)| !matches!(door, Door::Port(_)))
    }

    pub fn inbound(&self, door: &Door) -> Option<&Arc<InboundPlan>> {
        match self.door(door) {
            Some(DoorPlan::Inbound(plan)) => Some(plan),
            _ => None,
        }
    }

    pub fn tunnel(&self, door: &Door) -> Option<&Arc<TunnelPlan>> {
        match self.door(door) {
            Some(DoorPlan::Tunnel(plan)) => Some(plan),
            _ => None,
        }
    }
}

/// Where doors of `previous` that are not among `doors` lead now.
fn moved(previous: &Policy, doors: &Lookup<Door, DoorPlan>) -> Lookup<Door, DoorPlan> {
    let earlier = previous.doors.iter().chain(&previous.moved).filter(|(door, _)| !doors.contains_key(door));
    earlier
        .filter_map(|(door, before)| Some((door.clone(), doors.values().find(|now| now.continues(before))?.clone())))
        .collect()
}

impl DoorPlan {
    fn inbound_of(&self, name: &str) -> Option<&Arc<InboundPlan>> {
        match self {
            Self::Inbound(plan) if &*plan.name == name => Some(plan),
            _ => None,
        }
    }

    /// Is it what `before` was, though it may stand elsewhere?
    fn continues(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Inbound(now), Self::Inbound(before)) => now.name == before.name,
            (Self::Service(now), Self::Service(before)) => now.name == before.name,
            (Self::Shared, Self::Shared)
            | (Self::Tunnel(_), Self::Tunnel(_))
            | (Self::CapturedInbound, Self::CapturedInbound)
            | (Self::CapturedOutbound, Self::CapturedOutbound) => true,
            _ => false,
        }
    }

    pub fn direction(&self) -> Direction {
        match self {
            Self::Inbound(_) | Self::CapturedInbound | Self::Tunnel(_) => Direction::Inbound,
            Self::Service(_) | Self::Shared | Self::CapturedOutbound => Direction::Local,
        }
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

fn any_v6(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

/// The application's address, for messages.
pub fn app_text(app: &AppAddress) -> String {
    match app {
        AppAddress::Tcp(address) => address.to_string(),
        AppAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}
