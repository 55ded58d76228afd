//! Follows the chain from line to line, and names the line that does not belong. Pure.
//!
//! One line is looked ahead: whether a number that is too high means that records are missing before it, or that this one
//! stands in the wrong place, is told by the line behind it.

use super::finding::{At, FINDINGS_MAX, Finding};
use super::times::Stamp;
use crate::audit::chain::{Hash, LineFault, LogId, Record, read_digits};
use crate::audit::{record, seal};
use crate::tls::bundle::sha256;
use crate::tls::certificate::hex;
use std::collections::BTreeMap;

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
    /// When it was made, as it says.
    pub time: Option<Stamp>,
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
    /// The clock was set back.
    Clock,
    /// The history before this log was found changed.
    Broken,
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
                record::CLOCK => Kind::Clock,
                record::BROKEN => Kind::Broken,
                _ => Kind::Other,
            },
            time: read.time.and_then(Stamp::read),
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
    /// Half a line at the end of all: it is being written, or its writer was killed.
    Unfinished,
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
    /// The line before was half a line that the next record names.
    is_behind_torn: bool,
    /// First of a range of numbers that were passed over → its last, and the line behind it.
    missing: BTreeMap<u64, (u64, At)>,
    aside: Vec<(At, u64)>,
    findings: Vec<Finding>,
}

impl Walk {
    /// Begins with `first`, unless the line behind it says that it does not belong there.
    pub fn begin(first: &Entry, second: Option<&Entry>) -> Self {
        let is_torn = second.is_some_and(|second| accounts_for(second, first));
        let second = second.and_then(|second| second.link.as_ref().ok());
        let (log, begins) = match (first.link.as_ref().ok(), second) {
            (Some(first), Some(second)) if first.log == second.log && second.number < first.number => {
                (Some(first.log), second.number)
            }
            (Some(first), _) => (Some(first.log), first.number),
            (None, Some(second)) if is_torn => (Some(second.log), second.number),
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
            is_behind_torn: false,
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
        if link.number == 1 && link.before != [0; 32] {
            self.find(Finding::NotFirst { at: this.at });
        }
        if !std::mem::take(&mut self.is_behind_torn) && link.names_torn.is_some() {
            self.find(Finding::HalfLineRemoved { at: this.at, number: link.number });
        }
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
        if next.is_some_and(|next| accounts_for(next, this)) {
            self.is_behind_torn = true;
            return Step::Torn;
        }
        if next.is_none() && self.is_unfinished(this) {
            return Step::Unfinished;
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

    /// As far as it goes, it is the next record. A whole one of which only the end was changed is not.
    fn is_unfinished(&self, this: &Entry) -> bool {
        let head = self.head.map_or_else(String::new, |head| hex(&head));
        let begin = match self.head {
            Some(_) => format!("{{\"seq\":{},\"prev\":\"{head}\",\"log\":\"", self.expected),
            None => "{\"seq\":".to_owned(),
        };
        let common = begin.len().min(this.text.len());
        let is_whole = this.text.split_last().is_some_and(|(_, line)| Record::read(line).is_ok());
        !this.is_ended && this.text[..common] == begin.as_bytes()[..common] && !is_whole
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

/// Whether `this` is half a line that the record behind it names, or that a writer which goes on in another file wrote there
/// whole.
fn accounts_for(next: &Entry, this: &Entry) -> bool {
    let Ok(link) = &next.link else { return false };
    let is_named = link.names_torn.is_some_and(|digest| digest == sha256(&this.text));
    is_named || (!this.is_ended && next.text.starts_with(&this.text))
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
