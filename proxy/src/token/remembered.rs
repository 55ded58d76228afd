//! Tokens whose signature was found good: a caller shows the same one for minutes, and a signature costs a tenth of a
//! millisecond.

use super::accepted::Accepted;
use super::judge::Verified;
use super::problem::TokenProblem;
use crate::admin::TokenInfo;
use crate::identity::{IssuerKeys, Snapshot, TokenKeys};
use aws_lc_rs::digest::{SHA256, digest};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Of a few kilobytes each: what is longer, and may be many times as long when it is read, is verified each time.
const TOKENS_MAX: usize = 1024;
const BYTES_MAX: usize = 4096;
/// No route's leeway is longer.
const LEEWAY_MAX: Duration = Duration::from_secs(300);

/// One worker's. What was verified with keys that have changed since is forgotten (THREATS JW-17).
#[derive(Default)]
pub struct RememberedTokens {
    keys: Arc<TokenKeys>,
    issuers: Arc<IssuerKeys>,
    /// By SHA-256 of the token, so that none lies here.
    by_hash: HashMap<[u8; 32], Remembered>,
}

struct Remembered {
    token: Arc<Verified>,
    used_at: SystemTime,
}

impl RememberedTokens {
    /// From now on its keys count.
    pub fn with(&mut self, identity: &Snapshot) -> &mut Self {
        let (keys, issuers) = (&identity.token_keys, &identity.issuer_keys);
        if !Arc::ptr_eq(&self.keys, keys) || !Arc::ptr_eq(&self.issuers, issuers) {
            (self.keys, self.issuers) = (keys.clone(), issuers.clone());
            self.by_hash.clear();
        }
        self
    }

    /// Who signed it and what it says, and nothing about for whom or when: see [`Verified::check`].
    ///
    /// # Errors
    /// It is not signed by who it says, or breaks another rule. That is not remembered.
    pub fn verify(
        &mut self,
        token: &[u8],
        accepted: &Accepted,
        now: SystemTime,
    ) -> Result<Arc<Verified>, TokenProblem> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token).as_ref());
        // Another route may have judged it by other keys.
        if let Some(known) = self.by_hash.get_mut(&hash).filter(|known| accepted.takes(&known.token)) {
            known.used_at = now;
            return Ok(known.token.clone());
        }
        let verified = Arc::new(accepted.verify(token, &self.keys, &self.issuers)?);
        if token.len() <= BYTES_MAX {
            self.make_room(now);
            self.by_hash.insert(hash, Remembered { token: verified.clone(), used_at: now });
        }
        Ok(verified)
    }

    /// For the operator.
    pub fn infos(&self) -> Vec<TokenInfo> {
        self.by_hash.values().map(|known| TokenInfo::of(&known.token, known.used_at)).collect()
    }

    fn make_room(&mut self, now: SystemTime) {
        if self.by_hash.len() < TOKENS_MAX {
            return;
        }
        self.by_hash.retain(|_, known| known.token.registered.expires_at + LEEWAY_MAX > now);
        if self.by_hash.len() >= TOKENS_MAX {
            // Each of them costs one signature once more.
            self.by_hash.clear();
        }
    }
}
