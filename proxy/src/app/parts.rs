//! Parts that take some making.

use super::taking_back::TakingBack;
use crate::admin::{AdminState, ConfigStatus, Readiness};
use crate::audit::{self, AuditLog, OpenError};
use crate::decision_id::DecisionId;
use crate::shared::Shared;
use crate::telemetry::LogHandle;
use crate::worker::Workers;
use arc_swap::ArcSwap;
use postern_config::Config;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::Notify;

pub(super) fn open_audit(config: &Config, shared: &Shared) -> Result<AuditLog, OpenError> {
    let policy = shared.policy().load();
    let start = audit::Start {
        boot: shared.boot_id,
        policy: &policy.digest,
        svid: &config.identity.svid,
        identity: &shared.identity,
        metrics: &shared.metrics,
    };
    AuditLog::start(config.audit.as_ref(), &start)
}

pub(super) fn admin_state(
    shared: &Arc<Shared>,
    readiness: &Arc<Readiness>,
    workers: &Workers,
    log: LogHandle,
    drain_asked: &Arc<Notify>,
    taking_back: &TakingBack,
) -> Arc<AdminState> {
    let (handles, of_tokens, of_decisions) =
        (workers.handles.clone(), workers.handles.clone(), workers.handles.clone());
    let boot_id = shared.boot_id;
    let drain_asked = drain_asked.clone();
    Arc::new(AdminState {
        identity: shared.identity.clone(),
        own_tokens: shared.own_tokens.clone(),
        metrics: shared.metrics.clone(),
        readiness: readiness.clone(),
        log,
        effective_config: ArcSwap::from_pointee(String::new()),
        connections: Box::new(move || Box::pin(Workers::connections(handles.clone()))),
        tokens: Box::new(move || Box::pin(Workers::tokens(of_tokens.clone()))),
        explain: Box::new(move |id| match DecisionId::number(id, boot_id) {
            Some(number) => Box::pin(Workers::explain(of_decisions.clone(), number)),
            None => Box::pin(std::future::ready(None)),
        }),
        drain: Box::new(move || drain_asked.notify_one()),
        access_log: shared.access_log.clone(),
        audit: shared.audit.clone(),
        gate: taking_back.gate.clone(),
        levers: taking_back.levers.clone(),
        break_glass: shared.break_glass.clone(),
        seen: shared.seen.clone(),
        started_at: SystemTime::now(),
        config_status: ArcSwap::from_pointee(ConfigStatus::default()),
    })
}

/// The CPU quota of the cgroup rounded up (the standard library reads it); 2 where there is none to find.
pub(super) fn worker_count(config: &Config) -> usize {
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
