//! Everything that listens, and how one set of listeners replaces another: whole or not at all.
//!
//! New sockets are bound before old ones are closed. Only where an old one is in the way of a new one (`127.0.0.1:80`
//! becomes `0.0.0.0:80`) it is closed first, and opened again when the new one cannot be had. Closing means to accept no
//! more: connections that live stay.

use crate::admin::{self, AdminState, AllowedUids, bind_unix_socket};
use crate::capture::{self, Closer};
use crate::policy::{Door, DoorPlan, Policy};
use crate::worker::{Command, WorkerHandle};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use postern_config::Config;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;

/// What listens on TCP, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listener {
    Door(SocketAddr),
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
            .filter_map(|(address, plan)| Self::of(address, plan, policy.transparent))
            .chain(config.telemetry.metrics.map(Self::Metrics))
            .chain(config.telemetry.readiness.map(Self::Readiness))
            .chain(config.admin.listen.map(Self::Admin))
            .collect()
    }

    /// `None`: this host does not speak the address' family, which is no reason not to serve the other.
    fn of(address: SocketAddr, plan: &DoorPlan, transparent: bool) -> Option<Self> {
        match plan {
            DoorPlan::CapturedInbound | DoorPlan::CapturedOutbound if !capture::is_available(address.ip()) => None,
            DoorPlan::CapturedInbound if transparent => Some(Self::Transparent(address)),
            DoorPlan::CapturedInbound | DoorPlan::CapturedOutbound => Some(Self::Captured(address)),
            DoorPlan::Inbound(_) | DoorPlan::Tunnel(_) | DoorPlan::Service(_) | DoorPlan::Shared => {
                Some(Self::Door(address))
            }
        }
    }

    fn address(self) -> SocketAddr {
        match self {
            Self::Door(address)
            | Self::Captured(address)
            | Self::Transparent(address)
            | Self::Metrics(address)
            | Self::Readiness(address)
            | Self::Admin(address) => address,
        }
    }

    fn bind(self) -> io::Result<TcpListener> {
        match self {
            Self::Captured(address) => capture::bind_captured(address, false),
            Self::Transparent(address) => capture::bind_captured(address, true),
            _ => capture::bind(self.address()),
        }
    }

    /// Would the kernel refuse `other` while this one listens? A wildcard takes the port of every address; that `0.0.0.0`
    /// leaves those of IPv6 alone makes no difference to a listener that is to be closed anyway.
    fn is_in_the_way_of(self, wanted: Self) -> bool {
        let (mine, other) = (self.address(), wanted.address());
        let one_family = |it: Self| matches!(it, Self::Captured(_) | Self::Transparent(_));
        if one_family(self) && one_family(wanted) && mine.is_ipv4() != other.is_ipv4() {
            return false;
        }
        let overlaps = mine.ip() == other.ip() || mine.ip().is_unspecified() || other.ip().is_unspecified();
        mine.port() == other.port() && overlaps
    }
}

/// Sockets of which nobody knows yet: the kernel lets callers wait in their queues.
pub struct Bound {
    tcp: Vec<(Listener, TcpListener)>,
    socket: Option<(PathBuf, UnixListener)>,
}

impl Bound {
    /// # Errors
    /// An address is in use or not ours; nothing stays bound then.
    pub fn new(wanted: impl IntoIterator<Item = Listener>, socket: Option<&Path>) -> anyhow::Result<Self> {
        let tcp = bind(wanted)?;
        let socket = socket.map(|path| {
            let listener = bind_unix_socket(path)
                .with_context(|| format!("cannot listen on the admin socket {}", path.display()))?;
            anyhow::Ok((path.to_owned(), listener))
        });
        Ok(Self { tcp, socket: socket.transpose()? })
    }
}

fn bind(wanted: impl IntoIterator<Item = Listener>) -> io::Result<Vec<(Listener, TcpListener)>> {
    wanted.into_iter().map(|listener| Ok((listener, listener.bind()?))).collect()
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
        self.bound.tcp.len()
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
    socket: Option<(PathBuf, Closer)>,
}

struct Open {
    closer: Closer,
    /// Doors are accepted on by one worker.
    worker: Option<usize>,
}

impl Listeners {
    pub fn new(workers: Vec<WorkerHandle>, state: Arc<AdminState>, allowed: AllowedUids) -> Self {
        let allowed = Arc::new(ArcSwap::from_pointee(allowed));
        Self { workers, state, allowed, open: HashMap::new(), socket: None }
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
        let gone = self.open.keys().copied().filter(|listener| !wanted.contains(listener));
        let (in_the_way, gone): (Vec<_>, Vec<_>) =
            gone.partition(|old| wanted.iter().any(|new| !self.open.contains_key(new) && old.is_in_the_way_of(*new)));
        let new = wanted.iter().copied().filter(|listener| !self.open.contains_key(listener));
        let (blocked, free): (Vec<_>, Vec<_>) =
            new.partition(|new| in_the_way.iter().any(|old| old.is_in_the_way_of(*new)));
        let stays = self.socket.as_ref().map(|(path, _)| path.as_path()) == socket;
        // What can fail without anything having been closed comes first.
        let bound = Bound::new(free, socket.filter(|_| !stays))?;
        let mut change = Change { bound, closed: in_the_way, gone, leaves_socket: !stays };
        for old in &change.closed {
            tracing::info!(address = %old.address(), "closed, because it is in the way of a listener of the new configuration");
            self.close(*old).await;
        }
        match bind(blocked) {
            Ok(rest) => change.bound.tcp.extend(rest),
            Err(error) => {
                self.undo(change).await;
                return Err(error.into());
            }
        }
        Ok(change)
    }

    /// Listens as before the change was prepared.
    pub async fn undo(&mut self, change: Change) {
        drop(change.bound.tcp);
        if let Some((path, listener)) = change.bound.socket {
            drop(listener);
            remove(&path);
        }
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
            self.close(listener).await;
        }
        if change.leaves_socket
            && let Some((path, closer)) = self.socket.take()
        {
            closer.close().await;
            remove(&path);
        }
        self.open_all(change.bound).await;
    }

    pub async fn open_all(&mut self, bound: Bound) {
        self.open(bound.tcp).await;
        if let Some((path, listener)) = bound.socket {
            let (closer, asked) = capture::closing();
            tokio::spawn(admin::serve_socket(listener, self.allowed.clone(), self.state.clone(), asked));
            self.socket = Some((path, closer));
        }
    }

    /// The process ends: the next one would find out by itself that the socket is stale.
    pub fn remove_socket(&self) {
        if let Some((path, _)) = &self.socket {
            remove(path);
        }
    }

    async fn close(&mut self, listener: Listener) {
        if let Some(open) = self.open.remove(&listener) {
            open.closer.close().await;
        }
    }

    async fn open(&mut self, bound: Vec<(Listener, TcpListener)>) {
        for (listener, socket) in bound {
            let (closer, asked) = capture::closing();
            let state = self.state.clone();
            let mut worker = None;
            let opened = match listener {
                Listener::Door(address) | Listener::Captured(address) | Listener::Transparent(address) => {
                    let door = Door::At(address);
                    let chosen = self.worker_with_the_fewest_doors();
                    worker = Some(chosen);
                    self.workers[chosen].send(Command::Open(door, socket, asked)).await;
                    Ok(())
                }
                Listener::Metrics(_) => {
                    on_tokio(socket).map(|it| drop(tokio::spawn(admin::serve_metrics(it, state, asked))))
                }
                Listener::Readiness(_) => {
                    on_tokio(socket).map(|it| drop(tokio::spawn(admin::serve_readiness(it, state, asked))))
                }
                Listener::Admin(_) => {
                    on_tokio(socket).map(|it| drop(tokio::spawn(admin::serve_tcp_readonly(it, state, asked))))
                }
            };
            match opened {
                Ok(()) => tracing::info!(address = %listener.address(), "listening"),
                Err(error) => {
                    tracing::error!(address = %listener.address(), %error, "the listener could not be opened")
                }
            }
            self.open.insert(listener, Open { closer, worker });
        }
    }

    fn worker_with_the_fewest_doors(&self) -> usize {
        let doors_of = |worker: usize| self.open.values().filter(|open| open.worker == Some(worker)).count();
        (0..self.workers.len()).min_by_key(|worker| doors_of(*worker)).unwrap_or(0)
    }
}

fn on_tokio(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(listener)
}

fn remove(socket: &Path) {
    // Whoever removed it before us did what we wanted.
    let _ = std::fs::remove_file(socket);
}
