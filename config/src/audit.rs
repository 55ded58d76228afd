//! `audit:` the log that proves what was decided.

mod post_url;
mod raw;

use crate::problem::Place;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use post_url::{PostUrl, PostUrlError};
pub(crate) use raw::RawAudit;
#[cfg(test)]
pub(crate) use raw::{RawAuditFile, RawDecisions, RawRotate, RawSeal, RawSecondPlace};

#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    pub to: AuditTarget,
    pub decisions: Decisions,
    pub on_full: OnFull,
    pub seal: Seal,
    pub second_place: Option<SecondPlace>,
    pub place: Place,
}

/// Where each seal goes as well: on another disk, or another machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecondPlace {
    /// A file that it is appended to.
    File(PathBuf),
    Post {
        url: PostUrl,
        form: PostAs,
        /// PEM file with the authorities of its certificate. `None`: the system's.
        roots: Option<PathBuf>,
    },
}

/// What the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostAs {
    /// The seal's line.
    Line,
    /// A log record of the OpenTelemetry protocol.
    Otlp,
}

impl SecondPlace {
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Post { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    Stdout,
    File {
        path: PathBuf,
        /// `None`: it grows, or somebody else renames it.
        rotate: Option<Rotate>,
    },
}

impl AuditTarget {
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Stdout => None,
            Self::File { path, .. } => Some(path),
        }
    }
}

/// When a file is full, and how many full ones stay beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// Default 128 MiB: some 200,000 records.
    pub size: u64,
    /// Default 8. The oldest is removed.
    pub keep: u32,
}

impl Default for Rotate {
    fn default() -> Self {
        Self { size: 128 << 20, keep: 8 }
    }
}

/// Which decisions are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decisions {
    /// Default true.
    pub denials: bool,
    /// Of what was allowed, this share, chosen by chance. Default 100.
    pub allows_percent: u8,
}

impl Default for Decisions {
    fn default() -> Self {
        Self { denials: true, allows_percent: 100 }
    }
}

/// What happens when as many records wait as may wait, because the target is full, slow or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnFull {
    /// What finds no place is counted; a record with the count follows.
    #[default]
    Gap,
    /// Requests and connections wait until there is a place.
    Block,
}

/// How often the head of the chain is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Default 1 min, when there is something to seal.
    pub every: Duration,
    /// Or after this many records. Default 10,000.
    pub records: u32,
}

impl Default for Seal {
    fn default() -> Self {
        Self { every: Duration::from_secs(60), records: 10_000 }
    }
}

#[cfg(test)]
mod tests;
