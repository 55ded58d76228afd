//! An accepted connection's bytes, and who is on the other side: TCP, or a unix socket of this host.

use crate::delegate::delegate_io;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use tokio::net::{TcpStream, UnixStream};

/// Who is on the other side, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    Ip(SocketAddr),
    /// A process of this host, which has no address; the kernel knows its user.
    Unix,
}

impl Remote {
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A connected socket.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

delegate_io!(Stream { Tcp, Unix });

impl Stream {
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) => None,
        }
    }

    /// # Errors
    /// As `TcpStream::into_std`.
    pub fn into_std(self) -> io::Result<StdStream> {
        match self {
            Self::Tcp(tcp) => tcp.into_std().map(StdStream::Tcp),
            Self::Unix(unix) => unix.into_std().map(StdStream::Unix),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

/// On its way from one runtime to another.
pub enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl StdStream {
    /// # Errors
    /// The runtime's event queue does not take it.
    pub fn on_tokio(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(tcp) => TcpStream::from_std(tcp).map(Stream::Tcp),
            Self::Unix(unix) => UnixStream::from_std(unix).map(Stream::Unix),
        }
    }
}
