//! The bytes of whoever connected to us, in the clear or through TLS: one type, so that what runs above exists once.

use crate::detect::Rewind;
use crate::session::SessionIo;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// The socket, with the bytes in front that were read to see whether it speaks TLS.
pub type Wire = Rewind<SessionIo>;

pub enum CallerIo {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

macro_rules! each_io {
    ($io:expr, $inner:ident => $call:expr) => {
        match $io {
            CallerIo::Plain($inner) => $call,
            CallerIo::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for CallerIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each_io!(self.get_mut(), inner => Pin::new(inner).poll_read(context, buffer))
    }
}

impl AsyncWrite for CallerIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each_io!(self.get_mut(), inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_io!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each_io!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_io!(self.get_mut(), inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_io!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(context))
    }
}
