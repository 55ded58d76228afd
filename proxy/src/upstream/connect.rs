//! One connection to an upstream: TCP or unix socket, then what the plan says protects it.

use super::address::EndpointAddress;
use super::mesh_io::MeshIo;
use super::plan::{Security, ServicePlan};
use super::pool::OwnSvid;
use crate::capture::{self, Remote, Stream};
use crate::delegate::delegate_io;
use crate::identity::{NoSvid, Snapshot, Svid};
use crate::refusal::{Refusal, Refused};
use crate::session::{self, Carries, Direction, EndCause, Negotiated, Registered, Session, SessionIo, Subject, Trust};
use crate::tls::mesh::{self, ClientAlpn, Connect};
use crate::tls::{Peer, Role};
use crate::worker::Worker;
use rustls::AlertDescription;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// Bytes to and from an upstream.
pub enum UpstreamIo {
    Tcp(TcpStream),
    Unix(UnixStream),
    Mesh(Box<MeshIo>),
    Web(Box<TlsStream<TcpStream>>),
}

delegate_io!(UpstreamIo { Tcp, Unix, Mesh, Web });

/// An upstream that answered, and proved who it is if the plan wants that.
pub struct Connected {
    pub io: UpstreamIo,
    pub session: Option<Arc<Session>>,
    pub registered: Option<Rc<Registered>>,
    pub peer: Option<Arc<Peer>>,
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
    worker: &Worker,
    plan: &Arc<ServicePlan>,
    host: Option<&str>,
    address: &EndpointAddress,
    own: &Own,
    alpn: ClientAlpn,
) -> Result<Connected, Refused> {
    if let Some(refused) = &own.no_handshake {
        return Err(refused.clone());
    }
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
                capture::tune(&tcp);
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
    match (&plan.security, io) {
        (Security::Plaintext | Security::App, io) => Ok(Connected { io, session: None, registered: None, peer: None }),
        (Security::Mesh { expected, .. }, UpstreamIo::Tcp(tcp)) => {
            mesh(worker, plan, host, tcp, expected, own, alpn).await
        }
        (Security::WebTls { client, server_name }, UpstreamIo::Tcp(tcp)) => {
            let name = server_name.as_deref().or(host).unwrap_or_default();
            let handshake = worker.policy().timeouts.handshake;
            let tls = client.connect(tcp, name, alpn, handshake).await;
            let tls = tls.map_err(|error| {
                Refused::new(error.refusal(Role::Client), format!("{}: {address}: {error}", plan.name))
            })?;
            Ok(Connected { io: UpstreamIo::Web(Box::new(tls)), session: None, registered: None, peer: None })
        }
        (Security::Mesh { .. } | Security::WebTls { .. }, _) => {
            Err(Refused::new(Refusal::Internal, "TLS over a unix socket is not a thing of ours"))
        }
    }
}

async fn mesh(
    worker: &Worker,
    plan: &Arc<ServicePlan>,
    host: Option<&str>,
    tcp: TcpStream,
    expected: &[postern_config::SpiffePattern],
    own: &Own,
    alpn: ClientAlpn,
) -> Result<Connected, Refused> {
    let Some(svid) = &own.svid else {
        return Err(Refusal::NoIdentity.into());
    };
    let policy = worker.policy();
    let remote = Remote::Ip(tcp.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))));
    let session = Session::new(worker.next_id(), Direction::Upstream, plan.name.clone(), remote, plan.metrics.clone());
    let registered = Rc::new(worker.registry.register(session.clone()));
    session.set_subject(Subject::Service { plan: plan.clone(), host: host.map(Box::from) });
    session.set_carries(match alpn {
        ClientAlpn::H2 => Carries::Http2,
        ClientAlpn::Http1 => Carries::Http1,
        ClientAlpn::None => Carries::Stream,
    });
    let with = Connect {
        snapshot: &own.snapshot,
        svid,
        expected,
        alpn,
        strictness: policy.strictness,
        deadline: policy.timeouts.handshake,
    };
    let io = SessionIo::new(Stream::Tcp(tcp), session.clone(), worker.shared.metrics.clone());
    let started = Instant::now();
    let (tls, peer) = Box::pin(mesh::connect(io, with))
        .await
        .map_err(|error| Refused::new(error.refusal(Role::Client), format!("{}: {remote}: {error}", plan.name)))?;
    plan.metrics.handshake(started.elapsed());
    let trust = Trust {
        own: svid.clone(),
        peer: peer.clone(),
        peer_role: Role::Server,
        strictness: policy.strictness,
        on_expiry: plan.on_expiry,
        negotiated: Negotiated::of(tls.get_ref().1),
    };
    session.establish(trust, &worker.identity());
    // The plan was chosen before the name was resolved and the connection made, which may take seconds.
    session::decide_again(&session, &worker.policy(), Instant::now());
    if session.is_cut() {
        let cause = session.end_cause().map_or("cut", EndCause::as_str);
        return Err(Refused::new(
            Refusal::TrustEnded,
            format!("{}: {remote} answered as {}, but meanwhile: {cause}", plan.name, peer.id),
        ));
    }
    Ok(Connected {
        io: UpstreamIo::Mesh(Box::new(MeshIo::new(tls))),
        session: Some(session),
        registered: Some(registered),
        peer: Some(peer),
    })
}

/// What an alert about our certificate means for whatever was to go there.
pub fn upstream_refused_us(plan: &ServicePlan, address: &EndpointAddress, alert: AlertDescription) -> Refused {
    let detail = format!("{}: {address} refused our certificate with the TLS alert {alert:?}", plan.name);
    Refused::new(Refusal::UpstreamRefusedUs, detail)
}
