//! Ports for listeners whose configuration has to name them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Below the range from which Linux takes ports for outgoing connections, so that none of ours is lost to one.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// An address on loopback that nobody listens on, and that nobody else in this process is given.
///
/// # Panics
/// Every port is in use.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two processes that test at the same time begin at different places.
    let start = (std::process::id() as u16).wrapping_mul(97) % COUNT;
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Relaxed) % COUNT) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT)
}
