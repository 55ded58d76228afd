//! Watches the frames of an HTTP/2 connection on their way to and from its library, for what the library does not count:
//! frames that carry nothing (THREATS H2-08). It answers every PING and SETTINGS, and takes any number of WINDOW_UPDATE,
//! PRIORITY and unknown frames.
//!
//! It also tells the session whether a head is under way, which has its deadline, as the preface has; and it counts the
//! streams that the library resets by itself. Those never become requests, nobody but the library knows what they asked for,
//! and a caller can make them at the speed of its line: so they have numbers, in metrics and in their connection's record,
//! and no records of their own.
//!
//! Changes no byte. Pure but for the wrapper at the end, and the clock that is read when the frames of a second are used up.

use crate::session::{EndCause, Session};
use crate::telemetry::PortMetrics;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// RFC 9113 §4.1.
const FRAME_HEAD: usize = 9;
/// RFC 9113 §3.4.
const PREFACE_BYTES: u32 = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What a stream may need beside its own frames: updates of windows, a priority, a reset.
const PER_STREAM: i64 = 4;
/// Updates of windows that the other side may send for each DATA frame that it gets; Envoy allows as many.
const PER_DATA: i64 = 10;
/// So many seconds' worth may be saved up.
const SAVED_MAX: i64 = 10;

#[derive(Debug, thiserror::Error)]
#[error("more HTTP/2 frames that carry nothing than `limits.h2_control_frames`")]
struct Flood;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// The error code of a RST_STREAM.
    code: u32,
}

/// Finds frames in the bytes of one direction.
#[derive(Default)]
struct Frames {
    /// Bytes that belong to no head: of payloads, or of the preface.
    skip: u32,
    head: [u8; FRAME_HEAD + 4],
    have: usize,
}

impl Frames {
    /// The next frame of which the head (and the code, if it is a reset) is whole; takes its bytes off.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            let skipped = (self.skip as usize).min(bytes.len());
            *bytes = &bytes[skipped..];
            self.skip -= skipped as u32;
            let wanted = if self.have < FRAME_HEAD { FRAME_HEAD } else { FRAME_HEAD + 4 };
            let taken = (wanted - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            *bytes = &bytes[taken..];
            if self.have < wanted {
                return None;
            }
            let head = &self.head;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let has_code = head[3] == RST_STREAM && length >= 4;
            if has_code && self.have == FRAME_HEAD {
                continue;
            }
            self.have = 0;
            self.skip = if has_code { length - 4 } else { length };
            return Some(Frame {
                length,
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7FFF_FFFF,
                code: if has_code { u32::from_be_bytes([head[9], head[10], head[11], head[12]]) } else { 0 },
            });
        }
    }

    fn is_within_a_head(&self) -> bool {
        self.have > 0
    }
}

/// Both directions of a connection, and how many frames that carry nothing it may still send.
struct Watch {
    from_there: Frames,
    to_there: Frames,
    stream_max: u32,
    /// A header block has begun, and its end has not come.
    in_head: bool,
    /// Nothing but the preface, or a part of it, has come.
    is_new: bool,
    credit: i64,
    each_second: i64,
    refilled: Instant,
}

impl Watch {
    fn new(each_second: u32, preface: u32, now: Instant) -> Self {
        Self {
            from_there: Frames { skip: preface, ..Frames::default() },
            to_there: Frames::default(),
            stream_max: 0,
            in_head: false,
            is_new: true,
            credit: i64::from(each_second),
            each_second: i64::from(each_second),
            refilled: now,
        }
    }

    /// False when the other side has sent too many; then `now` is asked.
    fn received(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        while let Some(frame) = self.from_there.next(&mut bytes) {
            self.is_new = false;
            match frame.kind {
                HEADERS => {
                    if frame.stream > self.stream_max {
                        self.stream_max = frame.stream;
                        self.earn(PER_STREAM);
                    }
                    self.in_head = frame.flags & END_HEADERS == 0;
                }
                CONTINUATION => self.in_head = frame.flags & END_HEADERS == 0,
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {}
                _ => {
                    self.credit -= 1;
                    if self.credit < 0 && !self.refill(now()) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn sent(&mut self, mut bytes: &[u8], mut reset: impl FnMut(u32)) {
        while let Some(frame) = self.to_there.next(&mut bytes) {
            match frame.kind {
                DATA => self.earn(PER_DATA),
                RST_STREAM => reset(frame.code),
                _ => {}
            }
        }
    }

    fn earn(&mut self, frames: i64) {
        self.credit = (self.credit + frames).min(SAVED_MAX * self.each_second);
    }

    fn refill(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64().min(1.0);
        self.refilled = now;
        self.credit += (elapsed * self.each_second as f64) as i64;
        self.credit >= 0
    }

    fn awaits_head(&self) -> bool {
        self.is_new || self.in_head || self.from_there.is_within_a_head()
    }
}

/// An HTTP/2 connection whose frames are watched.
pub struct WatchedFrames<IO> {
    io: IO,
    watch: Watch,
    session: Option<Arc<Session>>,
    metrics: Arc<PortMetrics>,
}

impl<IO> WatchedFrames<IO> {
    /// Of a caller.
    pub fn of_caller(io: IO, session: Arc<Session>, metrics: Arc<PortMetrics>, each_second: u32) -> Self {
        session.head_begun.store(true, Relaxed);
        Self { io, watch: Watch::new(each_second, PREFACE_BYTES, Instant::now()), session: Some(session), metrics }
    }

    /// Of an upstream, where the preface goes the other way.
    pub fn of_upstream(io: IO, session: Option<Arc<Session>>, metrics: Arc<PortMetrics>, each_second: u32) -> Self {
        let mut watch = Watch::new(each_second, 0, Instant::now());
        watch.to_there.skip = PREFACE_BYTES;
        Self { io, watch, session, metrics }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let (session, metrics) = (&self.session, &self.metrics);
        self.watch.sent(bytes, |code| {
            metrics.http2_reset(code);
            if let Some(session) = session {
                session.stream_reset(code);
            }
        });
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for WatchedFrames<IO> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        let is_flood = !this.watch.received(&buffer.filled()[before..], Instant::now);
        if let Some(session) = &this.session {
            session.head_begun.store(this.watch.awaits_head(), Relaxed);
            if is_flood {
                session.cut(EndCause::Http2Flood, Instant::now());
            }
        }
        Poll::Ready(if is_flood { Err(io::Error::other(Flood)) } else { Ok(()) })
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for WatchedFrames<IO> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = ready!(Pin::new(&mut this.io).poll_write(context, bytes))?;
        this.wrote(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = ready!(Pin::new(&mut this.io).poll_write_vectored(context, slices))?;
        let mut left = length;
        for slice in slices {
            let part = &slice[..slice.len().min(left)];
            this.wrote(part);
            left -= part.len();
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
