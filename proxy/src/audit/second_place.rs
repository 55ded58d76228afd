//! The second place: where each seal goes as well, by a thread of its own. Whatever hangs there (a mount that answers no more,
//! a pipe that nobody reads, a server) keeps neither the log nor the process.

mod file;
mod otlp;
mod post;

use super::queue::Lost;
use super::target::OpenError;
use crate::telemetry::Metrics;
use crate::upstream::client::chain;
use file::Appended;
use post::{PostError, Posted};
use postern_config::audit::SecondPlace as Configured;
use std::collections::VecDeque;
use std::io;
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

impl Waiting {
    /// A seal that will not come there.
    fn lose(&mut self) {
        self.unsent.count += 1;
        self.unsent.since.get_or_insert_with(SystemTime::now);
    }
}

impl SecondPlace {
    /// Begins its thread, and waits a moment for it to open the file, or to read what it believes the server by.
    ///
    /// # Errors
    /// That cannot be done. A place that does not say so in time is tried again.
    pub(super) fn open(to: &Configured, metrics: &Arc<Metrics>) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            metrics: metrics.clone(),
        });
        let (tell, opened) = mpsc::channel();
        let (thread, its) = (std::thread::Builder::new().name("audit-seals".to_owned()), shared.clone());
        let configured = to.clone();
        let run = move || {
            let opened = Sender::open(&configured);
            let failed = opened.as_ref().err().map(|error| io::Error::other(chain(error)));
            // Whoever asked may have stopped waiting.
            let _ = tell.send(failed.map_or(Ok(()), Err));
            if let Ok(mut sender) = opened {
                its.run(&mut sender);
            }
        };
        thread.spawn(run).map_err(OpenError::Thread)?;
        match opened.recv_timeout(OPEN_DEADLINE) {
            Ok(Err(source)) => {
                shared.stop();
                Err(OpenError::SecondPlace { place: name_of(to), source })
            }
            Ok(Ok(())) => Ok(Self(shared)),
            Err(_) => {
                metrics.audit.failed();
                tracing::error!(place = name_of(to), "the second place for seals does not answer");
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
            waiting.lose();
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
    fn run(&self, sender: &mut Sender) {
        let mut is_failing = false;
        while let Some(seal) = self.next() {
            let mut pause = PAUSE;
            while let Err(error) = sender.send(&seal) {
                self.metrics.audit.failed();
                if let SendError::Post(PostError::Rejected(_)) = &error {
                    self.give_up(&error);
                    break;
                }
                if !std::mem::replace(&mut is_failing, true) {
                    let error = chain(&error);
                    tracing::error!(
                        error,
                        "a seal of the audit log does not come to its second place; it is tried again"
                    );
                }
                if !self.rest(pause) {
                    // It stays in hand: whoever ends the process counts it.
                    return;
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
            if std::mem::take(&mut is_failing) {
                tracing::warn!("seals come to their second place again");
            }
            self.waiting().in_hand = false;
            self.done.notify_all();
        }
    }

    /// It would be rejected again (OTLP: such a request is not retried).
    fn give_up(&self, error: &SendError) {
        tracing::error!(error = chain(error), "a seal of the audit log is not taken by its second place");
        self.waiting().lose();
        self.metrics.audit.unsent(1);
    }

    /// `None`: there will be no more.
    fn next(&self) -> Option<Vec<u8>> {
        let mut waiting = self.waiting();
        loop {
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

enum Sender {
    File(Appended),
    Post(Box<Posted>),
}

/// Why a seal did not come there.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the file cannot be written")]
    File(#[from] io::Error),
    #[error("the server does not keep it")]
    Post(#[from] PostError),
}

impl Sender {
    fn open(to: &Configured) -> Result<Self, SendError> {
        Ok(match to {
            Configured::File(path) => Self::File(Appended::open(path)?),
            Configured::Post { url, form, roots } => Self::Post(Box::new(Posted::open(url, *form, roots.as_deref())?)),
        })
    }

    /// `seal`: a line, with its end.
    fn send(&mut self, seal: &[u8]) -> Result<(), SendError> {
        match self {
            Self::File(file) => Ok(file.append(seal)?),
            Self::Post(posted) => Ok(posted.post(seal)?),
        }
    }
}

fn name_of(to: &Configured) -> String {
    match to {
        Configured::File(path) => path.display().to_string(),
        Configured::Post { url, .. } => url.to_string(),
    }
}
