//! Where the log is written: a file with those that were full before it, or standard output. Whole lines in their order.

use super::chain::{Chain, Hash, LINE_BYTES_MAX, Record, last_line};
use super::history::{History, SetAside};
use super::record::CLOSED;
use super::seal;
use super::verify::times::Stamp;
use crate::tls::bundle::sha256;
use postern_config::audit::{AuditTarget, Rotate};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often we look whether the file was renamed or removed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Target {
    file: File,
    /// `None`: standard output.
    place: Option<(PathBuf, Option<Rotate>)>,
    bytes: u64,
    /// When to look whether the path still leads to `file`.
    look_at: Instant,
}

/// What there was already.
#[derive(Default)]
pub(super) struct Found {
    /// Behind the last record. `None`: there is none.
    pub(super) chain: Option<Chain>,
    pub(super) was_closed: bool,
    /// SHA-256 and length of half a line at the end.
    pub(super) torn: Option<(Hash, usize)>,
    /// The last line was not ended: ours is not to continue it.
    pub(super) needs_line_break: bool,
    /// When the last record was made.
    pub(super) last_time: Option<SystemTime>,
    /// First and last number of the records before, which were verified.
    pub(super) verified: Option<(u64, u64)>,
    /// What was there, and could not be gone on with.
    pub(super) broken: Option<SetAside>,
}

/// Why there can be no log.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} cannot be opened", path.display())]
    Unopened { path: PathBuf, source: io::Error },
    #[error("another process writes {}: each needs a file of its own", path.display())]
    Locked { path: PathBuf },
    #[error("{} cannot be read, to go on with its chain", path.display())]
    Unread { path: PathBuf, source: io::Error },
    #[error(
        "the last line of {} is no record, so there is nothing to go on with: keep the file and look at it with \
         `postern audit verify`, then move it away",
        path.display()
    )]
    NoRecord { path: PathBuf, source: super::chain::LineFault },
    #[error("{} is not what was written, and cannot be set aside for another log", path.display())]
    NotSetAside { path: PathBuf, source: io::Error },
    #[error("standard output cannot be used")]
    Stdout(#[source] io::Error),
    #[error("the writer cannot be started")]
    Thread(#[source] io::Error),
    #[error("the second place for seals, {place}, cannot be used")]
    SecondPlace { place: String, source: io::Error },
}

impl Target {
    /// # Errors
    /// [`OpenError`].
    pub(super) fn open(target: &AuditTarget) -> Result<(Self, Found), OpenError> {
        let (path, rotate) = match target {
            AuditTarget::Stdout => {
                let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
                let target = Self { file: stdout.into(), place: None, bytes: 0, look_at: Instant::now() };
                return Ok((target, Found::default()));
            }
            AuditTarget::File { path, rotate } => (path, *rotate),
        };
        let (mut file, mut bytes) = open(path)?;
        let mut found = go_on(&file, bytes, path)?;
        if found.broken.is_some() {
            (file, bytes) = open(path)?;
            found.needs_line_break = false;
        }
        let look_at = Instant::now() + LOOK_EVERY;
        Ok((Self { file, place: Some((path.clone(), rotate)), bytes, look_at }, found))
    }

    pub(super) fn reopen_at_next_write(&mut self) {
        self.look_at = Instant::now();
    }

    /// Whether what was written and `more` bytes fill it.
    pub(super) fn is_full(&self, more: usize) -> bool {
        let rotate = self.place.as_ref().and_then(|(_, rotate)| *rotate);
        rotate.is_some_and(|rotate| self.bytes + more as u64 >= rotate.size)
    }

    /// The full file goes beside, those before it move on, and the oldest is gone.
    ///
    /// # Errors
    /// It stays as it is, and full.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        let Some((path, Some(rotate))) = &self.place else { return Ok(()) };
        if !leads_to(path, &self.file)? {
            // An attempt before moved it and could not open another, or somebody else moved it: the others stay where they are.
            (self.file, self.bytes) = open(path).map_err(io::Error::other)?;
            return Ok(());
        }
        // Those behind a free number stay where they are: an attempt that failed shifts nothing the next time.
        let is_there = |number: &u32| numbered(path, *number).symlink_metadata().is_ok();
        let shifted = (1..rotate.keep).take_while(is_there).count() as u32;
        for number in (1..=shifted).rev() {
            std::fs::rename(numbered(path, number), numbered(path, number + 1))?;
        }
        std::fs::rename(path, numbered(path, 1))?;
        let (file, bytes) = open(path).map_err(io::Error::other)?;
        (self.file, self.bytes) = (file, bytes);
        synchronize_folder(path);
        Ok(())
    }

    /// Writes `lines` from byte `written` on, which it moves. After an error it can be called again with the same
    /// arguments: a line that was cut off is completed in the same file, or written whole into a new one.
    pub(super) fn write(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        if self.place.is_some() && Instant::now() >= self.look_at {
            self.look_at = Instant::now() + LOOK_EVERY;
            if self.reopen_if_moved()? {
                *written = lines[..*written].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            }
        }
        while *written < lines.len() {
            match self.file.write(&lines[*written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    *written += bytes;
                    self.bytes += bytes as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Standard output may be a pipe that somebody made non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => {
                    self.look_at = Instant::now();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// To the disk, as far as there is one.
    pub(super) fn synchronize(&self) -> io::Result<()> {
        match self.file.sync_data() {
            // Pipes and terminals have nothing to synchronize.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    fn reopen_if_moved(&mut self) -> io::Result<bool> {
        let Some((path, _)) = &self.place else { return Ok(false) };
        if leads_to(path, &self.file)? {
            return Ok(false);
        }
        (self.file, self.bytes) = open(path).map_err(io::Error::other)?;
        Ok(true)
    }
}

/// A power failure takes names as well as contents.
pub(super) fn synchronize_folder(of: &Path) {
    let folder = of.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::warn!(%error, folder = %folder.display(), "the audit log's folder cannot be synchronized with its disk");
    }
}

fn leads_to(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    Ok(std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

/// Where the file before the last `number - 1` ones is.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn open(path: &Path) -> Result<(File, u64), OpenError> {
    let unopened = |source| OpenError::Unopened { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path).map_err(unopened)?;
    let metadata = file.metadata().map_err(unopened)?;
    if !metadata.is_file() {
        return Ok((file, 0));
    }
    // Two writers would make two chains in one file.
    match file.try_lock() {
        Ok(()) => Ok((file, metadata.len())),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unopened(source)),
    }
}

/// Finds the end of the chain, and verifies what leads to it.
fn go_on(file: &File, bytes: u64, path: &Path) -> Result<Found, OpenError> {
    let unread = |source| OpenError::Unread { path: path.to_owned(), source };
    let now = SystemTime::now();
    let found = find(file, bytes, path).and_then(|found| match found.chain {
        Some(_) => Ok(found),
        // A process that was killed while it rotated, or somebody else who did: the chain goes on all the same.
        None => find_rotated(path).map(|before| Found {
            was_closed: before.was_closed && found.torn.is_none(),
            torn: found.torn.or(before.torn),
            needs_line_break: found.needs_line_break,
            ..before
        }),
    });
    if matches!(&found, Ok(found) if found.chain.is_none()) {
        return found;
    }
    let torn = found.as_ref().ok().and_then(|found| found.torn).map_or(0, |(_, bytes)| bytes as u64);
    let history = History::read(path, bytes, torn, now).map_err(unread)?;
    match found {
        Ok(found) if history.is_intact() => Ok(Found { verified: history.range(), ..found }),
        Err(error) if history.is_foreign() => Err(error),
        _ => {
            let aside = history.set_aside(now);
            let broken = aside.map_err(|source| OpenError::NotSetAside { path: path.to_owned(), source })?;
            synchronize_folder(path);
            Ok(Found { broken: Some(broken), ..Found::default() })
        }
    }
}

/// How a file of `bytes` ends.
fn find(mut file: &File, bytes: u64, path: &Path) -> Result<Found, OpenError> {
    // The last line, and half a line behind it.
    const END_BYTES_MAX: u64 = 2 * LINE_BYTES_MAX as u64;
    let mut end = Vec::new();
    let seek = file.seek(SeekFrom::Start(bytes.saturating_sub(END_BYTES_MAX)));
    let read = seek.and_then(|_| file.take(bytes.min(END_BYTES_MAX)).read_to_end(&mut end));
    read.map_err(|source| OpenError::Unread { path: path.to_owned(), source })?;
    let (line, torn) = last_line(&end);
    let torn = &end[end.len() - torn..];
    let needs_line_break = !torn.is_empty();
    if let Ok(record) = Record::read(torn) {
        // All of it but the line break.
        return Ok(Found { needs_line_break, ..behind(&record) });
    }
    let torn = needs_line_break.then(|| (sha256(torn), torn.len()));
    if !end.contains(&b'\n') && bytes <= END_BYTES_MAX {
        // Nothing, or the first line of a log, which was never written to its end.
        return Ok(Found { torn, needs_line_break, ..Found::default() });
    }
    let no_record = |source| OpenError::NoRecord { path: path.to_owned(), source };
    let record = Record::read(&end[line]).map_err(no_record)?;
    let found = behind(&record);
    Ok(Found { was_closed: found.was_closed && torn.is_none(), torn, needs_line_break, ..found })
}

fn behind(last: &Record<'_>) -> Found {
    Found {
        chain: Some(Chain::after(last)),
        was_closed: is_close(last),
        last_time: last.time.and_then(Stamp::read).and_then(|stamp| stamp.time()),
        ..Found::default()
    }
}

/// The newest of the full files.
fn find_rotated(path: &Path) -> Result<Found, OpenError> {
    let path = numbered(path, 1);
    let unread = |source| OpenError::Unread { path: path.clone(), source };
    match File::open(&path) {
        Ok(file) => {
            let bytes = file.metadata().map_err(unread)?.len();
            // This file begins with a line of its own.
            find(&file, bytes, &path).map(|found| Found { needs_line_break: false, ..found })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::default()),
        Err(error) => Err(unread(error)),
    }
}

/// Was it the last record of a process that ended in order?
fn is_close(record: &Record<'_>) -> bool {
    record.kind == CLOSED || (record.kind == seal::KIND && record.line.contains("\"cause\":\"stop\""))
}
