//! Waiting for events, with a bound.

use std::future::Future;
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; a test that passes never waits for it.
pub const BOUND: Duration = Duration::from_secs(30);
/// Between two looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The outcome of `event`, which has to come within [`BOUND`].
///
/// # Panics
/// It does not.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, event).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => panic!("{what}: not within {BOUND:?}"),
    }
}

/// The first value that `look` finds, which has to be there within [`BOUND`].
///
/// # Panics
/// It is not.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {BOUND:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
