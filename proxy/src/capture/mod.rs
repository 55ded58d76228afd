//! How connections reach us: listening, accepting, and (with redirection) where they were meant to go.

pub mod caller;
pub mod caller_uid;
mod closing;
pub mod local_users;

pub use closing::{CloseAsked, Closer, closing};

use crate::shared::Shared;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// PEERS D1: keepalive 60 s / 20 s / 4 probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBES: u32 = 4;
const BACKLOG: i32 = 4096;
/// Out of descriptors or memory: wait instead of spinning (THREATS DS-08).
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Who opened the connection, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub SocketAddr);

/// Where a captured connection was addressed to, before redirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalDst(pub SocketAddr);

/// An accepted connection.
pub struct Accepted {
    pub tcp: TcpStream,
    pub client: ClientAddr,
    /// `None`: it was addressed to our listener itself.
    pub original: Option<OriginalDst>,
}

impl Accepted {
    pub fn direct(tcp: TcpStream, client: ClientAddr) -> Self {
        Self { tcp, client, original: None }
    }
}

/// Binds a listening socket. `SO_REUSEPORT` is not set: a second process on the same address is an error, not a share.
///
/// # Errors
/// The system's, with the address in its words.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // Only lets us bind while connections of an earlier process are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    let failed =
        |error: std::io::Error| std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    socket.bind(&address.into()).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    Ok(socket.into())
}

/// Every stream that we accept or open: no Nagle, and a dead other side is found in minutes.
pub fn tune(tcp: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    // Neither is worth losing the connection for.
    let _ = tcp.set_nodelay(true);
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive);
}

/// Accepts for ever; each connection that the budget has a place for goes to `place`, and `over_limit` is told of each
/// other one.
pub async fn accept_loop(
    listener: &TcpListener,
    shared: &Shared,
    place: impl Fn(TcpStream, SocketAddr),
    over_limit: impl Fn(SocketAddr),
) {
    let mut back_off = BACK_OFF_MIN;
    loop {
        match listener.accept().await {
            Ok((tcp, remote)) => {
                back_off = BACK_OFF_MIN;
                admit(tcp, remote, shared, &place, &over_limit);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                shared.metrics.accept_failed();
                if is_exhaustion(&error) {
                    shared.metrics.descriptors_exhausted();
                }
                tracing::warn!(%error, wait_ms = back_off.as_millis() as u64, "accept failed; waiting");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}

/// Whoever waits in the socket's queue connected before it is closed, and would be reset.
pub fn accept_waiting(
    listener: TcpListener,
    shared: &Shared,
    place: impl Fn(TcpStream, SocketAddr),
    over_limit: impl Fn(SocketAddr),
) {
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..BACKLOG {
        let Ok((tcp, remote)) = listener.accept() else { return };
        let tcp = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp));
        match tcp {
            Ok(tcp) => admit(tcp, remote, shared, &place, &over_limit),
            Err(error) => tracing::warn!(%error, "a connection could not be taken over from a listener that closes"),
        }
    }
}

fn admit(
    tcp: TcpStream,
    remote: SocketAddr,
    shared: &Shared,
    place: &impl Fn(TcpStream, SocketAddr),
    over_limit: &impl Fn(SocketAddr),
) {
    if !shared.budget.take() {
        shared.metrics.connection_over_limit();
        drop(tcp);
        return over_limit(remote);
    }
    tune(&tcp);
    place(tcp, remote);
}

/// The connection ended before it was accepted: nobody's fault, and no reason to wait.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// EMFILE and ENFILE: the process or the system is out of descriptors.
fn is_exhaustion(error: &std::io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}
