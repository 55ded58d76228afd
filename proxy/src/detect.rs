//! The first bytes of a connection → what protocol it speaks: a pure function, the timed wait around it, and the memory
//! that saves the wait.

mod opaque;
pub mod sni;

pub use opaque::Opaque;

use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashMap;
use std::hash::Hash;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detected {
    Tls,
    Http1,
    Http2,
    /// Anything else.
    Opaque,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Known(Detected),
    /// The bytes are the beginning of something that is not decided yet.
    NeedMore,
}

/// Reads what `first_bytes` begin. Once known, more bytes never change the verdict; it is known within
/// [`DECIDED_WITHIN_BYTES`].
pub fn classify(first_bytes: &[u8]) -> Verdict {
    match first_bytes.first() {
        None => Verdict::NeedMore,
        Some(&TLS_HANDSHAKE) => classify_tls(first_bytes),
        Some(_) if PREFACE.starts_with(first_bytes) && first_bytes.len() < PREFACE.len() => Verdict::NeedMore,
        Some(_) if first_bytes.starts_with(PREFACE) => Verdict::Known(Detected::Http2),
        Some(_) => classify_http1(first_bytes),
    }
}

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TLS_HANDSHAKE: u8 = 22;
const METHOD_BYTES_MAX: usize = 32;
/// A method, a space and `https:`.
pub const DECIDED_WITHIN_BYTES: usize = METHOD_BYTES_MAX + 1 + 6;

/// RFC 8446 §5.1 and §4: handshake record, version 3.x, a length that is not zero and at most 2^14, ClientHello.
fn classify_tls(bytes: &[u8]) -> Verdict {
    let fits = |index: usize, fits: fn(u8) -> bool| bytes.get(index).is_none_or(|byte| fits(*byte));
    let fits_all = fits(1, |major| major == 3)
        && fits(2, |minor| minor <= 4)
        && fits(3, |high| high <= 0x40)
        && fits(5, |kind| kind == 1);
    match fits_all {
        false => Verdict::Known(Detected::Opaque),
        true if bytes.len() < 6 => Verdict::NeedMore,
        true => Verdict::Known(Detected::Tls),
    }
}

/// RFC 9112 §3: a method, one space, and the start of a request target. The target tells HTTP from the many line protocols
/// that start with a word (`EHLO host`, `CONNECT {…}` of NATS, `OPTIONS rtsp://…`).
fn classify_http1(bytes: &[u8]) -> Verdict {
    let opaque = Verdict::Known(Detected::Opaque);
    let method_bytes =
        bytes.iter().take_while(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_')).count();
    if method_bytes == bytes.len() && method_bytes <= METHOD_BYTES_MAX {
        return Verdict::NeedMore;
    }
    if method_bytes == 0 || method_bytes > METHOD_BYTES_MAX || bytes[method_bytes] != b' ' {
        return opaque;
    }
    let (method, target) = (&bytes[..method_bytes], &bytes[method_bytes + 1..]);
    let is_start = match target.first() {
        None => return Verdict::NeedMore,
        Some(b'/' | b'*') => true,
        Some(first) if method == b"CONNECT" => first.is_ascii_alphanumeric() || *first == b'[',
        Some(_) => return classify_scheme(target),
    };
    if is_start { Verdict::Known(Detected::Http1) } else { opaque }
}

/// The absolute form: `http:` or `https:`, in any case.
fn classify_scheme(target: &[u8]) -> Verdict {
    for scheme in [b"http:".as_slice(), b"https:"] {
        let shared = target.len().min(scheme.len());
        if target[..shared].eq_ignore_ascii_case(&scheme[..shared]) {
            return if shared == scheme.len() { Verdict::Known(Detected::Http1) } else { Verdict::NeedMore };
        }
    }
    Verdict::Known(Detected::Opaque)
}

/// Reads into `buffer` until the protocol is known; [`Rewind`] gives the bytes back. `None`: `deadline` passed with nothing
/// decisive. A caller that ends before it said anything decisive is opaque: there is no more to come.
///
/// # Errors
/// Of the read.
///
/// # Cancellation
/// Loses nothing: all bytes read are in `buffer`.
pub async fn detect<IO: AsyncRead + Unpin>(
    io: &mut IO,
    buffer: &mut BytesMut,
    deadline: Duration,
) -> Result<Option<Detected>, io::Error> {
    let reading = async {
        loop {
            if let Verdict::Known(detected) = classify(buffer) {
                return Ok(detected);
            }
            let room = FIRST_BYTES_MAX.saturating_sub(buffer.len());
            buffer.reserve(room);
            if room == 0 || io.read_buf(&mut (&mut *buffer).limit(room)).await? == 0 {
                return Ok(Detected::Opaque);
            }
        }
    };
    tokio::time::timeout(deadline, reading).await.map_or(Ok(None), |detected| detected.map(Some))
}

/// A ClientHello with X25519MLKEM768 is longer; nobody needs it whole to know it.
const FIRST_BYTES_MAX: usize = 1024;

/// A connection with the bytes in front that were read from it to find out what it is.
#[derive(Debug)]
pub struct Rewind<IO> {
    prefix: Bytes,
    io: IO,
}

impl<IO> Rewind<IO> {
    pub fn new(prefix: Bytes, io: IO) -> Self {
        Self { prefix, io }
    }

    /// Nothing was read ahead.
    pub fn is_fresh(&self) -> bool {
        self.prefix.is_empty()
    }

    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// What was not read yet, and the connection.
    pub fn into_parts(self) -> (Bytes, IO) {
        (self.prefix, self.io)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewind<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(length));
        if self.prefix.is_empty() {
            // Gives the memory back.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewind<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
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

/// What a destination carries, as far as rules are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Nothing there is decided by request: to treat it as opaque skips no rule.
    L4Only,
    /// Requests are decided: what was learned earlier must not take a connection past the rules.
    L7,
}

/// Destinations at which the server speaks first, so that waiting for the caller's first bytes is in vain. One a worker.
///
/// It saves the wait and decides nothing: where L7 rules exist it is not asked (DESIGN, ruling "detection memory").
#[derive(Debug)]
pub struct DetectMemory<K> {
    silent: HashMap<K, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    learned: Instant,
    used: Instant,
}

impl<K> Default for DetectMemory<K> {
    fn default() -> Self {
        Self { silent: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone> DetectMemory<K> {
    /// Whether the wait may be left out for a new connection to `destination`, which is opaque then.
    pub fn may_skip_wait(&mut self, destination: &K, rules: Rules, now: Instant) -> bool {
        if rules == Rules::L7 {
            return false;
        }
        let Some(seen) = self.silent.get_mut(destination) else { return false };
        if now.saturating_duration_since(seen.learned) > REMEMBERED_FOR {
            self.silent.remove(destination);
            return false;
        }
        seen.used = now;
        true
    }

    /// What [`detect`] returned for `destination`: `None` is what is remembered, anything else ends the memory.
    pub fn record(&mut self, destination: &K, detected: Option<Detected>, now: Instant) {
        if detected.is_some() {
            self.silent.remove(destination);
            return;
        }
        if self.silent.len() >= REMEMBERED_MAX && !self.silent.contains_key(destination) {
            let oldest =
                self.silent.iter().min_by_key(|(_, seen)| seen.used).map(|(destination, _)| destination.clone());
            oldest.and_then(|oldest| self.silent.remove(&oldest));
        }
        self.silent.insert(destination.clone(), Seen { learned: now, used: now });
    }
}

/// Then the next connection waits again, for a destination may change its protocol.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
const REMEMBERED_MAX: usize = 1024;

#[cfg(test)]
mod tests;
