//! The parts that take trust back, and how they follow the configuration.

use crate::identity::IdentityStore;
use crate::revocation::levers::{self, LoadError, Loaded};
use crate::revocation::{Gate, Levers, watch};
use crate::shared::Shared;
use crate::tasks;
use crate::worker::Workers;
use postern_config::Revocation;
use std::sync::Arc;
use tokio::task::AbortHandle;

pub(super) struct TakingBack {
    pub gate: Arc<Gate>,
    pub levers: Arc<Levers>,
    /// What the identity source says, before the guard lets it through.
    pub staged: Arc<IdentityStore>,
    config: Revocation,
    watching: AbortHandle,
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
        Self { gate, levers, staged, config: config.clone(), watching }
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
