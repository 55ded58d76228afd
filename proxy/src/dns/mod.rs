//! Name capture: the application's DNS queries arrive here, names of declared services get addresses of their own, and
//! everything else is asked upstream.
//!
//! Pure: `wire` and `answer` (messages as bytes), `names` (what a name means), `cache`, `resolv_conf`, `decide` (what comes
//! of a query). With sockets: `forward` (upstream), `server` (the application's side). `virtual_addresses` is what the data
//! path asks, for each connection, which service was meant.

pub mod answer;
pub mod cache;
pub mod decide;
pub mod forward;
pub mod names;
pub mod resolv_conf;
pub mod server;
pub mod virtual_addresses;
pub mod wire;

use forward::Forwarder;
use names::Names;
use postern_config::capture::dns::is_ourselves;
use postern_config::{Config, Dns};
use resolv_conf::ResolvConf;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use virtual_addresses::VirtualAddresses;

/// `capture.dns`, ready to answer.
pub struct DnsPlan {
    pub names: Arc<Names>,
    pub addresses: Arc<VirtualAddresses>,
    pub ttl: Duration,
    pub forwarder: Arc<Forwarder>,
}

/// Why name capture cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("{path} cannot be read, and `capture.dns` names no upstreams or search list of its own")]
    ResolvConf {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the nameserver {0} of /etc/resolv.conf is `capture.dns` itself: name `upstreams`")]
    AsksItself(SocketAddr),
    #[error("the nameserver {0} of /etc/resolv.conf is in a virtual network: name other `virtual_networks`")]
    VirtualNameserver(SocketAddr),
}

impl DnsPlan {
    /// `None`: names are not captured. What did not change since `previous` stays: addresses, and what is cached.
    ///
    /// # Errors
    /// `/etc/resolv.conf` is needed and cannot be used.
    pub fn compile(config: &Config, previous: Option<&Self>) -> Result<Option<Self>, DnsError> {
        let Some((capture, dns)) = config.capture.as_ref().and_then(|capture| Some((capture, capture.dns.as_ref()?)))
        else {
            return Ok(None);
        };
        let (upstreams, search) = surroundings(dns, Path::new(resolv_conf::PATH))?;
        let names = Arc::new(Names::compile(&config.outbound.services, search));
        let addresses = previous.map(|previous| &*previous.addresses);
        let addresses = Arc::new(VirtualAddresses::compile(&dns.virtual_networks, names.clone(), addresses));
        let mark: NonZeroU32 = capture.redirect.mark;
        let forwarder = previous
            .map(|previous| previous.forwarder.clone())
            .filter(|before| before.asks(&upstreams, mark))
            .unwrap_or_else(|| Arc::new(Forwarder::new(upstreams, mark)));
        Ok(Some(Self { names, addresses, ttl: dns.ttl, forwarder }))
    }

    /// Does the system say of nameservers and search domains what it said when this was compiled from the same `dns`?
    pub fn is_current(&self, dns: &Dns) -> bool {
        self.is_current_at(dns, Path::new(resolv_conf::PATH))
    }

    fn is_current_at(&self, dns: &Dns, path: &Path) -> bool {
        let found = surroundings(dns, path);
        found.is_ok_and(|(upstreams, search)| self.forwarder.upstreams() == upstreams && self.names.search() == search)
    }
}

/// Upstreams and search list: of the file, and what it leaves out of the system's.
fn surroundings(dns: &Dns, path: &Path) -> Result<(Vec<SocketAddr>, Vec<String>), DnsError> {
    if let (false, Some(search)) = (dns.upstreams.is_empty(), &dns.search) {
        return Ok((dns.upstreams.clone(), search.clone()));
    }
    let text = std::fs::read_to_string(path);
    let system = match text {
        Ok(text) => ResolvConf::read(&text),
        // Without the file a resolver has no search list, and who is asked is written.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !dns.upstreams.is_empty() => {
            ResolvConf::default()
        }
        Err(source) => return Err(DnsError::ResolvConf { path: resolv_conf::PATH, source }),
    };
    let search = dns.search.clone().unwrap_or(system.search);
    if !dns.upstreams.is_empty() {
        return Ok((dns.upstreams.clone(), search));
    }
    for nameserver in &system.nameservers {
        if is_ourselves(*nameserver, dns.listen) {
            return Err(DnsError::AsksItself(*nameserver));
        }
        if dns.virtual_networks.iter().any(|network| network.contains(nameserver.ip())) {
            return Err(DnsError::VirtualNameserver(*nameserver));
        }
    }
    Ok((system.nameservers, search))
}

#[cfg(test)]
mod tests;
