//! The deny list, ready to be asked: what is exact is found by its hash, patterns one after the other.

use super::workload;
use crate::authz::prefix_index::PrefixIndex;
use crate::identity::Svid;
use crate::tls::Peer;
use crate::token::Verified;
use postern_config::{Denied, DenyEntry, SpiffeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    File,
    /// The admin socket; it ends with the process at the latest.
    Lever,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Lever => "admin socket",
        }
    }
}

/// One thing that is denied.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Names it where it is to be removed: the number of one that came through the admin socket.
    pub number: u64,
    pub origin: Origin,
    pub denied: DenyEntry,
}

impl Entry {
    pub fn of_file(denied: Vec<DenyEntry>) -> Vec<Arc<Self>> {
        denied.into_iter().map(|denied| Arc::new(Self { number: 0, origin: Origin::File, denied })).collect()
    }

    /// For records: what, why and who.
    pub fn words(&self) -> String {
        let DenyEntry { what, reason, author, .. } = &self.denied;
        format!("{what}: {reason} ({author})")
    }

    pub fn expires(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(self.denied.expires).unwrap_or(0))
    }

    pub fn acts(&self, now: SystemTime) -> bool {
        now < self.expires()
    }
}

/// All entries. Those that have expired stay until the next change, and act no more.
#[derive(Default)]
pub struct Denials {
    entries: Vec<Arc<Entry>>,
    patterns: PrefixIndex<usize>,
    /// Where in `entries`.
    certificates: HashMap<[u8; 32], Vec<usize>>,
    serials: HashMap<String, Vec<usize>>,
    tokens: HashMap<String, Vec<usize>>,
}

impl Denials {
    pub fn new(entries: Vec<Arc<Entry>>) -> Self {
        let mut denials = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            match &entry.denied.what {
                Denied::Spiffe(pattern) => denials.patterns.insert(&pattern.to_string(), index),
                Denied::Certificate(fingerprint) => denials.certificates.entry(*fingerprint).or_default().push(index),
                Denied::Serial { serial, .. } => denials.serials.entry(serial.clone()).or_default().push(index),
                Denied::TokenId(id) => denials.tokens.entry(id.clone()).or_default().push(index),
            }
        }
        denials.entries = entries;
        denials
    }

    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn of_peer(&self, peer: &Peer, now: SystemTime) -> Option<&Entry> {
        self.of_certificate(&peer.id, &peer.fingerprint, &peer.serial, now)
    }

    pub fn of_svid(&self, svid: &Svid, now: SystemTime) -> Option<&Entry> {
        self.of_certificate(&svid.id, &svid.fingerprint, &svid.serial, now)
    }

    fn of_certificate(&self, id: &SpiffeId, leaf: &[u8; 32], serial: &str, now: SystemTime) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let by_serial = self.serials.get(serial.trim_start_matches('0')).into_iter().flatten();
        let by_serial = by_serial.filter(|index| match &self.entries[**index].denied.what {
            Denied::Serial { trust_domain, .. } => {
                trust_domain.as_ref().is_none_or(|name| name.as_str() == id.trust_domain_name())
            }
            _ => false,
        });
        let by_leaf = self.certificates.get(leaf).into_iter().flatten();
        self.acting(by_leaf.chain(by_serial), now).or_else(|| self.of_id(id, now))
    }

    /// Where someone is spoken of, without a certificate.
    pub fn of_id(&self, id: &SpiffeId, now: SystemTime) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let mut candidates = self.patterns.candidates(id.as_str()).flatten().map(|index| &*self.entries[*index]);
        let denies = |entry: &&Entry| matches!(&entry.denied.what, Denied::Spiffe(pattern) if pattern.matches(id));
        candidates.find(|entry| denies(entry) && entry.acts(now))
    }

    pub fn of_token(&self, token: &Verified, now: SystemTime) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let id = token.registered.token_id.as_deref();
        let by_id = id.and_then(|id| self.tokens.get(id)).into_iter().flatten();
        self.acting(by_id, now).or_else(|| self.of_id(workload(token)?, now))
    }

    fn acting<'a>(&self, mut indices: impl Iterator<Item = &'a usize>, now: SystemTime) -> Option<&Entry> {
        indices.find(|index| self.entries[**index].acts(now)).map(|index| &*self.entries[*index])
    }
}
