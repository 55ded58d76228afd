//! Bodies on their way through: counted, ended with their request's trust, and their trailers cleaned.

use super::caller::ReceivedRequest;
use super::headers;
use super::kept_body::KeptBody;
use super::record::Recorder;
use super::streams;
use super::upgrade;
use crate::session::{InFlight, RequestGuard};
use crate::upstream::http1::ReceivedAnswer;
use crate::upstream::lease::Lease;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the other side of the proxy failed")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The trust or the policy that allowed the request ended.
    #[error("the request was cut")]
    Cut,
    /// The same body is being sent another time.
    #[error("the request is sent again")]
    SentAgain,
}

/// A body as it comes, of a request or of a response.
pub enum Received {
    /// Of a request in HTTP/1.
    Http1(ReceivedRequest),
    Http2(streams::Incoming),
    /// Of an answer in HTTP/1.
    Answer(ReceivedAnswer),
    /// Of a CONNECT over HTTP/2, or of the answer that agrees to one: none, but a side of the tunnel, until that is taken.
    Tunnel(Option<upgrade::Side>),
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(request) => request.poll_frame(context),
            Self::Http2(stream) => Pin::new(stream).poll_frame(context),
            Self::Answer(answer) => answer.poll_frame(context),
            Self::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(request) => request.is_end_stream(),
            Self::Http2(stream) => stream.is_end_stream(),
            Self::Answer(answer) => answer.is_end_stream(),
            Self::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(request) => request.size_hint(),
            Self::Http2(stream) => stream.size_hint(),
            Self::Answer(answer) => answer.size_hint(),
            Self::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

/// A request's body, towards an upstream.
pub enum RequestBody {
    Empty,
    /// Of a request that is our own.
    Own(Option<Bytes>),
    Streaming(Streaming),
    /// It can be sent a second time, as long as little of it has been read.
    Kept(KeptBody),
}

pub struct Streaming {
    /// Was read before, and comes first.
    front: Option<Box<Front>>,
    inner: Received,
    in_flight: Rc<InFlight>,
}

/// What was read of a body before it goes on.
struct Front {
    bytes: Bytes,
    trailers: Option<HeaderMap>,
}

impl RequestBody {
    pub fn new(inner: Received, in_flight: Rc<InFlight>) -> Self {
        if inner.is_end_stream() { Self::Empty } else { Self::Streaming(Streaming { front: None, inner, in_flight }) }
    }

    /// From now on what is read of it is kept, so that it can be sent again.
    pub fn keep(&mut self) {
        *self = match std::mem::replace(self, Self::Empty) {
            Self::Streaming(streaming) => Self::Kept(KeptBody::of(streaming)),
            other => other,
        };
    }

    /// Reads `max` bytes, or what there is; all of it goes on nevertheless. True: there is more.
    ///
    /// # Errors
    /// It broke off, or was cut.
    ///
    /// # Cancellation
    /// Dropped, it loses what it has read.
    pub async fn read_ahead(&mut self, max: usize) -> Result<(Bytes, bool), BodyError> {
        let Self::Streaming(streaming) = self else { return Ok((Bytes::new(), false)) };
        let (mut read, mut trailers) = (BytesMut::new(), None);
        while read.len() <= max && !streaming.inner.is_end_stream() {
            match poll_fn(|context| streaming.poll_frame(context)).await.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => read.extend_from_slice(&data),
                Some(Err(frame)) => trailers = frame.into_trailers().ok(),
                None => break,
            }
        }
        let bytes = read.freeze();
        let shown = bytes.slice(..bytes.len().min(max));
        let has_more = bytes.len() > max;
        streaming.front = Some(Box::new(Front { bytes, trailers }));
        Ok((shown, has_more))
    }
}

impl Streaming {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.in_flight.is_cut() {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        if let Some(frame) = self.take_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        self.in_flight.body_awaited(polled.is_pending());
        let frame = ready!(polled);
        self.in_flight.moved();
        if self.inner.is_end_stream() || frame.is_none() {
            self.in_flight.body_was_read.set(true);
        }
        Poll::Ready(frame.map(|frame| {
            let mut frame = clean(frame, &self.in_flight.bytes_from_caller)?;
            if let (Some(names), Some(trailers)) = (self.in_flight.claim_headers.get(), frame.trailers_mut()) {
                headers::strip_spelt(trailers, names);
            }
            Ok(frame)
        }))
    }

    fn take_front(&mut self) -> Option<Frame<Bytes>> {
        let front = self.front.as_mut()?;
        if !front.bytes.is_empty() {
            return Some(Frame::data(std::mem::take(&mut front.bytes)));
        }
        self.front.take()?.trailers.map(Frame::trailers)
    }

    pub fn is_end_stream(&self) -> bool {
        let has_front = self.front.as_ref().is_some_and(|front| !front.bytes.is_empty() || front.trailers.is_some());
        !has_front && self.inner.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let before = self.front.as_ref().map_or(0, |front| front.bytes.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(before + upper);
        }
        hint.set_lower(before + hint.lower());
        hint
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streaming(streaming) => streaming.poll_frame(context),
            Self::Kept(kept) => kept.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Own(bytes) => bytes.is_none(),
            Self::Streaming(streaming) => streaming.is_end_stream(),
            Self::Kept(kept) => kept.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streaming(streaming) => streaming.size_hint(),
            Self::Kept(kept) => kept.size_hint(),
        }
    }
}

fn clean(frame: Result<Frame<Bytes>, BodyError>, bytes: &Cell<u64>) -> Result<Frame<Bytes>, BodyError> {
    let mut frame = frame?;
    if let Some(data) = frame.data_ref() {
        bytes.set(bytes.get() + data.len() as u64);
    } else if let Some(trailers) = frame.trailers_mut() {
        headers::clean_trailers(trailers);
    }
    Ok(frame)
}

/// A response's body, towards whoever asked.
pub enum ResponseBody {
    /// Our own words: refusals.
    Own(Option<Bytes>),
    Upstream(Box<FromUpstream>),
}

/// Lives as long as the response: what is dropped with it ends the request.
pub struct FromUpstream {
    pub inner: Received,
    pub lease: Lease,
    pub recorder: Recorder,
    pub guard: RequestGuard,
}

impl ResponseBody {
    /// Was its request cut?
    pub fn is_cut(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Upstream(body) => body.guard.request.is_cut(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = match self.get_mut() {
            Self::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body) => body,
        };
        if body.guard.request.poll_cut(context) {
            body.recorder.ended_early(body.guard.request.cut_text());
            body.guard.request.cut_what_waits();
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let polled = Pin::new(&mut body.inner).poll_frame(context);
        // More is asked for only when the caller takes more.
        body.guard.request.answer_waits(polled.is_ready());
        let frame = match ready!(polled) {
            None => {
                body.finish();
                return Poll::Ready(None);
            }
            Some(frame) => frame,
        };
        body.guard.request.moved();
        let frame = clean(frame, &body.recorder.bytes_to_caller);
        if let Ok(Some(trailers)) = frame.as_ref().map(Frame::trailers_ref) {
            body.recorder.trailers(trailers);
        }
        match &frame {
            Ok(_) if body.inner.is_end_stream() => body.finish(),
            Ok(_) => {}
            Err(error) => body.recorder.failed(error),
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Upstream(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(body) => body.inner.size_hint(),
        }
    }
}

impl FromUpstream {
    /// The response has been read whole: its connection may carry another.
    pub fn finish(&mut self) {
        self.lease.finished();
        self.recorder.complete();
    }
}
