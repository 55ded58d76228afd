//! Tokens that are taken one time only (RFC 7519 §4.1.7: `jti` "can be used to prevent the JWT from being replayed").

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Of some fifty bytes each.
const TOKENS_MAX: usize = 65_536;

/// What was shown, until it expires. One for all workers: only routes that ask for it come here.
#[derive(Default)]
pub struct ShownTokens(Mutex<HashMap<[u8; 32], SystemTime>>);

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOnce {
    #[error("it was shown before")]
    Shown,
    #[error("as many as {TOKENS_MAX} tokens are remembered, and none has expired")]
    Full,
}

impl ShownTokens {
    /// Remembers a token by the hash of its id, until it would be refused as expired.
    ///
    /// # Errors
    /// It is known, or there is no room to remember it: then it could be shown again.
    pub fn show(&self, id_hash: [u8; 32], until: SystemTime, now: SystemTime) -> Result<(), NotOnce> {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.contains_key(&id_hash) {
            return Err(NotOnce::Shown);
        }
        if shown.len() >= TOKENS_MAX {
            shown.retain(|_, until| *until > now);
        }
        if shown.len() >= TOKENS_MAX {
            return Err(NotOnce::Full);
        }
        shown.insert(id_hash, until);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{NotOnce, ShownTokens, TOKENS_MAX};
    use std::time::{Duration, SystemTime};

    #[test]
    fn jw_22_what_was_shown_is_known_until_it_ends_and_room_is_bounded() {
        let (shown, now) = (ShownTokens::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let hash = |number: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            hash
        };
        let ends = |number: usize| now + Duration::from_secs(number as u64 % 2 * 100 + 10);
        for number in 0..TOKENS_MAX {
            shown.show(hash(number), ends(number), now).unwrap();
        }
        assert_eq!(shown.show(hash(3), ends(3), now), Err(NotOnce::Shown));
        assert_eq!(shown.show(hash(TOKENS_MAX), ends(0), now), Err(NotOnce::Full));
        // Half of them have expired by then; the others are still known.
        let later = now + Duration::from_secs(20);
        shown.show(hash(TOKENS_MAX), ends(1), later).unwrap();
        assert_eq!(shown.show(hash(3), ends(3), later), Err(NotOnce::Shown));
        shown.show(hash(2), later + Duration::from_secs(5), later).unwrap();
    }
}
