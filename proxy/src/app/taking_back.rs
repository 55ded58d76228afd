//! The parts that take trust back, and how they follow the configuration.

use crate::break_glass::{self, Fault};
use crate::identity::IdentityStore;
use crate::revocation::levers::{self, LoadError, Loaded};
use crate::revocation::{Gate, Levers, watch};
use crate::shared::Shared;
use crate::tasks;
use crate::worker::Workers;
use postern_config::{BreakGlass, Revocation};
use std::sync::Arc;
use tokio::task::AbortHandle;

pub(super) struct TakingBack {
    pub gate: Arc<Gate>,
    pub levers: Arc<Levers>,
    /// What the identity source says, before the guard lets it through.
    pub staged: Arc<IdentityStore>,
    config: Revocation,
    watching: AbortHandle,
    break_glass: Option<BreakGlass>,
    override_watch: Option<AbortHandle>,
}

impl TakingBack {
    /// Acts on what stood in the files before this returns.
    pub async fn start(
        shared: &Arc<Shared>,
        workers: &Workers,
        staged: Arc<IdentityStore>,
        config: &Revocation,
        loaded: Loaded,
    ) -> Self {
        let gate = Arc::new(Gate::new(shared.clone(), workers.handles.clone(), config.guard));
        let levers = Arc::new(Levers::new(shared.clone(), gate.clone()));
        levers.take(loaded, config).await;
        tasks::spawn(gate.clone().follow(staged.clone()));
        tasks::spawn(watch::tell(shared.clone()));
        let watching = Self::watch(shared, &levers, &gate, config);
        let config = config.clone();
        Self { gate, levers, staged, config, watching, break_glass: None, override_watch: None }
    }

    /// # Errors
    /// Nobody could sign: one of the keys cannot be read.
    pub fn check_break_glass(config: Option<&BreakGlass>) -> Result<(), Fault> {
        config.map(break_glass::read_keys).transpose().map(|_keys| ())
    }

    pub fn follow_break_glass(&mut self, shared: &Arc<Shared>, config: Option<&BreakGlass>) {
        if self.break_glass.as_ref() == config {
            return;
        }
        self.break_glass = config.cloned();
        if let Some(watch) = self.override_watch.take() {
            watch.abort();
        }
        match config {
            Some(config) => {
                let watching = break_glass::watch(config.clone(), shared.clone());
                self.override_watch = Some(tasks::spawn(watching).abort_handle());
            }
            None => break_glass::end(shared),
        }
    }

    fn watch(shared: &Arc<Shared>, levers: &Arc<Levers>, gate: &Arc<Gate>, config: &Revocation) -> AbortHandle {
        let watching = watch::watch(config.clone(), levers.clone(), gate.clone(), shared.clone());
        tasks::spawn(watching).abort_handle()
    }

    /// Of a configuration that says otherwise than before: what stands in its files.
    ///
    /// # Errors
    /// One of them is broken or gone.
    pub fn load_changed(&self, config: &Revocation) -> Result<Option<Loaded>, LoadError> {
        (*config != self.config).then(|| levers::load(config)).transpose()
    }

    /// `loaded`: by [`load_changed`](Self::load_changed).
    pub async fn follow(&mut self, shared: &Arc<Shared>, config: &Revocation, loaded: Option<Loaded>) {
        let Some(loaded) = loaded else { return };
        self.watching.abort();
        self.gate.configure(config.guard);
        self.levers.take(loaded, config).await;
        self.config = config.clone();
        self.watching = Self::watch(shared, &self.levers, &self.gate, config);
    }
}
