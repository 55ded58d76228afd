//! Where a captured connection was meant to go, and what must not be reached that way.

use super::{OriginalDst, Stream, is_available};
use crate::policy::{Door, Policy};
use crate::redirect::{Family, probe_address};
use crate::refusal::{Refusal, Refused};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

const PROBED: [Family; 2] = [Family::V4, Family::V6];

/// `SO_ORIGINAL_DST`; with TPROXY, where nothing was rewritten, the connection's own address. `None`: it was not captured,
/// but made to the address that we listen on (THREATS NW-05).
pub fn original_destination(stream: &Stream, transparent: bool) -> Option<OriginalDst> {
    let tcp = stream.tcp()?;
    let ours = tcp.local_addr().ok()?;
    let socket = socket2::SockRef::from(tcp);
    let before = if ours.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // Without an entry of the connection tracker there is no such thing: the error says no more.
    let before = before.ok().and_then(|address| address.as_socket());
    let original = before.or(transparent.then_some(ours));
    original.map(|address| OriginalDst(SocketAddr::new(address.ip().to_canonical(), address.port())))
}

/// The door of the application's port that a captured connection from another host is for.
///
/// # Errors
/// Nothing says which port was meant, it is one of our own, it is not this host's, or the file does not declare it.
pub fn inbound_door(original: Option<OriginalDst>, policy: &Policy) -> Result<Door, Refused> {
    let Some(OriginalDst(original)) = original else {
        let why = "it was made to the port for captured connections itself: nothing says which port was meant";
        return Err(Refused::new(Refusal::NoRoute, why));
    };
    if policy.listens_on_port(original.port()) {
        return Err(Refused::new(Refusal::Loop, format!("{original} is a listener of this proxy")));
    }
    if !is_own_address(original.ip()) {
        let why = format!("{original} is not an address of this host, and we forward for nobody");
        return Err(Refused::new(Refusal::NoRoute, why));
    }
    let door = Door::Port(original.port());
    match policy.inbound(&door) {
        Some(_) => Ok(door),
        None => Err(Refused::new(Refusal::NoRoute, format!("port {} is not declared", original.port()))),
    }
}

/// Where the application meant to go.
///
/// # Errors
/// Nothing says where, or it leads back to us (THREATS NW-01, NW-05).
pub fn outbound_destination(original: Option<OriginalDst>, policy: &Policy) -> Result<SocketAddr, Refused> {
    let Some(OriginalDst(original)) = original else {
        let why = "it was made to the port for captured connections itself: nothing says where it was meant to go";
        return Err(Refused::new(Refusal::UnknownService, why));
    };
    if policy.listens_on_port(original.port()) && is_own_address(original.ip()) {
        return Err(Refused::new(Refusal::Loop, format!("{original} is a listener of this proxy")));
    }
    if PROBED.map(probe_address).contains(&original) {
        let why =
            format!("{original} is what this proxy probes its capture with, and a connection to it comes back here");
        return Err(Refused::new(Refusal::Loop, why));
    }
    Ok(original)
}

/// The kernel lets a socket be bound to an address of this host only, unless it is told to let it be bound to any
/// (`ip_nonlocal_bind`); then an address is known by being the one from which it is reached, which those of an interface
/// besides its first are not.
pub fn is_own_address(address: IpAddr) -> bool {
    if address.is_unspecified() || !is_available(address) {
        return false;
    }
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let any_may_be_bound = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    any_may_be_bound.is_ok_and(|setting| setting.trim() == "0") || is_reached_from_itself(address)
}

/// Nothing is sent: a datagram socket that is connected only looks the route up.
fn is_reached_from_itself(address: IpAddr) -> bool {
    const DISCARD: u16 = 9;
    let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, DISCARD))?;
        socket.local_addr()
    });
    address.is_loopback() || source.is_ok_and(|source| source.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::{is_own_address, is_reached_from_itself};

    #[test]
    fn tells_addresses_of_this_host() {
        for (address, expected) in [("127.0.0.1", true), ("127.8.9.10", true), ("192.0.2.1", false), ("0.0.0.0", false)]
        {
            let address = address.parse().unwrap();
            assert_eq!(is_own_address(address), expected, "{address}");
            assert_eq!(is_reached_from_itself(address), expected, "{address}");
        }
    }
}
