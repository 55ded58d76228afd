//! Addresses that stand for hosts of declared services: an application that asked for a name connects to one of these, and
//! that says which service it meant, whatever it speaks.
//!
//! An address follows from its host by a hash, so that it is the same after a reload, a restart and on every replica, and
//! what an application remembers stays right. Where two hosts want the same one, the first in the order of names has it
//! and the other takes the next of its own; a reload leaves each host what it has.
//!
//! Hosts that the file writes out have theirs from the beginning. Hosts of patterns get one when they are asked for, and
//! keep it until the table is full and nobody has used it for a while.

use super::names::Names;
use arc_swap::ArcSwap;
use postern_config::Network;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Hosts of patterns that have an address at one time: about 1 MiB.
const GUESTS_MAX: usize = 4096;
/// Copying the table for each new host is what makes reading it free; so many are removed at once that a full table is
/// not sorted for each.
const EVICTED_AT_ONCE: usize = GUESTS_MAX / 8;
/// An address that was given out or used within this time is still remembered by somebody. Longer than any TTL of ours by
/// default, and than what clients like the JVM keep against it (30 s).
const KEPT_SECONDS: u64 = 300;
/// Places that one host tries. A network that is half full refuses a host once in 2^64 times.
const ATTEMPTS_MAX: u32 = 64;

/// One of each family at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    fn set(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4 = Some(address),
            IpAddr::V6(address) => self.v6 = Some(address),
        }
    }
}

/// Which address means which host, both ways.
pub struct VirtualAddresses {
    networks: Vec<Network>,
    names: Arc<Names>,
    by_address: HashMap<IpAddr, (Arc<str>, Arc<str>)>,
    by_host: HashMap<Arc<str>, Addresses>,
    /// Of patterns; the same table as before a reload, so that no host loses its address in between.
    guests: Arc<Guests>,
}

impl VirtualAddresses {
    /// Hosts keep what they had in `previous`.
    pub fn compile(networks: &[Network], names: Arc<Names>, previous: Option<&Self>) -> Self {
        let previous = previous.filter(|previous| previous.networks == networks);
        let guests = previous.map_or_else(|| Arc::new(Guests::default()), |previous| previous.guests.clone());
        let mut compiled = Self {
            networks: networks.to_vec(),
            names: names.clone(),
            by_address: HashMap::new(),
            by_host: HashMap::new(),
            guests,
        };
        let mut hosts: Vec<(&Arc<str>, &Arc<str>)> = names.exact().collect();
        hosts.sort_unstable();
        let had = |host: &Arc<str>| previous.and_then(|previous| previous.by_host.get(host).copied());
        let (known, new): (Vec<_>, Vec<_>) = hosts.into_iter().partition(|(host, _)| had(host).is_some());
        for (host, service) in known {
            compiled.give(host, service, had(host).unwrap_or_default());
        }
        for (host, service) in new {
            let addresses = places(networks, host, |address| compiled.by_address.contains_key(&address));
            compiled.give(host, service, addresses);
        }
        compiled
    }

    fn give(&mut self, host: &Arc<str>, service: &Arc<str>, addresses: Addresses) {
        for address in addresses.iter() {
            self.by_address.insert(address, (service.clone(), host.clone()));
        }
        self.by_host.insert(host.clone(), addresses);
    }

    /// The service and the host that `address` was given out for. `None`: it is none of ours, or its host is no longer
    /// known; [`is_virtual`](Self::is_virtual) tells these apart.
    pub fn service_of(&self, address: IpAddr) -> Option<(Arc<str>, Arc<str>)> {
        let address = address.to_canonical();
        if let Some(found) = self.by_address.get(&address) {
            return Some(found.clone());
        }
        let guests = self.guests.table.load();
        let guest = guests.by_address.get(&address)?;
        guest.used(self.guests.now());
        // Its pattern may have gone with a reload, or be another service's.
        self.names.service_by_pattern(&guest.host).map(|service| (service.clone(), guest.host.clone()))
    }

    /// Is it of a network that nothing real is in?
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Of a host that the file writes out.
    pub fn of(&self, host: &str) -> Option<Addresses> {
        self.by_host.get(host).copied()
    }

    /// Of a pattern's host that has been asked for already.
    pub fn of_guest(&self, host: &str) -> Option<Addresses> {
        let table = self.guests.table.load();
        let guest = table.by_host.get(host).filter(|guest| self.may_keep(guest))?;
        guest.used(self.guests.now());
        Some(guest.addresses)
    }

    /// Of a pattern's host; a new one gets its addresses now. `None`: the table is full of hosts that are in use.
    pub fn assign(&self, host: &Arc<str>) -> Option<Addresses> {
        self.assign_at(host, self.guests.now())
    }

    fn assign_at(&self, host: &Arc<str>, now: u64) -> Option<Addresses> {
        // Only those who write wait for each other, and they are few: names that were never asked for before.
        let _one_writer = self.guests.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.guests.table.load();
        if let Some(guest) = before.by_host.get(host).filter(|guest| self.may_keep(guest)) {
            guest.used(now);
            return Some(guest.addresses);
        }
        let mut table = Table::clone(&before);
        table.remove(host);
        if !table.make_room(now) {
            return None;
        }
        let is_taken = |address| self.by_address.contains_key(&address) || table.by_address.contains_key(&address);
        let addresses = places(&self.networks, host, is_taken);
        table.insert(Arc::new(Guest { host: host.clone(), addresses, used: AtomicU64::new(now) }));
        self.guests.table.store(Arc::new(table));
        Some(addresses)
    }

    /// A reload may have given its address to a host that the file writes out.
    fn may_keep(&self, guest: &Guest) -> bool {
        guest.addresses.iter().all(|address| !self.by_address.contains_key(&address))
    }

    /// Some address of each network, to see whether there is a route.
    pub fn sample(&self) -> Addresses {
        places(&self.networks, "", |_| false)
    }

    /// How many hosts have addresses: written out, and of patterns.
    pub fn counts(&self) -> (usize, usize) {
        (self.by_host.len(), self.guests.table.load().by_host.len())
    }
}

/// Where `host` belongs in each network.
fn places(networks: &[Network], host: &str, is_taken: impl Fn(IpAddr) -> bool) -> Addresses {
    let mut addresses = Addresses::default();
    for network in networks {
        let free = (0..ATTEMPTS_MAX).map(|attempt| place(network, host, attempt)).find(|address| !is_taken(*address));
        if let Some(address) = free {
            addresses.set(address);
        }
    }
    addresses
}

/// The first address of a network means the network or its router (RFC 4291 §2.6.1), the last one may mean all hosts.
fn place(network: &Network, host: &str, attempt: u32) -> IpAddr {
    let mut text = format!("postern virtual address {attempt} ").into_bytes();
    text.extend(host.as_bytes());
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    let mut bits = [0; 16];
    bits.copy_from_slice(&hash.as_ref()[..16]);
    // At least eight bits are left, so this is no division by zero.
    let offset = 1 + u128::from_be_bytes(bits) % (network.size() - 2);
    match network.address() {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first) | offset as u32)),
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first) | offset)),
    }
}

/// Hosts of patterns that have been asked for.
struct Guests {
    table: ArcSwap<Table>,
    writing: Mutex<()>,
    started: Instant,
}

impl Default for Guests {
    fn default() -> Self {
        Self { table: ArcSwap::default(), writing: Mutex::default(), started: Instant::now() }
    }
}

impl Guests {
    fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

#[derive(Clone, Default)]
struct Table {
    by_address: HashMap<IpAddr, Arc<Guest>>,
    by_host: HashMap<Arc<str>, Arc<Guest>>,
}

struct Guest {
    host: Arc<str>,
    addresses: Addresses,
    /// In seconds since the table was made.
    used: AtomicU64,
}

impl Guest {
    fn used(&self, now: u64) {
        // A worker that finds the second written already leaves the cache line to the others.
        if self.used.load(Relaxed) != now {
            self.used.store(now, Relaxed);
        }
    }
}

impl Table {
    fn insert(&mut self, guest: Arc<Guest>) {
        for address in guest.addresses.iter() {
            self.by_address.insert(address, guest.clone());
        }
        self.by_host.insert(guest.host.clone(), guest);
    }

    fn remove(&mut self, host: &Arc<str>) {
        let Some(guest) = self.by_host.remove(host) else { return };
        for address in guest.addresses.iter() {
            self.by_address.remove(&address);
        }
    }

    /// Removes those that nobody has used for the longest time. False: all are in use.
    fn make_room(&mut self, now: u64) -> bool {
        if self.by_host.len() < GUESTS_MAX {
            return true;
        }
        let age = |guest: &Guest| now.saturating_sub(guest.used.load(Relaxed));
        let mut unused: Vec<(u64, Arc<str>)> = self
            .by_host
            .values()
            .map(|guest| (age(guest), guest.host.clone()))
            .filter(|(age, _)| *age > KEPT_SECONDS)
            .collect();
        unused.sort_unstable_by(|one, other| other.cmp(one));
        let removed: HashSet<Arc<str>> = unused.into_iter().take(EVICTED_AT_ONCE).map(|(_, host)| host).collect();
        for host in &removed {
            self.remove(host);
        }
        !removed.is_empty()
    }
}

#[cfg(test)]
mod tests;
