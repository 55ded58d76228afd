//! HTTP/2 towards an upstream: many requests on one connection, each written to h2 and read from it by the task that asks.
//! hyper's client would have two channels and a task of its own between the two for each.

use super::http1::request::may_have_body;
use super::pool::OwnSvid;
use crate::hbone::TunnelStream;
use crate::http::body::{Received, RequestBody};
use crate::http::streams::{AbortOnDrop, Incoming, Outgoing};
use crate::http::upgrade;
use crate::session::Session;
use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body as _;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;
use tokio::sync::Notify;

/// Concurrent streams per pooled HTTP/2 connection (PEERS D2), of a server that says nothing or more.
const STREAMS_MAX: usize = 100;

/// A connection that many requests share.
pub struct H2Connection {
    pub requests: SendRequest<Bytes>,
    pub session: Option<Arc<Session>>,
    own: OwnSvid,
    /// Of requests that chose it.
    pub(super) streams: Cell<usize>,
    /// Of those, opened. What is given to h2 beyond the server's limit waits there, also when nobody wants it any more, and goes
    /// out all the same when there is room.
    pub(super) opened: Cell<usize>,
    pub(super) freed: Notify,
    /// What the server takes at one time, as far as was looked.
    limit: Cell<usize>,
    pub(super) idle_since: Cell<Instant>,
    /// It takes no more requests: the other side said so, or it has ended.
    pub(super) is_closing: Cell<bool>,
}

impl H2Connection {
    pub fn new(requests: SendRequest<Bytes>, session: Option<Arc<Session>>, own: OwnSvid) -> Self {
        Self {
            requests,
            session,
            own,
            streams: Cell::new(0),
            opened: Cell::new(0),
            freed: Notify::new(),
            limit: Cell::new(STREAMS_MAX),
            idle_since: Cell::new(Instant::now()),
            is_closing: Cell::new(false),
        }
    }

    pub fn takes_requests(&self, own: &OwnSvid) -> bool {
        self.is_usable(own) && self.streams.get() < self.look_at_limit()
    }

    /// RFC 9113 §5.1.2. A server that takes none for now is asked with one.
    fn look_at_limit(&self) -> usize {
        self.limit.set(self.requests.current_max_send_streams().clamp(1, STREAMS_MAX));
        self.limit.get()
    }

    /// When the server takes one more.
    pub async fn open(&self) {
        let mut limit = self.limit.get();
        while self.opened.get() >= limit {
            self.freed.notified().await;
            limit = self.look_at_limit();
        }
        self.opened.set(self.opened.get() + 1);
    }

    pub fn takes_no_more(&self) {
        self.is_closing.set(true);
    }

    pub fn is_usable(&self, own: &OwnSvid) -> bool {
        self.own == *own
            && !self.is_closing.get()
            && self.session.as_ref().is_none_or(|session| !session.is_retired() && !session.is_cut())
    }
}

/// Why there is no response.
pub enum Unanswered {
    /// Nothing of the request left: the connection takes no more.
    Unsent(Box<Request<RequestBody>>, h2::Error),
    /// The caller's body broke off.
    GivenUp,
    Failed(h2::Error),
}

/// Sends `request` as a stream of its own; resolves when the head of the response is there. What is left of the request's body
/// then is sent beside the response, as long as that is read.
///
/// # Cancellation
/// Dropping it, or the response's body before its end, resets the stream (RFC 9113 §8.1, CANCEL).
pub async fn send(
    mut connection: SendRequest<Bytes>,
    request: Request<RequestBody>,
) -> Result<Response<Received>, Unanswered> {
    if let Err(error) = poll_fn(|context| connection.poll_ready(context)).await {
        return Err(Unanswered::Unsent(Box::new(request), error));
    }
    let (mut head, body) = request.into_parts();
    set_length(&head.method, &mut head.headers, &body);
    let is_connect = head.method == Method::CONNECT;
    let ends = body.is_end_stream() && !is_connect;
    let sent = connection.send_request(Request::from_parts(head, ()), ends);
    let (response, stream) = sent.map_err(Unanswered::Failed)?;
    drop(connection);
    if ends {
        drop(stream);
        return Ok(answered(response.await.map_err(Unanswered::Failed)?, None));
    }
    if is_connect {
        let response = response.await.map_err(Unanswered::Failed)?;
        if !response.status().is_success() {
            return Ok(answered(response, None));
        }
        return Ok(response.map(|receive| {
            Received::Tunnel(Some(upgrade::Side::Open(Box::new(TunnelStream::new(receive, stream, None)))))
        }));
    }
    exchange(response, Outgoing::new(stream, body)).await
}

fn set_length(method: &Method, headers: &mut HeaderMap, body: &RequestBody) {
    let Some(length) = body.size_hint().exact() else { return };
    if (length > 0 || may_have_body(method)) && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

async fn exchange(
    mut response: ResponseFuture,
    mut upload: Outgoing<RequestBody>,
) -> Result<Response<Received>, Unanswered> {
    let mut is_sent = false;
    let answer = poll_fn(|context| {
        is_sent = is_sent || upload.poll(context).is_ready();
        if upload.has_broken_off() {
            return Poll::Ready(Err(Unanswered::GivenUp));
        }
        Pin::new(&mut response).poll(context).map_err(Unanswered::Failed)
    });
    let answer = answer.await?;
    let rest = (!is_sent).then(|| {
        let sending = tokio::task::spawn_local(async move { poll_fn(|context| upload.poll(context)).await });
        AbortOnDrop(sending.abort_handle())
    });
    Ok(answered(answer, rest))
}

/// `rest`: what sends on while the answer is read. It would hold both streams open when the answer has been given up, or cut.
fn answered(response: Response<RecvStream>, rest: Option<AbortOnDrop>) -> Response<Received> {
    let (head, stream) = response.into_parts();
    let body = Incoming::new(&head.headers, stream, rest);
    Response::from_parts(head, Received::Http2(body))
}
