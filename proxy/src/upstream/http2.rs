//! HTTP/2 towards an upstream: many requests on one connection, each written to h2 and read from it by the task that asks.
//! hyper's client would have two channels and a task of its own between the two for each.

use crate::hbone::TunnelStream;
use crate::http::body::{BodyError, RequestBody};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

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
) -> Result<Response<ResponseStream>, Unanswered> {
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
        return Ok(answered(response.await.map_err(Unanswered::Failed)?, None));
    }
    if is_connect {
        drop(connection);
        return Ok(answered(response.await.map_err(Unanswered::Failed)?, Some(stream)));
    }
    let upload = Upload { stream, body, waiting: None };
    Ok(answered(exchange(connection, response, upload).await.map_err(Unanswered::Failed)?, None))
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
    upload: Upload,
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

/// A request's body on its way.
struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// Read from the body, and not yet granted by the other side. True: nothing follows it.
    waiting: Option<(Bytes, bool)>,
}

impl Upload {
    /// Ready when nothing more can be sent. What went wrong, the response tells.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.stream.poll_reset(context).is_ready() {
                return Poll::Ready(());
            }
            let goes_on = match self.waiting {
                Some(_) => ready!(self.poll_write(context)),
                None => ready!(self.poll_read(context)),
            };
            if !goes_on {
                return Poll::Ready(());
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            // It can only fail when the stream has ended.
            let _ = self.stream.send_data(Bytes::new(), true);
            return Poll::Ready(false);
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                self.stream.send_reset(reason_of(&error));
                return Poll::Ready(false);
            }
        };
        match frame.into_data() {
            Ok(bytes) => {
                // No more than is needed to be woken: what one stream is granted and waits with, others lack.
                self.stream.reserve_capacity(usize::from(!bytes.is_empty()));
                self.waiting = Some((bytes, self.body.is_end_stream()));
                Poll::Ready(true)
            }
            Err(frame) => {
                self.stream.reserve_capacity(0);
                let sent = frame.into_trailers().map(|trailers| self.stream.send_trailers(trailers));
                Poll::Ready(sent.is_err())
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let needs_room = self.waiting.as_ref().is_some_and(|(bytes, _)| !bytes.is_empty());
        while needs_room && self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return Poll::Ready(false),
            }
        }
        let Some((bytes, is_last)) = self.waiting.take() else { return Poll::Ready(true) };
        Poll::Ready(self.stream.send_data(bytes, is_last).is_ok() && !is_last)
    }
}

/// The caller's own, where it ended its stream with one.
fn reason_of(error: &BodyError) -> Reason {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = source {
        if let Some(reason) = inner.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        source = inner.source();
    }
    Reason::INTERNAL_ERROR
}

fn answered(response: Response<RecvStream>, connect: Option<SendStream<Bytes>>) -> Response<ResponseStream> {
    let length = length_of(response.headers());
    response.map(|stream| ResponseStream {
        // RFC 9113 §8.1.1: to HEAD, and with 304, a length may be said of a body that does not come.
        missing: length.or_else(|| stream.is_end_stream().then_some(0)),
        stream,
        connect,
        has_all_data: false,
    })
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next()?, lengths.next());
    let digits = first.as_bytes();
    if second.is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    first.to_str().ok()?.parse().ok()
}

/// A response's body, and what CONNECT sends on.
pub struct ResponseStream {
    stream: RecvStream,
    connect: Option<SendStream<Bytes>>,
    /// Bytes of the length that was said.
    missing: Option<u64>,
    has_all_data: bool,
}

impl ResponseStream {
    /// Both directions of a CONNECT that was accepted; itself, if it is the answer to anything else.
    pub fn into_tunnel(mut self) -> Result<TunnelStream, Self> {
        match self.connect.take() {
            Some(send) => Ok(TunnelStream::new(self.stream, send, None)),
            None => Err(self),
        }
    }

    /// RFC 9113 §8.1: NO_ERROR asks for no more of the request, behind a whole response. A response of which bytes are missing is
    /// not whole.
    fn ended(&self, error: h2::Error) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let is_whole = error.reason() == Some(Reason::NO_ERROR) && self.missing.is_none_or(|missing| missing == 0);
        Poll::Ready(if is_whole { None } else { Some(Err(BodyError::Other(Box::new(error)))) })
    }
}

impl Body for ResponseStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.has_all_data {
            match ready!(this.stream.poll_data(context)) {
                Some(Ok(bytes)) => {
                    // It can only fail for more than was received.
                    let _ = this.stream.flow_control().release_capacity(bytes.len());
                    this.missing = this.missing.map(|missing| missing.saturating_sub(bytes.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return this.ended(error),
                None => this.has_all_data = true,
            }
        }
        match ready!(this.stream.poll_trailers(context)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => this.ended(error),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.missing.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
