//! A body on its way in.

use super::Broken;
use super::chunked::{Chunks, Piece};
use super::wire::Wire;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::task::{Context, Poll, ready};
use tokio::io::AsyncRead;

/// How the end of a body is told (RFC 9112 §6.3), and how much of it is still to come.
#[derive(Debug)]
pub enum Incoming {
    Length(u64),
    Chunks(Chunks),
    /// By the end of the connection.
    UntilEnd {
        has_ended: bool,
    },
}

impl Incoming {
    pub const NONE: Self = Self::Length(0);

    /// The next frame. `None`: the body is whole.
    pub fn poll_frame<IO: AsyncRead + Unpin>(
        &mut self,
        wire: &mut Wire<IO>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if self.has_ended() {
                return Poll::Ready(None);
            }
            match self.take(wire) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                // The trailers' end may have come with nothing in front of it.
                Ok(None) if self.has_ended() => return Poll::Ready(None),
                Ok(None) => {}
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
            match (ready!(wire.poll_fill(context)), &mut *self) {
                (Ok(0), Self::UntilEnd { has_ended }) => *has_ended = true,
                (Ok(0), _) => return Poll::Ready(Some(Err(Broken::Ended))),
                (Ok(_), _) => {}
                (Err(error), _) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Of what has been read already.
    fn take<IO>(&mut self, wire: &mut Wire<IO>) -> Result<Option<Frame<Bytes>>, Broken> {
        let unread = &mut wire.unread;
        match self {
            Self::Chunks(chunks) => Ok(chunks.next(unread)?.map(|piece| match piece {
                Piece::Data(data) => Frame::data(data),
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })),
            _ if unread.is_empty() => Ok(None),
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(unread.len());
                *left -= count as u64;
                Ok(Some(Frame::data(unread.split_to(count).freeze())))
            }
            Self::UntilEnd { .. } => Ok(Some(Frame::data(unread.split().freeze()))),
        }
    }

    pub fn has_ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunks(chunks) => chunks.has_ended(),
            Self::UntilEnd { has_ended } => *has_ended,
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            _ if self.has_ended() => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}
