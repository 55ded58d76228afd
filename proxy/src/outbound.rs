//! The life of a connection from the application to the mesh.
//!
//! accept → listener, destination, server name or request names a service → L7: `http::request`; L4: a connection of its
//! own, and a tunnel.

use crate::capture::Accepted;
use crate::capture::caller::CallerIo;
use crate::capture::original::outbound_destination;
use crate::connection::{Connection, Place, SHARED_NAME, turn_away};
use crate::detect::sni::{HelloError, server_name};
use crate::detect::{self, Detected, Opaque, Rewind, Rules};
use crate::http::serve;
use crate::policy::{Destined, Door, DoorPlan, Policy};
use crate::refusal::{Refusal, Refused};
use crate::session::{Carries, Direction, SessionIo, Subject};
use crate::upstream::client::HttpVersion;
use crate::upstream::l4;
use crate::upstream::plan::{Requested, ServicePlan};
use crate::worker::{DetectKey, Worker, gone};
use bytes::{Bytes, BytesMut};
use postern_config::ServiceProtocol;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves one connection to its end; its record is written when the last of it is dropped.
pub async fn serve(worker: Rc<Worker>, door: Door, accepted: Accepted, place: Place) {
    let (policy, remote) = (worker.policy(), accepted.remote);
    let by = match policy.door(&door) {
        Some(DoorPlan::Service(_)) => By::Door(door.clone()),
        Some(DoorPlan::Shared) => By::Request,
        Some(DoorPlan::CapturedOutbound) => match outbound_destination(accepted.original, &policy) {
            Ok(original) => By::Address(original),
            Err(refused) => return turn_away(&worker, &door, remote, refused),
        },
        Some(DoorPlan::Inbound(_) | DoorPlan::Tunnel(_) | DoorPlan::CapturedInbound) | None => {
            return turn_away(&worker, &door, remote, gone(&door));
        }
    };
    let service = by.find(&policy).service;
    let (name, metrics) = match &service {
        Some(service) => (service.name.clone(), service.metrics.clone()),
        None => (Arc::from(SHARED_NAME), policy.unrouted.clone()),
    };
    let connection = Connection::open(&worker, door, place, Direction::Local, name, metrics, remote);
    connection.called_by(&accepted);
    match by {
        By::Address(original) => {
            connection.set_original(original);
            connection.session.set_subject(Subject::Shared { original: Some(original) });
        }
        By::Request => connection.session.set_subject(Subject::Shared { original: None }),
        By::Door(_) | By::Name(_) => {}
    }
    let io = connection.io(accepted.stream);
    connection.audit_room().await;
    if let Err(refused) = carry(&connection, by, service, io).await {
        tracing::debug!(%remote, reason = refused.refusal.code(), detail = %refused.detail, "outbound connection refused");
        connection.audit_place().await;
        connection.refused(refused);
    }
}

/// What names the service of a connection.
enum By {
    /// A listener of its own.
    Door(Door),
    /// Where a captured connection was meant to go.
    Address(SocketAddr),
    /// The server name of its TLS.
    Name(String),
    /// Nothing but each of its requests.
    Request,
}

impl By {
    fn find(&self, policy: &Policy) -> Destined {
        match self {
            Self::Door(door) => match policy.door(door) {
                Some(DoorPlan::Service(service)) => Destined { service: Some(service.clone()), host: None },
                _ => Destined::default(),
            },
            Self::Address(original) => policy.destined(*original),
            Self::Name(host) => {
                let service = policy.services.by_host(host).cloned();
                Destined { service, host: Some(Arc::from(host.as_str())) }
            }
            Self::Request => Destined::default(),
        }
    }
}

/// L7 or L4, by declaration, then by the first bytes.
async fn carry(
    connection: &Rc<Connection>,
    by: By,
    service: Option<Arc<ServicePlan>>,
    mut io: SessionIo,
) -> Result<(), Refused> {
    let timeouts = connection.worker.policy().timeouts.clone();
    if connection.original().is_some() {
        connection.refuse_ourselves()?;
    }
    let protocol = service.as_ref().map(|service| service.protocol);
    let key = connection.original().map_or_else(|| DetectKey::Door(connection.door.clone()), DetectKey::Destination);
    let memory = &connection.worker.detect_memory;
    let skip = memory.borrow_mut().may_skip_wait(&key, Rules::L4Only, Instant::now());
    let deadline = match protocol {
        Some(ServiceProtocol::Tcp) => return tunnel(connection, io, by).await,
        Some(ServiceProtocol::Detect) if skip => Duration::ZERO,
        Some(ServiceProtocol::Detect) => timeouts.detect,
        // What else it may be is refused, so a caller may take as long as for a request's head.
        Some(ServiceProtocol::Http | ServiceProtocol::Tls) | None => timeouts.request_headers,
    };
    let mut first = BytesMut::new();
    let detected = detect::detect(&mut io, &mut first, deadline).await.map_err(unreadable)?;
    if protocol == Some(ServiceProtocol::Detect) && !skip && detected.is_some() {
        memory.borrow_mut().record(&key, detected, Instant::now());
    }
    if detected == Some(Detected::Tls) && (protocol != Some(ServiceProtocol::Detect) || connection.original().is_some())
    {
        let name = server_name(&mut io, &mut first, timeouts.request_headers).await.map_err(no_hello)?;
        let by = by_server_name(connection, by, service.as_deref(), name)?;
        return tunnel(connection, Rewind::new(first.freeze(), io), by).await;
    }
    let io = Rewind::new(first.freeze(), CallerIo::Plain(Rewind::new(Bytes::new(), io)));
    match (detected, protocol) {
        (_, Some(ServiceProtocol::Tls)) => Err(not("TLS", "tls")),
        (Some(Detected::Http1), _) => serve_http(connection, io, HttpVersion::Http1).await,
        (Some(Detected::Http2), _) => serve_http(connection, io, HttpVersion::Http2).await,
        (_, Some(ServiceProtocol::Http)) => Err(not("HTTP", "http")),
        (_, None) => Err(nameless(connection)),
        (None, Some(ServiceProtocol::Detect | ServiceProtocol::Tcp)) => {
            connection.metrics.detect_timeout();
            // As inbound: a caller that is merely silent, such as a pool that connects ahead of its requests, must not have
            // the next one's requests taken for a stream.
            let worker = connection.worker.clone();
            let remember = move || worker.detect_memory.borrow_mut().record(&key, None, Instant::now());
            tunnel(connection, Opaque::only_telling(io, Box::new(remember)), by).await
        }
        (Some(Detected::Tls | Detected::Opaque), Some(ServiceProtocol::Detect | ServiceProtocol::Tcp)) => {
            tunnel(connection, io, by).await
        }
    }
}

async fn serve_http(connection: &Rc<Connection>, io: Rewind<CallerIo>, version: HttpVersion) -> Result<(), Refused> {
    serve::serve(connection.clone(), io, version).await;
    Ok(())
}

/// TLS of the application's own goes through where a service says so: the one that its server name names, or the one that
/// listener or destination named, unless the server name is none of its hosts.
fn by_server_name(
    connection: &Connection,
    by: By,
    service: Option<&ServicePlan>,
    name: Option<String>,
) -> Result<By, Refused> {
    let policy = connection.worker.policy();
    let passes = |service: &ServicePlan| service.protocol == ServiceProtocol::Tls;
    if let Some(name) = &name
        && !matches!(by, By::Door(_))
        && policy.services.by_host(name).is_some_and(|service| passes(service))
    {
        return Ok(By::Name(name.clone()));
    }
    let fits = |service: &ServicePlan| match &name {
        Some(name) => service.hosts.is_empty() || service.hosts.iter().any(|host| host.matches(name).is_some()),
        None => true,
    };
    let shown = name.as_deref().unwrap_or("(no server name)");
    match service {
        Some(service) if passes(service) && fits(service) => Ok(by),
        Some(service) if passes(service) => {
            let why = format!("the server name {shown:?} is none of the hosts of service {}", service.name);
            Err(Refused::new(Refusal::UnknownService, why))
        }
        Some(service) => {
            let why = format!(
                "TLS of the application's own, for {shown:?}; service {} is not declared `protocol: tls`",
                service.name
            );
            Err(Refused::new(Refusal::TlsRefused, why))
        }
        None => {
            let why =
                format!("TLS of the application's own, and no service with `protocol: tls` has the host {shown:?}");
            Err(Refused::new(Refusal::TlsRefused, why))
        }
    }
}

async fn tunnel(
    connection: &Rc<Connection>,
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    by: By,
) -> Result<(), Refused> {
    connection.session.set_carries(Carries::Stream);
    // The policy of now: one that came while the first bytes did not found nothing to decide again here.
    let policy = connection.worker.policy();
    connection.decided_by(&policy);
    let Destined { service, host } = by.find(&policy);
    let Some(service) = service else {
        return Err(Refused::new(Refusal::NoRoute, "what it is for is no longer in the configuration"));
    };
    let (host, original) = (host.as_deref(), connection.original());
    let dialled = original.and_then(|original| policy.dialled(original));
    drop(policy);
    connection.check_user(&service)?;
    connection.session.set_subject(Subject::Service { plan: service.clone(), host: host.map(Box::from) });
    let requested = Requested { host, port: original.map(|original| original.port()), original: dialled };
    let plan = connection.worker.upstreams.instance(&service, requested)?;
    l4::tunnel(connection, &mut io, &plan, host).await
}

fn nameless(connection: &Connection) -> Refused {
    let why = match connection.original() {
        Some(original) => {
            format!("no service is declared for {original}: give one these `addresses`, or `hosts` that requests name")
        }
        None => "only HTTP names its service on a shared listener: give the service a `listen` of its own".to_owned(),
    };
    Refused::new(Refusal::UnknownService, why)
}

fn not(expected: &str, declared: &str) -> Refused {
    Refused::new(Refusal::ProtocolRefused, format!("not {expected}, for a service declared `protocol: {declared}`"))
}

fn no_hello(error: HelloError) -> Refused {
    Refused::new(Refusal::ProtocolRefused, crate::upstream::client::chain(&error))
}

fn unreadable(error: std::io::Error) -> Refused {
    Refused::new(Refusal::ProtocolRefused, error.to_string())
}
