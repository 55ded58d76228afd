//! Everything that listens, and how one set of listeners replaces another: whole or not at all.
//!
//! New sockets are bound before old ones are closed. Only where an old one is in the way of a new one (`127.0.0.1:80`
//! becomes `0.0.0.0:80`) it is closed first, and opened again when the new one cannot be had. Closing means to accept no
//! more: connections that live stay.

use crate::admin::{self, AdminState, AllowedUids, bind_unix_socket};
use crate::capture::unix_socket::{self, MODE_OF_LISTENERS, SocketFile};
use crate::capture::{self, Acceptor, BACKLOG, CloseAsked, Closer, Listening};
use crate::policy::{Door, DoorPlan, Policy};
use crate::tasks;
use crate::worker::{Command, WorkerHandle};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use postern_config::{Config, ListenAddress};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;

/// What listens, by what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listener {
    Door(ListenAddress),
    /// For redirected connections, of one family alone.
    Captured(SocketAddr),
    /// For connections that arrive with the destination that was meant (`mode: tproxy`).
    Transparent(SocketAddr),
    Metrics(SocketAddr),
    Readiness(SocketAddr),
    Admin(SocketAddr),
}

impl Listener {
    /// All that the configuration asks for.
    pub fn wanted(config: &Config, policy: &Policy) -> BTreeSet<Self> {
        policy
            .listening()
            .filter_map(|(door, plan)| Self::of(door, plan, policy.transparent))
            .chain(config.telemetry.metrics.map(Self::Metrics))
            .chain(config.telemetry.readiness.map(Self::Readiness))
            .chain(config.admin.listen.map(Self::Admin))
            .collect()
    }

    /// `None`: this host does not speak the address' family, which is no reason not to serve the other.
    fn of(door: &Door, plan: &DoorPlan, transparent: bool) -> Option<Self> {
        let address = match door {
            Door::At(address) => *address,
            Door::Socket(path) => return Some(Self::Door(ListenAddress::Unix(path.clone()))),
            Door::Port(_) => return None,
        };
        match plan {
            DoorPlan::CapturedInbound | DoorPlan::CapturedOutbound if !capture::is_available(address.ip()) => None,
            DoorPlan::CapturedInbound if transparent => Some(Self::Transparent(address)),
            DoorPlan::CapturedInbound | DoorPlan::CapturedOutbound => Some(Self::Captured(address)),
            DoorPlan::Inbound(_) | DoorPlan::Tunnel(_) | DoorPlan::Service(_) | DoorPlan::Shared => {
                Some(Self::Door(address.into()))
            }
        }
    }

    /// `None`: it has a path.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Door(address) => address.tcp(),
            Self::Captured(address)
            | Self::Transparent(address)
            | Self::Metrics(address)
            | Self::Readiness(address)
            | Self::Admin(address) => Some(*address),
        }
    }

    fn bind(self) -> io::Result<BoundListener> {
        let (socket, file) = match &self {
            Self::Captured(address) => (Listening::Tcp(capture::bind_captured(*address, false)?), None),
            Self::Transparent(address) => (Listening::Tcp(capture::bind_captured(*address, true)?), None),
            Self::Door(ListenAddress::Tcp(address))
            | Self::Metrics(address)
            | Self::Readiness(address)
            | Self::Admin(address) => (Listening::Tcp(capture::bind(*address)?), None),
            Self::Door(ListenAddress::Unix(path)) => {
                let failed =
                    |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {self}: {error}"));
                let (listener, file) = unix_socket::bind(path, MODE_OF_LISTENERS, BACKLOG).map_err(failed)?;
                (Listening::Unix(listener), Some(file))
            }
        };
        Ok(BoundListener { listener: self, socket, file })
    }

    /// Would the kernel refuse `other` while this one listens? A wildcard takes the port of every address; that `0.0.0.0`
    /// leaves those of IPv6 alone makes no difference to a listener that is to be closed anyway.
    fn is_in_the_way_of(&self, wanted: &Self) -> bool {
        let (Some(mine), Some(other)) = (self.address(), wanted.address()) else { return false };
        let one_family = |it: &Self| matches!(it, Self::Captured(_) | Self::Transparent(_));
        if one_family(self) && one_family(wanted) && mine.is_ipv4() != other.is_ipv4() {
            return false;
        }
        let overlaps = mine.ip() == other.ip() || mine.ip().is_unspecified() || other.ip().is_unspecified();
        mine.port() == other.port() && overlaps
    }
}

/// As it is written in the file.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Door(address) => address.fmt(f),
            Self::Captured(address)
            | Self::Transparent(address)
            | Self::Metrics(address)
            | Self::Readiness(address)
            | Self::Admin(address) => address.fmt(f),
        }
    }
}

struct BoundListener {
    listener: Listener,
    socket: Listening,
    /// Of a unix socket; it goes when this does.
    file: Option<SocketFile>,
}

/// Sockets of which nobody knows yet: the kernel lets callers wait in their queues.
pub struct Bound {
    listeners: Vec<BoundListener>,
    admin: Option<(SocketFile, UnixListener)>,
}

impl Bound {
    /// # Errors
    /// An address is in use or not ours; nothing stays bound then.
    pub fn new(wanted: impl IntoIterator<Item = Listener>, socket: Option<&Path>) -> anyhow::Result<Self> {
        let listeners = bind(wanted)?;
        let admin = socket.map(|path| {
            let (listener, file) = bind_unix_socket(path)
                .with_context(|| format!("cannot listen on the admin socket {}", path.display()))?;
            anyhow::Ok((file, listener))
        });
        Ok(Self { listeners, admin: admin.transpose()? })
    }
}

fn bind(wanted: impl IntoIterator<Item = Listener>) -> io::Result<Vec<BoundListener>> {
    wanted.into_iter().map(Listener::bind).collect()
}

/// A change that needs nothing more that could fail.
pub struct Change {
    bound: Bound,
    /// Closed already, because they were in the way.
    closed: Vec<Listener>,
    gone: Vec<Listener>,
    /// The admin socket stands elsewhere now, or nowhere.
    leaves_socket: bool,
}

impl Change {
    pub fn opens(&self) -> usize {
        self.bound.listeners.len()
    }

    pub fn closes(&self) -> usize {
        self.closed.len() + self.gone.len()
    }
}

/// What listens now.
pub struct Listeners {
    workers: Vec<WorkerHandle>,
    state: Arc<AdminState>,
    allowed: Arc<ArcSwap<AllowedUids>>,
    open: HashMap<Listener, Open>,
    admin: Option<(SocketFile, Closer)>,
}

struct Open {
    closer: Closer,
    /// Doors are accepted on by one worker.
    worker: Option<usize>,
    file: Option<SocketFile>,
}

impl Listeners {
    pub fn new(workers: Vec<WorkerHandle>, state: Arc<AdminState>, allowed: AllowedUids) -> Self {
        let allowed = Arc::new(ArcSwap::from_pointee(allowed));
        Self { workers, state, allowed, open: HashMap::new(), admin: None }
    }

    /// Who may use the admin socket, from its next caller on.
    pub fn allow(&self, allowed: AllowedUids) {
        self.allowed.store(Arc::new(allowed));
    }

    /// Binds what is wanted and not there yet.
    ///
    /// # Errors
    /// All listens as before, also what had to be closed to find that out.
    pub async fn prepare(&mut self, wanted: &BTreeSet<Listener>, socket: Option<&Path>) -> anyhow::Result<Change> {
        let gone = self.open.keys().filter(|listener| !wanted.contains(listener)).cloned();
        let (in_the_way, gone): (Vec<_>, Vec<_>) =
            gone.partition(|old| wanted.iter().any(|new| !self.open.contains_key(new) && old.is_in_the_way_of(new)));
        let new = wanted.iter().filter(|listener| !self.open.contains_key(listener)).cloned();
        let (blocked, free): (Vec<_>, Vec<_>) =
            new.partition(|new| in_the_way.iter().any(|old| old.is_in_the_way_of(new)));
        let stays = self.admin.as_ref().map(|(file, _)| file.path()) == socket;
        // What can fail without anything having been closed comes first.
        let bound = Bound::new(free, socket.filter(|_| !stays))?;
        let mut change = Change { bound, closed: in_the_way, gone, leaves_socket: !stays };
        for old in &change.closed {
            tracing::info!(address = %old, "closed, because it is in the way of a listener of the new configuration");
            self.close(old).await;
        }
        match bind(blocked) {
            Ok(rest) => change.bound.listeners.extend(rest),
            Err(error) => {
                self.undo(change).await;
                return Err(error.into());
            }
        }
        Ok(change)
    }

    /// Listens as before the change was prepared.
    pub async fn undo(&mut self, change: Change) {
        drop(change.bound);
        for listener in change.closed {
            match bind([listener]) {
                Ok(bound) => self.open(bound).await,
                // Nobody else could know that it was free, unless by chance.
                Err(error) => {
                    tracing::error!(%error, "this listener was closed for a configuration that was refused, and cannot be opened again")
                }
            }
        }
    }

    /// The new set listens, the rest does not.
    pub async fn commit(&mut self, change: Change) {
        for listener in change.gone {
            self.close(&listener).await;
        }
        if change.leaves_socket
            && let Some((file, closer)) = self.admin.take()
        {
            drop(file);
            closer.close().await;
        }
        self.open_all(change.bound).await;
    }

    pub async fn open_all(&mut self, bound: Bound) {
        self.open(bound.listeners).await;
        if let Some((file, listener)) = bound.admin {
            let (closer, asked) = capture::closing();
            tasks::spawn(admin::serve_socket(listener, self.allowed.clone(), self.state.clone(), asked));
            self.admin = Some((file, closer));
        }
    }

    async fn close(&mut self, listener: &Listener) {
        if let Some(open) = self.open.remove(listener) {
            // Nobody finds the socket any more; who found it before is served.
            drop(open.file);
            open.closer.close().await;
        }
    }

    async fn open(&mut self, bound: Vec<BoundListener>) {
        for BoundListener { listener, socket, file } in bound {
            let (closer, asked) = capture::closing();
            let mut worker = None;
            let opened = match &listener {
                Listener::Door(address) => {
                    worker = Some(self.open_door(Door::of(address), socket, asked).await);
                    Ok(())
                }
                Listener::Captured(address) | Listener::Transparent(address) => {
                    worker = Some(self.open_door(Door::At(*address), socket, asked).await);
                    Ok(())
                }
                Listener::Metrics(_) | Listener::Readiness(_) | Listener::Admin(_) => {
                    self.open_to_operators(&listener, socket, asked)
                }
            };
            match opened {
                Ok(()) => tracing::info!(address = %listener, "listening"),
                Err(error) => tracing::error!(address = %listener, %error, "the listener could not be opened"),
            }
            self.open.insert(listener, Open { closer, worker, file });
        }
    }

    /// Returns the worker that accepts on it.
    async fn open_door(&self, door: Door, socket: Listening, asked: CloseAsked) -> usize {
        let chosen = self.worker_with_the_fewest_doors();
        self.workers[chosen].send(Command::Open(door, socket, asked)).await;
        chosen
    }

    fn open_to_operators(&self, listener: &Listener, socket: Listening, asked: CloseAsked) -> io::Result<()> {
        let Acceptor::Tcp(socket) = Acceptor::new(socket)? else {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        };
        let state = self.state.clone();
        drop(match listener {
            Listener::Metrics(_) => tasks::spawn(admin::serve_metrics(socket, state, asked)),
            Listener::Readiness(_) => tasks::spawn(admin::serve_readiness(socket, state, asked)),
            _ => tasks::spawn(admin::serve_tcp_readonly(socket, state, asked)),
        });
        Ok(())
    }

    fn worker_with_the_fewest_doors(&self) -> usize {
        let doors_of = |worker: usize| self.open.values().filter(|open| open.worker == Some(worker)).count();
        (0..self.workers.len()).min_by_key(|worker| doors_of(*worker)).unwrap_or(0)
    }
}
