//! The life of a connection from the application to the mesh.
//!
//! accept → the listener, or the request, names a service → L7: `http::request`; L4: a connection of its own, and a tunnel.

use crate::capture::Accepted;
use crate::capture::caller::CallerIo;
use crate::connection::{Connection, Place, SHARED_NAME, turn_away};
use crate::detect::{self, Detected, Opaque, Rewind, Rules};
use crate::http::serve;
use crate::policy::{Door, DoorPlan};
use crate::refusal::{Refusal, Refused};
use crate::session::{Carries, Direction, SessionIo, Subject};
use crate::upstream::client::HttpVersion;
use crate::upstream::l4;
use crate::upstream::plan::ServicePlan;
use crate::worker::{Worker, gone};
use bytes::{Bytes, BytesMut};
use postern_config::Protocol;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves one connection to its end; its record is written when the last of it is dropped.
pub async fn serve(worker: Rc<Worker>, door: Door, accepted: Accepted, place: Place) {
    let policy = worker.policy();
    let (service, name, metrics) = match policy.door(door) {
        Some(DoorPlan::Service(service)) => (Some(service.clone()), service.name.clone(), service.metrics.clone()),
        Some(DoorPlan::Shared) => (None, Arc::from(SHARED_NAME), policy.unrouted.clone()),
        Some(DoorPlan::Inbound(_)) | None => return turn_away(&worker, door, accepted.client.0, gone(door)),
    };
    let connection = Connection::open(&worker, door, place, Direction::Local, name, metrics, accepted.client.0);
    connection.called_by(&accepted);
    if service.is_none() {
        connection.session.set_subject(Subject::Shared);
    }
    let io = SessionIo::new(accepted.tcp, connection.session.clone(), worker.shared.metrics.clone());
    let result = match &service {
        Some(service) => to_service(&connection, service, io).await,
        None => by_request(&connection, io).await,
    };
    if let Err(refused) = result {
        tracing::debug!(remote = %accepted.client.0, reason = refused.refusal.code(), detail = %refused.detail, "outbound connection refused");
        connection.refused(refused);
    }
}

/// A listener of one service.
async fn to_service(connection: &Rc<Connection>, service: &Arc<ServicePlan>, mut io: SessionIo) -> Result<(), Refused> {
    let timeouts = connection.worker.policy().timeouts.clone();
    let memory = &connection.worker.detect_memory;
    let skip = memory.borrow_mut().may_skip_wait(&connection.door, Rules::L4Only, Instant::now());
    let deadline = match service.protocol {
        Protocol::Tcp => return tunnel(connection, io).await,
        Protocol::Http => timeouts.request_headers,
        Protocol::Detect if skip => Duration::ZERO,
        Protocol::Detect => timeouts.detect,
    };
    let mut first = BytesMut::new();
    let detected = detect::detect(&mut io, &mut first, deadline).await.map_err(unreadable)?;
    if service.protocol == Protocol::Detect && !skip && detected.is_some() {
        memory.borrow_mut().record(&connection.door, detected, Instant::now());
    }
    let io = Rewind::new(first.freeze(), CallerIo::Plain(Rewind::new(Bytes::new(), io)));
    match (detected, service.protocol) {
        (Some(Detected::Http1), _) => serve::serve(connection.clone(), io, HttpVersion::Http1).await,
        (Some(Detected::Http2), _) => serve::serve(connection.clone(), io, HttpVersion::Http2).await,
        (_, Protocol::Http) => {
            return Err(Refused::new(Refusal::ProtocolRefused, "not HTTP, for a service declared `protocol: http`"));
        }
        (None, _) => {
            service.metrics.detect_timeout();
            // As inbound: a caller that is merely silent, such as a pool that connects ahead of its requests, must not have
            // the next one's requests taken for a stream.
            let (worker, door) = (connection.worker.clone(), connection.door);
            let remember = move || worker.detect_memory.borrow_mut().record(&door, None, Instant::now());
            return tunnel(connection, Opaque::only_telling(io, Box::new(remember))).await;
        }
        (Some(Detected::Tls | Detected::Opaque), _) => return tunnel(connection, io).await,
    }
    Ok(())
}

/// A shared listener: only HTTP names its service.
async fn by_request(connection: &Rc<Connection>, mut io: SessionIo) -> Result<(), Refused> {
    let deadline = connection.worker.policy().timeouts.request_headers;
    let mut first = BytesMut::new();
    let detected = detect::detect(&mut io, &mut first, deadline).await.map_err(unreadable)?;
    let io = Rewind::new(first.freeze(), CallerIo::Plain(Rewind::new(Bytes::new(), io)));
    match detected {
        Some(Detected::Http1) => serve::serve(connection.clone(), io, HttpVersion::Http1).await,
        Some(Detected::Http2) => serve::serve(connection.clone(), io, HttpVersion::Http2).await,
        _ => {
            let why = "only HTTP names its service on a shared listener: give the service a `listen` of its own";
            return Err(Refused::new(Refusal::UnknownService, why));
        }
    }
    Ok(())
}

async fn tunnel(connection: &Rc<Connection>, mut io: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Refused> {
    connection.session.set_carries(Carries::Stream);
    // The policy of now: one that came while the first bytes did not found nothing to decide again here.
    let policy = connection.worker.policy();
    let Some(DoorPlan::Service(service)) = policy.door(connection.door).cloned() else {
        return Err(Refused::new(Refusal::NoRoute, "the listener is no longer in the configuration"));
    };
    drop(policy);
    connection.check_user(&service)?;
    connection.session.set_subject(Subject::Service { plan: service.clone(), host: None });
    l4::tunnel(connection, &mut io, &service, None).await
}

fn unreadable(error: std::io::Error) -> Refused {
    Refused::new(Refusal::ProtocolRefused, error.to_string())
}
