//! Holds a connection that was taken for opaque to that.
//!
//! A caller may be silent until detection gives up, or begin as no strict server reads a request (an empty line, two
//! spaces), and then speak HTTP to an application that is more lenient: past the rules, and with identity headers of its
//! own making (THREATS HD-10). Every HTTP request with headers says `HTTP/` in its first line, so a caller that says that
//! is stopped before the line has ended, and the application has no request. A port of `protocol: tcp` is not watched.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection whose reads fail as soon as they are the beginning of an HTTP request, unless it only tells.
pub struct Opaque<IO> {
    io: IO,
    /// `None`: the first line is over, and was none of HTTP's.
    first_line: Option<FirstLine>,
    /// Called when the application speaks before its caller has.
    on_server_first: Option<Box<dyn FnOnce()>>,
}

impl<IO> Opaque<IO> {
    pub fn new(io: IO) -> Self {
        Self { io, first_line: Some(FirstLine::default()), on_server_first: None }
    }

    /// As [`Opaque::new`]; `on_server_first` is told when it is the application that speaks first, which no HTTP server
    /// does but to say that it waited too long.
    pub fn telling(io: IO, on_server_first: Box<dyn FnOnce()>) -> Self {
        Self { on_server_first: Some(on_server_first), ..Self::new(io) }
    }

    /// Tells, and refuses nothing: for bytes that leave, of which the other side decides what may reach its application.
    pub fn only_telling(io: IO, on_server_first: Box<dyn FnOnce()>) -> Self {
        Self { io, first_line: None, on_server_first: Some(on_server_first) }
    }

    fn wrote(&mut self, first_bytes: &[u8], result: &Poll<io::Result<usize>>) {
        if matches!(result, Poll::Ready(Ok(1..)))
            && let Some(tell) = self.on_server_first.take()
            && !first_bytes.starts_with(MARK)
        {
            tell();
        }
    }
}

/// What was read of the first line that is not blank.
#[derive(Debug, Default)]
struct FirstLine {
    /// Something but blanks was read.
    has_begun: bool,
    bytes: usize,
    /// How much of [`MARK`] was just read.
    matched: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Open,
    Over,
    Http,
}

impl FirstLine {
    fn read(&mut self, bytes: &[u8]) -> Line {
        for byte in bytes {
            if matches!(byte, b'\r' | b'\n' | b' ' | b'\t') && !self.has_begun {
                continue;
            }
            self.has_begun = true;
            self.bytes += 1;
            if *byte == b'\n' || self.bytes > LINE_BYTES_MAX {
                return Line::Over;
            }
            let upper = byte.to_ascii_uppercase();
            // No part of the mark but its beginning begins it.
            self.matched = match MARK.get(self.matched) {
                Some(expected) if upper == *expected => self.matched + 1,
                _ => usize::from(upper == MARK[0]),
            };
            if self.matched == MARK.len() {
                return Line::Http;
            }
        }
        Line::Open
    }
}

/// RFC 9112 §2.3; the preface of HTTP/2 has it too.
const MARK: &[u8] = b"HTTP/";
/// Longer than the longest first line that a common server takes (1 MiB, Go's limit of a head).
const LINE_BYTES_MAX: usize = 2 << 20;

impl<IO: AsyncRead + Unpin> AsyncRead for Opaque<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let bytes = &buffer.filled()[before..];
        if !bytes.is_empty() {
            self.on_server_first = None;
        }
        let Some(first_line) = &mut self.first_line else { return Poll::Ready(Ok(())) };
        match first_line.read(bytes) {
            Line::Open => {}
            Line::Over => self.first_line = None,
            Line::Http => {
                // A read that fails has read nothing: that is what callers rely on, and what keeps these bytes here.
                buffer.set_filled(before);
                let what = "HTTP on a connection that did not begin as HTTP; declare `protocol: http` for this port";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Opaque<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(bytes, &result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.wrote(slices.first().map_or(&[][..], |slice| &slice[..]), &result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::{FirstLine, Line, Opaque};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn knows_http_by_its_first_line_however_it_arrives() {
        for (bytes, expected) in [
            (b"GET / HTTP/1.1\r\n".as_slice(), Line::Http),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Line::Http),
            (b" \t\nGET  /\x01 http/1.0\n", Line::Http),
            (b"!X\t/ HTTP/1.1\r\n", Line::Http),
            (b"GET /HHTTP/1.1", Line::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Line::Http),
            (b"EHLO client\r\nGET / HTTP/1.1\r\n", Line::Over),
            (b"*1\r\n$4\r\nPING\r\n", Line::Over),
            (b"GET / HTTP", Line::Open),
            (b"\r\n\r\n", Line::Open),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Line::Open),
        ] {
            let mut at_once = FirstLine::default();
            assert_eq!(at_once.read(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
            let mut in_pieces = FirstLine::default();
            let last = bytes.iter().map(|byte| in_pieces.read(&[*byte])).find(|line| *line != Line::Open);
            assert_eq!(last.unwrap_or(Line::Open), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn the_end_of_a_request_line_is_never_read() {
        let (mut caller, io) = tokio::io::duplex(256);
        caller.write_all(b"\r\nGET / HTTP/1.1\r\nx-spiffe-id: forged\r\n\r\n").await.expect("room");
        let mut io = Opaque::new(io);
        let mut heard = Vec::new();
        let error = io.read_to_end(&mut heard).await.expect_err("it is HTTP");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn only_a_server_that_speaks_first_is_told_of() {
        for (said_by_caller, said_by_server, expected) in
            [("", "220 mail\r\n", true), ("", "HTTP/1.1 408 Request Timeout\r\n", false), ("x", "220 mail\r\n", false)]
        {
            let (mut caller, io) = tokio::io::duplex(256);
            let told = std::rc::Rc::new(std::cell::Cell::new(false));
            let tell = told.clone();
            let mut io = Opaque::telling(io, Box::new(move || tell.set(true)));
            if !said_by_caller.is_empty() {
                caller.write_all(said_by_caller.as_bytes()).await.expect("room");
                io.read_u8().await.expect("a byte");
            }
            io.write_all(said_by_server.as_bytes()).await.expect("room");
            assert_eq!(told.get(), expected, "{said_by_caller:?} {said_by_server:?}");
        }
    }

    #[tokio::test]
    async fn other_protocols_pass_unchanged() {
        let (mut caller, io) = tokio::io::duplex(256);
        caller.write_all(b"HELO a\r\nHTTP/1.1\r\n").await.expect("room");
        caller.shutdown().await.expect("open");
        let mut io = Opaque::new(io);
        let mut heard = Vec::new();
        io.read_to_end(&mut heard).await.expect("it is not HTTP");
        assert_eq!(heard, b"HELO a\r\nHTTP/1.1\r\n");
    }
}
