//! The bytes of an mTLS connection that we opened, and the ear for a peer that refuses us afterwards.
//!
//! In TLS 1.3 a server judges the client's certificate after the client's side of the handshake is over, so its alert
//! arrives with the first read, or is found lying there when a write fails.

use crate::session::{Carries, SessionIo};
use crate::tls::error::{alert_about_us, refused_us};
use socket2::SockRef;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

pub struct MeshIo(TlsStream<SessionIo>);

impl MeshIo {
    pub fn new(tls: TlsStream<SessionIo>) -> Self {
        Self(tls)
    }

    /// Neither rustls nor, as far as the runtime has heard, the socket has anything to be read.
    pub fn has_nothing(&self, context: &mut Context<'_>) -> bool {
        let (io, state) = self.0.get_ref();
        state.wants_read() && io.stream().tcp().is_some_and(|tcp| tcp.poll_read_ready(context).is_pending())
    }

    /// A peer that refuses us sends an alert and closes, and often it is a write that finds out. HTTP gives the connection
    /// up then: what the peer had said is still there to be read. A tunnel reads on by itself.
    fn wrote<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &result
            && self.0.get_ref().0.session().carries() != Carries::Stream
        {
            self.hear_last_words();
        }
        result
    }

    /// Reads past the runtime, which may not have heard yet that there is something to read.
    fn hear_last_words(&mut self) {
        let (io, state) = self.0.get_mut();
        let mut bytes = [0; 4096];
        let Ok(length) = (&*SockRef::from(&*io.stream())).read(&mut bytes) else { return };
        let said = state.read_tls(&mut &bytes[..length]).map(|_| state.process_new_packets());
        if let Ok(Err(error)) = said
            && let Some(alert) = alert_about_us(&error)
        {
            // The first is the reason.
            let _ = io.session().peer_refused_us.set(alert);
        }
    }
}

impl AsyncRead for MeshIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.0).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read
            && let Some(alert) = refused_us(error)
        {
            // The first is the reason.
            let _ = this.0.get_ref().0.session().peer_refused_us.set(alert);
        }
        read
    }
}

impl AsyncWrite for MeshIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.0).poll_write(context, bytes);
        this.wrote(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.0).poll_write_vectored(context, slices);
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.0).poll_flush(context);
        this.wrote(result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }
}
