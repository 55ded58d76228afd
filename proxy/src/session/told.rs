//! How those who serve a connection learn of what happens to its session, while they wait for its socket.

use super::Session;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

/// See [`Session::poll_told`].
pub enum Told {
    Cut,
    /// It has been idle for a while.
    Park,
}

impl Session {
    /// For a reader that waits for something else than [`SessionIo`]'s socket.
    pub fn wake_reader_when_cut(&self, context: &Context<'_>) {
        self.read_waker.register(context.waker());
    }

    /// The same for a writer.
    pub fn wake_writer_when_cut(&self, context: &Context<'_>) {
        self.write_waker.register(context.waker());
    }

    /// Has been idle for a while: whoever serves it may give its buffers back.
    pub fn park(&self) {
        self.park_asked.store(true, Relaxed);
        self.serve_waker.wake();
    }

    /// What the one who serves the connection has to act on while its socket is silent. Asked with each of its polls, so this
    /// costs two atomic operations, where a `Notify` for each of both would take a lock.
    pub fn poll_told(&self, context: &Context<'_>) -> Poll<Told> {
        self.serve_waker.register(context.waker());
        if self.is_cut() {
            return Poll::Ready(Told::Cut);
        }
        match self.park_asked.load(Relaxed) && self.park_asked.swap(false, Relaxed) {
            true => Poll::Ready(Told::Park),
            false => Poll::Pending,
        }
    }
}
