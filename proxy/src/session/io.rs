//! The socket of a session: counts bytes, and fails at once when the session is cut.

use super::{EndCause, Session};
use crate::capture::Stream;
use crate::telemetry::Metrics;
use atomic_refcell::{AtomicRef, AtomicRefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The socket of a session, as the registry holds it too: it can be reset before whoever serves it is polled.
///
/// All of it happens on one thread. The cell is an atomic one, one instruction for each poll, because hyper wants sockets
/// that could be sent to another.
pub(super) struct Socket {
    stream: AtomicRefCell<Stream>,
    session: Arc<Session>,
    metrics: Arc<Metrics>,
    was_reset: AtomicBool,
}

impl Socket {
    /// Ends a cut session at its socket, once: no byte goes out or comes in any more, also none that the kernel holds.
    ///
    /// What was written to a unix socket has arrived already. Its close, which comes with the drop, tells the other side.
    pub(super) fn reset(&self) {
        if self.was_reset.load(Relaxed) || !self.session.is_cut() {
            return;
        }
        // Dissolves the association: RST instead of FIN, because bytes that are still in the send buffer belong to trust that
        // has ended.
        if let Some(tcp) = self.stream.borrow().tcp()
            && rustix::net::connect_unspec(tcp).is_ok()
        {
            self.ended();
        }
    }

    fn ended(&self) {
        self.was_reset.store(true, Relaxed);
        if let Some((cause, latency)) = self.session.cut_latency()
            && cause.ends_trust()
        {
            self.metrics.teardown(cause.as_str(), latency);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reset();
        if self.session.is_cut() && !self.was_reset.load(Relaxed) {
            // Not every system can dissolve an association (gVisor cannot): then its close resets it.
            if let Some(tcp) = self.stream.get_mut().tcp() {
                let _ = tcp.set_zero_linger();
            }
            self.ended();
        }
    }
}

/// A connection's socket that belongs to a session.
pub struct SessionIo(Arc<Socket>);

impl SessionIo {
    pub(super) fn new(stream: Stream, session: Arc<Session>, metrics: Arc<Metrics>) -> Self {
        let was_reset = AtomicBool::new(false);
        Self(Arc::new(Socket { stream: AtomicRefCell::new(stream), session, metrics, was_reset }))
    }

    pub(super) fn socket(&self) -> Weak<Socket> {
        Arc::downgrade(&self.0)
    }

    pub fn stream(&self) -> AtomicRef<'_, Stream> {
        self.0.stream.borrow()
    }

    pub fn session(&self) -> &Session {
        &self.0.session
    }

    /// The first bytes, which stay in the socket. `None` where a socket has no such call.
    ///
    /// # Errors
    /// The socket's.
    pub async fn peek(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        let mut bytes = ReadBuf::new(bytes);
        poll_fn(|context| match &*self.stream() {
            Stream::Tcp(tcp) => tcp.poll_peek(context, &mut bytes).map_ok(Some),
            Stream::Unix(_) => Poll::Ready(Ok(None)),
        })
        .await
    }
}

/// What whoever reads or writes a session's bytes gets once it is cut.
pub fn cut_error(session: &Session) -> io::Error {
    let cause = session.end_cause().map_or("cut", EndCause::as_str);
    io::Error::new(io::ErrorKind::ConnectionAborted, format!("connection cut: {cause}"))
}

impl AsyncRead for SessionIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &*self.get_mut().0;
        if this.session.is_cut() {
            return Poll::Ready(Err(cut_error(&this.session)));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut *this.stream.borrow_mut()).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                this.session.bytes_in.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                this.session.read_waker.register(context.waker());
                Poll::Pending
            }
        }
    }
}

impl Socket {
    fn wrote(&self, context: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.session.write_blocked.store(result.is_pending(), Relaxed);
        if result.is_pending() {
            self.session.write_waker.register(context.waker());
            return Poll::Pending;
        }
        let count = ready!(result)?;
        self.session.bytes_out.fetch_add(count as u64, Relaxed);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for SessionIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &*self.get_mut().0;
        if this.session.is_cut() {
            return Poll::Ready(Err(cut_error(&this.session)));
        }
        let result = Pin::new(&mut *this.stream.borrow_mut()).poll_write(context, bytes);
        this.wrote(context, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &*self.get_mut().0;
        if this.session.is_cut() {
            return Poll::Ready(Err(cut_error(&this.session)));
        }
        let result = Pin::new(&mut *this.stream.borrow_mut()).poll_write_vectored(context, slices);
        this.wrote(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0.stream.borrow_mut()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &*self.get_mut().0;
        if this.session.is_cut() {
            // Nothing more may leave: the connection is reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *this.stream.borrow_mut()).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use super::*;
    use crate::capture::Remote;
    use crate::session::Direction;
    use crate::telemetry::PortMetrics;
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};
    use std::rc::Rc;
    use std::time::Instant;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_is_cut_ends_before_whoever_serves_it_is_polled() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, remote) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let (registry, metrics) = (Rc::new(Registry::default()), Arc::new(Metrics::new()));
        let ports = Arc::new(PortMetrics::default());
        let session = Session::new(1, Direction::Inbound, Arc::from("orders"), Remote::Ip(remote), ports);
        let registered = registry.register(session.clone());
        let stream = Stream::Tcp(tokio::net::TcpStream::from_std(accepted).unwrap());
        let mut io = registered.io(stream, &metrics);

        registry.reset_cut();
        peer.set_nonblocking(true).unwrap();
        assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing was cut yet");

        session.cut(EndCause::AuthorityRemoved, Instant::now());
        registry.reset_cut();
        peer.set_nonblocking(false).unwrap();
        assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let counted = "postern_teardown_seconds_count{cause=\"authority_removed\"} 1\n";
        assert!(metrics.render().contains(counted), "{}", metrics.render());

        assert_eq!(io.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        drop(io);
        registry.reset_cut();
        assert!(metrics.render().contains(counted), "counted once");
    }
}
