//! What is to be captured, resolved and checked: the rules' texts are made of this alone.

use super::names::{Names, WantedNames};
use super::proc::Socket;
use postern_config::capture::{Dns, Ports, Redirect};
use postern_config::{AppAddress, Capture, CaptureMode, Config, ListenAddress, Network, Telemetry};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

/// Istio's numbers (PEERS D3), where neither file nor flags say anything.
pub const INBOUND_DEFAULT: u16 = 15006;
pub const OUTBOUND_DEFAULT: u16 = 15001;
/// The port of name servers.
pub const DNS: u16 = 53;
/// Of [`probe_address`]. No service has it: captured, it would lead to us again.
const PROBE_PORT: u16 = 20560;
/// `IFNAMSIZ` less its end (Linux, `net/if.h`).
const INTERFACE_BYTES_MAX: usize = 15;

/// Everything the rules depend on: numbers and checked names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectPlan {
    pub inbound: Option<u16>,
    pub outbound: Option<u16>,
    /// `None`: name queries go their own way, and egress lets them out.
    pub names: Option<Names>,
    pub mode: CaptureMode,
    pub families: Families,
    pub exempt_uids: Vec<u32>,
    /// Ports that Postern itself listens on: never captured.
    pub own_ports: Vec<u16>,
    pub inbound_ports: Ports,
    /// Ports of this host that are left alone: our own, and those excluded.
    pub inbound_left_alone: Vec<u16>,
    pub outbound_ports: Ports,
    pub outbound_left_alone: Vec<u16>,
    pub only_networks: Vec<Network>,
    pub excluded_networks: Vec<Network>,
    pub excluded_interfaces: Vec<Interface>,
    /// Addresses of the application that are this host's and not loopback: our connections to them are no calls of
    /// ourselves through the mesh.
    pub application: Vec<SocketAddr>,
    /// On our own packets, and on connections (`ct mark`) that are ours with the network.
    pub mark: NonZeroU32,
    pub closed_egress: bool,
    /// Packets that fit no connection are dropped: they would pass untranslated, and the kernel would answer them with a
    /// reset of a connection that lives (istio#36566).
    pub drop_invalid: bool,
}

/// A family of addresses. The packet filter keeps them apart, and so does every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    V4,
    V6,
    Both,
}

impl Families {
    pub fn list(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Both => &[Family::V4, Family::V6],
        }
    }
}

impl Family {
    pub fn of(network: &Network) -> Self {
        if network.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An interface's name that needs no quoting anywhere and has no meaning to either packet filter but itself: `*` and `+`
/// at the end would be patterns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface(String);

impl Interface {
    /// # Errors
    /// What the kernel would not take as a name, or a packet filter would read as more than a name.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
        let fits = (1..=INTERFACE_BYTES_MAX).contains(&text.len()) && !text.starts_with('-');
        if fits && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PlanError::Interface(text.to_owned()))
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there are no rules for what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("`{0:?}` is no interface; write a name such as eth0, as `ip link` shows it")]
    Interface(String),
    #[error(
        "there is no user {0} in /etc/passwd here; write the number that Postern runs as, such as --exempt-user 1337"
    )]
    UnknownUser(String),
    #[error(
        "nobody is exempt, so Postern's own connections would be captured; name the user that it runs as: \
         --exempt-user, or `capture.redirect.exempt_users`"
    )]
    NobodyExempt,
    #[error("neither direction is captured; give --inbound-port, --outbound-port or both")]
    NothingCaptured,
    #[error("port {0} is of both directions; connections of the application could not be told from those of peers")]
    SamePort(u16),
    #[error("port {0} is listed in `inbound_ports`, and Postern itself listens there; remove it from the list")]
    OwnPort(u16),
}

/// What the file and the flags say together.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub capture: Capture,
    pub names: Option<WantedNames>,
    /// Besides those of `capture`.
    pub own_ports: Vec<u16>,
    pub application: Vec<SocketAddr>,
}

impl Wanted {
    /// What a file says; `None` if it captures nothing.
    pub fn of_file(config: &Config) -> Option<Self> {
        let mut own_ports = Vec::new();
        let mut own = |address: Option<SocketAddr>| own_ports.extend(address.map(|address| address.port()));
        config.inbound.iter().for_each(|inbound| own(inbound.listen));
        config.outbound.listen.iter().for_each(|address| own(address.tcp()));
        config.outbound.services.iter().for_each(|service| own(service.listen.as_ref().and_then(ListenAddress::tcp)));
        config.tunnel.iter().flat_map(|tunnel| &tunnel.listen).for_each(|address| own(Some(*address)));
        own(config.telemetry.metrics);
        own(config.telemetry.readiness);
        own(config.admin.listen);
        let application = config.inbound.iter().filter_map(|inbound| match &inbound.app {
            AppAddress::Tcp(address) => Some(*address),
            AppAddress::Unix(_) => None,
        });
        let capture = config.capture.clone()?;
        let names = capture.dns.as_ref().map(|dns| WantedNames {
            port: dns.listen,
            loopback_nameservers: dns.loopback_nameservers.clone(),
            resolver_users: dns.resolver_users.clone(),
        });
        Some(Self { capture, names, application: application.collect(), own_ports })
    }

    /// Both directions at the customary ports, for a Postern whose file is not at hand.
    pub fn without_a_file() -> Self {
        let telemetry = Telemetry::default();
        let own_ports = [telemetry.metrics, telemetry.readiness].into_iter().flatten().map(|address| address.port());
        Self {
            capture: Capture {
                inbound: Some(INBOUND_DEFAULT),
                outbound: Some(OUTBOUND_DEFAULT),
                mode: CaptureMode::default(),
                redirect: Redirect::default(),
                dns: None,
            },
            names: None,
            own_ports: own_ports.collect(),
            application: Vec::new(),
        }
    }
}

/// What a plan depends on besides what is wanted.
#[derive(Clone, Copy, Debug)]
pub struct HostFacts<'a> {
    /// The text of /etc/passwd.
    pub passwd: &'a str,
    /// The text of /etc/resolv.conf.
    pub resolv_conf: &'a str,
    /// UDP sockets at which somebody may answer name queries.
    pub nameservers: &'a [Socket],
    /// Of the process that makes the plan.
    pub uid: u32,
    pub families: Families,
    /// `net.netfilter.nf_conntrack_tcp_be_liberal`: what is out of a connection's window is no reason to call it invalid.
    pub tcp_be_liberal: bool,
}

impl RedirectPlan {
    /// # Errors
    /// One variant a rule.
    pub fn new(wanted: &Wanted, facts: HostFacts<'_>) -> Result<Self, PlanError> {
        let Capture { inbound, outbound, mode, redirect, dns } = &wanted.capture;
        match (inbound, outbound) {
            (None, None) => return Err(PlanError::NothingCaptured),
            (Some(inbound), Some(outbound)) if inbound == outbound => return Err(PlanError::SamePort(*inbound)),
            _ => {}
        }
        let exempt_uids = exempt_uids(&redirect.exempt_users, facts)?;
        if exempt_uids.is_empty() && (outbound.is_some() || wanted.names.is_some() || redirect.closed_egress) {
            return Err(PlanError::NobodyExempt);
        }
        let names = wanted.names.as_ref().map(|names| Names::new(names, &exempt_uids, facts)).transpose()?;
        let names_at = names.as_ref().map(|names| names.port);
        let own_ports = ordered(wanted.own_ports.iter().chain(inbound).chain(outbound).chain(&names_at).copied());
        if let Ports::Only(ports) = &redirect.inbound_ports
            && let Some(port) = ports.iter().find(|port| own_ports.contains(port))
        {
            return Err(PlanError::OwnPort(*port));
        }
        let interfaces = redirect.exclude_interfaces.iter().map(|name| Interface::parse(name));
        Ok(Self {
            inbound: *inbound,
            outbound: *outbound,
            names,
            mode: *mode,
            families: facts.families,
            exempt_uids,
            inbound_ports: in_order(&redirect.inbound_ports),
            inbound_left_alone: ordered(own_ports.iter().chain(&redirect.exclude_inbound_ports).copied()),
            own_ports,
            outbound_ports: in_order(&redirect.outbound_ports),
            outbound_left_alone: outbound_left_alone(redirect),
            only_networks: only_networks(redirect, dns.as_ref()),
            excluded_networks: widest(&redirect.exclude_networks),
            excluded_interfaces: ordered(interfaces.collect::<Result<Vec<_>, _>>()?),
            application: ordered(wanted.application.iter().copied().filter(|address| !address.ip().is_loopback())),
            mark: redirect.mark,
            closed_egress: redirect.closed_egress,
            drop_invalid: !facts.tcp_be_liberal,
        })
    }

    /// The mark of packets that are delivered here whatever their destination: those taken by TPROXY, and answers to
    /// connections that were opened with a caller's address. Not [`Self::mark`]: our own packets have to leave.
    pub fn divert_mark(&self) -> NonZeroU32 {
        self.mark.checked_add(1).unwrap_or(NonZeroU32::MIN)
    }

    pub fn diverts(&self) -> bool {
        self.mode == CaptureMode::Tproxy && self.inbound.is_some()
    }

    /// Ports that closed egress lets connections out to.
    pub fn open_ports(&self) -> Vec<u16> {
        let names = self.names.is_none().then_some(DNS);
        let excluded = self.outbound_left_alone.iter().copied().filter(|port| *port != DNS);
        ordered(excluded.chain(names))
    }

    pub fn networks_of(networks: &[Network], family: Family) -> Vec<Network> {
        networks.iter().filter(|network| Family::of(network) == family).copied().collect()
    }

    /// Whether connections of other hosts to `port` of this one are captured.
    pub fn captures_inbound(&self, port: u16) -> bool {
        self.inbound.is_some() && holds(&self.inbound_ports, port) && !self.inbound_left_alone.contains(&port)
    }

    pub fn captures_outbound(&self, to: SocketAddr) -> bool {
        let among = |networks: &[Network]| networks.iter().any(|network| network.contains(to.ip()));
        self.outbound.is_some()
            && holds(&self.outbound_ports, to.port())
            && !self.outbound_left_alone.contains(&to.port())
            && (self.only_networks.is_empty() || among(&self.only_networks))
            && !among(&self.excluded_networks)
    }
}

fn holds(ports: &Ports, port: u16) -> bool {
    match ports {
        Ports::All => true,
        Ports::Only(ports) => ports.contains(&port),
    }
}

/// Nobody named: whoever runs this, unless that is root, whose exemption would be everybody's.
fn exempt_uids(users: &[String], facts: HostFacts<'_>) -> Result<Vec<u32>, PlanError> {
    if users.is_empty() {
        return Ok(if facts.uid == 0 { Vec::new() } else { vec![facts.uid] });
    }
    let uids = users.iter().map(|user| exempt_uid(user, facts.passwd));
    Ok(ordered(uids.collect::<Result<Vec<_>, _>>()?))
}

/// By name or number.
pub(super) fn exempt_uid(user: &str, passwd: &str) -> Result<u32, PlanError> {
    match user.parse() {
        Ok(uid) => Ok(uid),
        Err(_) => uid_of(user, passwd).ok_or_else(|| PlanError::UnknownUser(user.to_owned())),
    }
}

/// Name queries over TCP are those that were too long for UDP: taken for connections to a service, they would be refused,
/// and long answers lost. Who wants them there lists port 53 in `outbound_ports`.
fn outbound_left_alone(redirect: &Redirect) -> Vec<u16> {
    let names = (redirect.outbound_ports == Ports::All).then_some(DNS);
    ordered(redirect.exclude_outbound_ports.iter().copied().chain(names))
}

/// What our answers to name queries lead to has to come here as well. A file has to say so; flags may not know of it.
fn only_networks(redirect: &Redirect, dns: Option<&Dns>) -> Vec<Network> {
    let mut networks = redirect.only_networks.clone();
    if let (false, Some(dns)) = (networks.is_empty(), dns) {
        networks.extend(&dns.virtual_networks);
    }
    widest(&networks)
}

/// `name:password:uid:…`, passwd(5).
fn uid_of(name: &str, passwd: &str) -> Option<u32> {
    let mut lines = passwd.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten())
}

pub(super) fn ordered<T: Ord>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    values.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn in_order(ports: &Ports) -> Ports {
    match ports {
        Ports::All => Ports::All,
        Ports::Only(ports) => Ports::Only(ordered(ports.iter().copied())),
    }
}

/// Without those that lie in another: nftables takes no set whose elements overlap.
fn widest(networks: &[Network]) -> Vec<Network> {
    let mut kept: Vec<Network> = Vec::new();
    let mut by_width: Vec<Network> = networks.to_vec();
    by_width.sort_by_key(|network| (network.prefix(), network.address()));
    for network in by_width {
        if !kept.iter().any(|wider| wider.contains(network.address())) {
            kept.push(network);
        }
    }
    kept.sort_by_key(|network| (network.address(), network.prefix()));
    kept
}

/// What is captured for everybody, whoever is exempt: Postern calls it to see that its rules are in force, and no host has it
/// (RFC 5737 §3, RFC 3849 §2).
pub fn probe_address(family: Family) -> SocketAddr {
    let ip = match family {
        Family::V4 => IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)),
        Family::V6 => IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    };
    SocketAddr::new(ip, PROBE_PORT)
}

/// Loopback of a family.
pub fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    }
}

#[cfg(test)]
pub(crate) mod tests;
