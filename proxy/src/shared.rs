//! What every worker may reach. All of it is immutable snapshots, counters, or lives on the control plane.

use crate::audit::AuditLog;
use crate::break_glass::InForce;
use crate::capture::ourselves::exempt_by_user;
use crate::capture::probe::Probes;
use crate::drift;
use crate::identity::IdentityStore;
use crate::identity::issuer_asks::IssuerAsks;
use crate::identity::tokens::OwnTokens;
use crate::policy::Policy;
use crate::seen::SeenPeers;
use crate::telemetry::{AccessLog, Metrics};
use crate::token::ShownTokens;
use crate::upstream::discovery::Discovery;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::watch;

pub struct Shared {
    pub identity: Arc<IdentityStore>,
    policy: ArcSwap<Policy>,
    policy_changed: watch::Sender<u64>,
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    /// Off until the one who makes this opens it.
    pub audit: AuditLog,
    pub discovery: Arc<Discovery>,
    /// JWT-SVIDs of ours, for peers.
    pub own_tokens: Arc<OwnTokens>,
    /// Who fetches newer keys of issuers.
    pub issuer_asks: IssuerAsks,
    /// Tokens of callers that are not taken again.
    pub shown_tokens: ShownTokens,
    /// Who has proven an identity to us.
    pub seen: Arc<SeenPeers>,
    /// What things were when they were last seen.
    pub drift: drift::Seen,
    pub budget: ConnectionBudget,
    pub probes: Probes,
    /// Whose captured connections are our own.
    pub exempt_by_user: Option<u32>,
    /// What overrides the rules, if anything does.
    pub break_glass: InForce,
    draining: AtomicBool,
    /// Makes the decision ids of one process differ from another's.
    pub boot_id: u32,
}

impl Shared {
    pub fn new(
        identity: Arc<IdentityStore>,
        policy: Policy,
        metrics: Arc<Metrics>,
        access_log: AccessLog,
        discovery: Arc<Discovery>,
        own_tokens: Arc<OwnTokens>,
    ) -> Self {
        Self {
            budget: ConnectionBudget::new(policy.connections_max),
            probes: Probes::default(),
            exempt_by_user: exempt_by_user(),
            identity,
            break_glass: policy.break_glass.clone(),
            policy: ArcSwap::from_pointee(policy),
            policy_changed: watch::Sender::new(0),
            metrics,
            access_log,
            audit: AuditLog::off(),
            discovery,
            own_tokens,
            issuer_asks: IssuerAsks::default(),
            shown_tokens: ShownTokens::default(),
            seen: Arc::default(),
            drift: drift::Seen::new(Instant::now()),
            draining: AtomicBool::new(false),
            boot_id: fastrand::u32(..),
        }
    }

    /// For `arc_swap::Cache` in workers, and for whoever needs it once.
    pub fn policy(&self) -> &ArcSwap<Policy> {
        &self.policy
    }

    /// The one place where policy changes: swap, then wake the workers, which decide again what is live.
    pub fn publish_policy(&self, policy: Arc<Policy>) {
        let generation = policy.generation;
        self.budget.max.store(policy.connections_max, Relaxed);
        self.policy.store(policy);
        self.policy_changed.send_replace(generation);
    }

    /// Something beside the policy changed that decides with it: what lives is decided again.
    pub fn decide_again(&self) {
        let generation = self.policy.load().generation;
        self.policy_changed.send_replace(generation);
    }

    pub fn subscribe_policy(&self) -> watch::Receiver<u64> {
        self.policy_changed.subscribe()
    }

    pub fn start_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}

/// Accepted connections of the whole process, and their bound.
pub struct ConnectionBudget {
    live: AtomicUsize,
    max: AtomicUsize,
    /// There is as much memory in use as there may be.
    is_pressed: AtomicBool,
}

/// Why a connection gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Connections,
    Memory,
    Descriptors,
}

impl Full {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "as many connections as `limits.connections` are open",
            Self::Memory => "as much memory as `limits.memory` is in use",
            Self::Descriptors => "no file descriptor is left",
        }
    }
}

impl ConnectionBudget {
    fn new(max: usize) -> Self {
        Self { live: AtomicUsize::new(0), max: AtomicUsize::new(max), is_pressed: AtomicBool::new(false) }
    }

    /// Takes a place for one accepted connection.
    ///
    /// # Errors
    /// There is none.
    pub fn take(&self) -> Result<(), Full> {
        if self.is_pressed.load(Relaxed) {
            return Err(Full::Memory);
        }
        if self.live.fetch_add(1, Relaxed) < self.max.load(Relaxed) {
            return Ok(());
        }
        self.live.fetch_sub(1, Relaxed);
        Err(Full::Connections)
    }

    pub fn set_pressed(&self, pressed: bool) {
        self.is_pressed.store(pressed, Relaxed);
    }

    pub fn give_back(&self) {
        self.live.fetch_sub(1, Relaxed);
    }

    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }
}
