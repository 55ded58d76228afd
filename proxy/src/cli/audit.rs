//! `postern audit verify`: is this audit log what was written, who says so, and of how much of it?
//!
//! Everything is found out in [`crate::audit::verify`]; this file opens files, and `describe` prints.

mod describe;

use super::output::print;
use super::verify::{CannotTell as CertificatesUnread, read_pattern, read_pem, with_causes};
use crate::audit::BROKEN_MARK;
use crate::audit::archive::{BYTES_MAX, MARK};
use crate::audit::chain::{Hash, Record, read_digits};
use crate::audit::verify::seals::{Judge, Vouched};
use crate::audit::verify::spans::Span;
use crate::audit::verify::{Expected, Report, SecondPlace, first_number, read_line, verify_each};
use crate::tls::Strictness;
use crate::tls::bundle::sha256;
use clap::{Args, Subcommand};
use postern_config::{SpiffeIdError, TrustDomain};
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

/// `postern audit …`
#[derive(Args, Debug)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    /// Name every record that was changed, removed, inserted or moved: exit 0 none, 1 some, 2 could not tell, 3 none but proven in part
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
const PARTLY_PROVEN: u8 = 3;
/// Above this, the lines that are no seals are no longer told apart.
const BAD_SEALS_MAX: usize = 1000;
/// Archived bundles that are read: one for each set of authorities.
const BUNDLES_MAX: usize = 10_000;

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
    /// Set aside at a start.
    passed_over: Vec<PathBuf>,
    /// Lines of the second place that are none.
    bad_seals: Vec<u64>,
    now: SystemTime,
}

/// The command without its printing.
///
/// # Errors
/// [`CannotTell`]: nothing is known about the log.
pub fn examine(args: &VerifyArgs) -> Result<Examined, CannotTell> {
    let now = SystemTime::now();
    let (named, passed_over) = without_broken(&args.files);
    let files = in_order(&named)?;
    let second_place = args.seals.as_deref().map(read_seals).transpose()?;
    let (seals, bad_seals) = second_place.map_or((None, Vec::new()), |(seals, bad)| (Some(seals), bad));
    let expected = Expected { head: args.expect_head.as_deref().map(read_hash).transpose()?, seals, whole: args.whole };
    let judge = Judge {
        trusted: trusted(args)?,
        archived: archived(&files),
        id: args.id.as_deref().map(read_pattern).transpose()?,
        strictness: if args.compat { Strictness::Compat } else { Strictness::Strict },
        now,
    };
    let readers = files.iter().map(|path| open(path).map_err(io::Error::other));
    let report = verify_each(readers, &judge, &expected).map_err(CannotTell::Log)?;
    if report.records == 0 && report.findings.is_empty() {
        return Err(CannotTell::Empty(files));
    }
    let (has_trusted, has_second_place) = (judge.trusted.is_some(), expected.seals.is_some());
    Ok(Examined { report, files, passed_over, bad_seals, has_trusted, has_second_place, now })
}

impl Examined {
    pub fn exit_code(&self) -> u8 {
        match (self.report.findings.is_empty(), self.unknown()) {
            (false, _) => NOT_INTACT,
            (true, Some(_)) => COULD_NOT_TELL,
            (true, None) if self.is_partly_proven() => PARTLY_PROVEN,
            (true, None) => INTACT,
        }
    }

    /// Records of which it is not known from a seal of those who wrote them, vouched for by somebody other than who could
    /// write the log, that they are what was written. A head or a seal that is known from elsewhere proves all before it.
    fn weak_spans(&self) -> impl Iterator<Item = &Span> {
        let report = &self.report;
        let proven = report.head_number().max(report.last_elsewhere).unwrap_or_default();
        // What is behind the last seal is told apart.
        let end = report.sealed.last.unwrap_or_default();
        let is_weak = move |span: &&Span| {
            span.by != Some(Vouched::ByTrusted) && span.last > proven && (span.by.is_some() || span.first < end)
        };
        report.spans.iter().filter(is_weak)
    }

    fn is_partly_proven(&self) -> bool {
        self.weak_spans().next().is_some()
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
}

fn open(path: &Path) -> Result<BufReader<File>, CannotTell> {
    const BUFFER_BYTES: usize = 1 << 20;
    let file = File::open(path).map_err(|source| CannotTell::Unreadable { path: path.to_owned(), source })?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, file))
}

/// What was set aside at a start is of another log: read by itself, and passed over beside others.
fn without_broken(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let is_broken = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(BROKEN_MARK));
    let (broken, named): (Vec<_>, Vec<_>) = paths.iter().cloned().partition(is_broken);
    let is_alone = named.iter().all(|path| is_bundle(path));
    if is_alone { (paths.to_vec(), Vec::new()) } else { (named, broken) }
}

/// Archived, or being archived.
fn is_bundle(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    hash_in_name(path).is_some() || (name.contains(MARK) && name.ends_with(".unfinished"))
}

/// As they were written: by the first number in each. What holds none comes where it was named.
fn in_order(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CannotTell> {
    let mut files = Vec::new();
    for path in paths.iter().filter(|path| !is_bundle(path)) {
        let number = first_number(&mut open(path)?);
        let number = number.map_err(|source| CannotTell::Unreadable { path: path.clone(), source })?;
        files.push((number, path.clone()));
    }
    files.sort_by_key(|(number, _)| *number);
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

fn read_hash(text: &str) -> Result<Hash, CannotTell> {
    let bytes = read_digits(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| CannotTell::Hash(text.to_owned()))
}

/// The second place may have those of several logs. A line that is no seal (its disk was full, its writer killed) is passed
/// over, and its number returned.
fn read_seals(path: &Path) -> Result<(SecondPlace, Vec<u64>), CannotTell> {
    let (mut place, mut bad, mut number) = (SecondPlace::default(), Vec::new(), 0);
    let mut reader = open(path)?;
    let unreadable = |source| CannotTell::Unreadable { path: path.to_owned(), source };
    while let Some((line, _)) = read_line(&mut reader).map_err(unreadable)? {
        number += 1;
        match Record::read(&line) {
            Ok(record) if record.kind == crate::audit::seal::KIND => place.add(record.log, record.number, record.hash),
            _ if line.is_empty() || bad.len() >= BAD_SEALS_MAX => {}
            _ => bad.push(number),
        }
    }
    Ok((place, bad))
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
        let is_named = read_bounded(&path).is_ok_and(|content| sha256(&content) == named);
        if let (true, true, Ok(certificates)) = (archived.len() < BUNDLES_MAX, is_named, read_pem(&path)) {
            archived.insert(named, certificates);
        }
    }
    archived
}

/// A file, not what a link leads to, of a size that a bundle has.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_file() || metadata.len() > BYTES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    std::fs::read(path)
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
