//! WebSocket and other upgrades (RFC 9110 §7.8), and CONNECT: after the upstream agreed, the connection is a tunnel.
//!
//! Nothing that the caller sends after its head reaches the upstream before the upstream's own answer (THREATS SM-21):
//! hyper holds it back until the upgrade is taken.

use super::body::AnswerBody;
use super::record::Recorder;
use crate::connection::Connection;
use crate::session::{Carries, RequestGuard};
use crate::tunnel;
use crate::upstream::client::HttpVersion;
use crate::upstream::connect::UpstreamIo;
use crate::upstream::lease::Lease;
use http::StatusCode;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};

/// Did the upstream agree? 101 to an upgrade, 2xx to CONNECT.
pub fn is_switched(status: StatusCode, is_connect: bool) -> bool {
    if is_connect { status.is_success() } else { status == StatusCode::SWITCHING_PROTOCOLS }
}

/// Where a tunnel leads.
pub enum Far {
    /// A request's connection, once the upstream has switched too.
    Upgrade(OnUpgrade),
    /// A connection of its own, or a stream of an HTTP/2 connection.
    Connection(Box<UpstreamIo>),
}

impl Far {
    /// Of a response by which the upstream agreed; its body, where it leads nowhere.
    ///
    /// # Errors
    /// Nothing was asked of it that it could have agreed to.
    pub fn of(upgrade: Option<OnUpgrade>, body: AnswerBody) -> Result<Self, AnswerBody> {
        match (upgrade, body) {
            (Some(upgrade), _) => Ok(Self::Upgrade(upgrade)),
            (None, AnswerBody::Http2(stream)) => match stream.into_tunnel() {
                Ok(tunnel) => Ok(Self::Connection(Box::new(UpstreamIo::Tunnelled(Box::new(tunnel))))),
                Err(stream) => Err(AnswerBody::Http2(stream)),
            },
            (None, body) => Err(body),
        }
    }
}

/// Tunnels between the two sides once both have switched. The request's record ends with the tunnel.
pub fn start(
    connection: &Rc<Connection>,
    caller: OnUpgrade,
    far: Far,
    lease: Lease,
    guard: RequestGuard,
    mut recorder: Recorder,
) {
    let connection = connection.clone();
    guard.request.allow_quiet();
    guard.request.time_limit.lift();
    // An HTTP/2 connection stays one: CONNECT on one stream must not lift expiry from the others.
    if connection.version() == HttpVersion::Http1 {
        connection.session.set_carries(Carries::Stream);
    }
    tokio::task::spawn_local(async move {
        let switched = match far {
            Far::Upgrade(upstream) => tokio::try_join!(caller, upstream)
                .map(|(caller, upstream)| (caller, Box::new(TokioIo::new(upstream)) as Box<dyn Stream>)),
            Far::Connection(upstream) => caller.await.map(|caller| (caller, upstream as Box<dyn Stream>)),
        };
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
                    recorder.ended_early("cut");
                }
            }
            Err(error) => recorder.failed(&error),
        }
        drop((lease, guard));
    });
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

async fn upstream_was_cut(lease: &Lease) {
    match &lease.session {
        Some(session) => session.was_cut().await,
        None => std::future::pending().await,
    }
}

async fn run(
    connection: &Connection,
    caller: Upgraded,
    mut upstream: Box<dyn Stream>,
    guard: &RequestGuard,
    recorder: &mut Recorder,
) {
    let mut caller = TokioIo::new(caller);
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
        None => recorder.ended_early("cut"),
    }
}
