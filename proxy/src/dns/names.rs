//! What a name that is asked for means: a declared service, an expansion of one, or nothing of ours. Pure.
//!
//! Resolvers ask for a short name with each domain of their search list behind it, and for the name itself before or after
//! these, as `ndots` says. Which of them the application wrote cannot be seen. So:
//!
//! - A declared host is answered whenever it is asked for.
//! - A declared host with a search domain behind it does not exist (NXDOMAIN). Then glibc and musl alike go on to the next
//!   candidate, and come to the host itself. Anything else would hide the host: an address, of course; an empty answer ends
//!   musl's search; and a server's failure ends it with an error.
//! - A host that only a pattern declares is answered if it exists: with `*.{ns}.svc.cluster.local` declared, the search
//!   for `example.com` passes by `example.com.svc.cluster.local`, which must go on not to exist.

use postern_config::capture::dns::is_a_name;
use postern_config::{Endpoints, HostPattern, Service};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A host that the file writes out.
    Declared(Named),
    /// A host of a pattern.
    OfPattern(Named, Existence),
    /// A declared host with a search domain behind it.
    Expansion,
    /// None of ours.
    Other,
}

/// Which service, by which of its hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    pub service: Arc<str>,
    pub host: Arc<str>,
}

/// What tells that a pattern's host is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// The upstream nameservers have an address for it.
    Upstream,
    /// The service has endpoints of its own, and no search could have made the name up.
    ByItself,
}

#[derive(Debug, Default)]
pub struct Names {
    exact: HashMap<Arc<str>, Arc<str>>,
    /// Most specific first.
    patterns: Vec<Pattern>,
    search: Vec<String>,
}

#[derive(Debug)]
struct Pattern {
    pattern: HostPattern,
    service: Arc<str>,
    has_endpoints: bool,
}

impl Names {
    pub fn search(&self) -> &[String] {
        &self.search
    }

    /// `search`: the domains that the application's resolver appends.
    pub fn compile(services: &[Service], search: Vec<String>) -> Self {
        let mut names = Self { search, ..Self::default() };
        for service in services {
            let name: Arc<str> = Arc::from(service.name.as_str());
            for host in &service.hosts {
                match host.exact() {
                    Some(host) if is_a_name(host) => {
                        names.exact.insert(Arc::from(host), name.clone());
                    }
                    Some(_) => {}
                    None => names.patterns.push(Pattern {
                        pattern: host.clone(),
                        service: name.clone(),
                        has_endpoints: !matches!(service.endpoints, Endpoints::Host { .. }),
                    }),
                }
            }
        }
        names.patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.pattern.specificity()));
        names
    }

    /// `host` is in lower case, without a final dot.
    pub fn meaning(&self, host: &str) -> Meaning {
        if let Some((host, service)) = self.exact.get_key_value(host) {
            return Meaning::Declared(Named { service: service.clone(), host: host.clone() });
        }
        let pattern = self.pattern(host);
        match (self.expanded(host), pattern) {
            // Declared in both readings. The one that names the service itself wins, and either reading gets an answer.
            (Some(named), Some(_)) => Meaning::Declared(named),
            (Some(_), None) => Meaning::Expansion,
            (None, Some(pattern)) => {
                let could_be_made_up = self.search.iter().any(|domain| without_domain(host, domain).is_some());
                let existence = match pattern.has_endpoints && !could_be_made_up {
                    true => Existence::ByItself,
                    false => Existence::Upstream,
                };
                Meaning::OfPattern(Named { service: pattern.service.clone(), host: Arc::from(host) }, existence)
            }
            (None, None) => Meaning::Other,
        }
    }

    /// The service that `host` belongs to by a pattern, and not by being written out.
    pub fn service_by_pattern(&self, host: &str) -> Option<&Arc<str>> {
        let is_exact = self.exact.contains_key(host);
        self.pattern(host).filter(|_| !is_exact).map(|pattern| &pattern.service)
    }

    /// Hosts that the file writes out, and their services.
    pub fn exact(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.exact.iter()
    }

    fn pattern(&self, host: &str) -> Option<&Pattern> {
        self.patterns.iter().find(|pattern| pattern.pattern.matches(host).is_some())
    }

    /// The declared host of which `host` is an expansion.
    fn expanded(&self, host: &str) -> Option<Named> {
        let shorter = self.search.iter().filter_map(|domain| without_domain(host, domain));
        let (host, service) = shorter.filter_map(|shorter| self.exact.get_key_value(shorter)).next()?;
        Some(Named { service: service.clone(), host: host.clone() })
    }
}

fn without_domain<'h>(host: &'h str, domain: &str) -> Option<&'h str> {
    host.strip_suffix(domain)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}

/// The address whose name is asked for (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reversed_address(host: &str) -> Option<IpAddr> {
    if let Some(octets) = host.strip_suffix(".in-addr.arpa") {
        let mut octets: Vec<&str> = octets.split('.').collect();
        octets.reverse();
        return octets.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = host.strip_suffix(".ip6.arpa")?.split('.').collect();
    if nibbles.len() != 32 {
        return None;
    }
    let mut bits = 0_u128;
    for nibble in nibbles.iter().rev() {
        let [digit] = nibble.as_bytes() else { return None };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
    }
    Some(IpAddr::V6(Ipv6Addr::from(bits)))
}

#[cfg(test)]
mod tests;
