//! How connections reach us: listening, accepting, and (with redirection) where they were meant to go.

pub mod caller;
pub mod caller_uid;
mod closing;
pub mod local_users;
pub mod original;
pub mod probe;

pub use closing::{CloseAsked, Closer, closing};

use crate::policy::Policy;
use crate::shared::{Full, Shared};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

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
pub fn tune(tcp: &TcpStream, policy: &Policy) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(policy.timeouts.tcp_keepalive)
        .with_interval(policy.timeouts.tcp_keepalive_interval)
        .with_retries(policy.limits.tcp_keepalive_probes);
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

/// Accepts for ever; each connection that the budget has a place for goes to `place`, and `over_limit` is told of each
/// other one.
pub async fn accept_loop(
    listener: &TcpListener,
    shared: &Shared,
    place: impl Fn(TcpStream, SocketAddr),
    over_limit: impl Fn(SocketAddr, Full),
) {
    let mut back_off = BACK_OFF_MIN;
    let mut reserve = Reserve::default();
    loop {
        reserve.fill();
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
                    // Whoever waits is told at once, instead of when a descriptor is free.
                    if reserve.empty()
                        && let Ok(Ok((tcp, remote))) = timeout(Duration::ZERO, listener.accept()).await
                    {
                        drop(tcp);
                        over_limit(remote, Full::Descriptors);
                        continue;
                    }
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
    over_limit: impl Fn(SocketAddr, Full),
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
    over_limit: &impl Fn(SocketAddr, Full),
) {
    if let Err(full) = shared.budget.take() {
        shared.metrics.connection_over_limit();
        drop(tcp);
        return over_limit(remote, full);
    }
    tune(&tcp, &shared.policy().load());
    place(tcp, remote);
}

/// A descriptor that is kept for the moment in which no other is left.
#[derive(Default)]
struct Reserve(Option<std::fs::File>);

impl Reserve {
    fn fill(&mut self) {
        if self.0.is_none() {
            self.0 = std::fs::File::open("/dev/null").ok();
        }
    }

    /// False: there was none.
    fn empty(&mut self) -> bool {
        self.0.take().is_some()
    }
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
