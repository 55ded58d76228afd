//! HTTP/1 with callers: one request after the other, each read, answered by [`request::handle`], and followed by the next where
//! both sides can tell where it begins.

use super::body::{BodyError, Received};
use super::caller::{BodyState, Caller, ReceivedRequest, head_limits};
use super::headers::{too_many_bytes, too_many_fields};
use super::http1::Broken;
use super::http1::outgoing::{Framing, Outgoing, Unwritten};
use super::http1::request_head::{Head, Unreadable};
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
use http::Request;
use http_body::Body as _;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Instant;
use tokio::sync::oneshot;

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

/// Serves until the connection ends; an end by error goes into the connection's record.
///
/// # Errors
/// It did not end in order.
pub async fn serve(connection: &Rc<Connection>, io: Rewind<CallerIo>) -> Result<(), Ended> {
    let caller = Caller::new(io);
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
    loop {
        let head = match poll_fn(|context| caller.poll_head(connection, context)).await? {
            Some(Ok(head)) => head,
            Some(Err(unreadable)) => {
                Box::pin(refuse_head(connection, caller, &unreadable)).await;
                return Err(unreadable.into());
            }
            None => break,
        };
        connection.session.request_begins();
        if !exchange(connection, caller, head).await? {
            break;
        }
    }
    Box::pin(caller.say_goodbye(&[])).await;
    Ok(())
}

/// One request and its answer. True: another may follow.
async fn exchange(connection: &Rc<Connection>, caller: &Rc<Caller>, head: Head) -> Result<bool, Ended> {
    let Head { parts, body, keeps, expects_continue, takes_trailers, asks_upgrade } = head;
    let asked = Asked::of(&parts.method, parts.version, keeps);
    let has_body = !body.has_ended();
    caller.begins(has_body, expects_continue);
    let (body, become_tunnel) = match has_body {
        false if asked.is_connect || asks_upgrade => {
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
    let interim = caller.take_interim();
    if !interim.is_empty() {
        lines.splice(..0, interim.iter().copied());
    }
    let message = Outgoing::new(lines, body, framing);
    let mut message = if takes_trailers { message } else { message.without_trailers() };
    let sent = poll_fn(|context| caller.poll_send(connection, &mut message, context)).await;
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
    // Until then the request has its deadlines, and is decided again: an upload may go on behind a whole answer.
    let is_done = poll_fn(|context| caller.poll_body_done(context)).await;
    drop(message);
    Ok(keeps && is_done)
}

/// A head that cannot be read never becomes a request of [`request::handle`]; it is one all the same, with an answer, a decision and
/// a record.
async fn refuse_head(connection: &Rc<Connection>, caller: &Caller, unreadable: &Unreadable) {
    let limits = head_limits(connection);
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
