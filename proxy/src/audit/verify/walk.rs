//! Follows the chain from line to line, and names the line that does not belong. Pure.
//!
//! One line is looked ahead: whether a number that is too high means that records are missing before it, or that this one
//! stands in the wrong place, is told by the line behind it.

use crate::audit::chain::{Hash, LineFault, LogId, Record, read_digits};
use crate::audit::{record, seal};
use crate::tls::bundle::sha256;
use std::collections::BTreeMap;

/// Whoever made more edits than this learns how many there are.
pub const FINDINGS_MAX: usize = 1000;

/// A line of one of the files. Lines count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub file: usize,
    pub line: u64,
}

/// What is wrong with the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The line is not what was written. `number`: of the record that should be there.
    Changed { at: At, number: u64, fault: LineFault },
    /// It agrees with itself, but the record behind it was made after another one.
    Rewritten { at: At, number: u64 },
    /// `before`: the line in front of which they should be. `None`: at the end.
    Removed { first: u64, last: u64, before: Option<At> },
    /// It was not there: a copy of another record, or none at all.
    Inserted { at: At, number: Option<u64> },
    /// It was written at another place.
    Moved { at: At, number: u64 },
    /// Here another log goes on.
    OtherLog { at: At, number: u64, log: LogId },
    /// A seal that proves nothing. `since`: the first record that it should have sealed.
    Seal { at: At, number: u64, since: u64, why: String },
    /// The second place has another record of this number.
    NotAsSealed { at: At, number: u64 },
    /// The second place has two seals of this number: one of them was made later, by somebody who has the key.
    SealedTwice { number: u64 },
    /// The second place has no seal of this log.
    UnknownElsewhere { log: LogId },
    /// `--expect-head` names a record that is not here.
    HeadMissing,
}

impl Finding {
    /// Where to look; what is missing at the end has no place.
    pub fn at(&self) -> Option<At> {
        match self {
            Self::Changed { at, .. }
            | Self::Rewritten { at, .. }
            | Self::Inserted { at, .. }
            | Self::Moved { at, .. }
            | Self::OtherLog { at, .. }
            | Self::Seal { at, .. }
            | Self::NotAsSealed { at, .. } => Some(*at),
            Self::Removed { before, .. } => *before,
            Self::SealedTwice { .. } | Self::UnknownElsewhere { .. } | Self::HeadMissing => None,
        }
    }

    /// The number of the record, or of the first one.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Changed { number, .. }
            | Self::Rewritten { number, .. }
            | Self::Moved { number, .. }
            | Self::OtherLog { number, .. }
            | Self::Seal { number, .. }
            | Self::NotAsSealed { number, .. }
            | Self::SealedTwice { number } => Some(*number),
            Self::Inserted { number, .. } => *number,
            Self::Removed { first, .. } => Some(*first),
            Self::UnknownElsewhere { .. } | Self::HeadMissing => None,
        }
    }
}

/// One line, as it was read.
pub struct Entry {
    pub at: At,
    pub text: Vec<u8>,
    /// False: the file ends within it.
    pub is_ended: bool,
    pub link: Result<Link, LineFault>,
}

/// What a record says of its place.
#[derive(Clone, Debug)]
pub struct Link {
    pub number: u64,
    pub log: LogId,
    pub hash: Hash,
    pub kind: Kind,
    before: Hash,
    /// SHA-256 of half a line before it, which a killed process left.
    names_torn: Option<Hash>,
}

/// As far as whoever verifies a log looks into its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Seal,
    Gap,
    Resumed,
    Other,
}

impl Entry {
    pub fn read(at: At, text: Vec<u8>, is_ended: bool) -> Self {
        let link = Record::read(&text).map(|read| Link {
            number: read.number,
            log: read.log,
            hash: read.hash,
            kind: match read.kind {
                seal::KIND => Kind::Seal,
                record::GAP => Kind::Gap,
                record::RESUMED => Kind::Resumed,
                _ => Kind::Other,
            },
            before: read.before,
            names_torn: (read.kind == record::RESUMED).then(|| torn_of(read.line)).flatten(),
        });
        Self { at, text, is_ended, link }
    }

    fn number(&self) -> Option<u64> {
        self.link.as_ref().ok().map(|link| link.number)
    }
}

fn torn_of(line: &str) -> Option<Hash> {
    let members: serde_json::Value = serde_json::from_str(line).ok()?;
    let digits = members["torn.sha256"].as_str()?;
    read_digits(digits.as_bytes()).ok()?.try_into().ok()
}

/// What a line turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next record.
    InPlace,
    /// Half a line that a later record accounts for.
    Torn,
    /// Something is wrong with it.
    Wrong,
}

/// Where the walk is.
pub struct Walk {
    /// `None`: nothing could be read yet.
    log: Option<LogId>,
    pub first: u64,
    expected: u64,
    /// The hash that the next record should name; `None`: that of a record which could not be read.
    head: Option<Hash>,
    last: Option<At>,
    /// First of a range of numbers that were passed over → its last, and the line behind it.
    missing: BTreeMap<u64, (u64, At)>,
    aside: Vec<(At, u64)>,
    findings: Vec<Finding>,
}

impl Walk {
    /// Begins with `first`, unless the line behind it says that it does not belong there.
    pub fn begin(first: &Entry, second: Option<&Entry>) -> Self {
        let second = second.and_then(|second| second.link.as_ref().ok());
        let (log, begins) = match (first.link.as_ref().ok(), second) {
            (Some(first), Some(second)) if first.log == second.log && second.number < first.number => {
                (Some(first.log), second.number)
            }
            (Some(first), _) => (Some(first.log), first.number),
            // It cannot be read: the second follows it.
            (None, Some(second)) => (Some(second.log), second.number.saturating_sub(1).max(1)),
            (None, None) => (None, 1),
        };
        Self {
            log,
            first: begins,
            expected: begins,
            head: None,
            last: None,
            missing: BTreeMap::new(),
            aside: Vec::new(),
            findings: Vec::new(),
        }
    }

    pub fn step(&mut self, this: &Entry, next: Option<&Entry>) -> Step {
        let link = match &this.link {
            Ok(link) => link,
            Err(fault) => return self.unreadable(this, *fault, next),
        };
        let log = *self.log.get_or_insert_with(|| {
            self.expected = link.number;
            link.log
        });
        if link.log != log {
            return self.other_log(this, link, next);
        }
        let next_link = next.and_then(|next| next.link.as_ref().ok()).filter(|next| next.log == log);
        if link.number == self.expected {
            if self.head.is_some_and(|head| head != link.before) {
                // Both agree with themselves. This one was hashed with the name of another one before it.
                self.find(Finding::Rewritten {
                    at: self.last.unwrap_or(this.at),
                    number: link.number.saturating_sub(1),
                });
            }
            return self.accept(this, link);
        }
        if link.number < self.expected {
            let is_continued = next_link.is_some_and(|next| {
                next.number == self.expected && link.number + 1 == next.number && next.before == link.hash
            });
            if is_continued && self.head != Some(link.hash) {
                // What stood here before in its place was put there.
                self.find(Finding::Inserted { at: self.last.unwrap_or(this.at), number: Some(link.number) });
                return self.accept(this, link);
            }
            return self.put_aside(this, link);
        }
        match next_link.map(|next| next.number) {
            Some(number) if number == self.expected => self.put_aside(this, link),
            Some(number) if number == self.expected + 1 => {
                // It stands in the place of another one.
                self.missing.insert(self.expected, (self.expected, this.at));
                self.expected += 1;
                self.head = None;
                self.put_aside(this, link)
            }
            _ => {
                self.missing.insert(self.expected, (link.number - 1, this.at));
                self.accept(this, link)
            }
        }
    }

    fn accept(&mut self, this: &Entry, link: &Link) -> Step {
        self.expected = link.number.saturating_add(1);
        self.head = Some(link.hash);
        self.last = Some(this.at);
        Step::InPlace
    }

    fn put_aside(&mut self, this: &Entry, link: &Link) -> Step {
        if self.aside.len() < FINDINGS_MAX {
            self.aside.push((this.at, link.number));
        }
        Step::Wrong
    }

    fn unreadable(&mut self, this: &Entry, fault: LineFault, next: Option<&Entry>) -> Step {
        let is_named = |next: &Entry| {
            let digest = next.link.as_ref().ok().and_then(|link| link.names_torn);
            digest.is_some_and(|digest| digest == sha256(&this.text))
        };
        // A writer that goes on in another file writes the line there whole.
        let is_whole_there = |next: &Entry| !this.is_ended && next.link.is_ok() && next.text.starts_with(&this.text);
        if next.is_some_and(|next| is_named(next) || is_whole_there(next)) {
            return Step::Torn;
        }
        if next.and_then(Entry::number) == Some(self.expected) {
            self.find(Finding::Inserted { at: this.at, number: None });
        } else {
            self.find(Finding::Changed { at: this.at, number: self.expected, fault });
            self.expected += 1;
            self.head = None;
            self.last = Some(this.at);
        }
        Step::Wrong
    }

    fn other_log(&mut self, this: &Entry, link: &Link, next: Option<&Entry>) -> Step {
        self.find(Finding::OtherLog { at: this.at, number: link.number, log: link.log });
        let comes_back = next.is_none_or(|next| next.link.as_ref().is_ok_and(|next| Some(next.log) == self.log));
        if !comes_back {
            // From here on it is the other one's order that counts.
            self.settle();
            self.log = Some(link.log);
            self.accept(this, link);
        }
        Step::Wrong
    }

    fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
        self.findings.truncate(FINDINGS_MAX);
    }

    /// What is aside was moved here from where it is missing, or never missing anywhere.
    fn settle(&mut self) {
        for (at, number) in std::mem::take(&mut self.aside) {
            let is_passed = take_from(&mut self.missing, number);
            let is_moved = is_passed || number >= self.expected || number < self.first;
            self.find(match is_moved {
                true => Finding::Moved { at, number },
                false => Finding::Inserted { at, number: Some(number) },
            });
        }
        for (first, (last, before)) in std::mem::take(&mut self.missing) {
            self.find(Finding::Removed { first, last, before: Some(before) });
        }
    }

    pub fn finish(mut self) -> Vec<Finding> {
        self.settle();
        self.findings
    }
}

/// Whether `number` was in one of the ranges, of which it is no more.
fn take_from(ranges: &mut BTreeMap<u64, (u64, At)>, number: u64) -> bool {
    let Some((&first, &(last, before))) = ranges.range(..=number).next_back().filter(|(_, (last, _))| *last >= number)
    else {
        return false;
    };
    ranges.remove(&first);
    if first < number {
        ranges.insert(first, (number - 1, before));
    }
    if number < last {
        ranges.insert(number + 1, (last, before));
    }
    true
}
