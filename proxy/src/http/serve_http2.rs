//! HTTP/2 from a caller: its streams, each a task that answers one request, straight from h2.

use super::body::{Received, ResponseBody};
use super::date;
use super::frames::WatchedFrames;
use super::request;
use super::streams::{Incoming, Outgoing};
use super::upgrade::Side;
use crate::capture::caller::CallerIo;
use crate::connection::Connection;
use crate::detect::Rewind;
use crate::hbone::{Keepalive, TunnelStream};
use crate::session::EndCause;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Instant;
use tokio::sync::oneshot;

/// h2 answers longer lists than it is told of by itself, and nobody learns of it; so we check the limit, and h2 has room
/// above it. It holds one list a connection at a time.
const LIST_FACTOR: u32 = 2;
/// THREATS H2-01 and H2-03: resets that a caller may cause before the connection is closed.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_LOCAL_MAX: usize = 100;

/// Until the caller has ended the connection, or it is cut. Retired, it takes no new streams and ends with the last.
///
/// # Errors
/// The caller broke the protocol, or its socket did.
pub async fn serve(connection: &Rc<Connection>, io: Rewind<CallerIo>) -> Result<(), h2::Error> {
    let session = &connection.session;
    let policy = connection.worker.policy();
    let (limits, timeouts) = (policy.limits.clone(), policy.timeouts.clone());
    drop(policy);
    let window = connection.worker.windows.promise(limits.buffered_bytes / connection.worker.count());
    let io = WatchedFrames::of_caller(io, session.clone(), connection.metrics.clone(), limits.h2_control_frames);
    let mut h2 = h2::server::Builder::new()
        .initial_window_size(window.stream())
        .initial_connection_window_size(window.connection())
        .max_send_buffer_size(window.send_buffer())
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size((limits.header_bytes as u32).saturating_mul(LIST_FACTOR))
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(Some(RESETS_LOCAL_MAX))
        .handshake::<_, Bytes>(io)
        .await?;
    let heard = || session.bytes_in.load(Relaxed);
    let mut lost = pin!(Keepalive::new(h2.ping_pong(), &timeouts).lost(|| true, heard));
    let mut retired = pin!(session.retired());
    let mut is_closing = false;
    poll_fn(|context| {
        loop {
            match h2.poll_accept(context) {
                Poll::Ready(Some(Ok((request, answer)))) => {
                    tokio::task::spawn_local(answer_one(connection.clone(), request, answer));
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            if !is_closing && retired.as_mut().poll(context).is_ready() {
                is_closing = true;
                if !session.is_cut() {
                    // GOAWAY: what is in flight finishes.
                    h2.graceful_shutdown();
                }
                continue;
            }
            return lost.as_mut().poll(context).map(|()| {
                session.cut(EndCause::Unresponsive, Instant::now());
                Ok(())
            });
        }
    })
    .await
}

/// Dropped before its end, the stream is reset.
async fn answer_one(connection: Rc<Connection>, request: Request<RecvStream>, mut answer: SendResponse<Bytes>) {
    let (head, receive) = request.into_parts();
    let (body, tunnel) = if head.method == Method::CONNECT {
        let (agree, agreed) = oneshot::channel();
        (Received::Tunnel(Some(Side::Stream(agreed))), Some((agree, receive)))
    } else {
        (Received::Http2(Incoming::new(&head.headers, receive, None)), None)
    };
    // Boxed: what answers is far larger than what sends a body, for which the task may live long.
    let mut handling = Box::pin(request::handle(connection, Request::from_parts(head, body)));
    let handled = poll_fn(|context| {
        // A caller that has left is asked for first: its body's end would look like the request's own.
        if answer.poll_reset(context).is_ready() {
            return Poll::Ready(None);
        }
        handling.as_mut().poll(context).map(Some)
    });
    let handled = handled.await;
    drop(handling);
    let response = match handled {
        Some(Ok(response)) => response,
        Some(Err(request::Aborted)) => return answer.send_reset(Reason::INTERNAL_ERROR),
        None => return,
    };
    let (mut head, body) = response.into_parts();
    if !head.headers.contains_key(DATE) {
        head.headers.insert(DATE, date::now());
    }
    if let (Some((agree, receive)), true) = (tunnel, head.status.is_success()) {
        head.headers.remove(CONTENT_LENGTH);
        match answer.send_response(Response::from_parts(head, ()), false) {
            // Whoever would have taken it may have ended meanwhile.
            Ok(send) => drop(agree.send(TunnelStream::new(receive, send, None))),
            Err(_) => answer.send_reset(Reason::INTERNAL_ERROR),
        }
        return;
    }
    let is_whole = body.is_end_stream();
    if let (false, Some(length), false) =
        (is_whole, body.size_hint().exact(), head.headers.contains_key(CONTENT_LENGTH))
    {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    match answer.send_response(Response::from_parts(head, ()), is_whole) {
        Ok(_) if is_whole => {}
        Ok(send) => send_body(Outgoing::new(send, body)).await,
        // The application said what cannot be said in HTTP/2.
        Err(_) => answer.send_reset(Reason::INTERNAL_ERROR),
    }
}

/// A body is asked for more only when the caller takes more. A cut, which wakes this task, has to end the stream all the same.
async fn send_body(mut outgoing: Outgoing<ResponseBody>) {
    poll_fn(|context| {
        let polled = outgoing.poll(context);
        if polled.is_pending() && outgoing.body.is_cut() {
            outgoing.reset(Reason::CANCEL);
            return Poll::Ready(());
        }
        polled
    })
    .await;
}
