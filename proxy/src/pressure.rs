//! Memory in use against `limits.memory`: above it no new connection is taken, because the alternative is that the kernel
//! ends the process with all that live. Those go on.

use crate::shared::Shared;
use crate::telemetry::process::{memory_limit_bytes, resident_memory_bytes};
use std::sync::Arc;
use std::time::Duration;

/// A worker that accepts as fast as it can takes tens of megabytes meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Of the control group's limit. The rest is for what live connections still need.
const DEFAULT_PERCENT: u64 = 90;
/// Of `limits.memory`: pressure ends below it, so that it does not come and go with every connection.
const RELEASE_PERCENT: u64 = 95;

/// Looks for as long as the process lives.
pub async fn watch(shared: Arc<Shared>) {
    let of_group = memory_limit_bytes().map(|limit| limit / 100 * DEFAULT_PERCENT);
    let mut is_pressed = false;
    loop {
        let limit = shared.policy().load().limits.memory.or(of_group);
        // Without a limit there is nothing to look at, until the next configuration.
        let in_use = limit.and_then(|_| resident_memory_bytes()).unwrap_or_default() as u64;
        let now = limit.is_some_and(|limit| is_too_much(in_use, limit, is_pressed));
        if now != is_pressed {
            if now {
                tracing::warn!(in_use, limit, "memory is scarce: no new connection is taken");
            } else {
                tracing::info!(in_use, limit, "memory is no longer scarce");
            }
            is_pressed = now;
            shared.budget.set_pressed(now);
            shared.metrics.set_memory_pressure(now);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_too_much(in_use: u64, limit: u64, was_pressed: bool) -> bool {
    in_use >= if was_pressed { limit / 100 * RELEASE_PERCENT } else { limit }
}

#[cfg(test)]
mod tests {
    use super::is_too_much;

    #[test]
    fn pressure_begins_at_the_limit_and_ends_well_below() {
        for (in_use, was_pressed, pressed) in
            [(999, false, false), (1000, false, true), (999, true, true), (950, true, true), (949, true, false)]
        {
            assert_eq!(is_too_much(in_use, 1000, was_pressed), pressed, "{in_use} {was_pressed}");
        }
    }
}
