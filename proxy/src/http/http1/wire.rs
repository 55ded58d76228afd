//! A connection and what was read from it ahead.

use super::fields;
use bytes::BytesMut;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

/// Read at once, at first; twice as much after each read that filled it.
const ROOM_MIN: usize = 8 << 10;
const ROOM_MAX: usize = 64 << 10;
const ROOM_LEFT_MIN: usize = 4 << 10;
/// Of whoever has been silent for long, at first.
const WAKE_BYTES: usize = 64;

pub struct Wire<IO> {
    pub io: IO,
    /// Read, and not yet understood.
    pub unread: BytesMut,
    /// So many of those were looked through in vain for the end of a head.
    seen: usize,
    room: usize,
}

impl<IO: AsyncRead + Unpin> Wire<IO> {
    pub fn new(io: IO) -> Self {
        Self::with(BytesMut::new(), io)
    }

    /// `unread`: was read from it before.
    pub fn with(unread: BytesMut, io: IO) -> Self {
        Self { io, unread, seen: 0, room: ROOM_MIN }
    }

    /// As [`poll_fill`](Self::poll_fill), and takes no memory while it waits.
    pub fn poll_wake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut first = [0; WAKE_BYTES];
        let mut read = ReadBuf::new(&mut first);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut read))?;
        self.unread.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Reads more. 0: the other side has ended its side.
    ///
    /// # Errors
    /// Of the connection.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // What is left of a buffer is used before there is another: callers that send a byte at a time would have one for each.
        if self.unread.capacity() - self.unread.len() < ROOM_LEFT_MIN {
            self.unread.reserve(self.room);
        }
        let free = self.unread.capacity() - self.unread.len();
        let count = ready!(pin!(self.io.read_buf(&mut self.unread)).poll(context))?;
        if count == free {
            self.room = (self.room * 2).min(ROOM_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// Does nothing come, and not the end either? What it finds is lost: such a connection is of no use.
    pub fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Takes a head from the front of what is unread, by `take`, which says `None` where it has not come whole: then that is not
    /// asked again for every byte that comes. `bytes_max`: with more, it is asked all the same.
    ///
    /// # Errors
    /// What `take` says.
    pub fn take_head<T, E>(
        &mut self,
        bytes_max: usize,
        take: impl FnOnce(&mut BytesMut) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let may_end = fields::may_end(&self.unread, self.seen) || self.unread.len() > bytes_max;
        if self.unread.is_empty() || !may_end {
            return Ok(None);
        }
        let taken = take(&mut self.unread)?;
        self.seen = if taken.is_some() { 0 } else { self.unread.len() };
        Ok(taken)
    }

    /// Gives the memory back until something is read again.
    pub fn rest(&mut self) {
        self.unread = BytesMut::new();
        self.room = ROOM_MIN;
    }
}
