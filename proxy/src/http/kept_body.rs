//! A request's body that can be sent a second time: HTTP/2 says of some streams that they were not processed, and often
//! their bodies are on their way by then.
//!
//! What is read is shared, not copied, and let go when it grows too large or when the answer has come.

use super::body::{BodyError, Streaming};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// PEERS D2, "body buffer": what is longer is not sent again.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// Frames may be small, and each costs more than its bytes.
const KEPT_FRAMES_MAX: usize = 64;
const SHARED_BYTES_MIN: usize = 4 << 10;

/// One of the times that a body is sent.
pub struct KeptBody {
    source: Rc<RefCell<Source>>,
    /// Frames of `Source::kept` that went out by this one.
    at: usize,
    turn: u32,
}

struct Source {
    body: Streaming,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// All that was read of the body is in `kept`.
    is_whole: bool,
    /// Of the latest that was polled. Those before it are over.
    turn: u32,
}

impl KeptBody {
    pub fn of(body: Streaming) -> Self {
        let source = Source { body, kept: Vec::new(), kept_bytes: 0, is_whole: true, turn: 0 };
        Self { source: Rc::new(RefCell::new(source)), at: 0, turn: 0 }
    }

    /// The next time. Its first poll ends this one.
    pub fn again(&self) -> Self {
        Self { source: self.source.clone(), at: 0, turn: self.turn + 1 }
    }

    /// Can it still be sent from its beginning?
    pub fn is_whole(&self) -> bool {
        self.source.borrow().is_whole
    }

    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let is_last = Rc::strong_count(&self.source) == 1;
        let source = &mut *self.source.borrow_mut();
        if source.turn > self.turn {
            return Poll::Ready(Some(Err(BodyError::SentAgain)));
        }
        source.turn = self.turn;
        if let Some(bytes) = source.kept.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        let frame = ready!(source.body.poll_frame(context));
        match &frame {
            // Its end may be asked for again.
            None => {}
            Some(Ok(frame)) if !is_last && source.has_room_for(frame) => {
                source.keep(frame);
                self.at += 1;
            }
            Some(_) => source.let_go(&mut self.at),
        }
        Poll::Ready(frame)
    }

    pub fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        self.at >= source.kept.len() && source.body.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        let source = self.source.borrow();
        let before: u64 = source.kept.iter().skip(self.at).map(|bytes| bytes.len() as u64).sum();
        let rest = source.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(before + upper);
        }
        hint.set_lower(before + rest.lower());
        hint
    }
}

impl Source {
    /// Trailers are not kept: requests have none but by accident.
    fn has_room_for(&self, frame: &Frame<Bytes>) -> bool {
        let room = KEPT_BYTES_MAX - self.kept_bytes;
        self.is_whole && self.kept.len() < KEPT_FRAMES_MAX && frame.data_ref().is_some_and(|bytes| bytes.len() <= room)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(bytes) = frame.data_ref() {
            self.kept_bytes += bytes.len();
            // A small part would hold all of what it was read with.
            let is_small = bytes.len() < SHARED_BYTES_MIN;
            self.kept.push(if is_small { Bytes::copy_from_slice(bytes) } else { bytes.clone() });
        }
    }

    fn let_go(&mut self, at: &mut usize) {
        *at = 0;
        (self.kept, self.kept_bytes, self.is_whole) = (Vec::new(), 0, false);
    }
}
