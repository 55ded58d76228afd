//! The socket of a session: counts bytes, and fails at once when the session is cut.

use super::{EndCause, Session};
use crate::capture::Stream;
use crate::telemetry::Metrics;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection's socket that belongs to a session.
pub struct SessionIo {
    stream: Stream,
    session: Arc<Session>,
    metrics: Arc<Metrics>,
}

impl SessionIo {
    pub fn new(stream: Stream, session: Arc<Session>, metrics: Arc<Metrics>) -> Self {
        Self { stream, session, metrics }
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn session(&self) -> &Session {
        &self.session
    }
}

/// What whoever reads or writes a session's bytes gets once it is cut.
pub fn cut_error(session: &Session) -> io::Error {
    let cause = session.end_cause().map_or("cut", EndCause::as_str);
    io::Error::new(io::ErrorKind::ConnectionAborted, format!("connection cut: {cause}"))
}

impl AsyncRead for SessionIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.session.is_cut() {
            return Poll::Ready(Err(cut_error(&this.session)));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
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

impl SessionIo {
    fn wrote(&self, context: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
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
        let this = self.get_mut();
        if this.session.is_cut() {
            return Poll::Ready(Err(cut_error(&this.session)));
        }
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.wrote(context, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.session.is_cut() {
            return Poll::Ready(Err(cut_error(&this.session)));
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.wrote(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.session.is_cut() {
            // Nothing more may leave: the drop below resets the connection.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

impl Drop for SessionIo {
    fn drop(&mut self) {
        if let Some((cause, latency)) = self.session.cut_latency() {
            // RST instead of FIN: bytes that are still in the send buffer belong to trust that has ended.
            // What was written to a unix socket has arrived already; the other side finds an end, and an error behind it if
            // we have not read all that it sent.
            if let Some(tcp) = self.stream.tcp() {
                let _ = tcp.set_zero_linger();
            }
            if cause.ends_trust() {
                self.metrics.teardown(cause.as_str(), latency);
            }
        }
    }
}
