//! The thread that makes lines of records, writes them, rotates, seals, and says what is missing.
//!
//! What it promises: a record that was taken is written, in order, before any later one, and tried again until it is or
//! the process ends. What found no place is counted in a `gap` record, which stands behind the records that waited then. The
//! file is synchronized with its disk at each seal, so a power failure takes what came since; a killed process takes what
//! waited.

use super::archive::Archive;
use super::chain::{Chain, LogId};
use super::queue::{Batch, Lost, Queue};
use super::record::{self, Process, Resumed};
use super::seal::{Cause, KIND, Sealer};
use super::target::{Found, OpenError, Target};
use crate::identity::IdentityStore;
use crate::telemetry::Metrics;
use crate::upstream::client::chain as with_causes;
use aws_lc_rs::rand;
use postern_config::SvidSelector;
use postern_config::audit::{Audit, Seal};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Between two attempts to write.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two attempts to rotate, each of which seals.
const ROTATE_AGAIN: Duration = Duration::from_secs(1);
/// How long the end of the process waits for a target that takes nothing.
const LAST_ATTEMPTS: Duration = Duration::from_secs(2);
/// Lines are written when there are as many bytes, and at the end of a batch.
const WRITE_BYTES: usize = 1 << 20;

pub(super) struct Writer {
    queue: Arc<Queue>,
    target: Target,
    chain: Chain,
    /// Lines that are not written yet, and how many bytes of them are.
    lines: Vec<u8>,
    written: usize,
    body: Vec<u8>,
    identity: Arc<IdentityStore>,
    svid: SvidSelector,
    seal: Seal,
    archive: Archive,
    second_place: Option<File>,
    /// Records since the last seal, and when they are to be sealed.
    unsealed: u64,
    seal_at: Option<Instant>,
    is_unable_to_seal: bool,
    /// It could not be rotated: when to try again.
    rotate_at: Option<Instant>,
    metrics: Arc<Metrics>,
}

/// The process ends, and the target takes nothing.
struct GivenUp;

impl Writer {
    /// Opens the target, finds the chain that it goes on with, and says so in its first record.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(super) fn open(
        config: &Audit,
        svid: &SvidSelector,
        identity: &Arc<IdentityStore>,
        process: &Process<'_>,
        queue: &Arc<Queue>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let (target, found) = Target::open(&config.to)?;
        let second_place = config.second_place.as_deref().map(append_to).transpose()?;
        let (mut lines, mut body) = (Vec::new(), Vec::new());
        let Found { chain, was_closed, torn, needs_line_break } = found;
        if needs_line_break {
            lines.push(b'\n');
        }
        let now = SystemTime::now();
        let is_new = chain.is_none() && torn.is_none();
        let mut chain = chain.unwrap_or_else(|| Chain::begin(random_id()));
        if is_new {
            process.write_opened(&mut body, now);
        } else {
            let torn = torn.as_ref().map(|(digest, bytes)| (digest, *bytes));
            process.write_resumed(&Resumed { was_closed, torn }, &mut body, now);
        }
        chain.append(&body, &mut lines);
        Ok(Self {
            queue: queue.clone(),
            target,
            chain,
            lines,
            written: 0,
            body,
            identity: identity.clone(),
            svid: svid.clone(),
            seal: config.seal,
            archive: Archive::beside(config.to.file()),
            second_place,
            unsealed: 1,
            seal_at: Some(Instant::now() + config.seal.every),
            is_unable_to_seal: false,
            rotate_at: None,
            metrics: metrics.clone(),
        })
    }

    /// The life of the thread.
    pub(super) fn run(mut self) {
        let mut batch = Batch::default();
        let mut result = self.flush();
        while result.is_ok() {
            self.queue.take(self.seal_at, &mut batch);
            result = self.batch(&batch);
            self.queue.finished(&batch);
            if batch.stop {
                result = result.and_then(|()| self.close());
                break;
            }
        }
        if let Err(GivenUp) = result {
            let lines = self.lines[self.written..].iter().filter(|byte| **byte == b'\n').count();
            self.metrics.audit.lost(lines as u64);
            tracing::error!(records = lines, "the process ends, and the audit log takes nothing: these are lost");
        }
        let queue = self.queue.clone();
        // Whoever opens the log next finds it unlocked.
        drop(self);
        queue.ended();
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), GivenUp> {
        if batch.reopen {
            self.target.reopen_at_next_write();
        }
        for body in batch.bodies.split(|byte| *byte == b'\n').filter(|body| !body.is_empty()) {
            self.append(body)?;
        }
        if batch.lost.count > 0 {
            tracing::error!(records = batch.lost.count, "records of the audit log were lost; a gap record says so");
            self.count(record::GAP, batch.lost)?;
        }
        if batch.left_out.count > 0 {
            self.count(record::LEFT_OUT, batch.left_out)?;
        }
        self.flush()?;
        if self.seal_at.is_some_and(|at| at <= Instant::now()) {
            self.seal(Cause::Interval)?;
        }
        Ok(())
    }

    /// What has no records of its own is counted in one; what comes from now on is the next one's.
    fn count(&mut self, kind: &str, missing: Lost) -> Result<(), GivenUp> {
        let now = SystemTime::now();
        let mut body = std::mem::take(&mut self.body);
        record::write_missing(kind, missing.count, missing.since.unwrap_or(now), &mut body, now);
        let appended = self.append(&body);
        self.body = body;
        appended
    }

    fn append(&mut self, body: &[u8]) -> Result<(), GivenUp> {
        if self.target.is_full(self.lines.len()) && self.rotate_at.is_none_or(|at| at <= Instant::now()) {
            self.rotate()?;
        }
        self.chain.append(body, &mut self.lines);
        self.metrics.audit.written(1);
        self.unsealed += 1;
        if self.seal_at.is_none() {
            self.seal_at = Some(Instant::now() + self.seal.every);
        }
        if self.unsealed >= u64::from(self.seal.records) && !self.is_unable_to_seal {
            self.seal(Cause::Records)?;
        }
        if self.lines.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what there is, again and again.
    fn flush(&mut self) -> Result<(), GivenUp> {
        let mut failing_since = None;
        while let Err(error) = self.target.write(&self.lines, &mut self.written) {
            self.metrics.audit.failed();
            let since = *failing_since.get_or_insert_with(|| {
                let error = with_causes(&error);
                tracing::error!(error, "the audit log cannot be written; it is tried again until it can");
                Instant::now()
            });
            if self.queue.is_stopping() && since.elapsed() > LAST_ATTEMPTS {
                return Err(GivenUp);
            }
            match self.queue.is_stopping() {
                true => std::thread::sleep(PAUSE),
                false => self.queue.pause(PAUSE),
            }
        }
        if failing_since.is_some() {
            tracing::warn!("the audit log is written again");
        }
        self.lines.clear();
        self.written = 0;
        self.metrics.audit.unsealed(self.unsealed);
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), GivenUp> {
        self.seal(Cause::Rotation)?;
        self.flush()?;
        match self.target.rotate() {
            Ok(()) => self.rotate_at = None,
            Err(error) => {
                if self.rotate_at.replace(Instant::now() + ROTATE_AGAIN).is_none() {
                    tracing::error!(%error, "the audit log is full and cannot be rotated: it grows");
                }
            }
        }
        Ok(())
    }

    /// Signs the head, unless nothing came since the last time. Without an identity it stays unsealed for now.
    fn seal(&mut self, cause: Cause) -> Result<(), GivenUp> {
        self.seal_at = Some(Instant::now() + self.seal.every);
        if self.unsealed == 0 {
            self.seal_at = None;
            return Ok(());
        }
        let start = self.lines.len();
        if let Err(why) = self.sign(cause) {
            if !std::mem::replace(&mut self.is_unable_to_seal, true) {
                tracing::warn!(why, records = self.unsealed, "the audit log cannot be sealed for now");
            }
            return Ok(());
        }
        let line = self.lines[start..].to_vec();
        self.is_unable_to_seal = false;
        self.unsealed = 0;
        self.seal_at = None;
        self.flush()?;
        if let Err(error) = self.target.synchronize() {
            self.metrics.audit.failed();
            tracing::error!(%error, "the audit log cannot be synchronized with its disk");
        }
        self.metrics.audit.sealed(SystemTime::now());
        self.send(&line);
        Ok(())
    }

    fn sign(&mut self, cause: Cause) -> Result<(), String> {
        let (snapshot, now) = (self.identity.load(), SystemTime::now());
        let svid = snapshot.select(&self.svid, now).map_err(|none| none.to_string())?;
        let sealer = Sealer::new(svid).ok_or("the SVID's key is of a kind that signs no seals")?;
        let bundle = self.archive.keep(&snapshot, svid);
        record::write(&mut self.body, KIND, |object| {
            sealer.write(object, cause, self.unsealed, bundle.as_ref(), now);
        });
        let signed = self.chain.append_signed(&self.body, &mut self.lines, |line| sealer.sign(line));
        signed.map_err(|error| error.to_string())
    }

    /// A seal that does not arrive is missing there until the next one, which covers the same.
    fn send(&mut self, seal: &[u8]) {
        let Some(file) = &mut self.second_place else { return };
        if let Err(error) = file.write_all(seal).and_then(|()| file.sync_data()) {
            self.metrics.audit.failed();
            tracing::error!(%error, "a seal of the audit log could not be written to its second place");
        }
    }

    fn close(&mut self) -> Result<(), GivenUp> {
        let mut body = std::mem::take(&mut self.body);
        record::write_closed(&mut body, SystemTime::now());
        self.append(&body)?;
        self.body = body;
        self.seal(Cause::Stop)?;
        self.flush()
    }
}

fn append_to(path: &Path) -> Result<File, OpenError> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    opened.map_err(|source| OpenError::SecondPlace { path: path.to_owned(), source })
}

fn random_id() -> LogId {
    let mut id = [0; 16];
    // It fails only without any source of randomness, and then there is no TLS either: what is left is the clock.
    if rand::fill(&mut id).is_err() {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        id = since.as_nanos().to_be_bytes();
    }
    LogId(id)
}
