//! Answers of upstream nameservers, kept for as long as they say. Pure: the time is an argument.

use super::wire::{Query, Reply, flag};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ENTRIES_MAX: usize = 4096;
/// Of answers' bytes; most are below 200.
const BYTES_MAX: usize = 4 << 20;
/// A single answer that is longer than this is not worth what it displaces.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// What two queries have to share so that they may share an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Name in lower case, type and class.
    question: Box<[u8]>,
    dnssec_ok: bool,
    /// RFC 4035 §3.2.2: what was not validated is not for somebody who wants it to be.
    checking_disabled: bool,
    recursion_desired: bool,
    /// Some nameservers answer nobody who has one, so the failure of the one is not the other's.
    edns: bool,
}

impl Key {
    pub fn of(query: &Query) -> Self {
        let mut question = query.question.clone();
        let name = question.len() - 4;
        question[..name].make_ascii_lowercase();
        Self {
            question,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.flags & flag::CHECKING_DISABLED != 0,
            recursion_desired: query.flags & flag::RECURSION_DESIRED != 0,
            edns: query.edns.is_some(),
        }
    }
}

/// Bounded by entries and by bytes. The oldest goes first: a client that asks for names at random cannot keep others' out
/// for longer than it takes to ask once more.
#[derive(Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    /// In the order of insertion; a number that is no entry's any more is skipped.
    order: VecDeque<(u64, Key)>,
    bytes: usize,
    inserted: u64,
}

struct Entry {
    number: u64,
    reply: Arc<Reply>,
    at: Instant,
}

impl Cache {
    /// The answer, and how old it is.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<(Arc<Reply>, Duration)> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.at);
        if age < entry.reply.lifetime {
            return Some((entry.reply.clone(), age));
        }
        self.remove(key);
        None
    }

    /// Keeps what may be kept.
    pub fn insert(&mut self, key: Key, reply: Arc<Reply>, now: Instant) {
        if reply.lifetime.is_zero() || reply.bytes.len() > ANSWER_BYTES_MAX {
            return;
        }
        self.remove(&key);
        self.inserted += 1;
        self.bytes += reply.bytes.len();
        self.order.push_back((self.inserted, key.clone()));
        self.entries.insert(key, Entry { number: self.inserted, reply, at: now });
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX || self.order.len() > 2 * ENTRIES_MAX {
            let Some((number, key)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
                self.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.reply.bytes.len();
        }
    }
}

#[cfg(test)]
mod tests;
