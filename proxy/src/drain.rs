//! How long a drain may take.

use std::time::Duration;

/// What Kubernetes waits after SIGTERM unless told otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// The grace less a margin, so that we end before we are killed (PEERS D6: 5 s, or 1 s of a short grace).
pub fn deadline(configured: Option<Duration>, grace: Option<Duration>) -> Duration {
    configured.unwrap_or_else(|| {
        let grace = grace.unwrap_or(GRACE_DEFAULT);
        let margin = if grace <= Duration::from_secs(10) { Duration::from_secs(1) } else { Duration::from_secs(5) };
        grace.saturating_sub(margin)
    })
}

#[cfg(test)]
mod tests {
    use super::deadline;
    use std::time::Duration;

    #[test]
    fn the_file_wins_then_the_grace_less_a_margin() {
        let seconds = |value| Some(Duration::from_secs(value));
        for (configured, grace, expected) in [
            (None, None, 25),
            (None, seconds(60), 55),
            (None, seconds(11), 6),
            (None, seconds(10), 9),
            (None, seconds(1), 0),
            (None, seconds(0), 0),
            (seconds(3), seconds(60), 3),
        ] {
            assert_eq!(deadline(configured, grace), Duration::from_secs(expected), "{configured:?} {grace:?}");
        }
    }
}
