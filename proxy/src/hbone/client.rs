//! Streams to peers: few mTLS connections, opened when the ones there are have no room, and kept for a while.
//!
//! A connection is shared by what has the same identities at both ends: our SVID, and a peer that each service expects. It
//! is retired like any pooled one; its streams live on, each with a session that is checked alone.

use super::keepalive::Keepalive;
use super::{
    CONNECTION_WINDOW, FRAME_BYTES_MAX, HEADER_LIST_BYTES_MAX, SEND_BUFFER_BYTES_MAX, STREAM_WINDOW, STREAMS_MAX,
    TINY_FRAMES_BUDGET, TunnelStream,
};
use crate::http::frames::WatchedFrames;
use crate::http::respond::read_refusal;
use crate::refusal::{Refusal, Refused};
use crate::session::{Carries, Direction, EndCause, Registered, Session, Subject};
use crate::tls::mesh::ClientAlpn;
use crate::upstream::address::EndpointAddress;
use crate::upstream::client::chain;
use crate::upstream::connect::{Connected, Mesh, Own, UpstreamIo, carried, establish, mesh, upstream_refused_us};
use crate::upstream::plan::ServicePlan;
use crate::upstream::pool::OwnSvid;
use crate::worker::Worker;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode, Version};
use postern_config::SpiffePattern;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Sweeps (seconds) without a stream, after which a connection is closed (PEERS D1, "tunnel pool idle").
const IDLE_SWEEPS_MAX: u32 = 300;
/// Connections that turned out to take no more streams, before that is the peer's fault.
const ATTEMPTS_MAX: usize = 4;

/// What a stream is for, and what may carry it.
pub struct Wanted<'a> {
    pub plan: &'a Arc<ServicePlan>,
    pub host: Option<&'a str>,
    /// The application's address, as the CONNECT names it.
    pub to: SocketAddr,
    /// The peer's tunnel.
    pub through: SocketAddr,
    pub expected: &'a [SpiffePattern],
    pub own: &'a Own,
    pub alpn: ClientAlpn,
}

/// One worker's connections to tunnels.
#[derive(Default)]
pub struct Tunnels {
    by_peer: RefCell<HashMap<(SocketAddr, OwnSvid), Rc<Far>>>,
}

/// A peer's tunnel, for one SVID of ours.
#[derive(Default)]
struct Far {
    carriers: RefCell<Vec<Arc<Carrier>>>,
    /// Held while a connection is made, so that a burst makes one. Says when that failed last, and why: whoever waited
    /// meanwhile has the same answer.
    connecting: Mutex<Option<(Instant, Refused)>>,
}

/// A connection that carries streams. It stays on its worker.
struct Carrier {
    requests: SendRequest<Bytes>,
    session: Arc<Session>,
    streams: AtomicU32,
    /// Since the last stream ended.
    idle_sweeps: AtomicU32,
    /// It has ended, or takes no more streams (GOAWAY).
    is_closed: AtomicBool,
}

impl Tunnels {
    fn to(&self, through: SocketAddr, own: OwnSvid) -> Rc<Far> {
        self.by_peer.borrow_mut().entry((through, own)).or_default().clone()
    }

    /// Once a second: lets go of what is closed, retired or idle. Streams keep theirs.
    pub fn sweep(&self) {
        self.by_peer.borrow_mut().retain(|_, far| {
            far.carriers.borrow_mut().retain(|carrier| {
                let is_idle = carrier.streams.load(Relaxed) == 0;
                let idle_sweeps = if is_idle { carrier.idle_sweeps.load(Relaxed) + 1 } else { 0 };
                carrier.idle_sweeps.store(idle_sweeps, Relaxed);
                carrier.is_open() && idle_sweeps < IDLE_SWEEPS_MAX
            });
            // Somebody may be about to add one.
            !far.carriers.borrow().is_empty() || Rc::strong_count(far) > 1
        });
    }
}

impl Carrier {
    fn is_open(&self) -> bool {
        !self.is_closed.load(Relaxed) && !self.session.is_retired() && !self.session.is_cut()
    }

    fn takes_streams(&self, expected: &[SpiffePattern]) -> bool {
        let max = (STREAMS_MAX as usize).min(self.requests.current_max_send_streams());
        self.is_open()
            && (self.streams.load(Relaxed) as usize) < max
            && self.session.trust().is_some_and(|trust| expected.iter().any(|id| id.matches(&trust.peer.id)))
    }
}

/// Counts a stream of a connection while it lives, and keeps the connection open for it.
pub struct StreamPlace(Arc<Carrier>);

impl StreamPlace {
    fn of(carrier: &Arc<Carrier>) -> Self {
        carrier.streams.fetch_add(1, Relaxed);
        carrier.idle_sweeps.store(0, Relaxed);
        Self(carrier.clone())
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

/// Opens a stream.
///
/// # Errors
/// The peer's tunnel cannot be reached, somebody else answers there, or it refuses.
pub async fn open(worker: &Rc<Worker>, stream: Wanted<'_>) -> Result<Connected, Refused> {
    let far = worker.tunnels.to(stream.through, stream.own.key());
    for _ in 0..ATTEMPTS_MAX {
        let carrier = carrier(worker, &far, &stream).await?;
        if let Some(connected) = open_on(worker, &carrier, &stream).await? {
            return Ok(connected);
        }
        carrier.is_closed.store(true, Relaxed);
    }
    let why = format!("{}: {} takes no streams", stream.plan.name, stream.through);
    Err(Refused::new(Refusal::UpstreamClosed, why))
}

async fn carrier(worker: &Rc<Worker>, far: &Rc<Far>, stream: &Wanted<'_>) -> Result<Arc<Carrier>, Refused> {
    let with_room = || far.carriers.borrow().iter().find(|it| it.takes_streams(stream.expected)).cloned();
    if let Some(carrier) = with_room() {
        return Ok(carrier);
    }
    let waiting_since = Instant::now();
    let mut last_refused = far.connecting.lock().await;
    if let Some(carrier) = with_room() {
        return Ok(carrier);
    }
    if let Some((_, refused)) = last_refused.as_ref().filter(|(at, _)| *at >= waiting_since) {
        return Err(refused.clone());
    }
    match Box::pin(connect(worker, stream)).await {
        Ok(carrier) => {
            far.carriers.borrow_mut().push(carrier.clone());
            Ok(carrier)
        }
        Err(refused) => {
            *last_refused = Some((Instant::now(), refused.clone()));
            Err(refused)
        }
    }
}

async fn connect(worker: &Rc<Worker>, stream: &Wanted<'_>) -> Result<Arc<Carrier>, Refused> {
    let (plan, expected) = (stream.plan, stream.expected);
    let wanted = Mesh { expected, alpn: ClientAlpn::H2, carries: Carries::Tunnels, subject: None };
    let address = EndpointAddress::Tcp(stream.through);
    let (tls, session, registered, _) = mesh(worker, plan, &address, stream.own, wanted).await?;
    let each_second = worker.policy().limits.h2_control_frames;
    let io = WatchedFrames::of_upstream(tls, Some(session.clone()), plan.metrics.clone(), each_second);
    let handshake = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .data_frame_budget(TINY_FRAMES_BUDGET)
        .enable_push(false)
        .handshake(io)
        .await;
    let (requests, mut connection) = handshake.map_err(|error| unusable(stream, &session, &error))?;
    let keepalive = Keepalive::new(connection.ping_pong(), &worker.policy().timeouts);
    let carrier = Arc::new(Carrier {
        requests,
        session: session.clone(),
        streams: AtomicU32::new(0),
        idle_sweeps: AtomicU32::new(0),
        is_closed: AtomicBool::new(false),
    });
    // The task must not keep the carrier: the connection ends when nobody else has it.
    let of_task = Arc::downgrade(&carrier);
    tokio::task::spawn_local(async move {
        tokio::select! {
            // Its errors reach its streams.
            _ = connection => {}
            () = session.was_cut() => {}
            () = keepalive.lost(|| true, || session.bytes_in.load(Relaxed)) => session.cut(EndCause::Unresponsive, Instant::now()),
        }
        if let Some(carrier) = of_task.upgrade() {
            carrier.is_closed.store(true, Relaxed);
        }
        drop::<Rc<Registered>>(registered);
    });
    Ok(carrier)
}

/// `None`: the connection takes no more streams, and nothing of this one has happened.
async fn open_on(
    worker: &Rc<Worker>,
    carrier: &Arc<Carrier>,
    stream: &Wanted<'_>,
) -> Result<Option<Connected>, Refused> {
    let (plan, session) = (stream.plan, &carrier.session);
    let place = StreamPlace::of(carrier);
    let request = Request::builder().method(Method::CONNECT).version(Version::HTTP_2).uri(stream.to.to_string());
    let request = request.body(()).map_err(|error| Refused::new(Refusal::Internal, error.to_string()))?;
    let answered = async {
        let mut requests = carrier.requests.clone().ready().await.map_err(|error| (error, true))?;
        let (answer, send) = requests.send_request(request, false).map_err(|error| (error, true))?;
        match answer.await {
            Ok(answer) => Ok((answer, send)),
            // RFC 9113 §8.7: of what was refused so, nothing was processed.
            Err(error) => {
                let untouched = error.is_remote()
                    && (error.reason() == Some(h2::Reason::REFUSED_STREAM)
                        || error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR));
                Err((error, untouched))
            }
        }
    };
    let (answer, send) = match timeout(plan.connect_timeout, answered).await {
        Ok(Ok(answered)) => answered,
        Ok(Err((_, true))) if !session.is_cut() && session.peer_refused_us.get().is_none() => return Ok(None),
        Ok(Err((error, _))) => return Err(unusable(stream, session, &error)),
        Err(_) => {
            let why = format!("{}: {} did not answer within {:?}", plan.name, stream.through, plan.connect_timeout);
            return Err(Refused::new(Refusal::UpstreamUnreachable, why));
        }
    };
    if answer.status() != StatusCode::OK {
        return Err(refused(stream, &answer));
    }
    let Some(trust) = session.trust() else { return Err(Refusal::Internal.into()) };
    let trust = trust.of_stream(plan.on_expiry);
    let peer = trust.peer.clone();
    let (name, metrics) = (plan.name.clone(), plan.metrics.clone());
    let of_stream = Session::new(worker.next_id(), Direction::Upstream, name, session.remote, metrics);
    let registered = Rc::new(worker.registry.register(of_stream.clone()));
    of_stream.set_subject(Subject::Service { plan: plan.clone(), host: stream.host.map(Box::from) });
    of_stream.set_carries(carried(stream.alpn));
    establish(worker, &of_stream, trust, plan)?;
    let io = TunnelStream::new(answer.into_body(), send, Some(of_stream.clone())).with(place);
    Ok(Some(Connected {
        io: UpstreamIo::Tunnelled(Box::new(io)),
        session: Some(of_stream),
        registered: Some(registered),
        peer: Some(peer),
        place: None,
    }))
}

/// What the peer said instead of 200.
fn refused<T>(stream: &Wanted<'_>, answer: &http::Response<T>) -> Refused {
    let (name, through, to) = (&stream.plan.name, stream.through, stream.to);
    let status = answer.status();
    let said = match read_refusal(answer.headers()) {
        Some((code, Some(decision))) => format!("{status}, {code}, decision {decision}"),
        Some((code, None)) => format!("{status}, {code}"),
        None => status.to_string(),
    };
    // What is not there may be there at another endpoint.
    let refusal = match status.is_server_error() {
        true => Refusal::UpstreamUnreachable,
        false => Refusal::PeerRefused,
    };
    Refused::new(refusal, format!("{name}: {through} refused a stream to {to}: {said}"))
}

fn unusable(stream: &Wanted<'_>, session: &Session, error: &h2::Error) -> Refused {
    if let Some(alert) = session.peer_refused_us.get() {
        return upstream_refused_us(stream.plan, &EndpointAddress::Tcp(stream.through), *alert);
    }
    let refusal = if session.is_cut() { Refusal::TrustEnded } else { Refusal::UpstreamClosed };
    Refused::new(refusal, format!("{}: {}: {}", stream.plan.name, stream.through, chain(error)))
}
