//! Makes every part in order, binds all doors, then opens them.
//!
//! [`App::start`] is a table of contents. [`App::apply`] replaces the configuration whole or not at all.

mod listeners;
mod parts;
mod process_change;
mod taking_back;

use crate::admin::{AdminState, AllowedUids, Condition, ConfigStatus, Readiness};
use crate::audit;
use crate::audit::record::Event;
use crate::capture::probe;
use crate::dns::server as dns_server;
use crate::drift;
use crate::hardening::Hardened;
use crate::identity::tokens::OwnTokens;
use crate::identity::{self, Counters, IdentityStore, SourceError, SourceHandle};
use crate::policy::labels;
use crate::policy::{Policy, TUNNEL_NAME, UNROUTED};
use crate::pressure;
use crate::revocation::guard::Change;
use crate::revocation::{Blast, Proposal, levers};
use crate::shared::Shared;
use crate::tasks;
use crate::telemetry::{AccessLog, Direction, LogHandle, Metrics};
use crate::tls::begin_random_numbers;
use crate::upstream::discovery::Discovery;
use crate::worker::{Command, Workers};
use anyhow::Context as _;
use listeners::{Bound, Listener, Listeners};
use parts::{admin_state, open_audit, worker_count};
use postern_config::Config;
use postern_config::identity::Endpoint;
use process_change::ProcessChange;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use taking_back::TakingBack;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// What comes from outside the file.
pub struct Surroundings {
    /// `$SPIFFE_ENDPOINT_SOCKET`; the file wins over it.
    pub endpoint: Option<Endpoint>,
    pub log: LogHandle,
    /// `$RUST_LOG`; it wins over the file, also when that changes.
    pub log_filter: Option<String>,
    /// A variable of the environment, for labels.
    pub variable: labels::ReadVariable,
    /// What the process gave up. `None`: nothing, where it is somebody else's process.
    pub hardened: Option<Hardened>,
}

/// Whether the blast-radius guard has a say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AskGuard {
    Yes,
    No,
}

/// A running Postern.
pub struct App {
    pub shared: Arc<Shared>,
    pub readiness: Arc<Readiness>,
    workers: Workers,
    state: Arc<AdminState>,
    config: Config,
    listeners: Listeners,
    dns: Option<dns_server::Open>,
    surroundings: Surroundings,
    counters: Arc<Counters>,
    source: SourceHandle,
    drain_asked: Arc<Notify>,
    taking_back: TakingBack,
    /// A configuration that the guard holds.
    held: Option<Config>,
}

impl App {
    /// Starts on the current runtime, which becomes the control plane.
    ///
    /// # Errors
    /// An address in use, a file that cannot be opened, no agent named. An agent that does not answer is not an error.
    pub async fn start(config: Config, surroundings: Surroundings) -> anyhow::Result<Self> {
        begin_random_numbers();

        // Parts.
        let metrics = Arc::new(Metrics::new());
        let access_log =
            AccessLog::start(&config.telemetry.access_log, &metrics).context("the access log cannot be opened")?;
        let identity = Arc::new(IdentityStore::default());
        let discovery = Arc::new(Discovery::new(Handle::current()));
        let labels = labels::read(&config.workload, surroundings.variable)?;
        let policy = Policy::compile_labelled(&config, labels, None, &metrics)?;
        let readiness = Arc::new(Readiness::new(identity.clone()));
        readiness.set(Condition::Configuration, Ok(()));
        let own_tokens = OwnTokens::new(Handle::current(), metrics.identity_counters());
        let mut shared =
            Shared::new(identity.clone(), policy, metrics.clone(), access_log, discovery, own_tokens.clone());
        shared.audit = open_audit(&config, &shared).context("the audit log cannot be opened")?;
        let shared = Arc::new(shared);
        let revocations = levers::load(&config.revocation)?;
        TakingBack::check_break_glass(config.break_glass.as_ref())?;

        // Doors: all are bound before one is opened.
        let wanted = Listener::wanted(&config, &shared.policy().load());
        if !dns_upstreams(&config).is_empty() {
            shared.discovery.ask(dns_upstreams(&config));
        }
        let bound = Bound::new(wanted, config.admin.socket.as_deref())?;
        let dns = bind_dns(&config, None)?;
        let allowed = AllowedUids::new(&config.admin);

        // Open.
        let counters = metrics.identity_counters();
        let endpoint = surroundings.endpoint.clone();
        // What the source says goes through the guard before it acts.
        let staged = Arc::new(IdentityStore::default());
        let source = identity::spawn(&config.identity, endpoint, staged.clone(), counters.clone())?;
        own_tokens.set_endpoint(source.endpoint.clone());
        shared.issuer_asks.set(source.issuers.clone());
        let workers =
            Workers::start(worker_count(&config), &shared).context("the data plane's threads cannot be started")?;
        let drain_asked = Arc::new(Notify::new());
        let mut taking_back = TakingBack::start(&shared, &workers, staged, &config.revocation, revocations).await;
        taking_back.follow_break_glass(&shared, config.break_glass.as_ref());
        let state = admin_state(&shared, &readiness, &workers, surroundings.log.clone(), &drain_asked, &taking_back);
        let listeners = Listeners::new(workers.handles.clone(), state.clone(), allowed);
        let mut app = Self {
            shared,
            readiness,
            workers,
            state,
            config,
            listeners,
            dns: None,
            surroundings,
            counters,
            source,
            drain_asked,
            taking_back,
            held: None,
        };
        app.listeners.open_all(bound).await;
        app.open_dns(dns);
        app.report_configuration();
        app.readiness.set(Condition::Listeners, Ok(()));
        let policy = app.shared.policy().load_full();
        if policy.captured_port().is_some() || policy.expects_outbound() {
            app.readiness.set(Condition::Capture, Err("not known yet".to_owned()));
        }
        tasks::spawn(probe::watch(app.shared.clone(), app.readiness.clone()));
        tasks::spawn(app.shared.own_tokens.clone().follow_keys(identity.clone()));
        tasks::spawn(pressure::watch(app.shared.clone()));
        tasks::spawn(drift::watch_own(app.shared.clone()));
        if app.shared.audit.enabled() {
            tasks::spawn(audit::watch::watch(identity, app.shared.audit.clone()));
        }
        Ok(app)
    }

    /// Replaces the configuration: compiled whole, all that can fail tried, then swapped once. What did not change stays.
    ///
    /// # Errors
    /// Nothing has changed then: the last good configuration stays. One that the guard holds acts later, if at all.
    pub async fn apply(&mut self, config: Config) -> anyhow::Result<()> {
        self.drop_held();
        self.replace(config, AskGuard::Yes).await
    }

    /// Resolves when a configuration that was held may act.
    pub async fn held_may_act(&self) {
        self.taking_back.gate.released(Change::Policy).await;
    }

    /// Applies it.
    ///
    /// # Errors
    /// As [`App::apply`].
    pub async fn apply_held(&mut self) -> anyhow::Result<()> {
        match self.held.take() {
            Some(config) => self.replace(config, AskGuard::No).await,
            None => Ok(()),
        }
    }

    /// What is asked for now takes the place of what waits.
    pub fn drop_held(&mut self) {
        if self.held.take().is_some() {
            self.taking_back.gate.withdraw(Change::Policy);
        }
    }

    async fn replace(&mut self, config: Config, ask: AskGuard) -> anyhow::Result<()> {
        // 1 what can fail.
        self.surroundings.hardened.as_ref().map_or(Ok(()), |hardened| hardened.permits(&config))?;
        let before = self.shared.policy().load_full();
        let labels = labels::read(&config.workload, self.surroundings.variable)?;
        let policy = Arc::new(Policy::compile_labelled(&config, labels, Some(&before), &self.shared.metrics)?);
        let revocations = self.taking_back.load_changed(&config.revocation)?;
        TakingBack::check_break_glass(config.break_glass.as_ref())?;
        if ask == AskGuard::Yes {
            let proposal = Proposal::Policy(policy.clone());
            if let Some(blast) = self.taking_back.gate.objects(Change::Policy, &proposal).await {
                self.taking_back.gate.hold(Change::Policy, blast);
                self.held = Some(config);
                let Blast { live, cut } = blast;
                anyhow::bail!(
                    "held, because it would cut {cut} of {live} live connections; `postern held apply` lets it act"
                );
            }
        }
        let process = ProcessChange::prepare(self, &config)?;
        let dns = bind_dns(&config, self.dns.as_ref())?;
        let wanted = Listener::wanted(&config, &policy);
        let listeners = self.listeners.prepare(&wanted, config.admin.socket.as_deref()).await?;
        let identity = (config.identity != self.config.identity).then(|| self.identity_source(&config)).transpose();
        let identity = match identity {
            Ok(identity) => identity,
            Err(error) => {
                self.listeners.undo(listeners).await;
                return Err(error.into());
            }
        };

        // 2 what cannot.
        tracing::info!(
            generation = policy.generation,
            digest = %policy.digest,
            listeners_opened = listeners.opens(),
            listeners_closed = listeners.closes(),
            "configuration applied"
        );
        if let Some(identity) = identity {
            self.shared.own_tokens.set_endpoint(identity.endpoint.clone());
            self.shared.issuer_asks.set(identity.issuers.clone());
            self.source = identity;
            self.shared.drift.expect_own_change();
        }
        self.shared.publish_policy(policy);
        if self.dns.as_ref().map(dns_server::Open::port) != dns_port(&config) {
            self.dns = None;
        }
        self.open_dns(dns);
        if dns_upstreams(&config) != dns_upstreams(&self.config) {
            self.shared.discovery.ask(dns_upstreams(&config));
        }
        process.commit(self, &config);
        self.taking_back.follow(&self.shared, &config.revocation, revocations).await;
        self.taking_back.follow_break_glass(&self.shared, config.break_glass.as_ref());
        self.listeners.commit(listeners).await;
        self.shared.metrics.retain_ports(|direction, name| names(&config, direction, name));
        self.config = config;
        self.report_configuration();
        Ok(())
    }

    fn open_dns(&mut self, bound: Option<dns_server::Bound>) {
        let Some(bound) = bound else { return };
        match bound.open(&self.shared) {
            Ok(open) => self.dns = Some(open),
            Err(error) => tracing::error!(%error, "name queries cannot be answered"),
        }
    }

    fn identity_source(&self, config: &Config) -> Result<SourceHandle, SourceError> {
        let (store, counters) = (self.taking_back.staged.clone(), self.counters.clone());
        identity::spawn(&config.identity, self.surroundings.endpoint.clone(), store, counters)
    }

    /// The last attempt to change the configuration failed; what runs stays.
    pub fn refuse_configuration(&self, why: &str) {
        self.shared.metrics.config_refused(SystemTime::now());
        self.shared.audit.event(&Event::PolicyRefused { why });
        let mut status = ConfigStatus::clone(&self.state.config_status.load());
        status.last_error = Some(why.to_owned());
        self.state.config_status.store(Arc::new(status));
    }

    /// Would applying `config` change nothing? It may say the same, and name files that do not.
    pub fn is_current(&self, config: &Config) -> bool {
        let policy = self.shared.policy().load();
        let labels = labels::read(&config.workload, self.surroundings.variable);
        config.same_as(&self.config)
            && policy.roots_are_current(config)
            && policy.names_are_current(config)
            && labels.is_ok_and(|labels| labels == *policy.labels)
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
        self.shared.access_log.flush();
        self.shared.audit.close();
    }

    /// SIGHUP: log files were renamed.
    pub fn reopen_logs(&self) {
        self.shared.access_log.reopen();
        self.shared.audit.reopen();
    }

    fn report_configuration(&self) {
        let lenient = self.config.not_enforced();
        for note in &lenient {
            tracing::warn!("{note}");
        }
        self.readiness.set_notes(lenient);
        let policy = self.shared.policy().load();
        let event = Event::PolicyLoaded { digest: &policy.digest, generation: policy.generation };
        self.shared.audit.event(&event);
        self.shared.metrics.config_taken(policy.generation, &policy.digest, SystemTime::now());
        self.state.effective_config.store(Arc::new(self.config.effective_json().to_string()));
        self.state.config_status.store(Arc::new(ConfigStatus {
            generation: policy.generation,
            digest: policy.digest.to_string(),
            loaded_at: Some(SystemTime::now()),
            last_error: None,
        }));
    }
}

fn dns_port(config: &Config) -> Option<u16> {
    config.capture.as_ref()?.dns.as_ref().map(|dns| dns.listen)
}

/// Nameservers that the file names. Where it names none, those of the system are asked, and are not ourselves.
fn dns_upstreams(config: &Config) -> &[SocketAddr] {
    let dns = config.capture.as_ref().and_then(|capture| capture.dns.as_ref());
    dns.map_or(&[], |dns| &dns.upstreams)
}

/// Sockets for name queries, unless `open` has them already or nobody asks for any.
fn bind_dns(config: &Config, open: Option<&dns_server::Open>) -> std::io::Result<Option<dns_server::Bound>> {
    let wanted = dns_port(config).filter(|port| open.map(dns_server::Open::port) != Some(*port));
    wanted.map(dns_server::Bound::new).transpose()
}

/// Metrics of what is no longer in the file end with it.
fn names(config: &Config, direction: Direction, name: &str) -> bool {
    match direction {
        Direction::Inbound => {
            let is_tunnel = name == TUNNEL_NAME && config.tunnel.is_some();
            is_tunnel || config.inbound.iter().any(|inbound| inbound.name == name)
        }
        Direction::Outbound => name == UNROUTED || config.outbound.services.iter().any(|service| service.name == name),
    }
}
