//! HTTP/2 towards an upstream: many requests on one connection, each written to h2 and read from it by the task that asks.
//! hyper's client would have two channels and a task of its own between the two for each.

use super::pool::OwnSvid;
use crate::hbone::TunnelStream;
use crate::http::body::{Received, RequestBody};
use crate::http::streams::{Incoming, Outgoing};
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

/// Concurrent streams per pooled HTTP/2 connection (PEERS D2).
const H2_STREAMS_PER_CONNECTION: u32 = 100;
pub struct H2Connection {
    pub requests: SendRequest<Bytes>,
    pub session: Option<Arc<Session>>,
    own: OwnSvid,
    pub(super) streams: Cell<u32>,
    pub(super) idle_since: Cell<Instant>,
    /// It takes no more requests: the other side said so, or it has ended.
    pub(super) is_closing: Cell<bool>,
}

impl H2Connection {
    pub fn new(requests: SendRequest<Bytes>, session: Option<Arc<Session>>, own: OwnSvid) -> Self {
        let (streams, idle_since) = (Cell::new(0), Cell::new(Instant::now()));
        Self { requests, session, own, streams, idle_since, is_closing: Cell::new(false) }
    }

    pub fn takes_requests(&self, own: &OwnSvid) -> bool {
        self.streams.get() < H2_STREAMS_PER_CONNECTION && self.is_usable(own)
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
    Failed(h2::Error),
}

/// Sends `request` as a stream of its own; resolves when the head of the response is there. What is left of the request's body
/// then is sent beside the response.
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
    if ends {
        drop((connection, stream));
        return Ok(answered(response.await.map_err(Unanswered::Failed)?));
    }
    if is_connect {
        drop(connection);
        let response = response.await.map_err(Unanswered::Failed)?;
        if !response.status().is_success() {
            return Ok(answered(response));
        }
        return Ok(response.map(|receive| {
            Received::Tunnel(Some(upgrade::Side::Open(Box::new(TunnelStream::new(receive, stream, None)))))
        }));
    }
    let upload = Outgoing::new(stream, body);
    Ok(answered(exchange(connection, response, upload).await.map_err(Unanswered::Failed)?))
}

/// The other side has to be able to tell a body's end from its beginning, where the method says that there may be one (RFC 9110
/// §8.6).
fn set_length(method: &Method, headers: &mut HeaderMap, body: &RequestBody) {
    let Some(length) = body.size_hint().exact() else { return };
    let is_expected = !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT);
    if (length > 0 || is_expected) && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

async fn exchange(
    connection: SendRequest<Bytes>,
    mut response: ResponseFuture,
    upload: Outgoing<RequestBody>,
) -> Result<Response<RecvStream>, h2::Error> {
    // While the other side has too many streams of us, this one is not open yet, and its body must not hold what the connection
    // may carry for all.
    let mut opening = Some(connection);
    let mut upload = Some(upload);
    let answer = poll_fn(|context| {
        if let Some(connection) = &mut opening
            && let Poll::Ready(opened) = connection.poll_ready(context)
        {
            opened?;
            opening = None;
        }
        if opening.is_none() && upload.as_mut().is_some_and(|upload| upload.poll(context).is_ready()) {
            upload = None;
        }
        Pin::new(&mut response).poll(context)
    })
    .await?;
    if let Some(mut upload) = upload {
        tokio::task::spawn_local(async move { poll_fn(|context| upload.poll(context)).await });
    }
    Ok(answer)
}

fn answered(response: Response<RecvStream>) -> Response<Received> {
    let (head, stream) = response.into_parts();
    let body = Incoming::of_answer(&head.headers, stream);
    Response::from_parts(head, Received::Http2(body))
}
