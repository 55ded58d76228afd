//! Names into addresses, on the control plane. Workers read the last good answer and never wait for a resolver, but for
//! the first answer of a name.

use super::reserved::{is_metadata, may_be_dialled};
use arc_swap::{ArcSwap, ArcSwapOption};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Answers are asked for again after their TTL, within these bounds.
const REFRESH_MIN: Duration = Duration::from_secs(1);
const REFRESH_MAX: Duration = Duration::from_secs(30);
/// After a failure; the last good answer stays in use.
const RETRY: Duration = Duration::from_secs(2);
/// For so long the last good answer outlives the resolver (THREATS F-20): addresses are given to others in the end, and
/// where nobody has to prove who he is we would not notice.
const STALE_MAX: Duration = Duration::from_secs(3600);
/// Names of templates come from requests; this many at most are kept.
const NAMES_MAX: usize = 4096;

/// Where an upstream's addresses come from.
#[derive(Clone, Debug)]
pub enum EndpointSource {
    Static(Arc<[SocketAddr]>),
    /// `of_template`: the name came out of a request, so answers that point at ourselves or at a metadata service are
    /// not used (THREATS NW-03, NW-07).
    Dns {
        host: Arc<str>,
        port: u16,
        of_template: bool,
    },
    /// The host that the request names, at this port or the one it names.
    RequestedHost {
        port: Option<u16>,
    },
    Unix(PathBuf),
}

/// The current addresses of one name and port.
pub struct EndpointSet {
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Rises with every change; 0: no answer yet.
    generation: AtomicU64,
    answered: watch::Sender<bool>,
}

impl EndpointSet {
    fn unresolved() -> Self {
        Self {
            addresses: ArcSwap::from_pointee(Vec::new()),
            generation: AtomicU64::new(0),
            answered: watch::Sender::new(false),
        }
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    /// Waits for the first answer, good or bad.
    pub async fn first_answer(&self, at_most: Duration) {
        let mut answered = self.answered.subscribe();
        // A time-out is for the caller to see: there are no addresses then.
        let _ = tokio::time::timeout(at_most, answered.wait_for(|answered| *answered)).await;
    }

    fn update(&self, mut addresses: Vec<SocketAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        if **self.addresses.load() != addresses {
            self.addresses.store(Arc::new(addresses));
            self.generation.fetch_add(1, Relaxed);
        }
        self.answered.send_replace(true);
    }
}

/// Host, port, and whether it is of a template: then answers are filtered, so the two may not share a set.
type Name = (Arc<str>, u16, bool);

/// Every name that something still uses.
pub struct Discovery {
    resolver: ArcSwapOption<TokioResolver>,
    control: Handle,
    names: Mutex<HashMap<Name, Weak<EndpointSet>>>,
}

impl Discovery {
    /// Resolves as the system is configured to (`/etc/resolv.conf`, `/etc/hosts`).
    pub fn new(control: Handle) -> Self {
        let resolver = resolver(&[]);
        let resolver = resolver
            .inspect_err(|error| tracing::warn!(%error, "no DNS configuration could be read: names use the C library"))
            .ok();
        let resolver = ArcSwapOption::new(resolver.map(Arc::new));
        Self { resolver, control, names: Mutex::new(HashMap::new()) }
    }

    /// From now on these nameservers are asked instead of the system's, which may be ourselves; none: the system's again.
    pub fn ask(&self, nameservers: &[SocketAddr]) {
        match resolver(nameservers) {
            Ok(resolver) => self.resolver.store(Some(Arc::new(resolver))),
            Err(error) => tracing::warn!(%error, "names are resolved as before"),
        }
    }

    /// The set for a name; its refresh task ends when the last user has dropped it. `None`: too many names.
    pub fn resolve(self: &Arc<Self>, host: &Arc<str>, port: u16, of_template: bool) -> Option<Arc<EndpointSet>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.clone(), port, of_template);
        if let Some(set) = names.get(&key).and_then(Weak::upgrade) {
            return Some(set);
        }
        if names.len() >= NAMES_MAX {
            names.retain(|_, set| set.strong_count() > 0);
            if names.len() >= NAMES_MAX {
                tracing::warn!(%host, "more than {NAMES_MAX} names are in use: not resolved");
                return None;
            }
        }
        let set = Arc::new(EndpointSet::unresolved());
        names.insert(key, Arc::downgrade(&set));
        self.control.spawn(refresh(self.clone(), host.clone(), port, of_template, Arc::downgrade(&set)));
        Some(set)
    }

    async fn lookup(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let Some(resolver) = self.resolver.load_full() else {
            let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| error.to_string())?;
            return Ok((found.map(|address| address.ip()).collect(), REFRESH_MAX));
        };
        let answer = resolver.lookup_ip(host).await.map_err(|error| error.to_string())?;
        let lifetime = answer.valid_until().saturating_duration_since(Instant::now());
        Ok((answer.iter().collect(), lifetime.clamp(REFRESH_MIN, REFRESH_MAX)))
    }
}

/// As the system is configured, but for `nameservers` if there are any.
fn resolver(nameservers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    if nameservers.is_empty() {
        return TokioResolver::builder_tokio()?.build();
    }
    let (system, options) = read_system_conf().unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()));
    let nameservers = nameservers.iter().map(|address| {
        let mut nameserver = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut nameserver.connections {
            connection.port = address.port();
        }
        nameserver
    });
    let domain = system.domain().cloned();
    let config = ResolverConfig::from_parts(domain, system.search().to_vec(), nameservers.collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

async fn refresh(discovery: Arc<Discovery>, host: Arc<str>, port: u16, of_template: bool, set: Weak<EndpointSet>) {
    let (mut failing, mut good_at) = (false, Instant::now());
    while set.strong_count() > 0 {
        let answer = discovery.lookup(&host).await;
        let Some(set) = set.upgrade() else { return };
        let wait = match answer {
            Ok((addresses, lifetime)) => {
                failing = false;
                good_at = Instant::now();
                let may_be = if of_template { may_be_dialled } else { |address| !is_metadata(address) };
                let usable = addresses.into_iter().filter(|address| may_be(*address));
                set.update(usable.map(|address| SocketAddr::new(address, port)).collect());
                lifetime
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%host, %error, "name not resolved; the last good answer stays in use");
                }
                failing = true;
                if good_at.elapsed() >= STALE_MAX && !set.addresses().is_empty() {
                    tracing::error!(%host, "name not resolved for {STALE_MAX:?}: its last addresses are given up");
                    set.update(Vec::new());
                }
                set.answered.send_replace(true);
                RETRY
            }
        };
        drop(set);
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests;
