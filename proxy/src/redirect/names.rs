//! Whose name queries are captured: those to nameservers on loopback too, but not those by which such a nameserver asks
//! others. Those would come to us, from us to it, and so on. Pure: what the system says is an argument.

use super::plan::{DNS, Family, HostFacts, PlanError, exempt_uid, ordered};
use super::proc::Socket;
use crate::dns::resolv_conf::ResolvConf;
use postern_config::capture::dns::is_ourselves;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What file and flags say of name queries.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WantedNames {
    /// Where they are to arrive.
    pub port: u16,
    /// `None`: those of /etc/resolv.conf.
    pub loopback_nameservers: Option<Vec<IpAddr>>,
    /// `None`: who holds the sockets of these.
    pub resolver_users: Option<Vec<String>>,
}

/// Which name queries arrive where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Over UDP and TCP.
    pub port: u16,
    /// Nameservers on loopback to which queries are captured; what is left of loopback is left alone.
    pub loopback: Vec<IpAddr>,
    /// The users of these nameservers. Their queries to other hosts are left alone.
    pub resolvers: Vec<u32>,
}

impl Names {
    pub(super) fn new(wanted: &WantedNames, exempt_uids: &[u32], facts: HostFacts<'_>) -> Result<Self, PlanError> {
        let loopback = match &wanted.loopback_nameservers {
            Some(written) => written.clone(),
            None => of_system(facts.resolv_conf),
        };
        // What is ours arrives as it is.
        let loopback = loopback.into_iter().filter(|ip| !is_ourselves(SocketAddr::new(*ip, DNS), wanted.port));
        let loopback = ordered(loopback);
        let resolvers = match &wanted.resolver_users {
            Some(users) => users.iter().map(|user| exempt_uid(user, facts.passwd)).collect::<Result<Vec<_>, _>>()?,
            None => loopback.iter().flat_map(|ip| holders(*ip, facts.nameservers)).collect(),
        };
        let resolvers = ordered(resolvers.into_iter().filter(|uid| !exempt_uids.contains(uid)));
        Ok(Self { port: wanted.port, loopback, resolvers })
    }

    /// Users whose queries to the nameservers of loopback are left alone: one nameserver may ask another. Not root, as who
    /// Docker's nameserver runs, but applications in containers as well.
    pub fn asking_each_other(&self) -> Vec<u32> {
        self.resolvers.iter().copied().filter(|uid| *uid != 0).collect()
    }

    pub fn of_family(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        self.loopback.iter().copied().filter(move |ip| ip.is_ipv4() == (family == Family::V4))
    }
}

/// The nameservers on loopback of resolv.conf(5).
pub fn of_system(resolv_conf: &str) -> Vec<IpAddr> {
    let found = ResolvConf::read(resolv_conf).nameservers.into_iter();
    found.map(|nameserver| nameserver.ip().to_canonical()).filter(IpAddr::is_loopback).collect()
}

/// The users who answer what is asked of `ip`: of the socket of its port, or, as Docker rewrites that port to another one,
/// of any that is bound to that very address. Addresses that everybody binds say nothing about who that is.
pub fn holders(ip: IpAddr, sockets: &[Socket]) -> Vec<u32> {
    let of = |chosen: &dyn Fn(&&Socket) -> bool| ordered(sockets.iter().filter(chosen).map(|socket| socket.uid));
    let at_its_port = of(&|socket| socket.takes(SocketAddr::new(ip, DNS)));
    let common = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if !at_its_port.is_empty() || common.contains(&ip) {
        return at_its_port;
    }
    of(&|socket| socket.address.ip() == ip)
}

#[cfg(test)]
mod tests;
