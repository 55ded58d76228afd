//! The second place: a file that each seal is appended to as well, by a thread of its own. Whatever hangs there (a mount that
//! answers no more, a pipe that nobody reads) keeps neither the log nor the process.

use super::queue::Lost;
use super::target::OpenError;
use crate::telemetry::Metrics;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

/// Seals that may wait. At one a minute this is an hour; each covers all before it, so the oldest go first.
const SEALS_MAX: usize = 64;
/// How long the start waits to learn whether the place can be opened at all.
const OPEN_DEADLINE: Duration = Duration::from_secs(2);
/// Between two attempts, doubled up to the second one.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

pub(super) struct SecondPlace(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// For the thread: there is a seal, or the end.
    wake: Condvar,
    /// For whoever waits for the end.
    done: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Waiting {
    seals: VecDeque<Vec<u8>>,
    /// One is being written.
    in_hand: bool,
    unsent: Lost,
    stop: bool,
}

impl SecondPlace {
    /// Begins its thread, and waits a moment for it to open the file.
    ///
    /// # Errors
    /// The file cannot be opened. One that does not say so in time is tried again.
    pub(super) fn open(path: &Path, metrics: &Arc<Metrics>) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            metrics: metrics.clone(),
        });
        let (tell, opened) = mpsc::channel();
        let (thread, its) = (std::thread::Builder::new().name("audit-seals".to_owned()), shared.clone());
        let mut place = Appended { path: path.to_owned(), file: None, is_torn: false };
        let run = move || {
            // Whoever asked may have stopped waiting.
            let _ = tell.send(place.open().map(drop));
            its.run(&mut place);
        };
        thread.spawn(run).map_err(OpenError::Thread)?;
        match opened.recv_timeout(OPEN_DEADLINE) {
            Ok(Err(source)) => {
                shared.stop();
                Err(OpenError::SecondPlace { path: path.to_owned(), source })
            }
            Ok(Ok(())) => Ok(Self(shared)),
            Err(_) => {
                metrics.audit.failed();
                tracing::error!(file = %path.display(), "the second place for seals does not answer");
                Ok(Self(shared))
            }
        }
    }

    /// Never waits for the place.
    pub(super) fn send(&self, seal: Vec<u8>) {
        let mut waiting = self.0.waiting();
        let is_full = waiting.seals.len() >= SEALS_MAX;
        if is_full {
            waiting.seals.pop_front();
            waiting.unsent.count += 1;
            waiting.unsent.since.get_or_insert_with(SystemTime::now);
        }
        waiting.seals.push_back(seal);
        drop(waiting);
        self.0.wake.notify_one();
        if is_full {
            self.0.metrics.audit.unsent(1);
        }
    }

    /// Seals that were given up since the last call.
    pub(super) fn take_unsent(&self) -> Option<Lost> {
        Some(std::mem::take(&mut self.0.waiting().unsent)).filter(|unsent| unsent.count > 0)
    }

    /// Waits until all have been written, `patience` at most.
    pub(super) fn close(&self, patience: Duration) {
        self.0.stop();
        let deadline = Instant::now() + patience;
        let mut waiting = self.0.waiting();
        while waiting.in_hand || !waiting.seals.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            waiting = self.0.done.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let unsent = waiting.seals.len() as u64 + u64::from(waiting.in_hand);
        drop(waiting);
        if unsent > 0 {
            self.0.metrics.audit.unsent(unsent);
            tracing::error!(seals = unsent, "the process ends, and these did not come to the second place for seals");
        }
    }
}

/// Without this the thread of a log that could not be opened would wait for ever.
impl Drop for SecondPlace {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Shared {
    fn run(&self, place: &mut Appended) {
        let mut failing = false;
        while let Some(seal) = self.next() {
            let mut pause = PAUSE;
            while let Err(error) = place.append(&seal) {
                self.metrics.audit.failed();
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "a seal of the audit log cannot be written to its second place; it is tried again");
                }
                if !self.rest(pause) {
                    break;
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
            if place.file.is_some() && std::mem::take(&mut failing) {
                tracing::warn!("the second place for seals is written again");
            }
            self.waiting().in_hand = place.file.is_none();
            self.done.notify_all();
        }
    }

    /// `None`: there will be no more.
    fn next(&self) -> Option<Vec<u8>> {
        let mut waiting = self.waiting();
        loop {
            if waiting.in_hand {
                // The last one was given up, because the process ends.
                return None;
            }
            if let Some(seal) = waiting.seals.pop_front() {
                waiting.in_hand = true;
                return Some(seal);
            }
            if waiting.stop {
                return None;
            }
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// False: the process ends, and there is to be no other attempt.
    fn rest(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        let mut waiting = self.waiting();
        while !waiting.stop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return true };
            waiting = self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn stop(&self) {
        self.waiting().stop = true;
        self.wake.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Seals are moved whole and counters set at once, so a panic elsewhere leaves nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Appended {
    path: PathBuf,
    file: Option<File>,
    /// The last attempt may have left half a line.
    is_torn: bool,
}

impl Appended {
    fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o640);
            // Who may append need not be allowed to read: then nothing is known of its end.
            let readable = options.clone().read(true).open(&self.path);
            let mut file = match readable {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => options.open(&self.path)?,
                readable => {
                    let mut file = readable?;
                    self.is_torn |= is_torn(&mut file)?;
                    file
                }
            };
            file.flush()?;
            self.file = Some(file);
        }
        self.file.as_mut().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// `seal` is a whole line, and behind half a line it begins another one.
    fn append(&mut self, seal: &[u8]) -> io::Result<()> {
        let written = self.try_append(seal);
        self.is_torn = written.is_err();
        if written.is_err() {
            self.file = None;
        }
        written
    }

    fn try_append(&mut self, seal: &[u8]) -> io::Result<()> {
        self.open()?;
        let line = if self.is_torn { [b"\n", seal].concat() } else { seal.to_vec() };
        let file = self.open()?;
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
