//! `capture.dns:` the application's name queries, answered here so that what it connects to afterwards says which service
//! it meant.

use super::raw::User;
use crate::network::Network;
use crate::pattern::HostPattern;
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Listener, Reader, Section};
use crate::upstream::Service;
use crate::values::{At, HostName, OneOrMany, Span, scalar_schema};
use crate::yaml::Node;
use schemars::JsonSchema;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How captured name queries are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Redirected queries arrive at this port, over UDP and TCP, of loopback of both families.
    pub listen: u16,
    /// Who is asked for everything else. Empty: the nameservers of `/etc/resolv.conf`.
    pub upstreams: Vec<SocketAddr>,
    /// The application's search list. `None`: that of `/etc/resolv.conf`.
    pub search: Option<Vec<String>>,
    /// Where virtual addresses come from: one network of a family at most, and one at least.
    pub virtual_networks: Vec<Network>,
    /// How long the application may keep our own answers.
    pub ttl: Duration,
    /// Nameservers on loopback to which queries are redirected too. `None`: those of `/etc/resolv.conf`.
    pub loopback_nameservers: Option<Vec<IpAddr>>,
    /// Who forwards queries for this host, by name or number. `None`: whoever holds those nameservers' sockets.
    pub resolver_users: Option<Vec<String>>,
    pub place: Place,
}

/// Reserved (RFC 1112 §4), so no destination that exists is hidden by it, and yet Linux routes it like any other unicast
/// address. Istio hands out 240.240.0.0/16; this holds it and is larger, because two hosts that want the same place in a
/// small network get it in the order of the file's names, which a new host changes.
const VIRTUAL_IPV4: &str = "240.240.0.0/12";
/// Unique local, with a random Global ID as RFC 4193 §3.2.2 asks for: unlikely to be anybody else's. `fd00::` itself is
/// what many people choose.
const VIRTUAL_IPV6: &str = "fd1c:ca81:406d::/64";

/// Short: the answers are cheap, and after a restart a host of a template has its address back when it is asked for again.
const TTL_DEFAULT: Duration = Duration::from_secs(30);
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(3600);

/// At least this many bits are left for addresses.
const HOST_BITS_MIN_IPV4: u8 = 8;
const HOST_BITS_MIN_IPV6: u8 = 32;

/// What means something else to every host, or to a cloud (THREATS NW-03): no virtual address may be of these.
const SPECIAL: [&str; 11] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "::/96",
    "fd00:ec2::/32",
    "fe80::/10",
    "ff00::/8",
];

impl Dns {
    /// The two networks that are used where the file names none.
    pub fn default_networks() -> Vec<Network> {
        [VIRTUAL_IPV4, VIRTUAL_IPV6].iter().filter_map(|text| Network::parse(text).ok()).collect()
    }
}

/// The application's name queries that the packet filter redirects to Postern. Names of declared services get addresses of
/// their own, so that connections to them say which service is meant; everything else is forwarded.
#[derive(JsonSchema)]
#[schemars(rename = "Dns", deny_unknown_fields, extend("required" = ["listen"]))]
pub(crate) struct RawDns {
    /// The port at which redirected queries arrive, over UDP and TCP; customarily 15053.
    #[schemars(range(min = 1, max = 65535))]
    listen: Field<u16>,
    /// Nameservers that are asked for everything else, in this order: an address, with a port unless that is 53.
    #[schemars(extend("x-default" = "the nameservers of `/etc/resolv.conf`"))]
    upstreams: Field<OneOrMany<At<Upstream>>>,
    /// The domains that the application's resolver appends to short names. A declared host with one of these behind it
    /// is answered with NXDOMAIN, so that the resolver goes on to the host itself.
    #[schemars(extend("x-default" = "the search list of `/etc/resolv.conf`"))]
    search: Field<OneOrMany<HostName>>,
    /// The networks that addresses of services come from: one of a family, or one alone. Connections to them have to be
    /// captured, and there has to be a route for them.
    #[schemars(extend("x-default" = "`240.240.0.0/12` and `fd1c:ca81:406d::/64`"))]
    virtual_networks: Field<OneOrMany<At<Network>>>,
    /// How long the application may keep an address of a service.
    #[schemars(extend("default" = "30s"))]
    ttl: Field<Span>,
    /// Nameservers on loopback, such as `127.0.0.53`, to which queries are redirected too; none: `[]`. Queries to other
    /// addresses of loopback are left alone.
    #[schemars(extend("x-default" = "those of `/etc/resolv.conf` when `postern redirect` runs"))]
    loopback_nameservers: Field<OneOrMany<At<Nameserver>>>,
    /// Users that run such a nameserver, by name or number. Their own queries to other hosts are not redirected: they
    /// would come back to the one who made them.
    #[schemars(extend("x-default" = "who holds the sockets of `loopback_nameservers` when `postern redirect` runs"))]
    resolver_users: Field<OneOrMany<User>>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawDns {
    const NAME: &'static str = "`dns`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            listen: keys.required("listen", "write `listen: 15053`"),
            upstreams: keys.optional("upstreams"),
            search: keys.optional("search"),
            virtual_networks: keys.optional("virtual_networks"),
            ttl: keys.optional("ttl"),
            loopback_nameservers: keys.optional("loopback_nameservers"),
            resolver_users: keys.optional("resolver_users"),
            place: keys.place(),
        }
    }
}

impl RawDns {
    pub fn check(self, reader: &mut Reader) -> Dns {
        let listen = self.listen.get().copied().unwrap_or_default();
        if let (true, Some(place)) = (self.listen.get().is_some(), self.listen.place()) {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listen));
            reader.listeners.push(Listener {
                address: address.into(),
                whose: "capture.dns".to_owned(),
                place: Some(place.clone()),
            });
        }
        let ttl_place = self.ttl.place().cloned();
        let ttl = self.ttl.into_option().map_or(TTL_DEFAULT, |ttl| ttl.0);
        if let (false, Some(place)) = ((TTL_MIN..=TTL_MAX).contains(&ttl), ttl_place) {
            reader.problem(&place, "`ttl` is shorter than a second or longer than an hour", "write `30s`");
        }
        let virtual_networks = networks(self.virtual_networks, reader);
        let upstreams_are_empty = self.upstreams.get().is_some_and(|upstreams| upstreams.0.is_empty());
        if let (true, Some(place)) = (upstreams_are_empty, self.upstreams.place()) {
            let hint = "write an address such as `10.96.0.10`, or leave `upstreams` out";
            reader.problem(place, "`upstreams` names nobody who could be asked", hint);
        }
        let upstreams = self.upstreams.or_default().0;
        for upstream in &upstreams {
            check_upstream(upstream, listen, &virtual_networks, reader);
        }
        let loopback_nameservers = self.loopback_nameservers.into_option().map(|written| {
            written.0.iter().for_each(|nameserver| check_loopback(nameserver, listen, reader));
            written.0.into_iter().map(|nameserver| nameserver.value.0).collect()
        });
        Dns {
            listen,
            upstreams: upstreams.into_iter().map(|upstream| upstream.value.0).collect(),
            search: self.search.into_option().map(|names| names.0.into_iter().map(|name| name.0).collect()),
            virtual_networks,
            ttl,
            loopback_nameservers,
            resolver_users: self
                .resolver_users
                .into_option()
                .map(|users| users.0.into_iter().map(|user| user.0).collect()),
            place: self.place,
        }
    }
}

fn check_upstream(upstream: &At<Upstream>, listen: u16, networks: &[Network], reader: &mut Reader) {
    let Upstream(address) = upstream.value;
    let hint = "write the address of a nameserver that answers by itself";
    if is_ourselves(address, listen) {
        reader.problem(&upstream.place, format!("the upstream `{address}` is `capture.dns` itself"), hint);
    } else if networks.iter().any(|network| network.contains(address.ip())) {
        reader.problem(&upstream.place, format!("the upstream `{address}` is in a virtual network"), hint);
    } else if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        reader.problem(&upstream.place, format!("the upstream `{address}` is no address to ask"), hint);
    }
}

/// What is captured elsewhere needs no listing, and what is there already cannot be redirected.
fn check_loopback(nameserver: &At<Nameserver>, listen: u16, reader: &mut Reader) {
    let Nameserver(ip) = nameserver.value;
    if !ip.is_loopback() {
        let what = format!("the nameserver `{ip}` is not on loopback: queries to it are redirected anyway");
        reader.problem(&nameserver.place, what, "remove it, or write an address such as `127.0.0.53`");
    } else if is_ourselves(SocketAddr::new(ip, DNS_PORT), listen) {
        let what = format!("the nameserver `{ip}` is `capture.dns` itself");
        reader.problem(&nameserver.place, what, "remove it: queries to it arrive here as they are");
    }
}

/// Would queries to `upstream` arrive at the listeners that a capture at `listen` has?
pub fn is_ourselves(upstream: SocketAddr, listen: u16) -> bool {
    let ip = upstream.ip().to_canonical();
    let ours = ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST;
    ours && upstream.port() == listen
}

fn networks(written: Field<OneOrMany<At<Network>>>, reader: &mut Reader) -> Vec<Network> {
    let place = written.place().cloned();
    let Some(OneOrMany(written)) = written.into_option() else { return Dns::default_networks() };
    if let (true, Some(place)) = (written.is_empty(), place) {
        let hint = "write one network of each family, or leave `virtual_networks` out";
        reader.problem(&place, "`virtual_networks` has no network", hint);
    }
    let mut taken: Vec<Network> = Vec::new();
    for At { value: network, place } in written {
        let (whole, least) = if network.is_ipv4() { (32, HOST_BITS_MIN_IPV4) } else { (128, HOST_BITS_MIN_IPV6) };
        let special = SPECIAL.iter().filter_map(|text| Network::parse(text).ok()).find(|one| one.overlaps(&network));
        if let Some(other) = taken.iter().find(|other| other.is_ipv4() == network.is_ipv4()) {
            let what = format!("`{network}` is a second network of its family, beside `{other}`");
            reader.problem(&place, what, "write one network of each family");
        } else if network.prefix() > whole - least {
            let what = format!("the virtual network `{network}` is too small: it leaves less than {least} bits");
            reader.problem(&place, what, format!("write a prefix of at most /{}", whole - least));
        } else if let Some(special) = special {
            let what = format!("the virtual network `{network}` overlaps `{special}`, which means something else");
            reader.problem(&place, what, "write a network that nobody uses, or leave `virtual_networks` out");
        } else {
            taken.push(network);
        }
    }
    taken
}

/// What the names and addresses of services need, beside each other (called when the whole file has been read).
pub(crate) fn check_hosts(dns: &Dns, services: &[Service], reader: &mut Reader) {
    let names = || services.iter().flat_map(|service| &service.hosts).filter_map(HostPattern::exact);
    let hosts = names().filter(|host| is_a_name(host)).count() as u128;
    for network in &dns.virtual_networks {
        // Above half, places are found by chance no longer, and a new host moves others.
        if hosts > network.size() / 2 {
            let what = format!("the virtual network `{network}` is too small for {hosts} hosts");
            reader.problem(&dns.place, what, "write a network that is at least twice as large");
        }
    }
    for service in services {
        let taken = |network: &Network| dns.virtual_networks.iter().any(|one| one.overlaps(network));
        if let Some(address) = service.addresses.iter().find(|address| taken(&address.network)) {
            let what = format!("service `{}` has the address {address} in a virtual network", service.name);
            reader.problem(&service.place, what, "remove it: each host of a service has a virtual address already");
        }
        let crate::upstream::Endpoints::Static(endpoints) = &service.endpoints else { continue };
        let hidden = endpoints.iter().find(|one| dns.virtual_networks.iter().any(|network| network.contains(one.ip())));
        if let Some(endpoint) = hidden {
            let what = format!("service `{}` has the endpoint {endpoint} in a virtual network", service.name);
            reader.problem(&service.place, what, "write other `virtual_networks`: those must not hold real addresses");
        }
    }
}

/// Hosts may also be addresses, for which nobody asks a nameserver.
pub fn is_a_name(host: &str) -> bool {
    !host.starts_with('[') && host.parse::<IpAddr>().is_err()
}

/// Port 53 unless another one is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upstream(SocketAddr);

const DNS_PORT: u16 = 53;

impl FromNode for Upstream {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a nameserver's address")?;
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse());
        if address.is_err() {
            let hint = "write an address such as `10.96.0.10`, `[fd00::a]:53` or `127.0.0.53`";
            reader.wrong(node, "is not a nameserver's address", hint);
        }
        address.ok().map(Self)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address of a nameserver, whose port is 53.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nameserver(IpAddr);

impl FromNode for Nameserver {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let address = reader.scalar(node, "a nameserver's address")?.parse::<IpAddr>();
        if address.is_err() {
            reader.wrong(node, "is not an address", "write one such as `127.0.0.53`; its port is 53");
        }
        address.ok().map(|ip| Self(ip.to_canonical()))
    }
}

scalar_schema!(Nameserver, "nameserver", { "type": "string", "title": "IP" });
scalar_schema!(Upstream, "nameserver", { "type": "string", "title": "IP or IP:port" });

#[cfg(test)]
mod tests;
