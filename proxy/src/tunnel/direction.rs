//! One direction of a tunnel.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads, writes, and passes the end on.
#[derive(Default)]
pub(super) struct Direction {
    /// Empty (and not allocated) while reads are small and the writer takes them at once.
    buffer: Vec<u8>,
    /// What of `buffer` is still to be written.
    unwritten: std::ops::Range<usize>,
    state: State,
    /// Something was written since the last flush.
    needs_flush: bool,
    /// Rises with every read and write that moved something.
    pub(super) moves: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    /// The reader has ended; the writer is being told.
    Closing,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The round limit was reached; neither side blocks.
    MoreToDo,
    /// A waker is registered.
    Waits,
    /// The end was passed on.
    Ended,
}

/// Which end of the direction failed. After a failure of the writer the direction has ended.
pub(super) enum Failure {
    Reader(io::Error),
    Writer(io::Error),
}

impl Direction {
    pub(super) fn holds_memory(&self) -> bool {
        self.buffer.capacity() > 0
    }

    /// Gives the buffer back, unless it holds bytes.
    pub(super) fn give_back(&mut self) {
        if self.unwritten.is_empty() {
            self.buffer = Vec::new();
        }
    }

    /// A few rounds of reading and writing.
    pub(super) fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &AtomicU64,
    ) -> Result<Progress, Failure>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let progress = self.poll_rounds(context, reader, writer, counter);
        if let Err(Failure::Writer(_)) = progress {
            self.end();
        }
        progress
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.unwritten = 0..0;
        self.buffer = Vec::new();
    }

    fn poll_rounds<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &AtomicU64,
    ) -> Result<Progress, Failure>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS_PER_TURN {
            let step = match self.state {
                State::Ended => return Ok(Progress::Ended),
                State::Closing => self.close(context, writer)?,
                State::Copying if !self.unwritten.is_empty() => self.write(context, writer, counter)?,
                State::Copying if self.holds_memory() => self.read_into_buffer(context, reader)?,
                State::Copying => self.read_through(context, reader, writer, counter)?,
            };
            if step.is_pending() {
                // What the writer keeps back must not wait for more to come (TLS, and anything else that collects).
                self.flush(context, writer)?;
                return Ok(Progress::Waits);
            }
        }
        Ok(Progress::MoreToDo)
    }

    /// Without a buffer of its own: from the stack straight to the writer.
    fn read_through<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &AtomicU64,
    ) -> Result<Poll<()>, Failure>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut stack = [const { MaybeUninit::uninit() }; STACK_BYTES];
        let mut bytes = ReadBuf::uninit(&mut stack);
        match Pin::new(reader).poll_read(context, &mut bytes) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) => return Err(Failure::Reader(error)),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = bytes.filled();
        self.moves = self.moves.wrapping_add(1);
        if bytes.is_empty() {
            self.state = State::Closing;
            return Ok(Poll::Ready(()));
        }
        let written = self.write_some(context, writer, bytes, counter)?;
        if written < bytes.len() || bytes.len() == STACK_BYTES {
            // Busy, or held up: from here on with memory.
            self.buffer = vec![0; BUFFER_BYTES_MIN];
            let rest = &bytes[written..];
            self.buffer[..rest.len()].copy_from_slice(rest);
            self.unwritten = 0..rest.len();
        }
        Ok(Poll::Ready(()))
    }

    fn read_into_buffer<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
    ) -> Result<Poll<()>, Failure> {
        let mut bytes = ReadBuf::new(&mut self.buffer);
        match Pin::new(reader).poll_read(context, &mut bytes) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) => return Err(Failure::Reader(error)),
            Poll::Ready(Ok(())) => {}
        }
        let length = bytes.filled().len();
        self.moves = self.moves.wrapping_add(1);
        if length == 0 {
            self.state = State::Closing;
        } else if length == self.buffer.len() && length < BUFFER_BYTES_MAX {
            self.buffer.resize(length * 2, 0);
        }
        self.unwritten = 0..length;
        Ok(Poll::Ready(()))
    }

    fn write<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
        counter: &AtomicU64,
    ) -> Result<Poll<()>, Failure> {
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.write_some(context, writer, &buffer[self.unwritten.clone()], counter);
        self.buffer = buffer;
        let written = written?;
        self.unwritten.start += written;
        Ok(if written == 0 { Poll::Pending } else { Poll::Ready(()) })
    }

    /// Zero: the writer blocks.
    fn write_some<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
        counter: &AtomicU64,
    ) -> Result<usize, Failure> {
        match Pin::new(writer).poll_write(context, bytes) {
            Poll::Pending => Ok(0),
            Poll::Ready(Err(error)) => Err(Failure::Writer(error)),
            Poll::Ready(Ok(0)) => Err(Failure::Writer(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => {
                counter.fetch_add(written as u64, Ordering::Relaxed);
                self.moves = self.moves.wrapping_add(1);
                self.needs_flush = true;
                Ok(written)
            }
        }
    }

    fn flush<W: AsyncWrite + Unpin>(&mut self, context: &mut Context<'_>, writer: &mut W) -> Result<(), Failure> {
        if self.needs_flush && self.state == State::Copying && self.unwritten.is_empty() {
            match Pin::new(writer).poll_flush(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.needs_flush = false,
                Poll::Ready(Err(error)) => return Err(Failure::Writer(error)),
            }
        }
        Ok(())
    }

    fn close<W: AsyncWrite + Unpin>(&mut self, context: &mut Context<'_>, writer: &mut W) -> Result<Poll<()>, Failure> {
        match Pin::new(writer).poll_shutdown(context) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(())) => {}
            // The writer's other half has ended with a reset before: there is nobody left to tell.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {}
            Poll::Ready(Err(error)) => return Err(Failure::Writer(error)),
        }
        self.end();
        Ok(Poll::Ready(()))
    }
}

const ROUNDS_PER_TURN: usize = 16;
/// Within one page of the stack with its neighbours, and more than a message of most protocols.
const STACK_BYTES: usize = 2 * 1024;
const BUFFER_BYTES_MIN: usize = 8 * 1024;
const BUFFER_BYTES_MAX: usize = 64 * 1024;
