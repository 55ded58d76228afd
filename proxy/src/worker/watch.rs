//! What a worker does besides its connections: it follows trust and policy, and looks once a second at what is due.

use super::Worker;
use crate::session;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Wakes when identity or policy changed, and decides again what lives here.
pub(super) async fn trust(worker: Rc<Worker>) {
    let mut identity = worker.shared.identity.subscribe();
    let mut policy = worker.shared.subscribe_policy();
    loop {
        tokio::select! {
            changed = identity.changed() => {
                if changed.is_err() { return }
                worker.registry.identity_changed(&worker.identity());
                worker.upstreams.let_go_of_ended();
            }
            changed = policy.changed() => {
                if changed.is_err() { return }
                session::policy_changed(&worker.registry, &worker.policy(), Instant::now());
                worker.upstreams.let_go_of_ended();
            }
        }
    }
}

/// Once a second: what is due.
pub(super) async fn sweep(worker: Rc<Worker>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut windows = (0, Vec::new());
    loop {
        every.tick().await;
        let policy = worker.policy();
        let open = (policy.generation, policy.windows_open(policy.now()));
        if open.0 == windows.0 && open.1 != windows.1 {
            session::policy_changed(&worker.registry, &policy, Instant::now());
            worker.upstreams.let_go_of_ended();
        }
        windows = open;
        worker.registry.sweep(SystemTime::now(), &policy.timeouts, worker.is_draining());
        worker.upstreams.sweep(Instant::now());
        worker.tunnels.sweep();
    }
}
