//! What is known of one endpoint from what came of it: whether it is passed over, and whether another attempt to reach it
//! is worth its wait. Counted by each worker for itself; no clock and no randomness in here.

use postern_config::Outliers;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// An attempt to connect that took this long before it failed met silence; one that failed faster was refused.
const SILENCE: Duration = Duration::from_millis(900);
/// Doublings of an ejection; more would be longer than any maximum.
const DOUBLINGS_MAX: u32 = 16;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, after so long: nothing that is sent there now would arrive.
    Connect { took: Duration },
    /// A connection broke before there was an answer, or a peer's sidecar could not pass the request on.
    Request,
}

#[derive(Debug, Default)]
pub struct Health {
    /// Requests that failed, one after the other.
    failures: Cell<u32>,
    /// Ejections since it last answered.
    ejections: Cell<u32>,
    until: Cell<Option<Instant>>,
    /// The last attempt to connect failed.
    is_unreachable: Cell<bool>,
    /// It met silence.
    is_silent: Cell<bool>,
    /// Attempts to connect that are under way.
    connecting: Cell<u32>,
}

impl Health {
    /// A request was answered.
    pub fn answered(&self) {
        if self.failures.get() != 0 || self.ejections.get() != 0 {
            self.failures.set(0);
            self.ejections.set(0);
        }
    }

    /// It took a connection, and was who it should be. Whether it answers requests is another question.
    pub fn connected(&self) {
        self.is_silent.set(false);
        if self.is_unreachable.replace(false) {
            self.until.set(None);
        }
    }

    /// Is this one failure too many?
    #[must_use]
    pub fn failed(&self, failure: Failure, outliers: &Outliers, now: Instant) -> bool {
        let is_enough = match failure {
            Failure::Connect { took } => {
                self.is_unreachable.set(true);
                self.is_silent.set(took >= SILENCE);
                true
            }
            Failure::Request => {
                self.failures.set(self.failures.get().saturating_add(1));
                self.failures.get() >= outliers.failures
            }
        };
        // What began before an ejection says nothing new.
        is_enough && !self.is_ejected(now)
    }

    /// Passes it over for a while, twice as long as the last time. `spread` (0 to 255) makes it up to a quarter longer, so
    /// that a fleet does not come back at once (THREATS F-24).
    pub fn eject(&self, outliers: &Outliers, now: Instant, spread: u8) {
        let doublings = self.ejections.get().min(DOUBLINGS_MAX);
        self.ejections.set(doublings + 1);
        let time = outliers.ejection.saturating_mul(1 << doublings).min(outliers.ejection_max);
        self.until.set(Some(now + time + time * u32::from(spread) / (4 * 255)));
        if !self.is_unreachable.get() {
            // When it is over, the first failure ejects again.
            self.failures.set(outliers.failures.saturating_sub(1));
        }
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.until.get().is_some_and(|until| now < until)
    }

    /// One attempt at a time is enough for an endpoint that met the last one with silence: others would only wait as long
    /// (THREATS F-21, F-24).
    pub fn is_worth_connecting(&self) -> bool {
        !self.is_silent.get() || self.connecting.get() == 0
    }

    /// Counts an attempt to connect while it lives.
    pub fn connecting(&self) -> Connecting<'_> {
        self.connecting.set(self.connecting.get() + 1);
        Connecting(&self.connecting)
    }
}

pub struct Connecting<'a>(&'a Cell<u32>);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Health};
    use postern_config::Outliers;
    use std::time::{Duration, Instant};

    const REFUSED: Failure = Failure::Connect { took: Duration::from_millis(1) };
    const SILENT: Failure = Failure::Connect { took: Duration::from_secs(3) };

    fn outliers() -> Outliers {
        Outliers { failures: 3, ..Outliers::default() }
    }

    fn seconds(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn f_21_requests_eject_when_as_many_as_said_failed_one_after_the_other() {
        let (health, start) = (Health::default(), Instant::now());
        for expected in [false, false, true] {
            assert_eq!(health.failed(Failure::Request, &outliers(), start), expected);
        }
        let health = Health::default();
        for _ in 0..10 {
            assert!(!health.failed(Failure::Request, &outliers(), start));
            assert!(!health.failed(Failure::Request, &outliers(), start));
            health.answered();
        }
    }

    #[test]
    fn f_21_an_endpoint_that_cannot_be_reached_is_ejected_at_once() {
        let (health, start) = (Health::default(), Instant::now());
        assert!(health.failed(REFUSED, &outliers(), start));
        health.eject(&outliers(), start, 0);
        assert!(health.is_ejected(seconds(start, 2.9)));
        assert!(!health.is_ejected(seconds(start, 3.0)));
        assert!(!health.failed(REFUSED, &outliers(), seconds(start, 1.0)), "it is ejected already");
    }

    #[test]
    fn f_24_ejections_grow_to_their_maximum_and_begin_anew_after_an_answer() {
        let (health, mut now) = (Health::default(), Instant::now());
        for expected in [3, 6, 12, 24, 48, 60, 60] {
            health.eject(&outliers(), now, 0);
            let ends = now + Duration::from_secs(expected);
            assert!(health.is_ejected(ends - Duration::from_millis(1)), "{expected}");
            assert!(!health.is_ejected(ends), "{expected}");
            now = ends;
            // Back again, it has one chance.
            assert!(health.failed(Failure::Request, &outliers(), now));
        }
        health.answered();
        assert!(!health.failed(Failure::Request, &outliers(), now));
        health.eject(&outliers(), now, 0);
        assert!(!health.is_ejected(now + Duration::from_secs(3)));
    }

    #[test]
    fn f_24_ejections_that_begin_together_end_apart() {
        let start = Instant::now();
        let ends_by = |spread, end| {
            let health = Health::default();
            health.eject(&outliers(), start, spread);
            !health.is_ejected(seconds(start, end))
        };
        assert!(ends_by(0, 3.0) && !ends_by(1, 3.0) && !ends_by(255, 3.74) && ends_by(255, 3.76));
    }

    #[test]
    fn a_connection_ends_an_ejection_unless_it_was_requests_that_failed() {
        let (health, start) = (Health::default(), Instant::now());
        assert!(health.failed(REFUSED, &outliers(), start));
        health.eject(&outliers(), start, 0);
        health.connected();
        assert!(!health.is_ejected(start));

        let health = Health::default();
        while !health.failed(Failure::Request, &outliers(), start) {}
        health.eject(&outliers(), start, 0);
        health.connected();
        assert!(health.is_ejected(start));
    }

    #[test]
    fn f_24_one_attempt_at_a_time_after_silence_and_any_number_after_a_refusal() {
        let (health, start) = (Health::default(), Instant::now());
        let first = health.connecting();
        assert!(health.is_worth_connecting());
        assert!(health.failed(SILENT, &outliers(), start));
        assert!(!health.is_worth_connecting(), "the first is still under way");
        drop(first);
        assert!(health.is_worth_connecting());
        let probe = health.connecting();
        assert!(!health.is_worth_connecting());
        health.connected();
        assert!(health.is_worth_connecting());
        let _ = health.failed(REFUSED, &outliers(), start);
        assert!(health.is_worth_connecting());
        drop(probe);
    }
}
