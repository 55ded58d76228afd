//! Verifies an audit log offline: that the chain is whole, whom its seals are from, and how much of it they cover.
//!
//! [`walk`] follows the chain, [`seals`] judges seals and [`times`] what they say of when, [`spans`] says what each vouches
//! for; this file reads lines and puts all together.

pub mod finding;
pub mod seals;
pub mod spans;
#[cfg(test)]
mod tests;
pub mod times;
pub mod walk;

use super::chain::{Hash, LINE_BYTES_MAX, LogId, Record};
use finding::{At, FINDINGS_MAX, Finding};
use seals::{Judge, Sealed};
use spans::{Span, Spans};
use std::collections::HashMap;
use std::io::{self, BufRead, Read};
use times::Times;
use walk::{Entry, Kind, Link, Step, Walk};

/// What the log is compared with.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The hash of a record that has to be there.
    pub head: Option<Hash>,
    /// What came to the second place.
    pub seals: Option<SecondPlace>,
    /// The files are the whole log, from its first record.
    pub whole: bool,
}

/// Seals that were sent away as they were made. What was there first counts: who could only add to it later cannot take it back.
#[derive(Clone, Debug, Default)]
pub struct SecondPlace {
    seals: HashMap<(LogId, u64), Hash>,
    /// There are two of them, which no log has.
    twice: Vec<(LogId, u64)>,
}

impl SecondPlace {
    pub fn add(&mut self, log: LogId, number: u64, hash: Hash) {
        if *self.seals.entry((log, number)).or_insert(hash) != hash {
            self.twice.push((log, number));
        }
    }
}

/// What was found out.
#[derive(Debug, Default)]
pub struct Report {
    pub log: Option<LogId>,
    /// That are in place.
    pub records: u64,
    /// Numbers of the first and the last record.
    pub first: u64,
    pub last: u64,
    /// The hash of the last record.
    pub head: Option<Hash>,
    pub findings: Vec<Finding>,
    /// Number of a record that says so, and how many were lost before it.
    pub gaps: Vec<(u64, u64)>,
    /// Half lines that a later record accounts for.
    pub torn: Vec<At>,
    /// Half a line at the very end: it is being written, or its writer was killed.
    pub unfinished: Option<At>,
    /// How often a process went on with the log.
    pub resumed: u64,
    /// Numbers of records that say that the clock was set back.
    pub clock_set_back: Vec<u64>,
    /// Numbers of records that say that another log before this one was found changed.
    pub broken: Vec<u64>,
    pub sealed: Sealed,
    /// All records in order, by who vouches for them.
    pub spans: Vec<Span>,
    /// Seals in these files that the second place has too, and the number of the last one.
    pub seen_elsewhere: u64,
    pub last_elsewhere: Option<u64>,
    /// Records behind the one that [`Expected::head`] names.
    pub after_head: Option<u64>,
}

impl Report {
    /// The number of the record that is the expected head.
    pub fn head_number(&self) -> Option<u64> {
        self.after_head.map(|after| self.last.saturating_sub(after))
    }

    /// Records behind the last seal that somebody vouches for.
    pub fn unsealed(&self) -> u64 {
        self.last.saturating_sub(self.sealed.last.unwrap_or(self.first.saturating_sub(1)))
    }
}

/// Reads the files in their order and follows the chain through all of them.
///
/// # Errors
/// One of them cannot be read.
pub fn verify<R: BufRead>(files: Vec<R>, judge: &Judge, expected: &Expected) -> io::Result<Report> {
    verify_each(files.into_iter().map(Ok), judge, expected)
}

/// The same, of files that are opened when their turn comes.
///
/// # Errors
/// One of them cannot be opened or read.
pub fn verify_each<R: BufRead>(
    files: impl Iterator<Item = io::Result<R>>,
    judge: &Judge,
    expected: &Expected,
) -> io::Result<Report> {
    let mut verifier = Verifier {
        judge,
        expected,
        walk: None,
        times: Times::default(),
        spans: Spans::default(),
        findings: Vec::new(),
        report: Report::default(),
    };
    let mut waiting: Option<Entry> = None;
    for (file, reader) in files.enumerate() {
        let mut reader = reader?;
        let mut line = 0;
        while let Some((text, is_ended)) = read_line(&mut reader)? {
            line += 1;
            let entry = Entry::read(At { file, line }, text, is_ended);
            if let Some(before) = waiting.replace(entry) {
                verifier.line(&before, waiting.as_ref());
            }
        }
    }
    if let Some(last) = waiting {
        verifier.line(&last, None);
    }
    Ok(verifier.finish())
}

struct Verifier<'a> {
    judge: &'a Judge,
    expected: &'a Expected,
    walk: Option<Walk>,
    times: Times,
    spans: Spans,
    /// Of seals, and of what is expected.
    findings: Vec<Finding>,
    report: Report,
}

impl Verifier<'_> {
    fn line(&mut self, this: &Entry, next: Option<&Entry>) {
        let walk = match &mut self.walk {
            Some(walk) => walk,
            none => none.insert(Walk::begin(this, next)),
        };
        match (walk.step(this, next), &this.link) {
            (Step::InPlace, Ok(link)) => self.in_place(this, link),
            (Step::Torn, _) => self.report.torn.push(this.at),
            (Step::Unfinished, _) => self.report.unfinished = Some(this.at),
            (Step::InPlace | Step::Wrong, _) => {}
        }
    }

    fn in_place(&mut self, entry: &Entry, link: &Link) {
        let report = &mut self.report;
        report.records += 1;
        report.last = link.number;
        report.head = Some(link.hash);
        report.log.get_or_insert(link.log);
        if self.expected.head == Some(link.hash) {
            report.after_head = Some(0);
        } else if let Some(after) = &mut report.after_head {
            *after += 1;
        }
        let elsewhere = self.expected.seals.as_ref().and_then(|place| place.seals.get(&(link.log, link.number)));
        match elsewhere {
            Some(hash) if *hash == link.hash => {
                report.seen_elsewhere += 1;
                report.last_elsewhere = Some(link.number);
            }
            Some(_) if self.findings.len() < FINDINGS_MAX => {
                self.findings.push(Finding::NotAsSealed { at: entry.at, number: link.number });
            }
            Some(_) | None => {}
        }
        if report.records == 1 || link.kind == Kind::Resumed {
            self.spans.process(link.number);
        }
        self.times.step(entry.at, link, self.judge.now, &mut self.findings);
        match link.kind {
            Kind::Other => {}
            Kind::Resumed => report.resumed += 1,
            Kind::Clock => report.clock_set_back.push(link.number),
            Kind::Broken => report.broken.push(link.number),
            Kind::Gap => report.gaps.push((link.number, lost(&entry.text))),
            Kind::Seal => self.seal(entry, link.number),
        }
    }

    fn seal(&mut self, entry: &Entry, number: u64) {
        let since = self.report.sealed.last.map_or(self.walk.as_ref().map_or(1, |walk| walk.first), |last| last + 1);
        let judged = match Record::read(&entry.text) {
            Ok(record) => self.judge.judge(&record, &mut self.report.sealed),
            Err(fault) => Err(fault.to_string()),
        };
        match judged {
            Ok(vouched) => self.spans.seal(number, vouched),
            Err(why) if self.findings.len() < FINDINGS_MAX => {
                self.findings.push(Finding::Seal { at: entry.at, number, since, why });
            }
            Err(_) => {}
        }
    }

    fn finish(mut self) -> Report {
        let first = self.walk.as_ref().map_or(0, |walk| walk.first);
        let mut findings = self.walk.map(Walk::finish).unwrap_or_default();
        findings.append(&mut self.findings);
        if self.expected.whole && first > 1 {
            findings.push(Finding::Removed { first: 1, last: first - 1, before: Some(At { file: 0, line: 1 }) });
        }
        if self.expected.head.is_some() && self.report.after_head.is_none() {
            findings.push(Finding::HeadMissing);
        }
        if let (Some(place), Some(log)) = (&self.expected.seals, self.report.log) {
            match place.seals.keys().filter(|(of, _)| *of == log).map(|(_, number)| *number).max() {
                None => findings.push(Finding::UnknownElsewhere { log }),
                Some(last) if last > self.report.last => {
                    findings.push(Finding::Removed { first: self.report.last + 1, last, before: None });
                }
                Some(_) => {}
            }
            let twice = place.twice.iter().filter(|(of, _)| *of == log);
            findings.extend(twice.map(|(_, number)| Finding::SealedTwice { number: *number }));
        }
        findings.sort_by_key(|finding| (finding.at().is_none(), finding.at()));
        findings.truncate(FINDINGS_MAX);
        self.report.first = first;
        self.report.spans = self.spans.finish(self.report.last);
        self.report.findings = findings;
        self.report
    }
}

/// The number of the first record that can be read. One of the first lines may have been changed.
///
/// # Errors
/// It cannot be read.
pub fn first_number(reader: &mut impl BufRead) -> io::Result<Option<u64>> {
    const LINES_MAX: usize = 100;
    for _ in 0..LINES_MAX {
        match read_line(reader)? {
            None => break,
            Some((line, _)) => match Record::read(&line) {
                Ok(record) => return Ok(Some(record.number)),
                Err(_) => continue,
            },
        }
    }
    Ok(None)
}

fn lost(line: &[u8]) -> u64 {
    let members: Option<serde_json::Value> = serde_json::from_slice(line).ok();
    members.and_then(|members| members["count"].as_u64()).unwrap_or_default()
}

/// A line without its end, and whether it had one. What is longer than any record is cut into pieces, none of which is one.
///
/// # Errors
/// It cannot be read.
pub fn read_line(reader: &mut impl BufRead) -> io::Result<Option<(Vec<u8>, bool)>> {
    let mut text = Vec::new();
    reader.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut text)?;
    if text.is_empty() {
        return Ok(None);
    }
    let is_ended = text.pop_if(|last| *last == b'\n').is_some();
    Ok(Some((text, is_ended)))
}
