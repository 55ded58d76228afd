//! Problems of a configuration: all of them at once, each with its place and what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where in which file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub file: Arc<PathBuf>,
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// For what was said on the command line and stands in no file.
    pub fn command_line() -> Self {
        Self { file: Arc::new(PathBuf::from("command line")), line: 0, column: 0 }
    }

    /// For what concerns a file as a whole.
    pub fn file(path: &Path) -> Self {
        Self { file: Arc::new(path.to_owned()), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}:{}", self.file.display(), self.column),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// What is wrong, with the value.
    pub what: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(place: &Place, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { place: place.clone(), what: what.into(), hint: Some(hint.into()) }
    }

    /// For the few problems whose `what` already says what to do.
    pub fn without_hint(place: &Place, what: impl Into<String>) -> Self {
        Self { place: place.clone(), what: what.into(), hint: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Every problem of a configuration, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Sorts by place. Each problem is said once, although several readers may have met it.
    pub(crate) fn in_order(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|one, other| (&one.place, &one.what).cmp(&(&other.place, &other.what)));
        problems.dedup();
        Self(problems)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
