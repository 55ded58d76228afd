//! A message on its way out: its head, then its body as it comes.

use super::fields;
use crate::http::body::BodyError;
use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame};
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// How the other side is told where the body ends (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunks,
    /// By the end of the connection.
    UntilEnd,
}

pub struct Outgoing<B> {
    body: B,
    framing: Framing,
    /// What is written next, in this order: head, sizes and trailers; data; what comes behind it.
    lines: Vec<u8>,
    written: usize,
    data: Bytes,
    tail: &'static [u8],
    is_last: bool,
    has_trailers: bool,
    is_flushing: bool,
}

/// Why a message did not go out whole.
#[derive(Debug)]
pub enum Unwritten {
    /// Its body broke off.
    Body(BodyError),
    /// Its body is not as long as its head says.
    Length,
    Io(io::Error),
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Outgoing<B> {
    pub fn new(head: Vec<u8>, body: B, framing: Framing) -> Self {
        let is_last = framing == Framing::Length(0);
        Self {
            body,
            framing,
            lines: head,
            written: 0,
            data: Bytes::new(),
            tail: b"",
            is_last,
            has_trailers: true,
            is_flushing: false,
        }
    }

    /// To somebody who does not take trailers.
    pub fn without_trailers(mut self) -> Self {
        self.has_trailers = false;
        self
    }

    /// Has it more to write than is taken now?
    pub fn has_unwritten(&self) -> bool {
        self.is_flushing || self.written < self.lines.len() || !self.data.is_empty() || !self.tail.is_empty()
    }

    /// Ready when all of it has been written.
    pub fn poll<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Unwritten>> {
        loop {
            let mut waits = false;
            if !self.is_last && self.data.is_empty() && self.tail.is_empty() {
                match Pin::new(&mut self.body).poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => self.take(frame)?,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Unwritten::Body(error))),
                    Poll::Ready(None) => self.end(None)?,
                    Poll::Pending => waits = true,
                }
            }
            ready!(self.poll_write(io, context)).map_err(Unwritten::Io)?;
            if self.is_last || waits {
                let flushed = Pin::new(&mut *io).poll_flush(context);
                self.is_flushing = flushed.is_pending();
                ready!(flushed).map_err(Unwritten::Io)?;
                return if waits { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Unwritten> {
        let data = match frame.into_data() {
            Ok(data) => data,
            // Of another kind than these two there are none.
            Err(frame) => return frame.into_trailers().map_or(Ok(()), |trailers| self.end(Some(&trailers))),
        };
        match &mut self.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Unwritten::Length)?;
                self.is_last = *left == 0;
            }
            Framing::UntilEnd => {}
            // One of size 0 would end the body.
            Framing::Chunks if data.is_empty() => {}
            Framing::Chunks => {
                // Into memory: it cannot fail.
                let _ = write!(self.lines, "{:x}\r\n", data.len());
                self.is_last = self.body.is_end_stream();
                self.tail = if self.is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" };
            }
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: Option<&http::HeaderMap>) -> Result<(), Unwritten> {
        match self.framing {
            Framing::Length(0) | Framing::UntilEnd => {}
            Framing::Length(_) => return Err(Unwritten::Length),
            Framing::Chunks => {
                self.lines.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers.filter(|_| self.has_trailers) {
                    fields::write(trailers, &mut self.lines);
                }
                self.lines.extend_from_slice(b"\r\n");
            }
        }
        self.is_last = true;
        Ok(())
    }

    fn poll_write<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let lines = &self.lines[self.written..];
            let count = match (lines.is_empty(), self.data.is_empty() && self.tail.is_empty()) {
                (true, true) => break,
                (false, true) => ready!(Pin::new(&mut *io).poll_write(context, lines))?,
                _ => {
                    let slices = [IoSlice::new(lines), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                    ready!(Pin::new(&mut *io).poll_write_vectored(context, &slices))?
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        self.lines.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, count: usize) {
        let of_lines = count.min(self.lines.len() - self.written);
        self.written += of_lines;
        let of_data = (count - of_lines).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[count - of_lines - of_data..];
    }
}
