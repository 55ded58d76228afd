//! Makes every part in order, binds all doors, then opens them.
//!
//! [`App::start`] is a table of contents. [`App::apply`] replaces the configuration whole or not at all.

use crate::admin::{self, AdminState, AllowedUids, Condition, ConfigStatus, Readiness, bind_unix_socket};
use crate::capture;
use crate::identity::{self, Counters, IdentityStore, SourceHandle};
use crate::policy::{Door, Policy, UNROUTED};
use crate::shared::Shared;
use crate::telemetry::{AccessLog, Direction, LogHandle, Metrics};
use crate::upstream::discovery::Discovery;
use crate::worker::{Command, Workers};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use postern_config::Config;
use postern_config::identity::Endpoint;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What comes from outside the file.
pub struct Surroundings {
    /// `$SPIFFE_ENDPOINT_SOCKET`; the file wins over it.
    pub endpoint: Option<Endpoint>,
    pub log: LogHandle,
}

/// A running Postern.
pub struct App {
    pub shared: Arc<Shared>,
    pub readiness: Arc<Readiness>,
    workers: Workers,
    state: Arc<AdminState>,
    config: Config,
    /// Which worker accepts on which door.
    doors: HashMap<Door, usize>,
    endpoint: Option<Endpoint>,
    counters: Arc<Counters>,
    source: SourceHandle,
    drain_asked: Arc<Notify>,
    admin_tasks: Vec<AbortHandle>,
}

impl App {
    /// Starts on the current runtime, which becomes the control plane.
    ///
    /// # Errors
    /// An address in use, a file that cannot be opened, no agent named. An agent that does not answer is not an error.
    pub async fn start(config: Config, surroundings: Surroundings) -> anyhow::Result<Self> {
        // Parts.
        let metrics = Arc::new(Metrics::new());
        let access_log =
            AccessLog::start(&config.telemetry.access_log, &metrics).context("the access log cannot be opened")?;
        let identity = Arc::new(IdentityStore::default());
        let discovery = Arc::new(Discovery::new(Handle::current()));
        let policy = Policy::compile(&config, None, &metrics)?;
        let readiness = Arc::new(Readiness::new(identity.clone()));
        readiness.set(Condition::Configuration, Ok(()));
        let shared = Arc::new(Shared::new(identity.clone(), policy, metrics.clone(), access_log, discovery));

        // Doors: all are bound before one is opened.
        let listeners = bind_doors(shared.policy().load().doors())?;
        let admin_doors = AdminDoors::bind(&config)?;

        // Open.
        let counters = metrics.identity_counters();
        let endpoint = surroundings.endpoint;
        let source = identity::spawn(&config.identity, endpoint.clone(), identity, counters.clone())?;
        let workers =
            Workers::start(worker_count(&config), &shared).context("the data plane's threads cannot be started")?;
        let drain_asked = Arc::new(Notify::new());
        let state = admin_state(&shared, &readiness, &workers, surroundings.log, &drain_asked);
        let admin_tasks = admin_doors.serve(&config, &state)?;
        let mut app = Self {
            shared,
            readiness,
            workers,
            state,
            config,
            doors: HashMap::new(),
            endpoint,
            counters,
            source,
            drain_asked,
            admin_tasks,
        };
        app.open(listeners).await;
        app.report_configuration();
        app.readiness.set(Condition::Listeners, Ok(()));
        Ok(app)
    }

    /// Replaces the configuration: compiled whole, all new doors bound, then swapped once. What did not change stays.
    ///
    /// # Errors
    /// Nothing has changed then: the last good configuration stays.
    pub async fn apply(&mut self, config: Config) -> anyhow::Result<()> {
        let before = self.shared.policy().load_full();
        let policy = Policy::compile(&config, Some(&before), &self.shared.metrics)?;
        let listeners = bind_doors(policy.doors().filter(|door| !self.doors.contains_key(door)))?;
        let gone: Vec<Door> = self.doors.keys().copied().filter(|door| policy.door(*door).is_none()).collect();
        self.warn_of_what_needs_a_restart(&config);
        if config.identity != self.config.identity {
            self.source = identity::spawn(
                &config.identity,
                self.endpoint.clone(),
                self.shared.identity.clone(),
                self.counters.clone(),
            )?;
        }
        tracing::info!(
            generation = policy.generation,
            digest = %policy.digest,
            doors_opened = listeners.len(),
            doors_closed = gone.len(),
            "configuration applied"
        );
        self.shared.publish_policy(policy);
        for door in gone {
            if let Some(worker) = self.doors.remove(&door) {
                self.workers.handles[worker].send(Command::Close(door)).await;
            }
        }
        self.open(listeners).await;
        self.shared.metrics.retain_ports(|direction, name| names(&config, direction, name));
        self.config = config;
        self.report_configuration();
        Ok(())
    }

    /// The last attempt to change the configuration failed; what runs stays.
    pub fn refuse_configuration(&self, why: &str) {
        self.shared.metrics.config_refused(SystemTime::now());
        let mut status = ConfigStatus::clone(&self.state.config_status.load());
        status.last_error = Some(why.to_owned());
        self.state.config_status.store(Arc::new(status));
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn state(&self) -> &Arc<AdminState> {
        &self.state
    }

    /// Resolves when somebody asks for a drain through the admin socket.
    pub async fn drain_asked(&self) {
        self.drain_asked.notified().await;
    }

    /// Inbound drains, outbound stays open for the application, until nothing lives any more or the time is up.
    pub async fn drain(&self, at_most: Duration) {
        const LOOK_EVERY: Duration = Duration::from_millis(100);
        tracing::info!(deadline_s = at_most.as_secs_f64(), "draining: inbound connections end, outbound stays open");
        self.readiness.set(Condition::Draining, Err("shutting down".to_owned()));
        self.shared.metrics.set_draining();
        self.shared.start_draining();
        for handle in &self.workers.handles {
            handle.send(Command::Drain).await;
        }
        let end = Instant::now() + at_most;
        loop {
            let live = self.workers.live().await;
            if live == 0 {
                return tracing::info!("drained");
            }
            if Instant::now() >= end {
                return tracing::warn!(live, "the drain's deadline has passed: the rest is cut");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends everything that still lives.
    pub async fn stop(self) {
        self.workers.stop().await;
        self.admin_tasks.iter().for_each(AbortHandle::abort);
        self.shared.access_log.flush();
        if let Some(socket) = &self.config.admin.socket {
            // The next process would find out by itself that it is stale.
            let _ = std::fs::remove_file(socket);
        }
    }

    /// SIGHUP: log files were renamed.
    pub fn reopen_logs(&self) {
        self.shared.access_log.reopen();
    }

    async fn open(&mut self, listeners: Vec<(Door, TcpListener)>) {
        for (door, listener) in listeners {
            // The door with the fewest others beside it.
            let workers = self.workers.handles.len();
            let worker = (0..workers).min_by_key(|index| self.doors.values().filter(|it| *it == index).count());
            let worker = worker.unwrap_or(0);
            tracing::info!(address = %door.0, "listening");
            self.workers.handles[worker].send(Command::Open(door, listener)).await;
            self.doors.insert(door, worker);
        }
    }

    fn report_configuration(&self) {
        let policy = self.shared.policy().load();
        self.shared.metrics.config_taken(policy.generation, &policy.digest, SystemTime::now());
        self.state.effective_config.store(Arc::new(self.config.effective_json().to_string()));
        self.state.config_status.store(Arc::new(ConfigStatus {
            generation: policy.generation,
            digest: policy.digest.clone(),
            loaded_at: Some(SystemTime::now()),
            last_error: None,
        }));
    }

    fn warn_of_what_needs_a_restart(&self, config: &Config) {
        for (section, changed) in [
            ("workers", config.workers != self.config.workers),
            ("telemetry", config.telemetry != self.config.telemetry),
            ("admin", config.admin != self.config.admin),
        ] {
            if changed {
                tracing::warn!(section, "this section changed and takes effect with the next start");
            }
        }
    }
}

/// Metrics of what is no longer in the file end with it.
fn names(config: &Config, direction: Direction, name: &str) -> bool {
    match direction {
        Direction::Inbound => config.inbound.iter().any(|inbound| inbound.name == name),
        Direction::Outbound => name == UNROUTED || config.outbound.services.iter().any(|service| service.name == name),
    }
}

fn bind_doors(doors: impl Iterator<Item = Door>) -> std::io::Result<Vec<(Door, TcpListener)>> {
    doors.map(|door| Ok((door, capture::bind(door.0)?))).collect()
}

struct AdminDoors {
    metrics: Option<TcpListener>,
    readiness: Option<TcpListener>,
    tcp: Option<TcpListener>,
    socket: Option<tokio::net::UnixListener>,
}

impl AdminDoors {
    fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = |address: &Option<SocketAddr>| address.map(capture::bind).transpose();
        let socket = config.admin.socket.as_deref().map(|path| {
            bind_unix_socket(path).with_context(|| format!("cannot listen on the admin socket {}", path.display()))
        });
        Ok(Self {
            metrics: bind(&config.telemetry.metrics)?,
            readiness: bind(&config.telemetry.readiness)?,
            tcp: bind(&config.admin.listen)?,
            socket: socket.transpose()?,
        })
    }

    fn serve(self, config: &Config, state: &Arc<AdminState>) -> anyhow::Result<Vec<AbortHandle>> {
        let mut tasks = Vec::new();
        let listen = |listener: TcpListener| tokio::net::TcpListener::from_std(listener);
        if let Some(listener) = self.metrics {
            tasks.push(tokio::spawn(admin::serve_metrics(listen(listener)?, state.clone())).abort_handle());
        }
        if let Some(listener) = self.readiness {
            tasks.push(tokio::spawn(admin::serve_readiness(listen(listener)?, state.clone())).abort_handle());
        }
        if let Some(listener) = self.tcp {
            tasks.push(tokio::spawn(admin::serve_tcp_readonly(listen(listener)?, state.clone())).abort_handle());
        }
        if let Some(listener) = self.socket {
            let allowed = AllowedUids::new(&config.admin.uids)?;
            tasks.push(tokio::spawn(admin::serve_socket(listener, allowed, state.clone())).abort_handle());
        }
        Ok(tasks)
    }
}

fn admin_state(
    shared: &Arc<Shared>,
    readiness: &Arc<Readiness>,
    workers: &Workers,
    log: LogHandle,
    drain_asked: &Arc<Notify>,
) -> Arc<AdminState> {
    let handles = workers.handles.clone();
    let drain_asked = drain_asked.clone();
    Arc::new(AdminState {
        identity: shared.identity.clone(),
        metrics: shared.metrics.clone(),
        readiness: readiness.clone(),
        log,
        effective_config: ArcSwap::from_pointee(String::new()),
        connections: Box::new(move || Box::pin(Workers::connections(handles.clone()))),
        drain: Box::new(move || drain_asked.notify_one()),
        access_log: shared.access_log.clone(),
        started_at: SystemTime::now(),
        config_status: ArcSwap::from_pointee(ConfigStatus::default()),
    })
}

/// The CPU quota of the cgroup rounded up (the standard library reads it); 2 where there is none to find.
fn worker_count(config: &Config) -> usize {
    const WORKERS_DEFAULT: usize = 2;
    let available = || std::thread::available_parallelism().map_or(WORKERS_DEFAULT, NonZeroUsize::get);
    config.workers.map_or_else(|| available().min(cpu_quota().unwrap_or(WORKERS_DEFAULT)), NonZeroUsize::get)
}

/// cgroup v2 `cpu.max`: quota and period in microseconds, or `max`.
fn cpu_quota() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    usize::try_from(quota.div_ceil(period.max(1))).ok().filter(|count| *count > 0)
}
