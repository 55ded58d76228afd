//! How often a drift is told: a caller that moves with each request must not fill a log. Pure: now is an argument.

use super::Kind;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Nothing more is told of the same within it.
pub const PAUSE: Duration = Duration::from_secs(60);
/// Of somebody each; who comes behind them has one place together.
const PLACES_MAX: usize = 1024;

#[derive(Default)]
pub struct Told(HashMap<(Kind, Box<str>), Last>);

struct Last {
    at: Instant,
    untold: u64,
}

impl Told {
    /// Whether to tell of it now. `Some`: how many of the same were not told since the last one that was.
    pub fn tell(&mut self, kind: Kind, whose: &str, now: Instant) -> Option<u64> {
        let mut key = (kind, Box::from(whose));
        if !self.0.contains_key(&key) && self.0.len() >= PLACES_MAX {
            self.0.retain(|_, last| now.saturating_duration_since(last.at) < PAUSE);
            if self.0.len() >= PLACES_MAX {
                key = (kind, Box::from(""));
            }
        }
        match self.0.get_mut(&key) {
            Some(last) if now.saturating_duration_since(last.at) < PAUSE => {
                last.untold += 1;
                None
            }
            Some(last) => {
                last.at = now;
                Some(std::mem::take(&mut last.untold))
            }
            None => {
                self.0.insert(key, Last { at: now, untold: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, PAUSE, PLACES_MAX, Told};
    use std::time::Instant;

    #[test]
    fn the_same_is_told_once_a_pause_with_how_many_were_not() {
        let (mut told, start) = (Told::default(), Instant::now());
        let (certificate, token) = (Kind::CertificateFromTwoNetworks, Kind::TokenFromTwoNetworks);
        assert_eq!(told.tell(certificate, "web", start), Some(0));
        assert_eq!(told.tell(certificate, "web", start), None);
        assert_eq!(told.tell(certificate, "web", start + PAUSE / 2), None);
        assert_eq!(told.tell(token, "web", start), Some(0), "another kind");
        assert_eq!(told.tell(certificate, "orders", start), Some(0), "somebody else");
        assert_eq!(told.tell(certificate, "web", start + PAUSE), Some(2));
    }

    #[test]
    fn a_flood_of_names_is_told_as_one() {
        let (mut told, start) = (Told::default(), Instant::now());
        let kind = Kind::NewDestination;
        for number in 0..PLACES_MAX {
            assert_eq!(told.tell(kind, &number.to_string(), start), Some(0));
        }
        assert_eq!(told.tell(kind, "one more", start), Some(0));
        assert_eq!(told.tell(kind, "and more", start), None);
        assert!(told.0.len() <= PLACES_MAX + Kind::ALL.len());
        assert_eq!(told.tell(kind, "later", start + PAUSE), Some(0));
        assert_eq!(told.0.len(), 1);
    }
}
