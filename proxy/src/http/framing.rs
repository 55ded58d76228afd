//! Watches the bytes of HTTP/1 requests on their way to hyper's parser, for what can no longer be seen behind it: a head
//! with both `Content-Length` and `Transfer-Encoding` (hyper removes the length) or with two lengths (hyper keeps one of two
//! equal ones), lines that end in a bare LF, and a fragment in the request's target (hyper drops it, others match on it).
//!
//! It also tells the session whether a head is under way, which has its deadline.
//!
//! It changes no byte of a request and frames no message for anybody: hyper does that. Where it cannot follow, it fails
//! closed: every later request of the connection counts as ambiguous. Pure but for the wrapper at the end.
//!
//! The wrapper holds one thing back, the answer that hyper gives by itself to a head that it does not take: such a head
//! has a decision and a record like any other request (`serve`), and its answer says which.

use crate::session::Session;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Marks a request whose head two parsers could frame differently.
#[derive(Clone, Copy, Debug)]
pub struct AmbiguousFraming;

/// What the watcher and whoever serves the connection tell each other.
#[derive(Clone, Default)]
pub struct Findings(Arc<Told>);

#[derive(Default)]
struct Told {
    /// Number of the first ambiguous head of a connection, counted from 1; 0 while there is none.
    ambiguous: AtomicU64,
    /// A head had more fields than allowed.
    too_many_fields: AtomicBool,
    /// A request was handed on, and bytes of its answer may still be on their way out.
    answering: AtomicBool,
    /// hyper's own answer to a head that it refused; it was not sent.
    held_back: OnceLock<Vec<u8>>,
}

impl Findings {
    /// Whether the `number`th request of the connection, or one before it, was ambiguous.
    pub fn is_ambiguous(&self, number: u64) -> bool {
        (1..=number).contains(&self.0.ambiguous.load(Relaxed))
    }

    /// hyper has handed a request on: what is written next answers it.
    pub fn request_begins(&self) {
        self.0.answering.store(true, Relaxed);
    }

    pub fn has_too_many_fields(&self) -> bool {
        self.0.too_many_fields.load(Relaxed)
    }

    /// The answer that hyper wanted to give to a head that it refused.
    pub fn held_back(&self) -> Option<&[u8]> {
        self.0.held_back.get().map(Vec::as_slice)
    }

    /// hyper refuses a head only when every earlier answer has been given, so what it writes then answers no request. Where
    /// the caller takes its bytes slowly they may stand behind an earlier answer's end: then they pass.
    fn holds_back(&self, bytes: &[u8]) -> bool {
        let is_own = !self.0.answering.load(Relaxed) && is_plain_refusal(bytes);
        is_own && self.0.held_back.set(bytes.to_vec()).is_ok()
    }
}

/// A whole head with a status of 4xx.
fn is_plain_refusal(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.") && bytes.get(9) == Some(&b'4') && bytes.ends_with(b"\r\n\r\n")
}

/// Enough to tell a line's name, and any value that means something here.
const LINE_BYTES_KEPT: usize = 128;
/// With its extensions, which nobody uses.
const CHUNK_LINE_BYTES_MAX: u64 = 4096;

#[derive(Debug, thiserror::Error)]
#[error("a chunk's size line of more than {CHUNK_LINE_BYTES_MAX} bytes")]
struct LongChunkLine;

#[derive(Default)]
struct Watch {
    state: State,
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    line_bytes: u64,
    ends_in_cr: bool,
    head: Head,
    /// Heads that have begun and ended.
    heads: u64,
    fields_max: usize,
    findings: Findings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    RequestLine,
    HeaderLine,
    /// So many bytes of the body are still to come.
    Body(u64),
    ChunkSize,
    /// With the line break after it.
    Chunk(u64),
    TrailerLine,
    /// Cannot follow, or need not.
    Lost,
}

/// What counts of the head that is being read.
#[derive(Default)]
struct Head {
    fields: usize,
    length: Option<u64>,
    has_length: bool,
    has_two_lengths: bool,
    is_chunked: bool,
    has_coding: bool,
    has_bare_line_feed: bool,
    has_fragment: bool,
}

impl Watch {
    fn observe(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.state != State::Lost {
            bytes = match self.state {
                State::Body(left) => self.skip(bytes, left, State::Body, State::RequestLine),
                State::Chunk(left) => self.skip(bytes, left, State::Chunk, State::ChunkSize),
                _ => self.read_line(bytes),
            };
        }
    }

    /// Nothing of a message is under way, as far as bytes have been read.
    fn between_messages(&self) -> bool {
        self.state == State::RequestLine && self.line_bytes == 0 && self.line.is_empty()
    }

    /// Is a head under way, of which the end has not come?
    fn head_begun(&self) -> bool {
        self.state == State::HeaderLine || self.state == State::RequestLine && self.line_bytes > 0
    }

    /// A line that says how long a chunk is needs a few digits. hyper reads zeros before them for as long as they come.
    fn is_hostile(&self) -> bool {
        self.state == State::ChunkSize && self.line_bytes > CHUNK_LINE_BYTES_MAX
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, still: fn(u64) -> State, then: State) -> &'a [u8] {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - count as u64;
        self.state = if left == 0 { then } else { still(left) };
        &bytes[count..]
    }

    fn read_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b'\n', bytes);
        let content = &bytes[..end.unwrap_or(bytes.len())];
        if let Some(last) = content.last() {
            self.ends_in_cr = *last == b'\r';
        }
        if self.state == State::RequestLine {
            self.head.has_fragment |= memchr::memchr(b'#', content).is_some();
        }
        if let Some(end) = end.filter(|_| self.line_bytes == 0 && content.len() <= LINE_BYTES_KEPT) {
            // All of it is here: nothing has to be kept.
            let line = content.strip_suffix(b"\r");
            self.ends_in_cr = false;
            self.head.has_bare_line_feed |= line.is_none();
            self.end_line(line.unwrap_or(content));
            return &bytes[end + 1..];
        }
        self.line_bytes += content.len() as u64;
        let room = LINE_BYTES_KEPT - self.line.len();
        self.line.extend_from_slice(&content[..content.len().min(room)]);
        let Some(end) = end else { return &bytes[bytes.len()..] };
        let mut line = std::mem::take(&mut self.line);
        let has_carriage_return = std::mem::take(&mut self.ends_in_cr);
        if has_carriage_return && !self.is_cut() {
            line.pop();
        }
        self.head.has_bare_line_feed |= !has_carriage_return;
        self.end_line(&line);
        self.line_bytes = 0;
        line.clear();
        self.line = line;
        &bytes[end + 1..]
    }

    /// Less is known of the line than there was. A number in it may be another: hyper reads zeros before the digits of a
    /// length for as long as they come.
    fn is_cut(&self) -> bool {
        self.line_bytes > LINE_BYTES_KEPT as u64
    }

    fn end_line(&mut self, line: &[u8]) {
        match self.state {
            // RFC 9112 §2.2: empty lines before a request line are ignored.
            State::RequestLine if line.is_empty() => {}
            State::RequestLine => self.state = State::HeaderLine,
            State::HeaderLine if line.is_empty() => self.end_head(),
            State::HeaderLine => self.header(line),
            State::ChunkSize => {
                // Behind a semicolon only an extension is cut off.
                let size = chunk_size(line).filter(|_| !self.is_cut() || line.contains(&b';'));
                self.state = size.map_or_else(|| self.lose(), after_chunk_size);
            }
            State::TrailerLine if line.is_empty() => {
                // A line of the body that ended oddly is held against the request that follows.
                self.state = State::RequestLine;
            }
            State::TrailerLine | State::Body(_) | State::Chunk(_) | State::Lost => {}
        }
    }

    fn header(&mut self, line: &[u8]) {
        self.head.fields += 1;
        if self.head.fields > self.fields_max {
            self.findings.0.too_many_fields.store(true, Relaxed);
        }
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T')) {
            return;
        }
        let Some(colon) = memchr::memchr(b':', line) else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.head.has_two_lengths |= std::mem::replace(&mut self.head.has_length, true);
            // `parse` takes a plus sign.
            let is_number = !self.is_cut() && value.iter().all(u8::is_ascii_digit);
            let digits = std::str::from_utf8(value).ok().filter(|_| is_number);
            self.head.length = digits.and_then(|text| text.parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.head.has_coding = true;
            self.head.is_chunked = !self.is_cut() && value.eq_ignore_ascii_case(b"chunked");
        }
    }

    fn end_head(&mut self) {
        self.heads += 1;
        let head = std::mem::take(&mut self.head);
        // RFC 9112 §6.1: "A server MAY reject a request that contains both Content-Length and Transfer-Encoding"; §2.2 leaves
        // a bare LF to the recipient. Two hops that choose differently are what smuggling lives on.
        // RFC 9110 §8.6: two lengths, also equal ones, may be refused; in HTTP/2 they are (`check_framing`).
        // RFC 9112 §3.2: no form of a target has a fragment.
        let two_ways = head.has_length && head.has_coding || head.has_two_lengths;
        if two_ways || head.has_bare_line_feed || head.has_fragment {
            self.state = self.lose_from(self.heads);
        } else if head.has_coding && !head.is_chunked || head.has_length && head.length.is_none() {
            // Refused by hyper or by `check_framing`: there is no next request.
            self.state = self.lose();
        } else if head.is_chunked {
            self.state = State::ChunkSize;
        } else {
            self.state = match head.length.unwrap_or(0) {
                0 => State::RequestLine,
                length => State::Body(length),
            };
        }
    }

    /// Every request after the current one is ambiguous.
    fn lose(&self) -> State {
        self.lose_from(self.heads + 1)
    }

    fn lose_from(&self, number: u64) -> State {
        self.findings.0.ambiguous.store(number, Relaxed);
        State::Lost
    }
}

/// RFC 9112 §7.1, extensions left aside.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?.trim_ascii();
    // `from_str_radix` takes a plus sign, but not nothing.
    let digits = std::str::from_utf8(size).ok().filter(|_| size.iter().all(u8::is_ascii_hexdigit));
    digits.and_then(|text| u64::from_str_radix(text, 16).ok())
}

fn after_chunk_size(size: u64) -> State {
    match size {
        0 => State::TrailerLine,
        // With the CRLF after the data. No body is that long.
        size => State::Chunk(size.saturating_add(2)),
    }
}

/// A connection whose requests are watched.
pub struct Watched<IO> {
    io: IO,
    watch: Watch,
    session: Arc<Session>,
}

impl<IO> Watched<IO> {
    pub fn new(io: IO, session: Arc<Session>, fields_max: usize) -> (Self, Findings) {
        let watch = Watch { fields_max, ..Watch::default() };
        let findings = watch.findings.clone();
        (Self { io, watch, session }, findings)
    }

    pub fn into_inner(self) -> IO {
        self.io
    }

    /// Bytes that could not be written yet belong to a response: the connection is not idle.
    fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        self.session.write_pending.store(result.is_pending(), Relaxed);
        result
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        this.watch.observe(&buffer.filled()[before..]);
        if this.watch.is_hostile() {
            return Poll::Ready(Err(std::io::Error::other(LongChunkLine)));
        }
        this.session.head_begun.store(this.watch.head_begun(), Relaxed);
        this.session.between_messages.store(this.watch.between_messages(), Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        if this.watch.findings.holds_back(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut this.io).poll_write(context, bytes);
        this.wrote(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        if let [only] = slices
            && this.watch.findings.holds_back(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        let result = Pin::new(&mut this.io).poll_write_vectored(context, slices);
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes when it has nothing left to write.
        if this.session.requests_active.load(Relaxed) == 0 {
            this.watch.findings.0.answering.store(false, Relaxed);
        }
        let result = Pin::new(&mut this.io).poll_flush(context);
        this.wrote(result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if this.watch.findings.held_back().is_some() {
            // The answer is still to come.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
