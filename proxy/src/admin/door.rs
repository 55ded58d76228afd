//! Accepting callers of the admin endpoints. Everything is bounded, so that 1,000 scrapers, or ten that never read,
//! change nothing for the data plane (THREATS F-29).

use super::AdminState;
use super::endpoints::{Caller, Door, answer};
use super::socket::AllowedUids;
use crate::capture::CloseAsked;
use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Callers at a time, for each door; the others wait in the kernel's queue.
const CALLERS_MAX: usize = 64;
/// For the head of a request to arrive.
const HEAD_DEADLINE: Duration = Duration::from_secs(2);
/// For everything: a connection carries one request. Shorter than a scraper's usual patience (10 s).
const CONNECTION_DEADLINE: Duration = Duration::from_secs(8);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// After an accept that failed, which usually means that no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve_tcp(listener: TcpListener, door: Door, state: Arc<AdminState>, mut asked: CloseAsked) {
    let mut callers = Callers::new();
    loop {
        let accepted = async {
            let permit = callers.room().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            closed = asked.asked() => {
                drop((listener, closed));
                return callers.finish().await;
            }
        };
        match accepted {
            Ok((stream, _)) => callers.serve(stream, Caller { door, user: None }, &state, permit),
            Err(error) => accept_failed(door, &error, &state).await,
        }
    }
}

pub(super) async fn serve_unix(
    listener: UnixListener,
    allowed: Arc<ArcSwap<AllowedUids>>,
    state: Arc<AdminState>,
    mut asked: CloseAsked,
) {
    let mut callers = Callers::new();
    loop {
        let accepted = async {
            let permit = callers.room().await;
            let accepted = listener.accept().await;
            (permit, accepted.and_then(|(stream, _)| stream.peer_cred().map(|caller| (stream, caller.uid()))))
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            closed = asked.asked() => {
                drop((listener, closed));
                return callers.finish().await;
            }
        };
        match accepted {
            Ok((stream, uid)) => {
                let caller = Caller { door: Door::Socket, user: Some((uid, allowed.load_full())) };
                callers.serve(stream, caller, &state, permit);
            }
            Err(error) => accept_failed(Door::Socket, &error, &state).await,
        }
    }
}

async fn accept_failed(door: Door, error: &io::Error, state: &AdminState) {
    state.metrics.accept_failed();
    tracing::debug!(?door, %error, "could not accept");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The callers of one door; dropping it ends them.
struct Callers {
    room: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Callers {
    fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(CALLERS_MAX)), tasks: JoinSet::new() }
    }

    async fn room(&mut self) -> OwnedSemaphorePermit {
        while self.tasks.try_join_next().is_some() {}
        self.room.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Those who are there have their answers; each has a deadline.
    async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    fn serve<S>(&mut self, stream: S, caller: Caller, state: &Arc<AdminState>, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let state = state.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let state = state.clone();
                let caller = &caller;
                async move { Ok::<_, Infallible>(answer(caller, &state, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .max_buf_size(HEAD_BYTES_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A caller that goes away, or that does not read, is its own problem.
            let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
        });
    }
}
