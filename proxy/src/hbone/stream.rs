//! The bytes of one stream.

use super::client::StreamPlace;
use crate::session::{Session, cut_error};
use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An end of a stream. Dropped before both sides have ended, it resets the stream (RST_STREAM, CANCEL).
pub struct TunnelStream {
    receive: RecvStream,
    send: SendStream<Bytes>,
    /// Received, and not yet asked for. Its part of the window is given back when it is.
    unread: Bytes,
    /// Its own, where it has one: a CONNECT among other requests of a connection counts and ends with those.
    session: Option<Arc<Session>>,
    /// On the connection that we opened for it and others.
    _place: Option<StreamPlace>,
}

impl TunnelStream {
    pub fn new(receive: RecvStream, send: SendStream<Bytes>, session: Option<Arc<Session>>) -> Self {
        Self { receive, send, unread: Bytes::new(), session, _place: None }
    }

    pub fn with(self, place: StreamPlace) -> Self {
        Self { _place: Some(place), ..self }
    }

    /// h2 says that it cannot write, and knows why elsewhere.
    fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Ready(match ready!(self.send.poll_reset(context)) {
            // Whoever stops listening resets with one of these.
            Ok(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => io::ErrorKind::BrokenPipe.into(),
            Ok(reason) => io::Error::new(io::ErrorKind::ConnectionReset, reason.description()),
            Err(error) => read_error(error),
        })
    }
}

fn read_error(error: h2::Error) -> io::Error {
    match error.reason() {
        _ if error.is_io() => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into()),
        Some(reason) => io::Error::new(io::ErrorKind::ConnectionReset, reason.description()),
        None => io::Error::other(error),
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(session) = this.session.as_ref().filter(|session| session.is_cut()) {
            return Poll::Ready(Err(cut_error(session)));
        }
        while this.unread.is_empty() {
            match this.receive.poll_data(context) {
                Poll::Pending => {
                    if let Some(session) = &this.session {
                        session.wake_reader_when_cut(context);
                    }
                    return Poll::Pending;
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Ok(bytes))) => this.unread = bytes,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(read_error(error))),
            }
        }
        let length = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread[..length]);
        this.unread.advance(length);
        if this.unread.is_empty() {
            // Gives the memory back.
            this.unread = Bytes::new();
        }
        if let Some(session) = &this.session {
            session.bytes_in.fetch_add(length as u64, Relaxed);
        }
        // It can only fail for more than was received.
        let _ = this.receive.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(session) = this.session.as_ref().filter(|session| session.is_cut()) {
            return Poll::Ready(Err(cut_error(session)));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(bytes.len());
        // What was granted and not used stays granted, and is not told again.
        while this.send.capacity() == 0 {
            match this.send.poll_capacity(context) {
                Poll::Pending => {
                    if let Some(session) = &this.session {
                        session.wake_writer_when_cut(context);
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None | Some(Err(_))) => return this.poll_reset(context).map(Err),
            }
        }
        let length = this.send.capacity().min(bytes.len());
        if this.send.send_data(Bytes::copy_from_slice(&bytes[..length]), false).is_err() {
            return this.poll_reset(context).map(Err);
        }
        if let Some(session) = &this.session {
            session.bytes_out.fetch_add(length as u64, Relaxed);
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever drives the connection sends what it has.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.session.as_ref().is_some_and(|session| session.is_cut()) {
            // Nothing more may leave: the drop resets the stream.
            return Poll::Ready(Ok(()));
        }
        match this.send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => this.poll_reset(context).map(Err),
        }
    }
}
