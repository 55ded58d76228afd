//! HTTP/1 towards an upstream: one request at a time on a connection, written and read by the task that asks.
//!
//! hyper's client would be a task of its own for each connection, with two channels between it and the one that asks: a sixth
//! of what a request cost.

pub mod answer;
pub mod request;

use super::connect::UpstreamIo;
use super::places::Place;
use crate::detect::Rewind;
use crate::http::body::{BodyError, Received, RequestBody};
use crate::http::http1::Broken;
use crate::http::http1::incoming::Incoming;
use crate::http::http1::outgoing::{Outgoing, Unwritten};
use crate::http::http1::wire::Wire;
use crate::http::streams::AbortOnDrop;
use crate::http::upgrade;
use crate::session::{Registered, Session};
use answer::Answer;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite as _;

/// A connection that carries one request at a time.
pub struct H1Connection {
    /// `None`: it is a tunnel now, and somebody else's.
    wire: RefCell<Option<Wire<UpstreamIo>>>,
    /// What it carries last has come whole, and gone out whole, and both sides want to go on.
    is_free: Cell<bool>,
    sending: Cell<Sending>,
    /// Of an answer's head.
    head_bytes_max: usize,
    pub session: Option<Arc<Session>>,
    /// Keeps the session known, also when the connection has become a tunnel.
    pub registered: Option<Rc<Registered>>,
    /// Among the service's connections, where those are limited.
    pub place: Option<Rc<Place>>,
}

impl H1Connection {
    pub fn new(
        io: UpstreamIo,
        head_bytes_max: usize,
        session: Option<Arc<Session>>,
        registered: Option<Rc<Registered>>,
        place: Option<Rc<Place>>,
    ) -> Self {
        let wire = RefCell::new(Some(Wire::new(io)));
        let (is_free, sending) = (Cell::new(true), Cell::new(Sending::Done));
        Self { wire, is_free, sending, head_bytes_max, session, registered, place }
    }

    /// May it carry another request? Whoever asks has none under way on it.
    pub fn is_free(&self) -> bool {
        self.is_free.get() && self.session.as_ref().is_none_or(|session| !session.is_retired() && !session.is_cut())
    }

    /// Has the other side said nothing since the last answer? Neither that it has ended, nor what would be taken for the answer to
    /// the next request.
    pub fn is_silent(&self) -> bool {
        let mut wire = self.wire.borrow_mut();
        let Some(wire) = wire.as_mut() else { return false };
        let looking = poll_fn(|_| Poll::Ready(wire.unread.is_empty() && (wire.io.has_nothing() || wire.is_silent())));
        // A task that has had its turn would be told that there is nothing, whatever there is.
        let looking = pin!(tokio::task::coop::unconstrained(looking));
        looking.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(true)
    }

    /// Gives memory back while nobody needs the connection.
    pub fn rest(&self) {
        if let Some(wire) = &mut *self.wire.borrow_mut() {
            wire.rest();
        }
    }

    /// What it carries has come whole.
    fn has_answered(&self, keeps: bool) {
        if let Some(wire) = &*self.wire.borrow() {
            // What came behind an answer answers nothing (THREATS SM-23).
            self.is_free.set(keeps && self.sending.get() == Sending::Done && wire.unread.is_empty());
        }
    }

    fn poll_send(&self, message: &mut Outgoing<RequestBody>, context: &mut Context<'_>) -> Poll<Result<(), Unwritten>> {
        match &mut *self.wire.borrow_mut() {
            Some(wire) => message.poll(&mut wire.io, context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn become_tunnel(&self) -> Option<upgrade::Side> {
        let Wire { io, unread, .. } = self.wire.borrow_mut().take()?;
        Some(upgrade::Side::Open(Box::new(Rewind::new(unread.freeze(), io))))
    }
}

impl Drop for H1Connection {
    /// Says goodbye, as far as that goes without waiting: TLS tells an end in order from one that is not.
    fn drop(&mut self) {
        if let Some(wire) = self.wire.get_mut() {
            // Whoever does not listen any more needs no goodbye.
            let _ = Pin::new(&mut wire.io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// How far a request has gone out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    UnderWay,
    /// All of it.
    Done,
    /// Not all of it, and no more will: the other side waits for bytes that never come, or would take the next request's for them.
    BrokenOff,
}

impl Sending {
    fn of(sent: &Result<(), Unwritten>) -> Self {
        if sent.is_ok() { Self::Done } else { Self::BrokenOff }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The caller's body broke off.
    #[error("the request's body broke off")]
    GivenUp,
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl Unanswered {
    /// The connection had ended, or ended before anything of an answer came.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Broken(Broken::Ended | Broken::Io(_)))
    }

    pub fn is_malformed(&self) -> bool {
        matches!(self, Self::Broken(Broken::Malformed(_)))
    }
}

/// Sends a request; resolves when the head of the answer is there. What is left of the request's body then is sent beside the
/// answer.
///
/// # Cancellation
/// Dropping it, or the answer's body before its end, ends the connection.
pub async fn send(
    connection: &Rc<H1Connection>,
    head: &Parts,
    body: RequestBody,
) -> Result<Response<Received>, Unanswered> {
    connection.is_free.set(false);
    let (lines, framing) = request::write_head(head, !body.is_end_stream()).ok_or(Unanswered::GivenUp)?;
    let mut message = Outgoing::new(lines, body, framing);
    connection.sending.set(Sending::UnderWay);
    let mut unwritten = None;
    let answer = poll_fn(|context| {
        if connection.sending.get() == Sending::UnderWay
            && let Poll::Ready(sent) = connection.poll_send(&mut message, context)
        {
            connection.sending.set(Sending::of(&sent));
            unwritten = sent.err();
        }
        if matches!(unwritten, Some(Unwritten::Body(_) | Unwritten::Length)) {
            return Poll::Ready(Err(Unanswered::GivenUp));
        }
        let answer = connection.poll_answer(&head.method, context);
        match (answer, unwritten.take()) {
            // Who takes no more has often said why, and then that is the answer.
            (Poll::Pending | Poll::Ready(Err(Broken::Ended)), Some(Unwritten::Io(error))) => {
                Poll::Ready(Err(Broken::Io(error).into()))
            }
            (answer, _) => answer.map_err(Unanswered::from),
        }
    });
    let Answer { head, body, keeps, switches } = answer.await?;
    if switches {
        return Ok(Response::from_parts(head, Received::Tunnel(connection.become_tunnel())));
    }
    let rest = (connection.sending.get() == Sending::UnderWay).then(|| send_rest(connection, message));
    let mut body =
        ReceivedAnswer { connection: connection.clone(), body, keeps, is_over: false, _rest: rest, broken: None };
    body.look_at_end();
    Ok(Response::from_parts(head, Received::Answer(body)))
}

impl H1Connection {
    fn poll_answer(&self, asked: &Method, context: &mut Context<'_>) -> Poll<Result<Answer, Broken>> {
        let mut wire = self.wire.borrow_mut();
        let Some(wire) = &mut *wire else { return Poll::Ready(Err(Broken::Ended)) };
        loop {
            if let Some(answer) =
                wire.take_head(self.head_bytes_max, |unread| answer::take(unread, asked, self.head_bytes_max))?
            {
                return Poll::Ready(Ok(answer));
            }
            if ready!(wire.poll_fill(context))? == 0 {
                return Poll::Ready(Err(Broken::Ended));
            }
        }
    }
}

/// An answer came before the request had gone out: the application may read on all the same, and the caller write.
fn send_rest(connection: &Rc<H1Connection>, mut message: Outgoing<RequestBody>) -> AbortOnDrop {
    let connection = connection.clone();
    let sending = tokio::task::spawn_local(async move {
        // Where it fails, the answer is what there is to say, and the last that this connection carries.
        let sent = poll_fn(|context| connection.poll_send(&mut message, context)).await;
        connection.sending.set(Sending::of(&sent));
    });
    AbortOnDrop(sending.abort_handle())
}

/// An answer's body.
pub struct ReceivedAnswer {
    connection: Rc<H1Connection>,
    body: Incoming,
    keeps: bool,
    is_over: bool,
    /// Sends on what is left of the request, as long as there is somebody for whom.
    _rest: Option<AbortOnDrop>,
    broken: Option<Broken>,
}

impl ReceivedAnswer {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(BodyError::Other(Box::new(broken)))));
        }
        let frame = match &mut *self.connection.wire.borrow_mut() {
            Some(wire) => ready!(self.body.poll_frame(wire, context)),
            None => Some(Err(Broken::Ended)),
        };
        self.look_at_end();
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(broken)) => {
                // With this poll the other side would be reset, and what it has not been sent yet lost: that goes out first.
                self.broken = Some(broken);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => None,
        })
    }

    pub fn is_end_stream(&self) -> bool {
        self.body.has_ended()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn look_at_end(&mut self) {
        if self.body.has_ended() && !std::mem::replace(&mut self.is_over, true) {
            self.connection.has_answered(self.keeps);
        }
    }
}
