//! A connection and what was read from it ahead.

use bytes::BytesMut;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

/// Read at once, at first; twice as much after each read that filled it.
const ROOM_MIN: usize = 8 << 10;
const ROOM_MAX: usize = 64 << 10;

pub struct Wire<IO> {
    pub io: IO,
    /// Read, and not yet understood.
    pub unread: BytesMut,
    room: usize,
}

impl<IO: AsyncRead + Unpin> Wire<IO> {
    pub fn new(io: IO) -> Self {
        Self { io, unread: BytesMut::new(), room: ROOM_MIN }
    }

    /// Reads more. 0: the other side has ended its side.
    ///
    /// # Errors
    /// Of the connection.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.unread.reserve(self.room);
        let free = self.unread.capacity() - self.unread.len();
        let count = ready!(pin!(self.io.read_buf(&mut self.unread)).poll(context))?;
        if count == free {
            self.room = (self.room * 2).min(ROOM_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// Has nothing come, and not the end either? What it finds is lost: such a connection is of no use.
    pub fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        self.unread.is_empty()
            && Pin::new(&mut self.io).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Gives the memory back until something is read again.
    pub fn rest(&mut self) {
        self.unread = BytesMut::new();
    }
}
