//! What a process finds where it is to go on. It signs the head of a chain, and with it everything before: so it reads that
//! first. A history in which something was changed is set aside, never removed, and another log begins.

use super::chain::LogId;
use super::target::numbered;
use super::verify::finding::Finding;
use super::verify::seals::Judge;
use super::verify::{Expected, Report, first_number, verify_each};
use crate::tls::Strictness;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Stands between the log's name and the time at which a changed one was set aside.
pub const BROKEN_MARK: &str = ".broken-";
/// Small: the process has just begun, and what it takes now it keeps.
const BUFFER_BYTES: usize = 64 << 10;

/// A history that was found changed, and lies beside.
#[derive(Clone, Debug)]
pub(super) struct SetAside {
    pub(super) file: PathBuf,
    pub(super) found: String,
    pub(super) findings: usize,
    pub(super) log: Option<LogId>,
    pub(super) last: u64,
}

/// A file, and how many of its bytes are whole lines.
type Piece = (PathBuf, u64);

/// What was read, of which files.
pub(super) struct History {
    files: Vec<Piece>,
    report: Report,
}

impl History {
    /// Reads `log`, and the full file before it if the chain comes from there. `torn`: bytes of half a line at the end.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(super) fn read(log: &Path, bytes: u64, torn: u64, now: SystemTime) -> io::Result<Self> {
        let whole = bytes.saturating_sub(torn);
        let mut files = vec![(log.to_owned(), whole)];
        let begins = first_number(&mut open(&files[0])?)?;
        let before = numbered(log, 1);
        if begins != Some(1)
            && let Ok(metadata) = std::fs::metadata(&before)
            && metadata.is_file()
        {
            // What is torn is at its end, if there is nothing behind it.
            let torn = if bytes == 0 { torn } else { 0 };
            files.insert(0, (before, metadata.len().saturating_sub(torn)));
        }
        // Whose seals they are will be asked by whoever verifies it: of the authorities of then, we know nothing now.
        let judge = Judge { trusted: None, archived: HashMap::new(), id: None, strictness: Strictness::Compat, now };
        let mut report = verify_each(files.iter().map(open), &judge, &Expected::default())?;
        // A clock that was wrong then is not an edit.
        report.findings.retain(|finding| !matches!(finding, Finding::SealTime { .. }));
        Ok(Self { files, report })
    }

    /// There is not one record in it: it is no log.
    pub(super) fn is_foreign(&self) -> bool {
        self.report.records == 0
    }

    pub(super) fn is_intact(&self) -> bool {
        self.report.findings.is_empty()
    }

    /// Numbers of its first and its last record.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        Some((self.report.first, self.report.last)).filter(|_| self.report.records > 0)
    }

    /// Gives each file in which something was found, and the log itself, another name.
    ///
    /// # Errors
    /// One of them stays where it is.
    pub(super) fn set_aside(self, now: SystemTime) -> io::Result<SetAside> {
        let mut aside = None;
        for (index, (path, _)) in self.files.iter().enumerate() {
            let is_log = index + 1 == self.files.len();
            let is_found = self.report.findings.iter().filter_map(Finding::at).any(|at| at.file == index);
            let is_there = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.len() > 0);
            if is_there && (is_log || is_found) {
                let name = free_name(path, now);
                std::fs::rename(path, &name)?;
                aside = Some(name);
            }
        }
        let first = self.report.findings.first();
        let place = first.and_then(Finding::at).map(|at| format!("line {} of {}: ", at.line, self.name(at.file)));
        let found = first.map(|finding| format!("{}{finding}", place.unwrap_or_default())).unwrap_or_default();
        Ok(SetAside {
            file: aside.unwrap_or_default(),
            found,
            findings: self.report.findings.len(),
            log: self.report.log,
            last: self.report.last,
        })
    }

    fn name(&self, file: usize) -> String {
        let name = self.files.get(file).and_then(|(path, _)| path.file_name());
        name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

fn open((path, bytes): &Piece) -> io::Result<BufReader<io::Take<File>>> {
    Ok(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?.take(*bytes)))
}

/// Nothing that lies there already is overwritten.
fn free_name(path: &Path, now: SystemTime) -> PathBuf {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let named = |number: u64| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("{BROKEN_MARK}{number}"));
        PathBuf::from(name)
    };
    let mut number = seconds;
    while named(number).symlink_metadata().is_ok() {
        number += 1;
    }
    named(number)
}
