//! When a seal says that it was made, compared with the records around it. Who signs chooses that time, and everything that
//! it is judged by: an authority that has gone since would be asked about a time when it was there. Pure.

use super::finding::{At, FINDINGS_MAX, Finding, TimeFault};
use super::walk::{Kind, Link};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Records are made by many threads, and written in the order in which they come.
const TOLERANCE: Duration = Duration::from_secs(10);
/// What the clocks of two machines may differ by.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

/// A time as records spell it, such as `2026-11-22T01:02:03.000004Z`: what is later is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp([u8; Stamp::BYTES]);

impl Stamp {
    pub const BYTES: usize = 27;

    pub fn read(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }

    pub fn time(&self) -> Option<SystemTime> {
        let text = std::str::from_utf8(&self.0).ok()?;
        OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
    }
}

/// The times of a log, from record to record.
#[derive(Default)]
pub struct Times {
    newest: Option<Stamp>,
    /// The record before, if it is a seal.
    seal: Option<(At, u64, Stamp)>,
}

impl Times {
    /// `now`: of whoever verifies.
    pub fn step(&mut self, at: At, link: &Link, now: SystemTime, findings: &mut Vec<Finding>) {
        let Some(time) = link.time else { return };
        if link.kind == Kind::Resumed {
            // Whether the clock was set back meanwhile is said by the record behind it.
            self.newest = self.newest.max(Some(time));
            return;
        }
        let seal = self.seal.take();
        if link.kind == Kind::Clock {
            // The writer noticed: from here on it is earlier.
            self.newest = Some(time);
            return;
        }
        let mut find = |at, number, fault| {
            if findings.len() < FINDINGS_MAX {
                findings.push(Finding::SealTime { at, number, fault });
            }
        };
        if let Some((at, number, sealed)) = seal.filter(|(.., sealed)| is_before(time, *sealed)) {
            find(at, number, TimeFault::AfterTheNext);
            // It is not what the next seals are compared with.
            self.newest = Some(time).max(self.newest.filter(|newest| *newest != sealed));
        }
        if link.kind == Kind::Seal {
            if self.newest.is_some_and(|newest| is_before(time, newest)) {
                find(at, link.number, TimeFault::BeforeItsRecords);
            }
            if time.time().is_some_and(|time| time > now + CLOCKS_DIFFER) {
                find(at, link.number, TimeFault::Future);
            }
            self.seal = Some((at, link.number, time));
        }
        self.newest = self.newest.max(Some(time));
    }
}

/// By more than comes of threads.
fn is_before(time: Stamp, other: Stamp) -> bool {
    // Most are in order, and need not be read.
    time < other && matches!((time.time(), other.time()), (Some(time), Some(other)) if time + TOLERANCE < other)
}
