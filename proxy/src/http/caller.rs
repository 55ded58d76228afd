//! A connection with a caller in HTTP/1, as the one who serves it and the request under way share it: heads and bodies are read from
//! it, answers written to it.

use super::body::{BodyError, ResponseBody};
use super::http1::Broken;
use super::http1::incoming::Incoming;
use super::http1::outgoing::{Outgoing, Unwritten};
use super::http1::request_head::{self, Head, HeadLimits, Unreadable};
use super::http1::wire::Wire;
use crate::capture::caller::CallerIo;
use crate::connection::Connection;
use crate::detect::Rewind;
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// What a caller may still send of a message that was refused, before its connection is closed.
const GOODBYE_BYTES_MAX: usize = 1 << 20;
/// RFC 9110 §15.2.1.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection with a caller, as the one who serves it and the request under way share it.
pub struct Caller {
    /// `None`: it is a tunnel now, and somebody else's.
    pub wire: RefCell<Option<Wire<CallerIo>>>,
    pub body: Cell<BodyState>,
    /// Waits for the body of the request to be done with.
    waits: RefCell<Option<Waker>>,
    /// What is still to be written of [`CONTINUE`].
    interim: Cell<&'static [u8]>,
    interim_unflushed: Cell<bool>,
    /// Whoever waits for that.
    interim_waits: RefCell<Option<Waker>>,
    has_ended: Cell<bool>,
    is_parked: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    /// All of it has been read, if there was one.
    Ended,
    Open,
    /// Nobody reads on: what follows it cannot be told from it.
    GivenUp,
}

impl Caller {
    pub fn new(io: Rewind<CallerIo>) -> Rc<Self> {
        let (unread, io) = io.into_parts();
        Rc::new(Self {
            wire: RefCell::new(Some(Wire::with(BytesMut::from(unread), io))),
            body: Cell::new(BodyState::Ended),
            waits: RefCell::new(None),
            interim: Cell::new(b""),
            interim_unflushed: Cell::new(false),
            interim_waits: RefCell::new(None),
            has_ended: Cell::new(false),
            is_parked: Cell::new(false),
        })
    }

    /// A request with such a body begins.
    pub fn begins(&self, has_body: bool, expects_continue: bool) {
        self.body.set(if has_body { BodyState::Open } else { BodyState::Ended });
        self.interim.set(if expects_continue && has_body { CONTINUE } else { b"" });
    }

    /// The head of the next request. `None`: the caller has ended its side.
    pub fn poll_head(
        &self,
        connection: &Connection,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Result<Head, Unreadable>>, Broken>> {
        let limits = head_limits(connection);
        let mut wire = self.wire.borrow_mut();
        let Some(wire) = &mut *wire else { return Poll::Ready(Ok(None)) };
        loop {
            match wire.take_head(limits.bytes, |unread| request_head::take(unread, limits)) {
                Ok(None) => {}
                Ok(Some(head)) => {
                    connection.session.head_begun.store(false, Relaxed);
                    return Poll::Ready(Ok(Some(Ok(head))));
                }
                Err(unreadable) => return Poll::Ready(Ok(Some(Err(unreadable)))),
            }
            let has_begun = request_head::has_begun(&wire.unread);
            connection.session.head_begun.store(has_begun, Relaxed);
            let is_parked = self.is_parked.get() && wire.unread.is_empty();
            let read = if is_parked { wire.poll_wake(context) } else { wire.poll_fill(context) };
            let read = ready!(read);
            self.is_parked.set(false);
            match read {
                Ok(1..) => {}
                // Between two requests it does not matter how.
                Ok(0) | Err(_) if !has_begun => {
                    self.has_ended.set(true);
                    return Poll::Ready(Ok(None));
                }
                Ok(0) => return Poll::Ready(Err(Broken::Ended)),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Has been idle for a while: gives its memory back.
    pub fn park(&self) {
        if let Some(wire) = &mut *self.wire.borrow_mut()
            && wire.unread.is_empty()
            && self.body.get() == BodyState::Ended
        {
            wire.rest();
            self.is_parked.set(true);
        }
    }

    fn body_is(&self, state: BodyState) {
        self.body.set(state);
        if let Some(waiting) = self.waits.borrow_mut().take() {
            waiting.wake();
        }
    }

    /// True: another request may follow.
    pub fn poll_body_done(&self, context: &mut Context<'_>) -> Poll<bool> {
        match self.body.get() {
            BodyState::Ended => Poll::Ready(true),
            BodyState::GivenUp => Poll::Ready(false),
            BodyState::Open => {
                *self.waits.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Writes what is left of [`CONTINUE`].
    fn poll_interim(&self, wire: &mut Wire<CallerIo>, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.interim.get().is_empty() {
            let Poll::Ready(written) = Pin::new(&mut wire.io).poll_write(context, self.interim.get()) else {
                // The answer may come meanwhile, and with it what is left of this.
                *self.interim_waits.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            };
            self.interim.set(&self.interim.get()[written?..]);
            self.interim_unflushed.set(true);
        }
        if self.interim_unflushed.get() {
            ready!(Pin::new(&mut wire.io).poll_flush(context))?;
            self.interim_unflushed.set(false);
        }
        Poll::Ready(Ok(()))
    }

    /// What of it has not been written, where that has begun: an answer takes it along.
    pub fn take_interim(&self) -> &'static [u8] {
        self.interim_unflushed.set(false);
        if let Some(waiting) = self.interim_waits.borrow_mut().take() {
            waiting.wake();
        }
        let left = self.interim.take();
        if left.len() < CONTINUE.len() { left } else { b"" }
    }

    pub fn poll_send(
        &self,
        connection: &Connection,
        message: &mut Outgoing<ResponseBody>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Unwritten>> {
        let sent = match &mut *self.wire.borrow_mut() {
            Some(wire) => message.poll(&mut wire.io, context),
            None => Poll::Ready(Ok(())),
        };
        // Bytes that could not be written yet belong to a response: the connection is not idle.
        connection.session.write_pending.store(sent.is_pending() && message.has_unwritten(), Relaxed);
        sent
    }

    pub fn reset_when_closed(&self) {
        if let Some(Wire { io: CallerIo::Plain(plain), .. }) = &*self.wire.borrow()
            && let Some(tcp) = plain.get_ref().stream().tcp()
        {
            // It closes anyway.
            let _ = tcp.set_zero_linger();
        }
    }

    /// RFC 9112 §9.6: a connection that is closed while its caller still sends is reset, and the answer is lost.
    pub async fn say_goodbye(&self, last_words: &[u8]) {
        let Some(Wire { mut io, .. }) = self.wire.borrow_mut().take() else { return };
        let has_ended = self.has_ended.get();
        let goodbye = async {
            io.write_all(last_words).await?;
            io.shutdown().await?;
            let (mut rest, mut left) = ([0; 1024], if has_ended { 0 } else { GOODBYE_BYTES_MAX });
            while left > 0 {
                match io.read(&mut rest).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok::<_, std::io::Error>(())
        };
        // A caller that does not listen any more is no error.
        let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
    }
}

pub fn head_limits(connection: &Connection) -> HeadLimits {
    let policy = connection.worker.policy();
    HeadLimits { fields: policy.limits.headers, bytes: policy.limits.header_bytes }
}

/// A request's body.
pub struct ReceivedRequest {
    pub caller: Rc<Caller>,
    pub body: Incoming,
}

impl ReceivedRequest {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.body.has_ended() {
            return Poll::Ready(None);
        }
        let frame = match &mut *self.caller.wire.borrow_mut() {
            // RFC 9110 §10.1.1: not where it has begun to come all the same.
            Some(wire) if wire.unread.is_empty() => match ready!(self.caller.poll_interim(wire, context)) {
                Ok(()) => ready!(self.body.poll_frame(wire, context)),
                Err(broken) => Some(Err(broken)),
            },
            Some(wire) => ready!(self.body.poll_frame(wire, context)),
            None => Some(Err(Broken::Ended)),
        };
        if self.body.has_ended() {
            self.caller.body_is(BodyState::Ended);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|broken| BodyError::Other(Box::new(broken)))))
    }

    pub fn is_end_stream(&self) -> bool {
        self.body.has_ended()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ReceivedRequest {
    fn drop(&mut self) {
        if !self.body.has_ended() {
            self.caller.body_is(BodyState::GivenUp);
        }
    }
}
