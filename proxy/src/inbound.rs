//! The life of a connection from the mesh to the application.
//!
//! accept → (detect) → TLS makes the peer known → L7: `http::request` for each request; L4: decided once, then a tunnel.

use crate::break_glass::rescue;
use crate::capture::Accepted;
use crate::capture::caller::{CallerIo, Wire};
use crate::connection::{Connection, Place, turn_away};
use crate::detect::{self, Detected, Opaque, Rewind, Rules, Verdict};
use crate::hbone::TunnelStream;
use crate::http::identity_headers::RenderedIdentity;
use crate::http::serve;
use crate::identity::{Snapshot, Svid};
use crate::lately_refused;
use crate::policy::{Door, InboundPlan, Judged};
use crate::refusal::{Refusal, Refused};
use crate::session::{Carries, Direction, Negotiated, Session, SessionIo, Subject, Trust};
use crate::telemetry::PortMetrics;
use crate::tls::mesh::{self, Accept, ServerAlpn};
use crate::tls::{Peer, Role};
use crate::upstream::client::{HttpVersion, chain};
use crate::upstream::l4;
use crate::upstream::plan::ServicePlan;
use crate::worker::{DetectKey, Worker, gone};
use bytes::BytesMut;
use postern_config::{InboundTls, OnExpiry, Protocol, SvidSelector};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

/// Serves one connection to its end; its record is written when the last of it is dropped.
pub async fn serve(worker: Rc<Worker>, door: Door, accepted: Accepted, place: Place) {
    let policy = worker.policy();
    let Some(plan) = policy.inbound(&door).cloned() else {
        return turn_away(&worker, &door, accepted.remote, gone(&door));
    };

    // 1 register, before the first check.
    let (name, metrics) = (plan.name.clone(), plan.metrics.clone());
    let connection = Connection::open(&worker, door.clone(), place, Direction::Inbound, name, metrics, accepted.remote);
    if let Some(original) = accepted.original {
        connection.set_original(original.0);
    }
    connection.session.set_subject(Subject::Door(door));
    if worker.is_draining() {
        connection.session.retire(crate::session::EndCause::Draining);
    }
    let io = connection.io(accepted.stream);
    connection.audit_room().await;

    // 2 TLS, or plaintext where the file says so; 3 protocol; 4 requests, or one decision and a tunnel.
    if let Err(refused) = admit(&connection, &plan, io).await {
        tracing::debug!(listener = %plan.name, remote = %accepted.remote, reason = refused.refusal.code(), detail = %refused.detail, "inbound connection refused");
        connection.audit_place().await;
        connection.refused(refused);
    }
}

async fn admit(connection: &Rc<Connection>, plan: &Arc<InboundPlan>, io: SessionIo) -> Result<(), Refused> {
    match plan.config.tls {
        InboundTls::Strict => {
            // Cheap checks first: without an identity nobody gets in, and whoever says nothing, or no TLS, costs no handshake
            // and takes no place.
            own_svid(&connection.worker.identity(), &plan.config.svid)?;
            speaks_tls(&io, connection.worker.policy().timeouts.handshake).await?;
            let (tls, peer) = handshake(connection, plan.shown(), Rewind::new(bytes::Bytes::new(), io)).await?;
            carry_tls(connection, plan, tls, &peer).await
        }
        InboundTls::Off => {
            let wire = Rewind::new(bytes::Bytes::new(), io);
            carry(connection, plan, CallerIo::Plain(wire), None).await
        }
        InboundTls::Permissive => {
            let (detected, wire) = look(connection, io).await?;
            if detected == Some(Detected::Tls) {
                let (tls, peer) = handshake(connection, plan.shown(), wire).await?;
                return carry_tls(connection, plan, tls, &peer).await;
            }
            carry(connection, plan, CallerIo::Plain(wire), None).await
        }
    }
}

/// Reads the first bytes, within the deadline for detection.
async fn look(connection: &Connection, mut io: SessionIo) -> Result<(Option<Detected>, Wire), Refused> {
    let mut first = BytesMut::new();
    let deadline = connection.worker.policy().timeouts.detect;
    let detected = detect::detect(&mut io, &mut first, deadline).await;
    let detected = detected.map_err(|error| Refused::new(Refusal::ProtocolRefused, error.to_string()))?;
    Ok((detected, Rewind::new(first.freeze(), io)))
}

/// What a peer is shown, and what becomes of it.
pub struct Shown<'a> {
    pub svid: &'a SvidSelector,
    pub alpn: ServerAlpn,
    pub on_expiry: OnExpiry,
    pub metrics: &'a PortMetrics,
}

impl InboundPlan {
    fn shown(&self) -> Shown<'_> {
        Shown {
            svid: &self.config.svid,
            alpn: if self.config.protocol == Protocol::Tcp { ServerAlpn::None } else { ServerAlpn::Http },
            on_expiry: self.config.on_expiry,
            metrics: &self.metrics,
        }
    }
}

/// Makes the peer known. One snapshot of identity for all of it.
///
/// # Errors
/// We have no SVID to show, or the peer's is none that we believe.
pub async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(
    connection: &Connection,
    shown: Shown<'_>,
    wire: IO,
) -> Result<(Box<TlsStream<IO>>, Arc<Peer>), Refused> {
    let policy = connection.worker.policy();
    let snapshot = connection.worker.identity();
    let svid = own_svid(&snapshot, shown.svid)?.clone();
    let started = Instant::now();
    let with = Accept {
        snapshot: &snapshot,
        svid: &svid,
        alpn: shown.alpn,
        strictness: policy.strictness,
        deadline: policy.timeouts.handshake,
    };
    let place = connection.worker.handshakes.begin(&connection.session, policy.limits.handshakes);
    let (tls, peer) = Box::pin(place.run(mesh::accept(wire, with)))
        .await
        .map_err(|error| Refused::new(error.refusal(Role::Server), chain(&error)))?;
    drop(place);
    shown.metrics.handshake(started.elapsed());
    let trust = Trust {
        own: svid,
        peer: peer.clone(),
        peer_role: Role::Client,
        strictness: policy.strictness,
        on_expiry: shown.on_expiry,
        negotiated: Negotiated::of(tls.get_ref().1),
        server_name: tls.get_ref().1.server_name().map(Box::from),
    };
    connection.session.establish(trust, &connection.worker.identity());
    connection.worker.shared.seen.saw(&peer.id, SystemTime::now());
    connection.certificate_came(&policy, &peer)?;
    Ok((Box::new(tls), peer))
}

/// The SVID for a new handshake.
fn own_svid<'a>(snapshot: &'a Snapshot, selector: &SvidSelector) -> Result<&'a Arc<Svid>, Refused> {
    snapshot.select(selector, SystemTime::now()).map_err(|none| Refused::new(none.refusal(), none.to_string()))
}

/// Waits for the first bytes, and refuses those that begin no handshake; they stay in the socket.
async fn speaks_tls(io: &SessionIo, deadline: Duration) -> Result<(), Refused> {
    let mut first = [0; 6];
    let length = match tokio::time::timeout(deadline, io.peek(&mut first)).await {
        Ok(Ok(Some(length))) => length,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) => return Err(Refused::new(Refusal::TlsHandshakeFailed, error.to_string())),
        Err(_) => return Err(Refused::new(Refusal::TlsHandshakeTimeout, format!("no byte within {deadline:?}"))),
    };
    match detect::classify(&first[..length]) {
        Verdict::Known(Detected::Tls) | Verdict::NeedMore => Ok(()),
        Verdict::Known(_) => Err(Refused::new(Refusal::PlaintextRefused, "the first bytes are no TLS handshake")),
    }
}

async fn carry_tls(
    connection: &Rc<Connection>,
    plan: &Arc<InboundPlan>,
    tls: Box<TlsStream<Wire>>,
    peer: &Peer,
) -> Result<(), Refused> {
    present(connection, plan, peer);
    let version = match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => Some(HttpVersion::Http2),
        Some(_) => Some(HttpVersion::Http1),
        None => None,
    };
    carry(connection, plan, CallerIo::Tls(tls), version).await
}

/// What the application is told of the peer.
fn present(connection: &Connection, plan: &InboundPlan, peer: &Peer) {
    let own = connection.session.trust().map(|trust| &trust.own.id);
    let rendered = RenderedIdentity::new(&plan.config.identity_headers, peer, own);
    connection.identity.get_or_init(|| rendered);
    connection.caller_share.get_or_init(|| connection.worker.caller_shares.of(&peer.id));
}

/// The same for a stream of a tunnel, of which the peer is known. `accept` answers it: L4 is accepted when the application
/// has been reached.
///
/// # Errors
/// As for a connection.
pub async fn carry_stream(
    connection: &Rc<Connection>,
    plan: &Arc<InboundPlan>,
    peer: &Peer,
    accept: impl FnOnce(Arc<Session>) -> Result<TunnelStream, h2::Error>,
) -> Result<(), Refused> {
    present(connection, plan, peer);
    let accept = |connection: &Connection| {
        let accepted = accept(connection.session.clone());
        let failed = |error: h2::Error| Refused::new(Refusal::ProtocolRefused, chain(&error));
        accepted.map(|stream| CallerIo::Tunnelled(Box::new(stream))).map_err(failed)
    };
    if plan.config.protocol != Protocol::Tcp {
        let io = accept(connection)?;
        return carry(connection, plan, io, None).await;
    }
    let app = decide(connection)?;
    let reached = l4::reach_for(connection, &app, None).await?;
    let Some(reached) = reached else { return Ok(()) };
    let mut io = accept(connection)?;
    l4::copy(connection, &mut io, &app, reached).await
}

/// L7 or L4, by declaration, then by ALPN, then by the first bytes.
async fn carry(
    connection: &Rc<Connection>,
    plan: &Arc<InboundPlan>,
    mut io: CallerIo,
    alpn: Option<HttpVersion>,
) -> Result<(), Refused> {
    match (plan.config.protocol, alpn) {
        (Protocol::Tcp, _) => return tunnel(connection, io).await,
        (Protocol::Http | Protocol::Detect, Some(version)) => {
            serve::serve(connection.clone(), Rewind::new(bytes::Bytes::new(), io), version).await;
            return Ok(());
        }
        (Protocol::Http | Protocol::Detect, None) => {}
    }
    let (detected, first) = first_bytes(connection, plan, &mut io).await?;
    let io = Rewind::new(first.freeze(), io);
    match detected {
        Some(Detected::Http1) => serve::serve(connection.clone(), io, HttpVersion::Http1).await,
        Some(Detected::Http2) => serve::serve(connection.clone(), io, HttpVersion::Http2).await,
        Some(Detected::Tls) if connection.peer().is_none() => {
            return Err(Refused::new(Refusal::TlsRefused, "TLS on a port that the file declares `tls: off`"));
        }
        Some(Detected::Opaque | Detected::Tls) if plan.has_l7_rules => {
            return Err(Refused::new(Refusal::ProtocolRefused, "not HTTP, on a port whose rules are about requests"));
        }
        None if plan.has_l7_rules => {
            plan.metrics.detect_timeout();
            return Err(Refused::new(
                Refusal::DetectTimeout,
                "no first bytes, on a port whose rules are about requests",
            ));
        }
        Some(Detected::Opaque | Detected::Tls) => return tunnel(connection, Opaque::new(io)).await,
        None => {
            // Only now is it known that waiting is in vain here: a caller that is merely silent must not have the next
            // one's requests taken for a stream.
            let (worker, key) = (connection.worker.clone(), DetectKey::Door(connection.door.clone()));
            let remember = move || worker.detect_memory.borrow_mut().record(&key, None, Instant::now());
            return tunnel(connection, Opaque::telling(io, Box::new(remember))).await;
        }
    }
    Ok(())
}

async fn first_bytes<IO: AsyncRead + Unpin>(
    connection: &Connection,
    plan: &InboundPlan,
    io: &mut IO,
) -> Result<(Option<Detected>, BytesMut), Refused> {
    let worker = &connection.worker;
    let timeouts = worker.policy().timeouts.clone();
    let rules = if plan.has_l7_rules { Rules::L7 } else { Rules::L4Only };
    let key = DetectKey::Door(connection.door.clone());
    let skip = worker.detect_memory.borrow_mut().may_skip_wait(&key, rules, Instant::now());
    // Where HTTP is declared there is nothing else to find out: a caller may take as long as for a request's head.
    let deadline = match plan.config.protocol {
        Protocol::Http => timeouts.request_headers,
        _ if skip => Duration::ZERO,
        _ => timeouts.detect,
    };
    let mut first = BytesMut::new();
    let detected = detect::detect(io, &mut first, deadline).await;
    let detected = detected.map_err(|error| Refused::new(Refusal::ProtocolRefused, error.to_string()))?;
    if rules == Rules::L4Only && !skip && detected.is_some() {
        worker.detect_memory.borrow_mut().record(&key, detected, Instant::now());
    }
    Ok((detected, first))
}

/// L4: decided once, then copied.
async fn tunnel<IO>(connection: &Rc<Connection>, mut io: IO) -> Result<(), Refused>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let app = decide(connection)?;
    l4::tunnel(connection, &mut io, &app, None).await
}

/// By the policy of now: one that came during handshake and detection found nothing to decide again here. From here on it
/// does.
fn decide(connection: &Connection) -> Result<Arc<ServicePlan>, Refused> {
    connection.session.set_carries(Carries::Stream);
    let policy = connection.worker.policy();
    connection.decided_by(&policy);
    let plan = policy.inbound(&connection.door).cloned().ok_or(Refusal::NoRoute)?;
    if plan.has_l7_rules {
        return Err(Refused::new(Refusal::ProtocolRefused, "not HTTP, on a port whose rules are about requests"));
    }
    let asked = connection.session.asked(&policy, None);
    let judged = rescue(&policy, &plan.name, plan.rules.judge(None, &asked), &asked);
    if let Judged::Overridden { rule, .. } = &judged {
        connection.overridden(rule);
    }
    if let Some(rule) = judged.rule() {
        connection.rule(rule.clone());
    }
    connection.judged_in(plan.rules.mode);
    if judged.decision().is_some_and(|decision| !decision.is_allowed()) {
        lately_refused::remember(connection, connection.session.id, None, &policy);
    }
    let fault = judged.refusal().and_then(|decision| plan.rules.condition_fault(None, &asked, decision));
    if let Some(refused) = judged.into_result().map_err(|refused| plan.undecided(refused, fault))? {
        connection.observed(refused);
    }
    connection.app(&plan, &policy)
}
