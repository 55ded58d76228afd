//! WebSocket and other upgrades (RFC 9110 §7.8), and CONNECT: after the upstream agreed, the connection is a tunnel.
//!
//! Nothing that the caller sends after its head reaches the upstream before the upstream's own answer (THREATS SM-21):
//! a connection is handed over when its answer has been written, and a stream of HTTP/2 is a tunnel only when it has been answered.

use super::body::Received;
use super::record::Recorder;
use crate::capture::caller::CallerIo;
use crate::connection::Connection;
use crate::detect::Rewind;
use crate::hbone::TunnelStream;
use crate::session::{Carries, EndCause, RequestGuard};
use crate::tunnel;
use crate::upstream::client::HttpVersion;
use crate::upstream::lease::Lease;
use http::StatusCode;
use std::error::Error;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

/// Did the upstream agree? 101 to an upgrade, 2xx to CONNECT.
pub fn is_switched(status: StatusCode, is_connect: bool) -> bool {
    if is_connect { status.is_success() } else { status == StatusCode::SWITCHING_PROTOCOLS }
}

/// One side of a tunnel, or what becomes one when it has been told that the other agreed.
pub enum Side {
    /// An HTTP/1 connection.
    Upgrade(oneshot::Receiver<Rewind<CallerIo>>),
    /// A stream of an HTTP/2 connection.
    Stream(oneshot::Receiver<TunnelStream>),
    /// It is one: a connection of its own, or a stream whose other end has agreed.
    Open(Box<dyn Duplex>),
}

impl Side {
    /// Of a request, or of an answer that agrees.
    pub fn take(body: &mut Received) -> Option<Self> {
        match body {
            Received::Tunnel(side) => side.take(),
            Received::Http1(_) | Received::Http2(_) | Received::Answer(_) => None,
        }
    }

    async fn switched(self) -> Result<Box<dyn Duplex>, Box<dyn Error + Send + Sync>> {
        Ok(match self {
            Self::Upgrade(upgrade) => {
                Box::new(upgrade.await.map_err(|_| "the connection ended before it was a tunnel")?)
            }
            Self::Stream(stream) => Box::new(stream.await.map_err(|_| "the stream ended before it was a tunnel")?),
            Self::Open(io) => io,
        })
    }
}

/// Tunnels between the two sides once both have switched. The request's record ends with the tunnel.
pub fn start(
    connection: &Rc<Connection>,
    caller: Side,
    far: Side,
    lease: Lease,
    guard: RequestGuard,
    mut recorder: Recorder,
) {
    let connection = connection.clone();
    guard.request.allow_quiet();
    guard.request.time_limit.lift();
    // Nobody waits for the caller to take anything but what the tunnel itself writes.
    guard.request.answer_waits(false);
    // An HTTP/2 connection stays one: CONNECT on one stream must not lift expiry from the others.
    if connection.version() == HttpVersion::Http1 {
        connection.session.set_carries(Carries::Stream);
    }
    tokio::task::spawn_local(async move {
        let switched = tokio::try_join!(caller.switched(), far.switched());
        match switched {
            Ok((caller, upstream)) => {
                let cut = async {
                    tokio::select! {
                        () = connection.session.was_cut() => {}
                        () = upstream_was_cut(&lease) => {}
                    }
                };
                // Where one side does not read, nothing polls the other side's socket: a cut comes in here.
                // Looked at first: bytes that were read before the cut wait to be copied.
                let was_cut = tokio::select! {
                    biased;
                    () = cut => true,
                    () = run(&connection, caller, upstream, &guard, &mut recorder) => false,
                };
                if was_cut {
                    // The caller's, if it is that one, is in the record already.
                    let cause = lease.session.as_ref().and_then(|session| session.end_cause());
                    recorder.ended_early(cause.map_or("cut", EndCause::as_str));
                }
            }
            Err(error) => recorder.failed(&*error),
        }
        drop((lease, guard));
    });
}

pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

async fn upstream_was_cut(lease: &Lease) {
    match &lease.session {
        Some(session) => session.was_cut().await,
        None => std::future::pending().await,
    }
}

async fn run(
    connection: &Connection,
    mut caller: Box<dyn Duplex>,
    mut upstream: Box<dyn Duplex>,
    guard: &RequestGuard,
    recorder: &mut Recorder,
) {
    let timeouts = connection.worker.policy().timeouts.clone();
    let counters = tunnel::Counters::default();
    let copying = tunnel::copy(&mut caller, &mut upstream, &counters, timeouts.tcp_idle, timeouts.half_close_linger);
    let mut copying = std::pin::pin!(copying);
    let ended = poll_fn(|context| {
        if guard.request.poll_cut(context) {
            return Poll::Ready(None);
        }
        copying.as_mut().poll(context).map(Some)
    })
    .await;
    match ended {
        Some(ended) => recorder.tunnel_ended(ended.from_client, ended.from_server, &ended.end.to_string()),
        None => recorder.ended_early(guard.request.cut_text()),
    }
}
