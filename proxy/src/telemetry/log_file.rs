//! The target of the access log: a file that may be renamed away, or standard output. Whole lines only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often we look whether the file was renamed or removed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct LogFile {
    file: File,
    /// `None`: standard output, which cannot be opened anew.
    path: Option<PathBuf>,
    /// When to look whether `path` still is `file`.
    look_at: Instant,
}

impl LogFile {
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::from_file(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    pub(super) fn from_file(file: File) -> Self {
        Self { file, path: None, look_at: Instant::now() }
    }

    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: open(path)?, path: Some(path.to_owned()), look_at: Instant::now() + LOOK_EVERY })
    }

    pub(super) fn reopen_at_next_write(&mut self) {
        self.look_at = Instant::now();
    }

    /// Writes `lines` from byte `written` on, which it moves. After an error it can be called again with the same
    /// arguments: a line that was cut off is completed in the same file, or written whole into the new one.
    pub(super) fn write(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        if self.path.is_some() && Instant::now() >= self.look_at {
            self.look_at = Instant::now() + LOOK_EVERY;
            if self.reopen_if_moved()? {
                *written = lines[..*written].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            }
        }
        while *written < lines.len() {
            match self.file.write(&lines[*written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => *written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Standard output may be a pipe that somebody made non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                Err(error) => {
                    self.look_at = Instant::now();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn reopen_if_moved(&mut self) -> io::Result<bool> {
        let Some(path) = &self.path else { return Ok(false) };
        let ours = self.file.metadata()?;
        let same = std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        if !same {
            self.file = open(path)?;
        }
        Ok(!same)
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    if file.metadata()?.is_file() && file.metadata()?.len() > 0 {
        // A process that was killed while it wrote left half a line: ours do not continue it.
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}
