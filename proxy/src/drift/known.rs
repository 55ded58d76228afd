//! What was seen of something, and for how long that counts. Pure: now is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Up to a bound, what each `K` was seen as.
pub struct Known<K, V> {
    by_key: HashMap<K, Entry<V>>,
    max: usize,
    /// What is past is looked for when there are as many.
    clean_at: usize,
}

struct Entry<V> {
    value: V,
    /// Connections that still say so.
    live: usize,
    seen: Instant,
}

/// What becomes of a look at something.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<V> {
    /// Or nothing counts that was seen before.
    AsBefore,
    Other {
        before: V,
    },
    /// As many as can be kept are in use.
    Full,
}

/// What is past is looked for in this many at first.
const CLEAN_AT_LEAST: usize = 64;

impl<K: Hash + Eq, V: Clone + PartialEq> Known<K, V> {
    /// `max`: how many are kept.
    pub fn new(max: usize) -> Self {
        Self { by_key: HashMap::new(), max, clean_at: CLEAN_AT_LEAST }
    }

    /// Keeps that `key` is `value` now. What was seen before counts while a connection says so, and for `window` after.
    /// `keep_first`: what counts stays, and `value` is not kept beside it.
    pub fn see(&mut self, key: K, value: &V, window: Duration, keep_first: bool, now: Instant) -> Found<V> {
        if let Some(entry) = self.by_key.get_mut(&key) {
            if entry.value == *value {
                entry.seen = now;
                return Found::AsBefore;
            }
            if !entry.counts(window, now) {
                *entry = Entry { value: value.clone(), live: 0, seen: now };
                return Found::AsBefore;
            }
            let before = entry.value.clone();
            if !keep_first {
                *entry = Entry { value: value.clone(), live: 0, seen: now };
            }
            return Found::Other { before };
        }
        if self.by_key.len() >= self.clean_at.min(self.max) {
            self.by_key.retain(|_, entry| entry.counts(window, now));
            self.clean_at = (self.by_key.len() * 2).max(CLEAN_AT_LEAST);
        }
        if self.by_key.len() >= self.max {
            return Found::Full;
        }
        self.by_key.insert(key, Entry { value: value.clone(), live: 0, seen: now });
        Found::AsBefore
    }

    /// A connection says so until [`gone`](Self::gone). `false`: it is not what is kept.
    pub fn hold(&mut self, key: &K, value: &V) -> bool {
        let entry = self.by_key.get_mut(key).filter(|entry| entry.value == *value);
        entry.map(|entry| entry.live += 1).is_some()
    }

    /// One that was held has ended.
    pub fn gone(&mut self, key: &K, value: &V, now: Instant) {
        if let Some(entry) = self.by_key.get_mut(key).filter(|entry| entry.value == *value) {
            entry.live = entry.live.saturating_sub(1);
            entry.seen = now;
        }
    }
}

impl<V> Entry<V> {
    fn counts(&self, window: Duration, now: Instant) -> bool {
        self.live > 0 || now.saturating_duration_since(self.seen) < window
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, Known};
    use std::time::{Duration, Instant};

    const WINDOW: Duration = Duration::from_secs(600);

    #[test]
    fn another_value_is_told_while_the_one_before_counts() {
        let (mut known, start) = (Known::new(8), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(known.see(1, &"a", WINDOW, false, at(0)), Found::AsBefore);
        assert_eq!(known.see(1, &"a", WINDOW, false, at(599)), Found::AsBefore);
        assert_eq!(known.see(2, &"b", WINDOW, false, at(599)), Found::AsBefore, "another thing");
        assert_eq!(known.see(1, &"b", WINDOW, false, at(1198)), Found::Other { before: "a" });
        assert_eq!(known.see(1, &"a", WINDOW, false, at(1199)), Found::Other { before: "b" });
        assert_eq!(known.see(1, &"b", WINDOW, false, at(1799)), Found::AsBefore, "a window later");
    }

    #[test]
    fn what_came_first_stays_where_the_other_is_denied() {
        let (mut known, start) = (Known::new(8), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        known.see(1, &"a", WINDOW, true, at(0));
        assert_eq!(known.see(1, &"b", WINDOW, true, at(10)), Found::Other { before: "a" });
        assert!(!known.hold(&1, &"b"), "it is not what is kept");
        assert_eq!(known.see(1, &"b", WINDOW, true, at(599)), Found::Other { before: "a" });
        assert_eq!(known.see(1, &"b", WINDOW, true, at(600)), Found::AsBefore, "who was denied does not prolong it");
    }

    #[test]
    fn a_live_connection_counts_however_old_it_is() {
        let (mut known, start) = (Known::new(8), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        known.see(1, &"a", WINDOW, true, at(0));
        assert!(known.hold(&1, &"a"));
        assert_eq!(known.see(1, &"b", WINDOW, true, at(86_400)), Found::Other { before: "a" });
        known.gone(&1, &"a", at(90_000));
        assert_eq!(known.see(1, &"b", WINDOW, true, at(90_599)), Found::Other { before: "a" });
        assert_eq!(known.see(1, &"b", WINDOW, true, at(90_600)), Found::AsBefore);
    }

    #[test]
    fn room_is_bounded_and_what_is_past_makes_some() {
        let (mut known, start) = (Known::new(100), Instant::now());
        for key in 0..100 {
            assert_eq!(known.see(key, &"a", WINDOW, true, start), Found::AsBefore);
        }
        assert!(known.hold(&7, &"a"));
        assert_eq!(known.see(100, &"a", WINDOW, true, start), Found::Full);
        assert_eq!(known.see(5, &"b", WINDOW, true, start), Found::Other { before: "a" }, "what is kept is known");
        assert_eq!(known.see(100, &"a", WINDOW, true, start + WINDOW), Found::AsBefore);
        assert_eq!(known.by_key.len(), 2, "what lives stays");
    }
}
