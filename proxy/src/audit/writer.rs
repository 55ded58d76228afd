//! The thread that makes lines of records, writes them, rotates, seals, and says what is missing.
//!
//! What it promises: a record that was taken is written, in order, before any later one, and tried again until it is or
//! the process ends. What found no place is counted in a `gap` record, which stands behind the records that waited then. The
//! file is synchronized with its disk at each seal, so a power failure takes what came since; a killed process takes what
//! waited.

use super::archive::Archive;
use super::chain::{Chain, LogId, Record};
use super::history::SetAside;
use super::queue::{Batch, Lost, Queue};
use super::record::{self, Broken, Process, Resumed};
use super::seal::{Cause, KIND, Sealer};
use super::second_place::SecondPlace;
use super::target::{Found, OpenError, Target};
use super::verify::seals::Judge;
use crate::identity::{IdentityStore, Snapshot, Svid};
use crate::telemetry::Metrics;
use crate::tls::Strictness;
use crate::upstream::client::chain as with_causes;
use aws_lc_rs::rand;
use postern_config::SvidSelector;
use postern_config::audit::{Audit, Seal};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Between two attempts to write.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two attempts to rotate, each of which seals.
const ROTATE_AGAIN: Duration = Duration::from_secs(1);
/// How long the end of the process waits for a target that takes nothing.
const LAST_ATTEMPTS: Duration = Duration::from_secs(2);
/// What a clock may go back by without a record of it: less than whoever verifies a seal's time lets pass.
const CLOCK_STEP_MIN: Duration = Duration::from_secs(5);
/// Lines are written when there are as many bytes, and at the end of a batch.
const WRITE_BYTES: usize = 64 << 10;

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
    second_place: Option<SecondPlace>,
    /// The latest time that is in the log.
    newest: SystemTime,
    /// It was set back while the records of the batch in hand waited.
    is_between_times: bool,
    /// Records of the batch in hand that are not appended yet.
    in_hand: u64,
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
        let second_place = config.second_place.as_ref().map(|to| SecondPlace::open(to, metrics)).transpose()?;
        let (mut lines, mut body) = (Vec::new(), Vec::new());
        let Found { chain, was_closed, torn, needs_line_break, last_time, verified, broken } = found;
        if needs_line_break {
            lines.push(b'\n');
        }
        let now = SystemTime::now();
        let newest = last_time.unwrap_or(now);
        let is_new = chain.is_none() && torn.is_none();
        let mut chain = chain.unwrap_or_else(|| Chain::begin(random_id()));
        if is_new {
            process.write_opened(&mut body, now);
        } else {
            let torn = torn.as_ref().map(|(digest, bytes)| (digest, *bytes));
            process.write_resumed(&Resumed { was_closed, torn, verified }, &mut body, now);
        }
        chain.append(&body, &mut lines);
        let mut unsealed = 1;
        if let Some(broken) = broken {
            metrics.audit.broken();
            let (file, found) = (broken.file.display().to_string(), &*broken.found);
            tracing::error!(
                file,
                found,
                "the audit log was changed while nobody wrote it: it is kept, and another one begins"
            );
            let SetAside { findings, log, last, .. } = broken;
            record::write_broken(&Broken { file: &file, found, findings, log, last }, &mut body, now);
            chain.append(&body, &mut lines);
            unsealed += 1;
        }
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
            newest,
            is_between_times: false,
            in_hand: 0,
            unsealed,
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
            let lines = self.lines[self.written..].split(|byte| *byte == b'\n');
            let unwritten = lines.filter(|line| !line.is_empty() && !is_seal(line)).count() as u64;
            let lost = unwritten + self.in_hand + self.queue.abandon();
            self.metrics.audit.lost(lost);
            tracing::error!(records = lost, "the process ends, and the audit log takes nothing: these are lost");
        }
        if let Some(second_place) = &self.second_place {
            second_place.close(LAST_ATTEMPTS);
        }
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), GivenUp> {
        if batch.reopen {
            self.target.reopen_at_next_write();
        }
        let before = self.newest;
        // Records that waited are of either time: none is sealed before all are in the log, and the clock's record again.
        self.is_between_times = self.look_at_clock();
        self.in_hand = batch.records as u64;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &batch.bodies) {
            self.in_hand -= 1;
            self.append(&batch.bodies[start..end])?;
            start = end + 1;
        }
        if std::mem::take(&mut self.is_between_times) {
            self.write_clock(before, self.newest);
        }
        if batch.lost.count > 0 {
            tracing::error!(records = batch.lost.count, "records of the audit log were lost; a gap record says so");
            self.count(record::GAP, batch.lost)?;
        }
        if batch.left_out.count > 0 {
            self.count(record::LEFT_OUT, batch.left_out)?;
        }
        if let Some(unsent) = self.second_place.as_ref().and_then(SecondPlace::take_unsent) {
            self.count(record::UNSENT, unsent)?;
        }
        self.flush()?;
        if self.seal_at.is_some_and(|at| at <= Instant::now()) {
            self.seal(Cause::Interval)?;
        }
        Ok(())
    }

    /// Whoever verifies seals compares what they say of when they were made with the records around them. True: the clock was
    /// set back, and a record says so.
    fn look_at_clock(&mut self) -> bool {
        let (now, before) = (SystemTime::now(), self.newest);
        let was_set_back = now + CLOCK_STEP_MIN < before;
        self.newest = if was_set_back { now } else { now.max(before) };
        if was_set_back {
            tracing::warn!("the clock was set back; a record of the audit log says so");
            self.write_clock(before, now);
        }
        was_set_back
    }

    /// Not as other records: a rotation before it would seal.
    fn write_clock(&mut self, before: SystemTime, now: SystemTime) {
        record::write_clock(before, &mut self.body, now);
        self.chain.append(&self.body, &mut self.lines);
        self.metrics.audit.written(1);
        self.unsealed += 1;
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
        let may_seal = !self.is_between_times;
        if may_seal && self.target.is_full(self.lines.len()) && self.rotate_at.is_none_or(|at| at <= Instant::now()) {
            self.rotate()?;
        }
        self.chain.append(body, &mut self.lines);
        self.metrics.audit.written(1);
        self.unsealed += 1;
        if self.seal_at.is_none() {
            self.seal_at = Some(Instant::now() + self.seal.every);
        }
        if self.unsealed >= u64::from(self.seal.records) && !self.is_unable_to_seal && may_seal {
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
        let line = self.second_place.is_some().then(|| self.lines[start..].to_vec());
        self.is_unable_to_seal = false;
        self.unsealed = 0;
        self.seal_at = None;
        self.flush()?;
        if let Err(error) = self.target.synchronize() {
            self.metrics.audit.failed();
            tracing::error!(%error, "the audit log cannot be synchronized with its disk");
        }
        self.metrics.audit.sealed(SystemTime::now());
        if let (Some(second_place), Some(line)) = (&self.second_place, line) {
            second_place.send(line);
        }
        Ok(())
    }

    fn sign(&mut self, cause: Cause) -> Result<(), String> {
        let (snapshot, now) = (self.identity.load(), SystemTime::now());
        let svid = snapshot.select(&self.svid, now).map_err(|none| none.to_string())?;
        verifies(&snapshot, svid, now)?;
        let sealer = Sealer::new(svid).ok_or("the SVID's key is of a kind that signs no seals")?;
        let bundle = self.archive.keep(&snapshot, svid);
        record::write(&mut self.body, KIND, |object| {
            sealer.write(object, cause, self.unsealed, bundle.as_ref(), now);
        });
        let signed = self.chain.append_signed(&self.body, &mut self.lines, |line| sealer.sign(line));
        signed.map_err(|error| error.to_string())
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

/// A seal that nobody could verify at the time that it says, because the clock is wrong or an authority has expired, waits for
/// one that can be.
fn verifies(snapshot: &Snapshot, svid: &Svid, now: SystemTime) -> Result<(), String> {
    let trust_domain = svid.id.trust_domain();
    let Some(bundle) = snapshot.bundles.get(&trust_domain) else { return Ok(()) };
    let anchors = bundle.anchors.iter().map(|anchor| anchor.der.clone()).collect();
    // Whether the leaf's form is strict is no matter of time; the data plane asks.
    let judge = Judge {
        trusted: Some((trust_domain, anchors)),
        archived: HashMap::new(),
        id: None,
        strictness: Strictness::Compat,
        now,
    };
    judge.believes(&svid.certified.cert, &svid.id, now)
}

fn is_seal(line: &[u8]) -> bool {
    Record::read(line).is_ok_and(|record| record.kind == KIND)
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
