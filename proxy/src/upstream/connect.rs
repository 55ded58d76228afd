//! One connection to an upstream: TCP or unix socket, then what the plan says protects it.

use super::address::EndpointAddress;
use super::client::chain;
use super::mesh_io::MeshIo;
use super::places::Place;
use super::plan::{Security, ServicePlan};
use super::pool::OwnSvid;
use crate::capture::{self, Remote, Stream};
use crate::delegate::delegate_io;
use crate::drift;
use crate::hbone::client::Wanted;
use crate::hbone::{self, TunnelStream};
use crate::identity::{NoSvid, Snapshot, Svid};
use crate::refusal::{Refusal, Refused};
use crate::session::{self, Carries, Direction, EndCause, Negotiated, Registered, Session, Subject, Trust};
use crate::tls::mesh::{self, ClientAlpn, Connect};
use crate::tls::{Peer, Role};
use crate::worker::Worker;
use postern_config::SpiffePattern;
use rustls::AlertDescription;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Instant, SystemTime};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// Bytes to and from an upstream.
pub enum UpstreamIo {
    Tcp(TcpStream),
    Unix(UnixStream),
    Mesh(Box<MeshIo>),
    Web(Box<TlsStream<TcpStream>>),
    Tunnelled(Box<TunnelStream>),
}

delegate_io!(UpstreamIo { Tcp, Unix, Mesh, Web, Tunnelled });

impl UpstreamIo {
    /// The socket of a server outside the mesh.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Web(tls) => Some(tls.get_ref().0),
            Self::Unix(_) | Self::Mesh(_) | Self::Tunnelled(_) => None,
        }
    }
}

impl UpstreamIo {
    /// Is it known, without asking the kernel, that there is nothing to read?
    pub fn has_nothing(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(&mut context).is_pending(),
            Self::Mesh(tls) => tls.has_nothing(&mut context),
            Self::Unix(_) | Self::Web(_) | Self::Tunnelled(_) => false,
        }
    }
}

/// An upstream that answered, and proved who it is if the plan wants that.
pub struct Connected {
    pub io: UpstreamIo,
    pub session: Option<Arc<Session>>,
    pub registered: Option<Rc<Registered>>,
    pub peer: Option<Arc<Peer>>,
    /// Among the service's connections, where those are limited.
    pub place: Option<Rc<Place>>,
}

/// The SVID that a plan presents now, with the snapshot that it is of.
pub struct Own {
    pub snapshot: Arc<Snapshot>,
    pub svid: Option<Arc<Svid>>,
    /// Why no new handshake may be made with it: live connections take requests all the same (DESIGN, ruling
    /// "`PermissionDenied` from the agent").
    pub no_handshake: Option<Refused>,
}

impl Own {
    /// # Errors
    /// The plan needs an SVID and there is none: nothing is sent without it.
    pub fn of(plan: &ServicePlan, snapshot: Arc<Snapshot>) -> Result<Self, Refused> {
        let Security::Mesh { svid: selector, .. } = &plan.security else {
            return Ok(Self { snapshot, svid: None, no_handshake: None });
        };
        let refused = |none: NoSvid| Refused::new(none.refusal(), none.to_string());
        let now = SystemTime::now();
        let svid = snapshot.select_of_live(selector, now).map_err(refused)?.clone();
        let no_handshake = snapshot.select(selector, now).err().map(refused);
        Ok(Self { snapshot, svid: Some(svid), no_handshake })
    }

    pub fn key(&self) -> OwnSvid {
        self.svid.as_ref().map_or([0; 32], |svid| svid.fingerprint)
    }
}

/// # Errors
/// Unreachable, or not who the plan expects; the detail has the address and the cause.
pub async fn connect(
    worker: &Rc<Worker>,
    plan: &Arc<ServicePlan>,
    host: Option<&str>,
    address: &EndpointAddress,
    own: &Own,
    alpn: ClientAlpn,
) -> Result<Connected, Refused> {
    drift::destination_called(&worker.shared, &worker.policy().drift, plan, host, address);
    match (&plan.security, address) {
        (Security::Plaintext | Security::App, _) => Ok(plain(dial(worker, plan, address).await?)),
        (Security::Mesh { tunnel: Some(port), expected, .. }, EndpointAddress::Tcp(address)) => {
            let through = SocketAddr::new(address.ip(), *port);
            hbone::client::open(worker, Wanted { plan, host, to: *address, through, expected, own, alpn }).await
        }
        (Security::Mesh { expected, .. }, EndpointAddress::Tcp(_)) => {
            let subject = Subject::Service { plan: plan.clone(), host: host.map(Box::from) };
            let (tls, session, registered, peer) = mesh(
                worker,
                plan,
                address,
                own,
                Mesh { expected, alpn, carries: carried(alpn), subject: Some(subject) },
            )
            .await?;
            let io = UpstreamIo::Mesh(Box::new(tls));
            let (session, registered, peer) = (Some(session), Some(registered), Some(peer));
            Ok(Connected { io, session, registered, peer, place: None })
        }
        (Security::WebTls { client, server_name }, EndpointAddress::Tcp(_)) => {
            let UpstreamIo::Tcp(tcp) = dial(worker, plan, address).await? else {
                return Err(Refusal::Internal.into());
            };
            let name = server_name.as_deref().or(host).unwrap_or_default();
            let handshake = worker.policy().timeouts.handshake;
            let tls = client.connect(tcp, name, alpn, handshake).await;
            let tls = tls.map_err(|error| {
                Refused::new(error.refusal(Role::Client), format!("{}: {address}: {}", plan.name, chain(&error)))
            })?;
            Ok(plain(UpstreamIo::Web(Box::new(tls))))
        }
        (Security::Mesh { .. } | Security::WebTls { .. }, EndpointAddress::Unix(_)) => {
            Err(Refused::new(Refusal::Internal, "TLS over a unix socket is not a thing of ours"))
        }
    }
}

/// Nobody's trust ends it.
fn plain(io: UpstreamIo) -> Connected {
    Connected { io, session: None, registered: None, peer: None, place: None }
}

/// What a connection that was made for `alpn` is going to carry.
pub fn carried(alpn: ClientAlpn) -> Carries {
    match alpn {
        ClientAlpn::H2 => Carries::Http2,
        ClientAlpn::Http1 => Carries::Http1,
        ClientAlpn::None => Carries::Stream,
    }
}

/// A socket to `address`, unless what it receives would come back to us.
async fn dial(worker: &Worker, plan: &ServicePlan, address: &EndpointAddress) -> Result<UpstreamIo, Refused> {
    if let EndpointAddress::Tcp(to) = address
        && worker.policy().leads_back(plan.is_app(), *to)
    {
        let why = format!("{}: {to} is a listener of this proxy: what it receives would come back to it", plan.name);
        return Err(Refused::new(Refusal::Loop, why));
    }
    let unreachable = |error: &dyn std::fmt::Display| {
        let refusal = if plan.is_app() { Refusal::AppUnreachable } else { Refusal::UpstreamUnreachable };
        Refused::new(refusal, format!("{}: cannot connect to {address}: {error}", plan.name))
    };
    // Connections to the application do not leave the host.
    let mark = if plan.is_app() { None } else { worker.policy().mark };
    let connecting = async {
        match address {
            EndpointAddress::Tcp(address) => {
                let tcp = capture::dial(*address, mark, plan.from).await?;
                capture::tune(&tcp, &worker.policy());
                Ok::<_, io::Error>(UpstreamIo::Tcp(tcp))
            }
            EndpointAddress::Unix(path) => Ok(UpstreamIo::Unix(UnixStream::connect(path).await?)),
        }
    };
    let io = match tokio::time::timeout(plan.connect_timeout, connecting).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&format_args!("no answer within {:?}", plan.connect_timeout))),
    };
    Ok(io)
}

/// What an mTLS connection is for.
pub struct Mesh<'a> {
    pub expected: &'a [SpiffePattern],
    pub alpn: ClientAlpn,
    pub carries: Carries,
    /// `None`: what it carries has subjects of its own.
    pub subject: Option<Subject>,
}

/// An mTLS connection to `address`, with a session that knows who answered.
///
/// # Errors
/// As [`connect`], and no new handshake may be made now.
pub async fn mesh(
    worker: &Worker,
    plan: &Arc<ServicePlan>,
    address: &EndpointAddress,
    own: &Own,
    wanted: Mesh<'_>,
) -> Result<(MeshIo, Arc<Session>, Rc<Registered>, Arc<Peer>), Refused> {
    if let Some(refused) = &own.no_handshake {
        return Err(refused.clone());
    }
    let UpstreamIo::Tcp(tcp) = dial(worker, plan, address).await? else {
        return Err(Refusal::Internal.into());
    };
    let Some(svid) = &own.svid else {
        return Err(Refusal::NoIdentity.into());
    };
    let policy = worker.policy();
    let remote = Remote::Ip(tcp.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))));
    let session = Session::new(worker.next_id(), Direction::Upstream, plan.name.clone(), remote, plan.metrics.clone());
    let registered = Rc::new(worker.registry.register(session.clone()));
    if let Some(subject) = wanted.subject {
        session.set_subject(subject);
    }
    session.set_carries(wanted.carries);
    let with = Connect {
        snapshot: &own.snapshot,
        svid,
        expected: wanted.expected,
        alpn: wanted.alpn,
        strictness: policy.strictness,
        deadline: policy.timeouts.handshake,
    };
    let io = registered.io(Stream::Tcp(tcp), &worker.shared.metrics);
    let started = Instant::now();
    let (tls, peer) = Box::pin(mesh::connect(io, with)).await.map_err(|error| {
        Refused::new(error.refusal(Role::Client), format!("{}: {remote}: {}", plan.name, chain(&error)))
    })?;
    plan.metrics.handshake(started.elapsed());
    let trust = Trust {
        own: svid.clone(),
        peer: peer.clone(),
        peer_role: Role::Server,
        strictness: policy.strictness,
        on_expiry: plan.on_expiry,
        negotiated: Negotiated::of(tls.get_ref().1),
        // We ask for none: an address says who is meant (`tls::mesh::connect`).
        server_name: None,
    };
    establish(worker, &session, trust, plan)?;
    let (shared, drift) = (&worker.shared, &policy.drift);
    shared.seen.saw(&peer.id, SystemTime::now());
    drift::upstream_answered(shared, drift, plan, address, wanted.expected, &peer, session.id)?;
    Ok((MeshIo::new(tls), session, registered, peer))
}

/// Tells a session who answered, and asks whether that still counts.
///
/// # Errors
/// Identity or policy changed meanwhile, and took it away.
pub fn establish(worker: &Worker, session: &Session, trust: Trust, plan: &ServicePlan) -> Result<(), Refused> {
    let peer = trust.peer.clone();
    session.establish(trust, &worker.identity());
    // The plan was chosen before the name was resolved and the connection made, which may take seconds.
    session::decide_again(session, &worker.policy(), Instant::now());
    if !session.is_cut() {
        return Ok(());
    }
    let cause = session.end_cause().map_or("cut", EndCause::as_str);
    let (name, remote) = (&plan.name, session.remote);
    let why = format!("{name}: {remote} answered as {}, but meanwhile: {cause}", peer.id);
    Err(Refused::new(Refusal::TrustEnded, why))
}

/// What an alert about our certificate means for whatever was to go there.
pub fn upstream_refused_us(plan: &ServicePlan, address: &EndpointAddress, alert: AlertDescription) -> Refused {
    let detail = format!("{}: {address} refused our certificate with the TLS alert {alert:?}", plan.name);
    Refused::new(Refusal::UpstreamRefusedUs, detail)
}
