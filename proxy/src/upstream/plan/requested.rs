//! What was asked for, and how much of it a service may go by.

use super::{Security, ServicePlan};
use postern_config::{SpiffeId, SpiffePattern};
use std::net::{IpAddr, SocketAddr};

/// What a connection or request asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requested<'a> {
    pub host: Option<&'a str>,
    pub port: Option<u16>,
    /// Where a captured connection was meant to go. That is dialled then, never an address out of `host` (THREATS NW-06).
    pub original: Option<SocketAddr>,
}

impl ServicePlan {
    /// `requested`, as far as it may decide where this service is.
    ///
    /// Where the other side proves who it is, the application may have meant any address: only who is expected gets a byte.
    /// Plaintext, and TLS that is merely passed on, prove nothing to us. If the destination counted there, one true name
    /// would open the way to every address; so it counts where the file names it, and elsewhere the name is looked up by us.
    pub fn narrowed<'a>(&self, requested: Requested<'a>) -> Requested<'a> {
        let Requested { host: Some(host), original: Some(original), .. } = requested else { return requested };
        let proves_itself = !matches!(self.security, Security::Plaintext);
        if proves_itself || self.addresses.iter().any(|destination| destination.contains(original)) {
            return requested;
        }
        // An address instead of a name says as little, unless the file wrote it.
        let is_named = |pattern: &postern_config::HostPattern| match address_of(host) {
            Some(_) => pattern.exact() == Some(host),
            None => pattern.matches(host).is_some(),
        };
        match self.hosts.iter().any(is_named) {
            true => Requested { port: Some(original.port()), original: None, ..requested },
            false => requested,
        }
    }

    /// Would this service accept an answer of `id` to what went by `host`?
    pub fn expects(&self, host: &str, id: &SpiffeId) -> bool {
        let Security::Mesh { expected, .. } = &self.security else { return false };
        // Found by its listener or by where it was meant to go, whatever host it named.
        let any_host = !self.is_template() || self.hosts.is_empty() || !self.addresses.is_empty();
        let captures = self.hosts.iter().find_map(|pattern| pattern.matches(host));
        let Some(captures) = captures.or_else(|| any_host.then(Vec::new)) else { return false };
        let expected: Option<Vec<SpiffePattern>> = expected.iter().map(|id| id.expand(&captures)).collect();
        expected.is_some_and(|expected| expected.iter().any(|pattern| pattern.matches(id)))
    }
}

/// A host that is an address: IPv6 stands in brackets.
pub(super) fn address_of(host: &str) -> Option<IpAddr> {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inside.unwrap_or(host).parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests;
