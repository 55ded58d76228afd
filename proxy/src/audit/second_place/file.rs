//! A file that each seal is appended to.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) struct Appended {
    path: PathBuf,
    file: Option<File>,
    /// The last attempt may have left half a line.
    is_torn: bool,
}

impl Appended {
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut this = Self { path: path.to_owned(), file: None, is_torn: false };
        this.opened()?;
        Ok(this)
    }

    fn opened(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o640);
            // Who may append need not be allowed to read: then nothing is known of its end.
            let readable = options.clone().read(true).open(&self.path);
            let file = match readable {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => options.open(&self.path)?,
                readable => {
                    let mut file = readable?;
                    self.is_torn |= is_torn(&mut file)?;
                    file
                }
            };
            self.file = Some(file);
        }
        self.file.as_mut().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// `seal` is a whole line, and behind half a line it begins another one.
    ///
    /// # Errors
    /// It is not there whole.
    pub(super) fn append(&mut self, seal: &[u8]) -> io::Result<()> {
        let written = self.try_append(seal);
        self.is_torn = written.is_err();
        if written.is_err() {
            self.file = None;
        }
        written
    }

    fn try_append(&mut self, seal: &[u8]) -> io::Result<()> {
        self.opened()?;
        let line = if self.is_torn { [b"\n", seal].concat() } else { seal.to_vec() };
        let file = self.opened()?;
        file.write_all(&line)?;
        match file.sync_data() {
            // Pipes have nothing to synchronize.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            synchronized => synchronized,
        }
    }
}

/// Whether the last byte ends no line: a full disk, or a process that was killed.
fn is_torn(file: &mut File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
