//! What comes of a query, before anybody is asked. Pure.

use super::DnsPlan;
use super::answer;
use super::names::{Existence, Meaning, Named, reversed_address};
use super::virtual_addresses::Addresses;
use super::wire::{CLASS_IN, Code, Query, kind};
use crate::telemetry::DnsResult;
use std::net::IpAddr;
use std::time::Duration;

/// Addresses of which families an application could connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reachable {
    pub v4: bool,
    pub v6: bool,
}

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Answer(Vec<u8>, DnsResult),
    /// Upstream knows.
    Forward,
    /// A host of a pattern, which gets addresses if it exists.
    Assign(Named, Existence),
}

pub fn decide(plan: &DnsPlan, query: &Query, reachable: Reachable) -> Decision {
    let Some(host) = query.host().filter(|_| query.class == CLASS_IN) else { return Decision::Forward };
    match plan.names.meaning(&host) {
        Meaning::Declared(named) => {
            let addresses = plan.addresses.of(&named.host).unwrap_or_default();
            declared(query, addresses, reachable, plan.ttl)
        }
        Meaning::OfPattern(named, existence) => match plan.addresses.of_guest(&named.host) {
            Some(addresses) => declared(query, addresses, reachable, plan.ttl),
            None => Decision::Assign(named, existence),
        },
        Meaning::Expansion => {
            Decision::Answer(answer::negative(query, Code::NameError, plan.ttl), DnsResult::Expansion)
        }
        Meaning::Other => reverse(plan, query, &host),
    }
}

/// An application that asks for the name of who it is connected to gets the host, and nobody outside is asked for an
/// address that means nothing there.
fn reverse(plan: &DnsPlan, query: &Query, host: &str) -> Decision {
    let address = reversed_address(host).filter(|address| plan.addresses.is_virtual(*address));
    match (address, query.kind) {
        (None, _) => Decision::Forward,
        (Some(address), kind::PTR | kind::ANY) => match plan.addresses.service_of(address) {
            Some((_, host)) => Decision::Answer(answer::name(query, &host, plan.ttl), DnsResult::Declared),
            None => Decision::Answer(answer::negative(query, Code::NameError, plan.ttl), DnsResult::Declared),
        },
        (Some(_), _) => Decision::Answer(answer::negative(query, Code::NoError, plan.ttl), DnsResult::Declared),
    }
}

fn declared(query: &Query, addresses: Addresses, reachable: Reachable, ttl: Duration) -> Decision {
    Decision::Answer(of_declared(query, addresses, reachable, ttl), DnsResult::Declared)
}

/// The name exists: what there is of the type asked for, and of other types nothing.
pub fn of_declared(query: &Query, addresses: Addresses, reachable: Reachable, ttl: Duration) -> Vec<u8> {
    // An address without a route makes clients that try it first wait or fail. Where neither has one, both are given: that
    // is for the operator to see, not for this answer to hide.
    let neither = !reachable.v4 && !reachable.v6;
    let wanted = |address: &IpAddr| {
        let (kind, has_route) = match address {
            IpAddr::V4(_) => (kind::A, reachable.v4),
            IpAddr::V6(_) => (kind::AAAA, reachable.v6),
        };
        (query.kind == kind || query.kind == kind::ANY) && (has_route || neither)
    };
    let found: Vec<IpAddr> = addresses.iter().filter(wanted).collect();
    answer::addresses(query, &found, ttl)
}

#[cfg(test)]
mod tests;
