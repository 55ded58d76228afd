//! HTTP/1 with callers: one request after the other, each read, answered by [`request::handle`], and followed by the next where
//! both sides can tell where it begins.

use super::body::{BodyError, Received, ResponseBody};
use super::headers::{too_many_bytes, too_many_fields};
use super::http1::Broken;
use super::http1::incoming::Incoming;
use super::http1::outgoing::{Framing, Outgoing, Unwritten};
use super::http1::request_head::{self, Head, HeadLimits, Unreadable};
use super::http1::response_head::{self, Asked, Written};
use super::http1::wire::Wire;
use super::record::Recorder;
use super::request;
use super::respond::{self, Asker};
use super::upgrade::Side;
use crate::capture::caller::CallerIo;
use crate::connection::Connection;
use crate::detect::Rewind;
use crate::refusal::{Refusal, Refused};
use crate::session::Told;
use crate::upstream::client::chain;
use bytes::{Bytes, BytesMut};
use http::Request;
use http::header::UPGRADE;
use http_body::{Body as _, Frame, SizeHint};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// What a caller may still send of a message that was refused, before its connection is closed.
const GOODBYE_BYTES_MAX: usize = 1 << 20;
/// RFC 9110 §15.2.1.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a connection with a caller ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Caller(#[from] Broken),
    #[error(transparent)]
    Head(#[from] Unreadable),
    #[error("the answer broke off")]
    Answer(#[source] BodyError),
    #[error("the answer was not as long as it said")]
    Length,
}

/// A connection with a caller, as the one who serves it and the request under way share it.
struct Caller {
    /// `None`: it is a tunnel now, and somebody else's.
    wire: RefCell<Option<Wire<CallerIo>>>,
    body: Cell<BodyState>,
    /// Waits for the body of the request to be done with.
    waits: RefCell<Option<Waker>>,
    /// What is still to be written of [`CONTINUE`].
    interim: Cell<&'static [u8]>,
    is_parked: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// All of it has been read, if there was one.
    Ended,
    Open,
    /// Nobody reads on: what follows it cannot be told from it.
    GivenUp,
}

/// Serves until the connection ends; an end by error goes into the connection's record.
///
/// # Errors
/// It did not end in order.
pub async fn serve(connection: &Rc<Connection>, io: Rewind<CallerIo>) -> Result<(), Ended> {
    let (unread, io) = io.into_parts();
    let caller = Rc::new(Caller {
        wire: RefCell::new(Some(Wire::with(BytesMut::from(unread), io))),
        body: Cell::new(BodyState::Ended),
        waits: RefCell::new(None),
        interim: Cell::new(b""),
        is_parked: Cell::new(false),
    });
    let session = &connection.session;
    let mut serving = pin!(serve_all(connection, &caller));
    poll_fn(|context| {
        if let Poll::Ready(ended) = serving.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        // It could not be ended in order: an answer's body is looked at only when the caller takes what came of it before. A cut
        // wakes the task that polls the body, which is this one.
        if let Some(cause) = session.request_was_cut() {
            session.cut_with_request(cause, Instant::now());
            return Poll::Ready(Ok(()));
        }
        loop {
            match ready!(session.poll_told(context)) {
                // While an answer is under way nothing reads.
                Told::Cut => return Poll::Ready(Ok(())),
                Told::Park => caller.park(),
            }
        }
    })
    .await
}

async fn serve_all(connection: &Rc<Connection>, caller: &Rc<Caller>) -> Result<(), Ended> {
    let limits = connection.worker.policy().limits.clone();
    let head_limits = HeadLimits { fields: limits.headers, bytes: limits.header_bytes };
    loop {
        let head = match poll_fn(|context| caller.poll_head(connection, head_limits, context)).await? {
            Some(Ok(head)) => head,
            Some(Err(unreadable)) => {
                refuse_head(connection, caller, &unreadable, head_limits).await;
                return Err(unreadable.into());
            }
            None => break,
        };
        connection.session.request_begins();
        if !exchange(connection, caller, head).await? {
            break;
        }
    }
    caller.say_goodbye(&[]).await;
    Ok(())
}

impl Caller {
    /// The head of the next request. `None`: the caller has ended its side.
    fn poll_head(
        &self,
        connection: &Connection,
        limits: HeadLimits,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Result<Head, Unreadable>>, Broken>> {
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
            let read = if is_parked { ready!(wire.poll_wake(context))? } else { ready!(wire.poll_fill(context))? };
            self.is_parked.set(false);
            match read {
                0 if has_begun => return Poll::Ready(Err(Broken::Ended)),
                0 => return Poll::Ready(Ok(None)),
                _ => {}
            }
        }
    }

    /// Has been idle for a while: gives its memory back.
    fn park(&self) {
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
    fn poll_body_done(&self, context: &mut Context<'_>) -> Poll<bool> {
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
            let written = ready!(Pin::new(&mut wire.io).poll_write(context, self.interim.get()))?;
            self.interim.set(&self.interim.get()[written..]);
        }
        Pin::new(&mut wire.io).poll_flush(context).map_err(Broken::from)
    }

    fn poll_send(
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

    fn reset_when_closed(&self) {
        if let Some(Wire { io: CallerIo::Plain(plain), .. }) = &*self.wire.borrow()
            && let Some(tcp) = plain.get_ref().stream().tcp()
        {
            // It closes anyway.
            let _ = tcp.set_zero_linger();
        }
    }

    /// RFC 9112 §9.6: a connection that is closed while its caller still sends is reset, and the answer is lost.
    async fn say_goodbye(&self, last_words: &[u8]) {
        let Some(Wire { mut io, .. }) = self.wire.borrow_mut().take() else { return };
        let is_done = self.body.get() == BodyState::Ended;
        let goodbye = async {
            io.write_all(last_words).await?;
            io.shutdown().await?;
            let (mut rest, mut left) = ([0; 1024], if is_done { 0 } else { GOODBYE_BYTES_MAX });
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

/// One request and its answer. True: another may follow.
async fn exchange(connection: &Rc<Connection>, caller: &Rc<Caller>, head: Head) -> Result<bool, Ended> {
    let Head { parts, body, keeps, expects_continue, takes_trailers } = head;
    let asked = Asked::of(&parts.method, parts.version, keeps);
    let has_body = !body.has_ended();
    caller.body.set(if has_body { BodyState::Open } else { BodyState::Ended });
    caller.interim.set(if expects_continue && has_body { CONTINUE } else { b"" });
    let (body, become_tunnel) = match has_body {
        false if asked.is_connect || parts.headers.contains_key(UPGRADE) => {
            let (give, taken) = oneshot::channel();
            (Received::Tunnel(Some(Side::Upgrade(taken))), Some(give))
        }
        _ => (Received::Http1(ReceivedRequest { caller: caller.clone(), body }), None),
    };
    let request = Request::from_parts(parts, body);
    // Boxed: most connections have none under way most of the time, and it takes the most room. Without an answer it ends when its
    // trust has ended.
    let Ok(response) = Box::pin(request::handle(connection.clone(), request)).await else { return Ok(false) };

    let (head, body) = response.into_parts();
    let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let Written { mut lines, framing, keeps, switches } = response_head::write(&head, length, asked);
    let interim = caller.interim.take();
    if interim.len() < CONTINUE.len() {
        // It has begun.
        lines.splice(..0, interim.iter().copied());
    }
    let message = Outgoing::new(lines, body, framing);
    let mut message = if takes_trailers { message } else { message.without_trailers() };
    let sent = poll_fn(|context| caller.poll_send(connection, &mut message, context)).await;
    drop(message);
    if sent.is_err() && framing == Framing::UntilEnd {
        // A caller would take an end in order for the body's.
        caller.reset_when_closed();
    }
    sent.map_err(|unwritten| match unwritten {
        Unwritten::Body(error) => Ended::Answer(error),
        Unwritten::Length => Ended::Length,
        Unwritten::Io(error) => Ended::Caller(error.into()),
    })?;
    if switches {
        if let (Some(give), Some(Wire { io, unread, .. })) = (become_tunnel, caller.wire.borrow_mut().take()) {
            // Whoever would have taken it may have ended meanwhile.
            let _ = give.send(Rewind::new(unread.freeze(), io));
        }
        return Ok(false);
    }
    let is_done = poll_fn(|context| caller.poll_body_done(context)).await;
    Ok(keeps && is_done)
}

/// A request's body.
pub struct ReceivedRequest {
    caller: Rc<Caller>,
    body: Incoming,
}

impl ReceivedRequest {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut *self.caller.wire.borrow_mut() {
            // RFC 9110 §10.1.1: not where it has begun to come all the same.
            Some(wire) if !self.caller.interim.get().is_empty() && wire.unread.is_empty() => {
                match ready!(self.caller.poll_interim(wire, context)) {
                    Ok(()) => ready!(self.body.poll_frame(wire, context)),
                    Err(broken) => Some(Err(broken)),
                }
            }
            Some(wire) => ready!(self.body.poll_frame(wire, context)),
            None => None,
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

/// A head that cannot be read never becomes a request of [`request::handle`]; it is one all the same, with an answer, a decision and
/// a record.
async fn refuse_head(connection: &Rc<Connection>, caller: &Caller, unreadable: &Unreadable, limits: HeadLimits) {
    let refused = match unreadable {
        Unreadable::LongTarget => Refused::new(Refusal::TargetTooLong, unreadable.to_string()),
        Unreadable::ManyFields => Refused::new(Refusal::HeadersTooLarge, too_many_fields(limits.fields)),
        Unreadable::LongHead => Refused::new(Refusal::HeadersTooLarge, too_many_bytes(limits.bytes)),
        Unreadable::Malformed(_) | Unreadable::Target(_) | Unreadable::Method(_) => {
            Refused::new(Refusal::BadRequest, chain(unreadable))
        }
    };
    let asker = if connection.peer().is_some() { Asker::MeshPeer } else { Asker::Other };
    let mut recorder = match &*caller.wire.borrow() {
        Some(wire) => Recorder::of_refused_head(connection, &wire.unread),
        None => return,
    };
    let answer = respond::refuse_head(&refused, &recorder.decision_id(), asker);
    let status = refused.refusal.status();
    recorder.refused(refused, status);
    drop(recorder);
    caller.body.set(BodyState::GivenUp);
    caller.say_goodbye(&answer).await;
}
