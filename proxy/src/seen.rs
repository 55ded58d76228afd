//! Who has proven an identity to this process: by SPIFFE ID, when last. For inventories, which compare it with who there
//! should be. It decides nothing.

use postern_config::SpiffeId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Some hundred bytes each. Who comes behind them is counted.
const PEERS_MAX: usize = 4096;

/// Looked at once a connection, by all workers.
#[derive(Default)]
pub struct SeenPeers(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    by_id: HashMap<SpiffeId, SystemTime>,
    not_kept: u64,
}

impl SeenPeers {
    /// A handshake with `id` has succeeded.
    pub fn saw(&self, id: &SpiffeId, now: SystemTime) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = seen.by_id.get_mut(id) {
            *last = now;
        } else if seen.by_id.len() < PEERS_MAX {
            seen.by_id.insert(id.clone(), now);
        } else {
            seen.not_kept += 1;
        }
    }

    /// Each, with its last handshake, by SPIFFE ID; and how many handshakes are not among them.
    pub fn all(&self) -> (Vec<(SpiffeId, SystemTime)>, u64) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = seen.by_id.iter().map(|(id, last)| (id.clone(), *last)).collect();
        let not_kept = seen.not_kept;
        drop(seen);
        all.sort_unstable();
        (all, not_kept)
    }
}

#[cfg(test)]
mod tests {
    use super::{PEERS_MAX, SeenPeers};
    use postern_config::SpiffeId;
    use std::time::{Duration, SystemTime};

    #[test]
    fn each_peer_is_kept_once_with_its_last_handshake_up_to_a_bound() {
        let seen = SeenPeers::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let id = |number: usize| SpiffeId::parse(&format!("spiffe://shop.example/{number:05}")).unwrap();
        for number in 0..=PEERS_MAX {
            seen.saw(&id(number), at(1));
        }
        seen.saw(&id(0), at(2));
        let (all, not_kept) = seen.all();
        assert_eq!((all.len(), not_kept), (PEERS_MAX, 1));
        assert_eq!(all[..2], [(id(0), at(2)), (id(1), at(1))]);
    }
}
