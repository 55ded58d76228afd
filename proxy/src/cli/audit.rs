//! `postern audit verify`: is this audit log what was written, who says so, and of how much of it?
//!
//! Everything is found out in [`crate::audit::verify`]; this file opens files and prints.

use super::output::print;
use super::verify::{CannotTell as CertificatesUnread, read_pattern, read_pem, with_causes};
use crate::audit::archive::MARK;
use crate::audit::chain::{Hash, LINE_BYTES_MAX, Record, read_digits};
use crate::audit::verify::seals::{Judge, Vouched};
use crate::audit::verify::walk::{At, Finding};
use crate::audit::verify::{Expected, Report, SecondPlace, verify};
use crate::tls::Strictness;
use crate::tls::bundle::sha256;
use crate::tls::certificate::hex;
use clap::{Args, Subcommand};
use postern_config::{SpiffeIdError, TrustDomain};
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `postern audit …`
#[derive(Args, Debug)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    /// Name every record that was changed, removed, inserted or moved: exit 0 none, 1 some, 2 could not tell
    Verify(VerifyArgs),
}

/// `postern audit verify …`
#[derive(Args, Debug, Clone, Default)]
pub struct VerifyArgs {
    /// The files of one log, in any order; bundles archived beside them are found, and passed over here
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The hash of a record that has to be there, such as the last one that is known from elsewhere
    #[arg(long, value_name = "HASH")]
    pub expect_head: Option<String>,
    /// Seals that came to the second place: each has to be in the log
    #[arg(long, value_name = "FILE")]
    pub seals: Option<PathBuf>,
    /// The files are the whole log: it begins with its first record
    #[arg(long)]
    pub whole: bool,
    /// PEM file with authorities that you believe; without it, those archived beside the log are all there is
    #[arg(long, value_name = "PEM", requires = "trust_domain")]
    pub bundle: Option<PathBuf>,
    /// The trust domain whose bundle --bundle is
    #[arg(long, value_name = "NAME", requires = "bundle")]
    pub trust_domain: Option<String>,
    /// The SPIFFE ID that has to have sealed it, or a pattern of it
    #[arg(long, value_name = "PATTERN")]
    pub id: Option<String>,
    /// As with `compat: true`: accept leaves without basicConstraints or with non-critical keyUsage
    #[arg(long)]
    pub compat: bool,
}

const INTACT: u8 = 0;
const NOT_INTACT: u8 = 1;
const COULD_NOT_TELL: u8 = 2;

/// Verifies and prints.
pub fn run(args: AuditArgs) -> ExitCode {
    let What::Verify(args) = args.what;
    match examine(&args) {
        Ok(examined) => {
            print(&examined.describe());
            ExitCode::from(examined.exit_code())
        }
        Err(error) => {
            eprintln!("could not tell: {}", with_causes(&error));
            ExitCode::from(COULD_NOT_TELL)
        }
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CannotTell {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot read the log")]
    Log(#[source] io::Error),
    #[error("there is no record in {}", .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    Empty(Vec<PathBuf>),
    #[error("`{0}` is no hash: write its 64 lower-case hexadecimal digits")]
    Hash(String),
    #[error("line {line} of {} is no seal", path.display())]
    NoSeal { path: PathBuf, line: usize },
    #[error("`{text}` is no trust domain: it")]
    TrustDomain { text: String, source: SpiffeIdError },
    #[error("the terms are not clear")]
    Terms(#[from] CertificatesUnread),
}

/// What was found out of which files.
pub struct Examined {
    pub report: Report,
    files: Vec<PathBuf>,
    has_trusted: bool,
    has_second_place: bool,
}

/// The command without its printing.
///
/// # Errors
/// [`CannotTell`]: nothing is known about the log.
pub fn examine(args: &VerifyArgs) -> Result<Examined, CannotTell> {
    let files = in_order(&args.files)?;
    let expected = Expected {
        head: args.expect_head.as_deref().map(read_hash).transpose()?,
        seals: args.seals.as_deref().map(read_seals).transpose()?,
        whole: args.whole,
    };
    let judge = Judge {
        trusted: trusted(args)?,
        archived: archived(&files),
        id: args.id.as_deref().map(read_pattern).transpose()?,
        strictness: if args.compat { Strictness::Compat } else { Strictness::Strict },
    };
    let readers = files.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let report = verify(readers, &judge, &expected).map_err(CannotTell::Log)?;
    if report.records == 0 && report.findings.is_empty() {
        return Err(CannotTell::Empty(files));
    }
    let (has_trusted, has_second_place) = (judge.trusted.is_some(), expected.seals.is_some());
    Ok(Examined { report, files, has_trusted, has_second_place })
}

impl Examined {
    pub fn exit_code(&self) -> u8 {
        match (self.report.findings.is_empty(), self.unknown()) {
            (false, _) => NOT_INTACT,
            (true, Some(_)) => COULD_NOT_TELL,
            (true, None) => INTACT,
        }
    }

    /// What keeps an unbroken chain from being proven. An expected head proves all that is before it, whoever sealed that.
    fn unknown(&self) -> Option<String> {
        let (report, sealed) = (&self.report, &self.report.sealed);
        let (trusted, head) = (sealed.last_trusted.unwrap_or_default(), report.head_number().unwrap_or_default());
        if self.has_second_place && report.seen_elsewhere == 0 {
            return Some("the second place has no seal of what is in these files".to_owned());
        }
        let newest = sealed.last.max(sealed.last_by_nobody);
        match newest {
            Some(newest) if self.has_trusted && newest > trusted.max(head) => {
                return Some(format!("the bundle given vouches for no seal behind record {trusted}"));
            }
            None if head == 0 => {
                return Some("nothing is sealed, so whoever could write the file could write it anew".to_owned());
            }
            Some(_) | None => {}
        }
        // A later seal that is vouched for vouches for those before it.
        let by_nobody = sealed.last_by_nobody.filter(|number| *number > trusted.max(head));
        by_nobody.map(|number| format!("the bundle that vouches for the seal in record {number} is not here"))
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        let report = &self.report;
        for finding in &report.findings {
            self.describe_finding(&mut text, finding);
        }
        let unknown = self.unknown();
        let verdict = match (report.findings.len(), &unknown) {
            (0, None) => "intact".to_owned(),
            (0, Some(why)) => format!("unbroken, but not proven: {why}"),
            (1, _) => "not intact: 1 finding".to_owned(),
            (count, _) => format!("not intact: {count} findings"),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{verdict}");
        let log = report.log.map(|log| log.to_string()).unwrap_or_default();
        let _ = writeln!(text, "  log: {log}");
        let _ = writeln!(text, "  records: {} to {}, {} in place", report.first, report.last, report.records);
        if report.first > 1 {
            let _ = writeln!(text, "  records before {} are in no file given", report.first);
        }
        let _ = writeln!(text, "  head: {}", report.head.map(|head| hex(&head)).unwrap_or_default());
        if let Some(after) = report.after_head {
            let _ = writeln!(text, "  the expected head is there, with {after} records behind it");
        }
        self.describe_seals(&mut text);
        for (number, lost) in &report.gaps {
            let _ = writeln!(text, "  gap: {} lost before record {number}, which says so", counted(*lost, "record"));
        }
        for at in &report.torn {
            let _ = writeln!(text, "  half a line at {}, which the record behind it accounts for", self.place(*at));
        }
        if report.resumed > 0 {
            let _ = writeln!(text, "  processes that went on with it: {}", report.resumed);
        }
        text
    }

    fn describe_seals(&self, text: &mut String) {
        let sealed = &self.report.sealed;
        let by = match sealed.last_vouched {
            None => "nothing is sealed".to_owned(),
            Some(vouched) => {
                let signers: Vec<_> = sealed.signers.iter().map(String::as_str).collect();
                let by = match vouched {
                    Vouched::ByTrusted => "vouched for by the bundle given",
                    Vouched::ByArchive => {
                        "vouched for by the bundle archived beside the log, as good as whoever could write it"
                    }
                    Vouched::ByNobody => "vouched for by nobody whose bundle is here",
                };
                format!("{} by {}, {by}", counted(sealed.seals, "seal"), signers.join(", "))
            }
        };
        let _ = writeln!(text, "  {by}");
        let _ = match self.report.unsealed() {
            0 => Ok(()),
            1 => writeln!(text, "  the last record is not sealed: it could be changed without a trace"),
            count => {
                writeln!(text, "  the last {count} records are not sealed: they could be changed without a trace")
            }
        };
    }

    fn describe_finding(&self, text: &mut String, finding: &Finding) {
        let place = finding.at().map_or_else(|| "at the end".to_owned(), |at| self.place(at));
        let _ = match finding {
            Finding::Changed { number, fault, .. } => writeln!(text, "{place}: record {number} was changed: {fault}"),
            Finding::Rewritten { number, .. } => {
                writeln!(text, "{place}: record {number} was replaced: the next one was written behind another")
            }
            Finding::Removed { first, last, before: Some(_) } if first == last => {
                writeln!(text, "{place}: record {first} was removed before this line")
            }
            Finding::Removed { first, last, before: Some(_) } => {
                writeln!(text, "{place}: records {first} to {last} were removed before this line")
            }
            Finding::Removed { first, last, before: None } => {
                writeln!(text, "{place}: the log was cut: records {first} to {last} at least are missing")
            }
            Finding::Inserted { number: Some(number), .. } => {
                writeln!(text, "{place}: a record {number} was inserted here")
            }
            Finding::Inserted { number: None, .. } => writeln!(text, "{place}: a line that is no record was inserted"),
            Finding::Moved { number, .. } => writeln!(text, "{place}: record {number} was moved here"),
            Finding::OtherLog { number, log, .. } => {
                writeln!(text, "{place}: record {number} is of another log, {log}")
            }
            Finding::Seal { number, since, why, .. } => {
                writeln!(
                    text,
                    "{place}: the seal in record {number} proves nothing of records {since} to {number}: {why}"
                )
            }
            Finding::NotAsSealed { number, .. } => {
                writeln!(text, "{place}: record {number} is not the one that the second place has")
            }
            Finding::SealedTwice { number } => {
                writeln!(
                    text,
                    "{place}: the second place has two seals of record {number}: somebody with the key made one later"
                )
            }
            Finding::UnknownElsewhere { log } => {
                writeln!(
                    text,
                    "{place}: the second place has no seal of log {log}: it was written anew, or is another one"
                )
            }
            Finding::HeadMissing => {
                writeln!(text, "{place}: the expected head is not there: the log was cut, or written anew")
            }
        };
    }

    fn place(&self, at: At) -> String {
        let file = self.files.get(at.file).map(|path| path.display().to_string()).unwrap_or_default();
        format!("{file}:{}", at.line)
    }
}

/// `1 seal`, `2 seals`.
fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn open(path: &Path) -> Result<BufReader<File>, CannotTell> {
    const BUFFER_BYTES: usize = 1 << 20;
    let file = File::open(path).map_err(|source| CannotTell::Unreadable { path: path.to_owned(), source })?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, file))
}

/// As they were written: by the first number in each. What holds none comes where it was named.
fn in_order(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CannotTell> {
    let mut files = Vec::new();
    for path in paths.iter().filter(|path| hash_in_name(path).is_none()) {
        files.push((first_number(path)?, path.clone()));
    }
    files.sort_by_key(|(number, _)| *number);
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

fn first_number(path: &Path) -> Result<Option<u64>, CannotTell> {
    /// One of the first lines may have been changed.
    const LINES_MAX: usize = 100;
    let mut reader = open(path)?;
    for _ in 0..LINES_MAX {
        let mut line = Vec::new();
        let read = reader.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line);
        read.map_err(|source| CannotTell::Unreadable { path: path.to_owned(), source })?;
        if line.is_empty() {
            break;
        }
        if let Ok(record) = Record::read(line.trim_ascii_end()) {
            return Ok(Some(record.number));
        }
    }
    Ok(None)
}

fn read_hash(text: &str) -> Result<Hash, CannotTell> {
    let bytes = read_digits(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| CannotTell::Hash(text.to_owned()))
}

/// The second place may have those of several logs.
fn read_seals(path: &Path) -> Result<SecondPlace, CannotTell> {
    let text = std::fs::read(path).map_err(|source| CannotTell::Unreadable { path: path.to_owned(), source })?;
    let mut place = SecondPlace::default();
    for (index, line) in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        match Record::read(line) {
            Ok(record) if record.kind == crate::audit::seal::KIND => place.add(record.log, record.number, record.hash),
            _ => return Err(CannotTell::NoSeal { path: path.to_owned(), line: index + 1 }),
        }
    }
    Ok(place)
}

fn trusted(args: &VerifyArgs) -> Result<Option<(TrustDomain, Vec<CertificateDer<'static>>)>, CannotTell> {
    let (Some(path), Some(name)) = (&args.bundle, &args.trust_domain) else { return Ok(None) };
    let trust_domain =
        TrustDomain::parse(name).map_err(|source| CannotTell::TrustDomain { text: name.clone(), source })?;
    Ok(Some((trust_domain, read_pem(path)?)))
}

/// What was kept beside the files, by its content. A file that is not what its name says is nobody's bundle.
fn archived(files: &[PathBuf]) -> HashMap<Hash, Vec<CertificateDer<'static>>> {
    let mut archived = HashMap::new();
    let mut folders: Vec<_> = files.iter().map(|file| folder_of(file)).collect();
    folders.sort_unstable();
    folders.dedup();
    for entry in folders.into_iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten() {
        let path = entry.path();
        let Some(named) = hash_in_name(&path) else { continue };
        let is_named = std::fs::read(&path).is_ok_and(|content| sha256(&content) == named);
        if let (true, Ok(certificates)) = (is_named, read_pem(&path)) {
            archived.insert(named, certificates);
        }
    }
    archived
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Of the name of an archived bundle, what it says of its content.
fn hash_in_name(path: &Path) -> Option<Hash> {
    let name = path.file_name()?.to_str()?.strip_suffix(".pem")?;
    let (_, digits) = name.rsplit_once(MARK)?;
    read_digits(digits.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
