//! Bodies as the streams of HTTP/2 (RFC 9113 §8.1), in both directions and on both sides of the proxy.

use super::body::BodyError;
use super::http1::fields::read_length;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::AbortHandle;

/// A body on its way out.
pub struct Outgoing<B> {
    stream: SendStream<Bytes>,
    pub body: B,
    /// Read from the body, and not yet granted by the other side. True: nothing follows it.
    waiting: Option<(Bytes, bool)>,
    has_broken_off: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Outgoing<B> {
    pub fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, waiting: None, has_broken_off: false }
    }

    /// Ready when nothing more can be sent, and as little is to be done about it where that is no good end. Dropped before, it
    /// resets the stream.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.stream.poll_reset(context).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let goes_on = match self.waiting {
                Some(_) => ready!(self.poll_write(context)),
                None => ready!(self.poll_read(context)),
            };
            if !goes_on {
                return Poll::Ready(());
            }
        }
    }

    /// Its body ended by an error.
    pub fn has_broken_off(&self) -> bool {
        self.has_broken_off
    }

    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
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
                self.has_broken_off = true;
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

/// That of the stream on the other side of the proxy, where it has one.
fn reason_of(error: &BodyError) -> Reason {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = source {
        match inner.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            // It would say that the body is whole.
            Some(Reason::NO_ERROR) => break,
            Some(reason) => return reason,
            None => {}
        }
        source = inner.source();
    }
    Reason::INTERNAL_ERROR
}

/// What `Content-Length` says, if it says one thing.
pub fn length_of(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next()?, lengths.next());
    if second.is_none() { read_length(first) } else { None }
}

/// A body as it comes in.
pub struct Incoming {
    stream: RecvStream,
    /// Bytes of the length that was said.
    missing: Option<u64>,
    /// Its end had come when data were read last; to ask h2 takes a lock.
    has_ended: bool,
    has_all_data: bool,
    _beside: Option<AbortOnDrop>,
}

/// Ends a task with whatever it goes beside.
pub struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Incoming {
    /// `headers`: of its message. `beside`: ends with it.
    pub fn new(headers: &HeaderMap, stream: RecvStream, beside: Option<AbortOnDrop>) -> Self {
        // To HEAD, and with 304, a length may be said of a body that does not come.
        let has_ended = stream.is_end_stream();
        let missing = length_of(headers).or_else(|| has_ended.then_some(0));
        Self { stream, missing, has_ended, has_all_data: false, _beside: beside }
    }
}

/// Behind its end, a body cannot fail any more: h2 remembers that it came. So NO_ERROR (RFC 9113 §8.1) means that it did not.
fn failed(error: h2::Error) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    Poll::Ready(Some(Err(BodyError::Other(Box::new(error)))))
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.has_all_data {
            match ready!(this.stream.poll_data(context)) {
                Some(Ok(bytes)) => {
                    // It can only fail for more than was received.
                    let _ = this.stream.flow_control().release_capacity(bytes.len());
                    this.has_ended = this.stream.is_end_stream();
                    this.missing = this.missing.map(|missing| missing.saturating_sub(bytes.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return failed(error),
                None => this.has_all_data = true,
            }
        }
        match ready!(this.stream.poll_trailers(context)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => failed(error),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        self.missing.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
