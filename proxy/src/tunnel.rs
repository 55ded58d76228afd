//! L4: copies both ways, counts, and ends.
//!
//! One future for both directions: no split, no lock, no task. An idle tunnel holds no buffer at all: bytes are read into
//! the stack frame of the poll and go on from there; only what the other side does not take at once, and a direction that
//! fills whole reads, gets memory, which is given back when the tunnel goes quiet.

mod direction;

use direction::{Direction, Failure, Progress};
use std::future::{Future, poll_fn};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

/// Bytes that were taken from one side and accepted by the other; readable while the tunnel lives.
#[derive(Debug, Default)]
pub struct Counters {
    pub from_client: AtomicU64,
    pub from_server: AtomicU64,
}

/// How a tunnel ended, and what it carried.
#[derive(Debug)]
pub struct Ended {
    pub from_client: u64,
    pub from_server: u64,
    pub end: TunnelEnd,
}

#[derive(Debug)]
pub enum TunnelEnd {
    /// Both sides said all they had to say.
    BothClosed,
    /// No byte in either direction for the idle deadline.
    IdleTimeout,
    /// One side had closed, and the other sent no byte for the linger deadline.
    LingerTimeout,
    ClientError(io::Error),
    ServerError(io::Error),
}

impl std::fmt::Display for TunnelEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BothClosed => f.write_str("closed"),
            Self::IdleTimeout => f.write_str("idle_timeout"),
            Self::LingerTimeout => f.write_str("linger_timeout"),
            Self::ClientError(error) => write!(f, "caller: {error}"),
            Self::ServerError(error) => write!(f, "upstream: {error}"),
        }
    }
}

/// Copies until both sides have closed, one has failed, or nothing moves for too long.
///
/// The end of one side is passed on as such (FIN, or TLS's close_notify), and the other direction goes on: from then on
/// `linger` holds instead of `idle` where it is shorter. So it is when one side accepts no more bytes. Both are without any byte: a long answer to a half-closed request
/// is not cut. Deadlines are kept coarsely, up to an eighth late, so that no read has to touch a timer.
///
/// # Cancellation
/// To drop the future ends the copying at once; bytes that were read and not written yet are lost with it.
pub async fn copy<A, B>(client: &mut A, server: &mut B, counters: &Counters, idle: Duration, linger: Duration) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut tunnel = Tunnel::new(client, server, counters, Watch::new(idle, linger, Instant::now()));
    let mut timer = std::pin::pin!(sleep_until(tunnel.watch.next_look));
    let end = poll_fn(|context| {
        loop {
            if let Poll::Ready(end) = tunnel.poll_both(context) {
                return Poll::Ready(end);
            }
            if timer.deadline() != tunnel.watch.next_look {
                timer.as_mut().reset(tunnel.watch.next_look);
            }
            std::task::ready!(timer.as_mut().poll(context));
            if let Some(end) = tunnel.look(Instant::now()) {
                return Poll::Ready(end);
            }
        }
    })
    .await;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ended { from_client: load(&counters.from_client), from_server: load(&counters.from_server), end }
}

struct Tunnel<'a, A, B> {
    client: &'a mut A,
    server: &'a mut B,
    counters: &'a Counters,
    upload: Direction,
    download: Direction,
    watch: Watch,
    /// Of a writer, to be reported when the other direction has ended too.
    failure: Option<TunnelEnd>,
}

impl<'a, A, B> Tunnel<'a, A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    fn new(client: &'a mut A, server: &'a mut B, counters: &'a Counters, watch: Watch) -> Self {
        Self {
            client,
            server,
            counters,
            upload: Direction::default(),
            download: Direction::default(),
            watch,
            failure: None,
        }
    }

    /// Turns of a few rounds, alternating, so that a direction that is always ready cannot starve the other one, neither
    /// directly nor by using up the task's budget.
    fn poll_both(&mut self, context: &mut Context<'_>) -> Poll<TunnelEnd> {
        for _ in 0..TURNS_PER_POLL {
            let upload = match self.upload.poll(context, self.client, self.server, &self.counters.from_client) {
                Ok(progress) => progress,
                Err(Failure::Reader(error)) => return Poll::Ready(self.end(TunnelEnd::ClientError(error))),
                Err(Failure::Writer(error)) => self.note(TunnelEnd::ServerError(error)),
            };
            let download = match self.download.poll(context, self.server, self.client, &self.counters.from_server) {
                Ok(progress) => progress,
                Err(Failure::Reader(error)) => return Poll::Ready(self.end(TunnelEnd::ServerError(error))),
                Err(Failure::Writer(error)) => self.note(TunnelEnd::ClientError(error)),
            };
            self.adjust_watch(upload, download);
            match (upload, download) {
                (Progress::Ended, Progress::Ended) => return Poll::Ready(self.end(TunnelEnd::BothClosed)),
                (Progress::MoreToDo, _) | (_, Progress::MoreToDo) => {}
                (Progress::Waits | Progress::Ended, Progress::Waits | Progress::Ended) => return Poll::Pending,
            }
        }
        // Others' turn: this task is polled again after them.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// One side takes no more, but may have said something last: a server that answers early and closes. The direction has
    /// ended itself; the other one goes on, as after a half-close.
    fn note(&mut self, failure: TunnelEnd) -> Progress {
        self.failure.get_or_insert(failure);
        Progress::Ended
    }

    /// The first thing that went wrong, if something did.
    fn end(&mut self, end: TunnelEnd) -> TunnelEnd {
        self.failure.take().unwrap_or(end)
    }

    /// The only two events, besides the timer itself, that bring a look forward: the first end, and memory to give back.
    fn adjust_watch(&mut self, upload: Progress, download: Progress) {
        if !self.watch.half_closed && (upload == Progress::Ended || download == Progress::Ended) {
            self.watch.half_close(Instant::now());
        }
        if !self.watch.looks_soon && (self.upload.holds_memory() || self.download.holds_memory()) {
            self.watch.look_soon(Instant::now());
        }
    }

    fn look(&mut self, now: Instant) -> Option<TunnelEnd> {
        let moved = self.upload.moves.wrapping_add(self.download.moves);
        let is_quiet = moved == self.watch.moved;
        if is_quiet {
            self.upload.give_back();
            self.download.give_back();
        }
        let holds_memory = self.upload.holds_memory() || self.download.holds_memory();
        let end = self.watch.look(now, moved, holds_memory)?;
        Some(self.end(end))
    }
}

/// Rounds are counted in `direction`; a turn ends after some megabytes at most.
const TURNS_PER_POLL: usize = 8;

/// The coarse clock: looks now and then whether anything moved.
struct Watch {
    idle: Duration,
    linger: Duration,
    half_closed: bool,
    /// The count of moves at the last look.
    moved: u64,
    /// Nothing has moved since, at the latest.
    quiet_since: Instant,
    next_look: Instant,
    /// The next look is soon because there is memory to give back.
    looks_soon: bool,
}

impl Watch {
    fn new(idle: Duration, linger: Duration, now: Instant) -> Self {
        let mut watch =
            Self { idle, linger, half_closed: false, moved: 0, quiet_since: now, next_look: now, looks_soon: false };
        watch.plan(now, false);
        watch
    }

    fn limit(&self) -> Duration {
        if self.half_closed { self.linger.min(self.idle) } else { self.idle }
    }

    fn half_close(&mut self, now: Instant) {
        self.half_closed = true;
        self.quiet_since = now;
        self.plan(now, self.looks_soon);
    }

    fn look_soon(&mut self, now: Instant) {
        self.looks_soon = true;
        self.next_look = self.next_look.min(now + SOON);
    }

    fn look(&mut self, now: Instant, moved: u64, holds_memory: bool) -> Option<TunnelEnd> {
        if moved != self.moved {
            self.moved = moved;
            self.quiet_since = now;
        } else if now.saturating_duration_since(self.quiet_since) >= self.limit() {
            return Some(if self.half_closed { TunnelEnd::LingerTimeout } else { TunnelEnd::IdleTimeout });
        }
        self.plan(now, holds_memory);
        None
    }

    fn plan(&mut self, now: Instant, holds_memory: bool) {
        self.looks_soon = holds_memory;
        let coarse = (self.limit() / 8).clamp(Duration::from_millis(1), Duration::from_secs(60));
        let wait = if holds_memory { coarse.min(SOON) } else { coarse };
        // `quiet_since + limit` can overflow where an operator wrote a duration for ever.
        let end = self.quiet_since.checked_add(self.limit());
        self.next_look = end.map_or(now + wait, |end| end.max(now + Duration::from_millis(1)).min(now + wait));
    }
}

/// How long a direction may hold a buffer that it does not use.
const SOON: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
