//! How connections reach us: listening, accepting, and (with redirection) where they were meant to go.

mod accept;
pub mod caller;
pub mod caller_uid;
mod closing;
pub mod local_users;
pub mod original;
pub mod ourselves;
pub mod probe;
mod stream;
pub mod unix_socket;

pub use accept::{Acceptor, Listening, accept_loop, accept_waiting};
pub use closing::{CloseAsked, Closer, closing};
pub use stream::{Remote, StdStream, Stream};

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// PEERS D1: keepalive 60 s / 20 s / 4 probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBES: u32 = 4;
/// Connections that wait for us to accept them.
pub const BACKLOG: i32 = 4096;

/// Where a captured connection was addressed to, before redirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalDst(pub SocketAddr);

/// An accepted connection.
pub struct Accepted {
    pub stream: Stream,
    pub remote: Remote,
    /// `None`: it was addressed to our listener itself.
    pub original: Option<OriginalDst>,
}

impl Accepted {
    pub fn direct(stream: Stream, remote: Remote) -> Self {
        Self { stream, remote, original: None }
    }

    pub fn captured(self, original: Option<OriginalDst>) -> Self {
        Self { original, ..self }
    }
}

/// Binds a listening socket. `SO_REUSEPORT` is not set: a second process on the same address is an error, not a share.
///
/// # Errors
/// The system's, with the address in its words.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    bind_with(address, |socket| match address.is_ipv6() {
        true => socket.set_only_v6(!address.ip().is_unspecified()),
        false => Ok(()),
    })
}

/// As [`bind`], for redirected connections: `[::]` takes no IPv4, which has a listener of its own. `transparent`: for
/// connections to addresses that are not the listener's (TPROXY); that needs CAP_NET_ADMIN.
///
/// # Errors
/// As of [`bind`].
pub fn bind_captured(address: SocketAddr, transparent: bool) -> std::io::Result<std::net::TcpListener> {
    bind_with(address, |socket| {
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        let set = match (transparent, address.is_ipv4()) {
            (false, _) => Ok(()),
            (true, true) => socket.set_ip_transparent_v4(true),
            (true, false) => socket.set_ip_transparent_v6(true),
        };
        set.map_err(|error| std::io::Error::new(error.kind(), format!("`mode: tproxy` needs CAP_NET_ADMIN: {error}")))
    })
}

/// Does this host speak the family of `address`? Found out by binding, because IPv6 can be switched off in many ways.
pub fn is_available(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

fn bind_with(
    address: SocketAddr,
    prepare: impl FnOnce(&socket2::Socket) -> std::io::Result<()>,
) -> std::io::Result<std::net::TcpListener> {
    let failed =
        |error: std::io::Error| std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // Only lets us bind while connections of an earlier process are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    prepare(&socket).map_err(failed)?;
    socket.set_nonblocking(true)?;
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

/// Connects. The packet filter tells our own connections by `mark`, where we may set it (CAP_NET_ADMIN), and by our user
/// otherwise. `from`: the address that the other side sees, which need not be ours; one of the other family is passed over.
///
/// # Errors
/// Of the connect, or `from` needs CAP_NET_ADMIN.
pub async fn dial(address: SocketAddr, mark: Option<NonZeroU32>, from: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let from = from.filter(|from| from.is_ipv4() == address.is_ipv4());
    if mark.is_none() && from.is_none() {
        return TcpStream::connect(address).await;
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        // Without the capability our user is what exempts us.
        let _ = socket2::SockRef::from(&socket).set_mark(mark.get());
    }
    if let Some(from) = from {
        let options = socket2::SockRef::from(&socket);
        if from.is_ipv4() {
            options.set_ip_transparent_v4(true)?
        } else {
            options.set_ip_transparent_v6(true)?
        }
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(address).await
}
