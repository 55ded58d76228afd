//! What may be wrong with a log, in words. Pure.

use crate::audit::chain::{LineFault, LogId};
use std::fmt;

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
    /// A first record that was made behind another one.
    NotFirst { at: At },
    /// The half line that this record names is not before it.
    HalfLineRemoved { at: At, number: u64 },
    /// A seal that proves nothing. `since`: the first record that it should have sealed.
    Seal { at: At, number: u64, since: u64, why: String },
    /// A seal that was not made when it says.
    SealTime { at: At, number: u64, fault: TimeFault },
    /// The second place has another record of this number.
    NotAsSealed { at: At, number: u64 },
    /// The second place has two seals of this number: one of them was made later, by somebody who has the key.
    SealedTwice { number: u64 },
    /// The second place has no seal of this log.
    UnknownElsewhere { log: LogId },
    /// `--expect-head` names a record that is not here.
    HeadMissing,
}

/// Why a seal was not made when it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeFault {
    #[error("it says a time before that of records that it seals")]
    BeforeItsRecords,
    #[error("it says a time after that of the record behind it")]
    AfterTheNext,
    #[error("it says a time that is yet to come")]
    Future,
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
            | Self::NotFirst { at }
            | Self::HalfLineRemoved { at, .. }
            | Self::Seal { at, .. }
            | Self::SealTime { at, .. }
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
            | Self::HalfLineRemoved { number, .. }
            | Self::Seal { number, .. }
            | Self::SealTime { number, .. }
            | Self::NotAsSealed { number, .. }
            | Self::SealedTwice { number } => Some(*number),
            Self::Inserted { number, .. } => *number,
            Self::Removed { first, .. } => Some(*first),
            Self::NotFirst { .. } => Some(1),
            Self::UnknownElsewhere { .. } | Self::HeadMissing => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { number, fault, .. } => write!(f, "record {number} was changed: {fault}"),
            Self::Rewritten { number, .. } => {
                write!(f, "record {number} was replaced: the next one was written behind another")
            }
            Self::Removed { first, last, before: Some(_) } if first == last => {
                write!(f, "record {first} was removed before this line")
            }
            Self::Removed { first, last, before: Some(_) } => {
                write!(f, "records {first} to {last} were removed before this line")
            }
            Self::Removed { first, last, before: None } => {
                write!(f, "the log was cut: records {first} to {last} at least are missing")
            }
            Self::Inserted { number: Some(number), .. } => write!(f, "a record {number} was inserted here"),
            Self::Inserted { number: None, .. } => f.write_str("a line that is no record was inserted"),
            Self::Moved { number, .. } => write!(f, "record {number} was moved here"),
            Self::OtherLog { number, log, .. } => write!(f, "record {number} is of another log, {log}"),
            Self::NotFirst { .. } => f.write_str("record 1 was written behind another one: it is not the first"),
            Self::HalfLineRemoved { number, .. } => {
                write!(f, "half a line before this was removed or changed: record {number} names another")
            }
            Self::Seal { number, since, why, .. } => {
                write!(f, "the seal in record {number} proves nothing of records {since} to {number}: {why}")
            }
            Self::SealTime { number, fault, .. } => {
                write!(f, "the seal in record {number} was not made when it says: {fault}")
            }
            Self::NotAsSealed { number, .. } => {
                write!(f, "record {number} is not the one that the second place has")
            }
            Self::SealedTwice { number } => {
                write!(f, "the second place has two seals of record {number}: somebody with the key made one later")
            }
            Self::UnknownElsewhere { log } => {
                write!(f, "the second place has no seal of log {log}: it was written anew, or is another one")
            }
            Self::HeadMissing => f.write_str("the expected head is not there: the log was cut, or written anew"),
        }
    }
}
