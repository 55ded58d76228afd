//! The data plane's threads: one current-thread runtime each, with its own sessions, pools and caches.
//!
//! A connection lives and dies on one worker, so nothing on the request path is locked. A listener is accepted on one
//! worker; each connection goes to the one with the fewest.

mod asked;
mod current;
mod watch;

use crate::admin::{ConnectionInfo, TokenInfo};
use crate::capture::caller_uid::CallerUids;
use crate::capture::original::{inbound_door, original_destination};
use crate::capture::{Accepted, Acceptor, CloseAsked, Listening, Remote, StdStream, Stream};
use crate::connection::{Place, turn_away};
use crate::decision_id::DecisionId;
use crate::detect::DetectMemory;
use crate::hbone::client::Tunnels;
use crate::http::windows::Windows;
use crate::identity::Snapshot;
use crate::lately_refused::LatelyRefused;
use crate::policy::{Door, DoorPlan, Policy};
use crate::refusal::{Refusal, Refused};
use crate::revocation::{Blast, Proposal};
use crate::session::{CallerShares, Direction, Handshakes, Registry};
use crate::shared::{Full, Shared};
use crate::token::RememberedTokens;
use crate::upstream::pool::Upstreams;
use crate::{capture, hbone, inbound, outbound, session};
use arc_swap::Cache;
use current::{IdentityOf, PolicyOf};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// Commands waiting for one worker; a connection that finds it full is closed and counted.
const COMMANDS_MAX: usize = 4096;

/// What the control plane, or another worker, asks of a worker.
pub enum Command {
    /// Accept on this socket until somebody asks to close it; connections that live stay.
    Open(Door, Listening, CloseAsked),
    /// Serve a connection that another worker accepted.
    Serve(Door, StdStream, Remote),
    Connections(oneshot::Sender<Vec<ConnectionInfo>>),
    /// Tokens of callers that it remembers.
    Tokens(oneshot::Sender<Vec<TokenInfo>>),
    /// Why a request or L4 connection was refused, by its decision's number, if it is remembered.
    Explain(u64, oneshot::Sender<Option<Value>>),
    /// How many of them a change would cut.
    WouldCut(Proposal, oneshot::Sender<Blast>),
    /// Retire inbound connections; what is idle closes.
    Drain,
    /// How many connections of peers and of the application still live.
    Live(oneshot::Sender<usize>),
    /// End now.
    Stop,
}

/// The control plane's and the other workers' side of a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    /// Connections it serves.
    load: Arc<AtomicUsize>,
}

impl WorkerHandle {
    pub async fn send(&self, command: Command) {
        // A worker that is gone has nothing left to do.
        let _ = self.commands.send(command).await;
    }
}

/// All workers.
pub struct Workers {
    pub handles: Vec<WorkerHandle>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(count: usize, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let (handles, queues): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (commands, queue) = mpsc::channel(COMMANDS_MAX);
                (WorkerHandle { commands, load: Arc::default() }, queue)
            })
            .unzip();
        let mut threads = Vec::with_capacity(count);
        for (index, queue) in queues.into_iter().enumerate() {
            let (shared, peers) = (shared.clone(), handles.clone());
            let (started, start) = std::sync::mpsc::sync_channel(1);
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                // Made here, because it never leaves its thread.
                let made =
                    tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
                match made {
                    Ok(runtime) => {
                        // The starter waits for it.
                        let _ = started.send(Ok(()));
                        runtime.block_on(run(index, shared, peers, queue));
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            })?);
            start.recv().map_err(std::io::Error::other)??;
        }
        Ok(Self { handles, threads })
    }

    pub async fn stop(self) {
        for handle in &self.handles {
            handle.send(Command::Stop).await;
        }
        for thread in self.threads {
            // A worker that panicked has said so on standard error.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// What detection remembers something of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DetectKey {
    Door(Door),
    /// Of captured connections.
    Destination(SocketAddr),
}

/// One worker, as its connections see it.
pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub registry: Rc<Registry>,
    pub upstreams: Upstreams,
    pub tunnels: Tunnels,
    pub detect_memory: RefCell<DetectMemory<DetectKey>>,
    pub caller_uids: CallerUids,
    pub caller_shares: CallerShares,
    pub handshakes: Handshakes,
    pub windows: Rc<Windows>,
    pub tokens: RefCell<RememberedTokens>,
    pub refused: RefCell<LatelyRefused>,
    policy: RefCell<Cache<PolicyOf, Arc<Policy>>>,
    identity: RefCell<Cache<IdentityOf, Arc<Snapshot>>>,
    peers: Vec<WorkerHandle>,
    ids: Cell<u64>,
    stopping: Cell<bool>,
}

impl Worker {
    /// The current policy. A request takes it once.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.borrow_mut().load().clone()
    }

    /// The current identity. A handshake takes it once.
    pub fn identity(&self) -> Arc<Snapshot> {
        self.identity.borrow_mut().load().clone()
    }

    /// How many there are: each has its share of what is limited for the whole process.
    pub fn count(&self) -> usize {
        self.peers.len()
    }

    /// A number that no other connection or decision of this process has.
    pub fn next_id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        (self.index as u64) << 48 | self.ids.get()
    }

    /// How a decision of this process is named, here and at the peer.
    pub fn decision_id(&self, number: u64) -> DecisionId {
        DecisionId::new(self.shared.boot_id, number)
    }

    /// A stream of a tunnel counts as the connection that it would be without. `None`: all places are taken.
    pub fn place_for_stream(&self) -> Option<Place> {
        if self.shared.budget.take().is_err() {
            self.shared.metrics.connection_over_limit();
            return None;
        }
        let load = self.peers[self.index].load.clone();
        load.fetch_add(1, Relaxed);
        Some(Place::new(load, self.shared.clone()))
    }

    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// What lives now ends with this worker, by nobody else's doing.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }
}

async fn run(index: usize, shared: Arc<Shared>, peers: Vec<WorkerHandle>, mut queue: mpsc::Receiver<Command>) {
    let worker = Rc::new(Worker {
        index,
        registry: Rc::default(),
        upstreams: Upstreams::default(),
        tunnels: Tunnels::default(),
        detect_memory: RefCell::default(),
        caller_uids: CallerUids::default(),
        caller_shares: CallerShares::default(),
        handshakes: Handshakes::default(),
        windows: Rc::default(),
        tokens: RefCell::default(),
        refused: RefCell::default(),
        policy: RefCell::new(Cache::new(PolicyOf(shared.clone()))),
        identity: RefCell::new(Cache::new(IdentityOf(shared.clone()))),
        peers,
        ids: Cell::new(0),
        stopping: Cell::new(false),
        shared,
    });
    tokio::task::spawn_local(watch::trust(worker.clone()));
    tokio::task::spawn_local(watch::sweep(worker.clone()));
    while let Some(command) = queue.recv().await {
        match command {
            Command::Open(door, listener, asked) => open(&worker, door, listener, asked),
            Command::Serve(door, stream, remote) => match stream.on_tokio() {
                Ok(stream) => start(&worker, door, Accepted::direct(stream, remote)),
                Err(error) => {
                    let refused = Refused::new(Refusal::Internal, format!("it could not be handed over: {error}"));
                    hand_over_failed(&worker, index, &door, remote, refused);
                }
            },
            Command::Connections(reply) => {
                // The asker may have gone.
                let _ = reply.send(worker.registry.sessions().iter().map(|session| session.info()).collect());
            }
            Command::Tokens(reply) => {
                let _ = reply.send(worker.tokens.borrow().infos());
            }
            Command::Explain(number, reply) => {
                let refused = worker.refused.borrow();
                let _ = reply.send(refused.find(number).and_then(|entry| entry.explain(&worker.policy())));
            }
            Command::WouldCut(proposal, reply) => {
                let _ = reply.send(session::would_cut(&worker.registry, &proposal));
            }
            Command::Drain => {
                for session in worker.registry.sessions() {
                    if session.direction == Direction::Inbound {
                        session.retire(session::EndCause::Draining);
                    }
                }
            }
            Command::Live(reply) => {
                let live = worker.registry.len(Direction::Inbound) + worker.registry.len(Direction::Local);
                let _ = reply.send(live);
            }
            Command::Stop => break,
        }
    }
    worker.stopping.set(true);
    queue.close();
    while let Ok(command) = queue.try_recv() {
        if let Command::Serve(door, _, remote) = command {
            hand_over_failed(&worker, index, &door, remote, Refusal::Draining.into());
        }
    }
}

/// The connection has a place here or at the worker `chosen`, and nobody who serves it.
fn hand_over_failed(worker: &Worker, chosen: usize, door: &Door, remote: Remote, refused: Refused) {
    worker.peers[chosen].load.fetch_sub(1, Relaxed);
    worker.shared.budget.give_back();
    tracing::warn!(worker = chosen, reason = refused.refusal.code(), detail = %refused.detail, "a connection was closed: its worker does not take it");
    turn_away(worker, door, remote, refused);
}

fn open(worker: &Rc<Worker>, door: Door, listening: Listening, mut asked: CloseAsked) {
    let listener = match Acceptor::new(listening) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(address = %door, %error, "the listener could not be opened");
            return;
        }
    };
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let over_limit = |remote, full: Full| {
            turn_away(&worker, &door, remote, Refused::new(Refusal::OverLimit, full.as_str()));
        };
        let place = |stream, remote| place(&worker, &door, stream, remote);
        let _closed = tokio::select! {
            () = capture::accept_loop(&listener, &worker.shared, place, over_limit) => return,
            closed = asked.asked() => closed,
        };
        capture::accept_waiting(listener, &worker.shared, place, over_limit);
    });
}

/// Serves the connection here, or hands it to the worker with the fewest.
fn place(worker: &Rc<Worker>, door: &Door, stream: Stream, remote: Remote) {
    let least =
        (0..worker.peers.len()).min_by_key(|index| (worker.peers[*index].load.load(Relaxed), *index != worker.index));
    let chosen = least.unwrap_or(worker.index);
    worker.peers[chosen].load.fetch_add(1, Relaxed);
    if chosen == worker.index {
        return start(worker, door.clone(), Accepted::direct(stream, remote));
    }
    let refused = match stream.into_std() {
        Err(error) => Refused::new(Refusal::Internal, format!("it could not be handed over: {error}")),
        Ok(stream) => match worker.peers[chosen].commands.try_send(Command::Serve(door.clone(), stream, remote)) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => Refused::new(Refusal::OverLimit, "too much waits for its worker"),
            // Workers end when the process does.
            Err(TrySendError::Closed(_)) => Refusal::Draining.into(),
        },
    };
    hand_over_failed(worker, chosen, door, remote, refused);
}

fn start(worker: &Rc<Worker>, door: Door, accepted: Accepted) {
    let load = worker.peers[worker.index].load.clone();
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let place = Place::new(load, worker.shared.clone());
        let policy = worker.policy();
        match policy.door(&door) {
            Some(DoorPlan::Inbound(_)) => inbound::serve(worker, door, accepted, place).await,
            Some(DoorPlan::Tunnel(_)) => Box::pin(hbone::server::serve(worker, door, accepted, place)).await,
            Some(DoorPlan::CapturedInbound | DoorPlan::CapturedOutbound)
                if worker.shared.probes.recognises(accepted.remote) => {}
            Some(DoorPlan::CapturedInbound) => {
                let original = original_destination(&accepted.stream, policy.transparent);
                match inbound_door(original, &policy) {
                    Ok(door) => inbound::serve(worker, door, accepted.captured(original), place).await,
                    Err(refused) => turn_away(&worker, &door, accepted.remote, refused),
                }
            }
            Some(DoorPlan::CapturedOutbound) => {
                let original = original_destination(&accepted.stream, false);
                outbound::serve(worker, door, accepted.captured(original), place).await;
            }
            Some(DoorPlan::Service(_) | DoorPlan::Shared) => outbound::serve(worker, door, accepted, place).await,
            None => turn_away(&worker, &door, accepted.remote, gone(&door)),
        }
    });
}

/// The door was taken out of the file while the connection waited.
pub fn gone(door: &Door) -> Refused {
    Refused::new(Refusal::NoRoute, format!("the listener {door} is no longer in the configuration"))
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::spawn_local;

    struct Given(std::rc::Rc<std::cell::Cell<bool>>);

    impl Drop for Given {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    #[test]
    fn f_18_a_panic_ends_one_task_gives_its_place_back_and_leaves_the_worker() {
        // As `run` does with connections: what a task holds is dropped while it unwinds. The profile that would end the
        // process instead is not ours.
        let manifest = include_str!("../../Cargo.toml");
        assert!(!manifest.contains("panic = \"abort\""));
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).expect("a runtime");
        let given_back = std::rc::Rc::new(std::cell::Cell::new(false));
        let place = Given(given_back.clone());
        runtime.block_on(async {
            let task = spawn_local(async move {
                let _place = place;
                panic!("a defect, made for this test");
            });
            assert!(task.await.is_err_and(|error| error.is_panic()));
            assert!(given_back.get());
            assert_eq!(spawn_local(async { 7 }).await.expect("the worker lives"), 7);
        });
    }
}
