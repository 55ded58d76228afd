//! Accepting: what waits at a listening socket, within the process's budget.

use super::{BACKLOG, Remote, StdStream, Stream, tune};
use crate::shared::Shared;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// Out of descriptors or memory: wait instead of spinning (THREATS DS-08).
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// A socket that listens, of no runtime.
pub enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn accept(&self) -> io::Result<(StdStream, Remote)> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, remote) = listener.accept()?;
                tcp.set_nonblocking(true)?;
                Ok((StdStream::Tcp(tcp), Remote::Ip(remote)))
            }
            Self::Unix(listener) => {
                let (unix, _unnamed) = listener.accept()?;
                unix.set_nonblocking(true)?;
                Ok((StdStream::Unix(unix), Remote::Unix))
            }
        }
    }
}

/// The same, of the runtime that accepts.
pub enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    /// # Errors
    /// The runtime's event queue does not take it.
    pub fn new(listening: Listening) -> io::Result<Self> {
        match listening {
            Listening::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Self::Tcp),
            Listening::Unix(listener) => tokio::net::UnixListener::from_std(listener).map(Self::Unix),
        }
    }

    /// # Cancellation
    /// Loses nothing.
    async fn accept(&self) -> io::Result<(Stream, Remote)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(tcp, remote)| (Stream::Tcp(tcp), Remote::Ip(remote))),
            Self::Unix(listener) => listener.accept().await.map(|(unix, _unnamed)| (Stream::Unix(unix), Remote::Unix)),
        }
    }

    fn into_listening(self) -> io::Result<Listening> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(Listening::Tcp),
            Self::Unix(listener) => listener.into_std().map(Listening::Unix),
        }
    }
}

/// Accepts for ever; each connection that the budget has a place for goes to `place`, and `over_limit` is told of each
/// other one.
pub async fn accept_loop(
    listener: &Acceptor,
    shared: &Shared,
    place: impl Fn(Stream, Remote),
    over_limit: impl Fn(Remote),
) {
    let mut back_off = BACK_OFF_MIN;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                back_off = BACK_OFF_MIN;
                admit(stream, remote, shared, &place, &over_limit);
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
    listener: Acceptor,
    shared: &Shared,
    place: impl Fn(Stream, Remote),
    over_limit: impl Fn(Remote),
) {
    let Ok(listener) = listener.into_listening() else { return };
    for _ in 0..BACKLOG {
        let Ok((stream, remote)) = listener.accept() else { return };
        match stream.on_tokio() {
            Ok(stream) => admit(stream, remote, shared, &place, &over_limit),
            Err(error) => tracing::warn!(%error, "a connection could not be taken over from a listener that closes"),
        }
    }
}

fn admit(
    stream: Stream,
    remote: Remote,
    shared: &Shared,
    place: &impl Fn(Stream, Remote),
    over_limit: &impl Fn(Remote),
) {
    if !shared.budget.take() {
        shared.metrics.connection_over_limit();
        drop(stream);
        return over_limit(remote);
    }
    if let Some(tcp) = stream.tcp() {
        tune(tcp);
    }
    place(stream, remote);
}

/// The connection ended before it was accepted: nobody's fault, and no reason to wait.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// EMFILE and ENFILE: the process or the system is out of descriptors.
fn is_exhaustion(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}
