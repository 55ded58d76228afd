//! How long to wait before the next attempt. Pure: randomness is an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(10);
/// While a denial has not lasted its grace: whether it lasts is found out by asking, so an agent that says it in passing
/// must be asked several times within the grace, or the answers in between are missed and live connections cut.
const DENIAL_MAX: Duration = Duration::from_secs(2);
/// For answers that a retry does not mend (`InvalidArgument`, `Unimplemented`; Workload Endpoint §6): somebody has to
/// change something first.
const SLOW: Duration = Duration::from_secs(30);

/// Exponential with full jitter, so that a node's workloads do not return as one herd to an agent that just started.
/// Only a valid message resets it (Workload API, appendix A).
#[derive(Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// `random` in [0, 1).
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        self.next_below(MAX, random)
    }

    /// As [`Backoff::next`], for a denial whose grace runs.
    pub(crate) fn next_of_denial(&mut self, random: f64) -> Duration {
        self.next_below(DENIAL_MAX, random)
    }

    fn next_below(&mut self, max: Duration, random: f64) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Thirty to forty seconds.
    pub(crate) fn slow(random: f64) -> Duration {
        SLOW + MAX.mul_f64(random.clamp(0.0, 1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_ten_seconds() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..10).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(50));
    }

    #[test]
    fn a_denial_is_asked_about_every_two_seconds_while_its_grace_runs() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..7).map(|_| backoff.next_of_denial(1.0).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.next(1.0), MAX, "after the grace");
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff { failures: u32::MAX };
        assert_eq!(backoff.next(1.0), MAX);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
    }
}
