//! Streams from peers: each is for a declared port, and from there on what a connection to that port is.

use super::keepalive::Keepalive;
use super::{
    CONNECTION_WINDOW, FRAME_BYTES_MAX, HEADER_LIST_BYTES_MAX, SEND_BUFFER_BYTES_MAX, STREAM_WINDOW, STREAMS_MAX,
    TINY_FRAMES_BUDGET, TunnelStream,
};
use crate::capture::Accepted;
use crate::connection::{Connection, Place, turn_away, turn_away_stream};
use crate::http::frames::WatchedFrames;
use crate::http::respond::{Asker, refuse_stream};
use crate::inbound::{self, Shown};
use crate::policy::{Door, TunnelPlan};
use crate::refusal::{Refusal, Refused};
use crate::session::{Carries, Direction, EndCause, SessionIo, Subject};
use crate::tls::mesh::ServerAlpn;
use crate::upstream::client::chain;
use crate::worker::{Worker, gone};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use postern_config::OnExpiry;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// THREATS H2-01 and H2-03, as for requests.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_LOCAL_MAX: usize = 100;
/// How often an idle connection is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// Serves one connection of a peer to its end.
pub async fn serve(worker: Rc<Worker>, door: Door, accepted: Accepted, place: Place) {
    let policy = worker.policy();
    let Some(plan) = policy.tunnel(&door).cloned() else {
        return turn_away(&worker, &door, accepted.remote, gone(&door));
    };
    let (name, metrics) = (plan.name.clone(), plan.metrics.clone());
    let connection = Connection::open(&worker, door.clone(), place, Direction::Inbound, name, metrics, accepted.remote);
    let session = &connection.session;
    session.set_subject(Subject::Door(door));
    if worker.is_draining() {
        session.retire(EndCause::Draining);
    }
    let io = connection.io(accepted.stream);
    if let Err(refused) = carry(&connection, &plan, io).await {
        tracing::debug!(remote = %accepted.remote, reason = refused.refusal.code(), detail = %refused.detail, "tunnel refused");
        connection.audit_place().await;
        connection.refused(refused);
    }
}

async fn carry(connection: &Rc<Connection>, plan: &TunnelPlan, io: SessionIo) -> Result<(), Refused> {
    let shown =
        Shown { svid: &plan.svid, alpn: ServerAlpn::Http2Only, on_expiry: OnExpiry::Keep, metrics: &plan.metrics };
    let (tls, _) = inbound::handshake(connection, shown, io).await?;
    connection.session.set_carries(Carries::Tunnels);
    streams(connection, tls).await
}

/// Takes streams until the peer has ended the connection, or it is cut.
async fn streams(connection: &Rc<Connection>, io: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Refused> {
    let (worker, session) = (&connection.worker, &connection.session);
    let each_second = worker.policy().limits.h2_control_frames;
    let io = WatchedFrames::of_caller(io, session.clone(), connection.metrics.clone(), each_second);
    let protocol = |error: h2::Error| Refused::new(Refusal::ProtocolRefused, chain(&error));
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(Some(RESETS_LOCAL_MAX))
        .data_frame_budget(TINY_FRAMES_BUDGET)
        .handshake::<_, Bytes>(io);
    let deadline = worker.policy().timeouts.handshake;
    let mut h2 = tokio::time::timeout(deadline, handshake)
        .await
        .map_err(|_| Refused::new(Refusal::DetectTimeout, "no HTTP/2 preface"))?
        .map_err(protocol)?;
    let mut lost = std::pin::pin!(
        Keepalive::new(h2.ping_pong(), &worker.policy().timeouts).lost(|| true, || session.bytes_in.load(Relaxed))
    );
    let mut look = tokio::time::interval(LOOK_EVERY);
    let (mut is_closing, mut streams_seen, mut idle_since) = (false, 0, Instant::now());
    loop {
        let (request, answer) = tokio::select! {
            biased;
            () = session.was_cut() => return Ok(()),
            next = h2.accept() => match next {
                Some(Ok(stream)) => stream,
                Some(Err(error)) => {
                    connection.ended(chain(&error));
                    return Ok(());
                }
                None => return Ok(()),
            },
            () = session.retired(), if !is_closing => {
                is_closing = true;
                // GOAWAY: the streams that are there go on.
                h2.graceful_shutdown();
                continue;
            }
            () = lost.as_mut() => {
                session.cut(EndCause::Unresponsive, Instant::now());
                return Ok(());
            }
            _ = look.tick() => {
                let streams = session.requests_total();
                if session.requests_active.load(Relaxed) > 0 || streams != streams_seen {
                    (streams_seen, idle_since) = (streams, Instant::now());
                } else if idle_since.elapsed() > worker.policy().timeouts.http_idle {
                    session.retire(EndCause::Idle);
                }
                continue;
            }
        };
        session.requests_total.fetch_add(1, Relaxed);
        let active = ActiveStream::of(connection);
        tokio::task::spawn_local(async move { stream(active, request, answer).await });
    }
}

/// Counts a stream of its connection while it lives.
struct ActiveStream(Rc<Connection>);

impl ActiveStream {
    fn of(carrier: &Rc<Connection>) -> Self {
        carrier.session.requests_active.fetch_add(1, Relaxed);
        Self(carrier.clone())
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.0.session.requests_active.fetch_sub(1, Relaxed);
    }
}

/// One stream to its end. Its record is written when the last of it is dropped.
async fn stream(carrier: ActiveStream, request: Request<RecvStream>, answer: SendResponse<Bytes>) {
    let carrier = &carrier.0;
    let (worker, remote) = (&carrier.worker, carrier.session.remote);
    let mut answer = Answer { carrier, answer };
    let door = match asked_for(&request) {
        Ok(door) => door,
        Err(refused) => return answer.turn_away(&carrier.door, refused),
    };
    let policy = worker.policy();
    let Some(plan) = policy.inbound(&door).cloned() else {
        let why = format!("a stream to {}, whose port no entry of `inbound` declares", request.uri());
        return answer.turn_away(&carrier.door, Refused::new(Refusal::NoRoute, why));
    };
    let Some(place) = worker.place_for_stream() else {
        let refused = Refused::new(Refusal::OverLimit, "as many connections as `limits.connections` are open");
        return answer.turn_away(&door, refused);
    };
    let Some(trust) = carrier.session.trust() else {
        return answer.turn_away(&door, Refusal::Internal.into());
    };

    // 1 register, before the first check; 2 the peer is who made the connection.
    let (name, metrics) = (plan.name.clone(), plan.metrics.clone());
    let connection = Connection::open(worker, door.clone(), place, Direction::Inbound, name, metrics, remote);
    connection.set_carrier(carrier.session.id);
    connection.session.set_subject(Subject::Door(door));
    let trust = trust.of_stream(plan.config.on_expiry);
    let peer = trust.peer.clone();
    connection.session.establish(trust, &worker.identity());
    connection.audit_room().await;

    // 3 what a connection to that port is.
    let receive = request.into_body();
    let accept = |session| {
        let send = answer.answer.send_response(Response::new(()), false);
        send.map(|send| TunnelStream::new(receive, send, Some(session)))
    };
    let carried = inbound::carry_stream(&connection, &plan, &peer, accept).await;
    if let Err(refused) = carried {
        tracing::debug!(listener = %plan.name, %remote, reason = refused.refusal.code(), detail = %refused.detail, "stream refused");
        connection.audit_place().await;
        answer.refuse(&refused, &worker.decision_id(connection.session.id));
        connection.refused(refused);
    }
}

struct Answer<'a> {
    carrier: &'a Connection,
    answer: SendResponse<Bytes>,
}

impl Answer<'_> {
    /// A stream that never became a connection has a record all the same.
    fn turn_away(&mut self, door: &Door, refused: Refused) {
        let worker = &self.carrier.worker;
        let refusal = refused.clone();
        let number = worker.next_id();
        turn_away_stream(number, self.carrier, door, refused);
        self.refuse(&refusal, &worker.decision_id(number));
    }

    /// Nothing happens where the answer was given already: the stream is reset when the last of it is dropped.
    fn refuse(&mut self, refused: &Refused, decision: &str) {
        let _ = self.answer.send_response(refuse_stream(refused, decision, Asker::MeshPeer), true);
    }
}

/// The port of the application that a stream is for. Its host decides nothing: no other host can be reached.
///
/// # Errors
/// It is no CONNECT (RFC 9113 §8.5), or one with a protocol (RFC 8441), or its authority has no port.
fn asked_for(request: &Request<RecvStream>) -> Result<Door, Refused> {
    if request.method() != Method::CONNECT || request.extensions().get::<h2::ext::Protocol>().is_some() {
        let why = format!("{} in a tunnel, which takes CONNECT alone", request.method());
        return Err(Refused::new(Refusal::ConnectRefused, why));
    }
    let port = request.uri().authority().and_then(http::uri::Authority::port_u16);
    let port = port.filter(|port| *port > 0);
    port.map(Door::Port)
        .ok_or_else(|| Refused::new(Refusal::BadHost, format!("CONNECT to {}, which names no port", request.uri())))
}
