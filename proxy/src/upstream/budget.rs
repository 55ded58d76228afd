//! How many requests may be sent again: retries must not multiply the load of a service that is in trouble (THREATS F-23).

use postern_config::Retries;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Retries saved up by requests: after a long good time no more than so many at once.
const SAVED_MAX: u32 = 100;
/// Counted in hundredths.
const ONE: u32 = 100;

/// Of one service and worker. A request saves a share of a retry; besides, some become available each second.
pub struct RetryBudget {
    share_percent: u32,
    per_second: u32,
    /// Hundredths of retries, from requests.
    saved: Cell<u32>,
    /// The same, by time: never more than those of one second.
    floor: Cell<u32>,
    floor_at: Cell<Option<Instant>>,
}

impl RetryBudget {
    pub fn new(retries: &Retries) -> Self {
        Self {
            share_percent: u32::from(retries.share_percent),
            per_second: retries.per_second,
            saved: Cell::new(0),
            floor: Cell::new(retries.per_second.saturating_mul(ONE)),
            floor_at: Cell::new(None),
        }
    }

    /// Can there ever be one?
    pub fn is_empty_for_ever(&self) -> bool {
        self.share_percent == 0 && self.per_second == 0
    }

    /// A request begins.
    pub fn request(&self) {
        self.saved.set((self.saved.get() + self.share_percent).min(SAVED_MAX * ONE));
    }

    /// Takes one retry, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        self.refill(now);
        let from = if self.saved.get() >= ONE { &self.saved } else { &self.floor };
        let left = from.get().checked_sub(ONE);
        from.set(left.unwrap_or(from.get()));
        left.is_some()
    }

    fn refill(&self, now: Instant) {
        let Some(before) = self.floor_at.get() else { return self.floor_at.set(Some(now)) };
        let rate = u64::from(self.per_second) * u64::from(ONE);
        // More than a second's are not kept.
        let elapsed = now.saturating_duration_since(before).min(Duration::from_secs(1));
        let more = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).saturating_mul(rate) / 1_000_000;
        if more == 0 {
            // Else takes that follow each other fast would never earn anything.
            return;
        }
        let full = self.per_second.saturating_mul(ONE);
        let floor = self.floor.get().saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(full);
        self.floor.set(floor);
        // What is left of the time counts for the next one.
        let used = Duration::from_micros(more * 1_000_000 / rate);
        self.floor_at.set(Some(if floor == full { now } else { before + used }));
    }
}

#[cfg(test)]
mod tests {
    use super::RetryBudget;
    use postern_config::Retries;
    use std::time::{Duration, Instant};

    fn taken(budget: &RetryBudget, now: Instant) -> usize {
        std::iter::repeat_with(|| budget.take(now)).take_while(|taken| *taken).count()
    }

    #[test]
    fn f_23_retries_are_a_share_of_requests_and_a_few_a_second() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let budget = RetryBudget::new(&Retries { share_percent: 20, per_second: 3 });
        assert_eq!(taken(&budget, start), 3, "the floor");
        (0..4).for_each(|_| budget.request());
        assert_eq!(taken(&budget, start), 0, "four requests are not enough for one");
        budget.request();
        assert_eq!(taken(&budget, start), 1);
        (0..50).for_each(|_| budget.request());
        assert_eq!(taken(&budget, start), 10);
        assert_eq!(taken(&budget, after(340)), 1, "a third of a second");
        assert_eq!(taken(&budget, after(60_000)), 3, "the floor is not saved up");
    }

    #[test]
    fn a_long_good_time_saves_a_bounded_number() {
        let budget = RetryBudget::new(&Retries { share_percent: 100, per_second: 0 });
        (0..100_000).for_each(|_| budget.request());
        assert_eq!(taken(&budget, Instant::now()), 100);
    }

    #[test]
    fn without_share_and_floor_nothing_is_sent_again() {
        let budget = RetryBudget::new(&Retries { share_percent: 0, per_second: 0 });
        assert!(budget.is_empty_for_ever());
        (0..1000).for_each(|_| budget.request());
        assert!(!budget.take(Instant::now() + Duration::from_secs(60)));
    }

    #[test]
    fn takes_that_follow_each_other_fast_earn_what_the_time_is_worth() {
        let start = Instant::now();
        let budget = RetryBudget::new(&Retries { share_percent: 0, per_second: 3 });
        let taken = (0..10_000).filter(|step| budget.take(start + Duration::from_micros(step * 1000))).count();
        // Three at once, and three for each of ten seconds.
        assert!((32..=33).contains(&taken), "{taken}");
    }
}
