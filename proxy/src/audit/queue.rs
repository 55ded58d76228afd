//! Between those who decide and the one who writes: a bounded number of records that wait.
//!
//! With `on_full: block` a place is a permit of a semaphore, free again when its record has been written. Whoever decides
//! waits for as long as there is none, twice: before he begins, for there to be one, and with his decision made, for one that
//! his record takes at once. Between the two he holds none: a slow caller or upstream keeps nobody from being recorded. A
//! record that cannot wait (its request was given up) goes beyond the places. With `gap` nobody waits, and a record beyond the
//! places is counted.

use crate::telemetry::Metrics;
use postern_config::audit::OnFull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Records that may wait, the ones that are being written included. At 10,000 a second this is a stall of 0.8 s.
pub const RECORDS_MAX: usize = 8192;
/// The same in bytes, for records that took no place before: some 10,000 usual ones, and few of those that a peer inflates.
const BYTES_MAX: usize = 8 << 20;
/// How long the writer gathers before it takes a batch: what a killed process loses. Under load, to be woken four times as often
/// costs a fifth of what the whole log does.
const GATHER: Duration = Duration::from_millis(20);
/// Refusals of callers whom nobody knows yet cost a caller nothing: of more than this a second, the log has the number
/// (THREATS DS-04).
pub const STRANGERS_A_SECOND: u32 = 100;
/// How often it says that number.
const LEFT_OUT_EVERY: Duration = Duration::from_secs(1);
/// What a buffer may keep of its memory when it is empty.
const BUFFER_KEPT_BYTES: usize = 64 << 10;
/// A target that takes nothing keeps nobody longer than this from ending.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// A place that a record will have, whatever happens. None was kept with `on_full: gap`: then there may be none.
#[derive(Default)]
pub struct Place(Option<OwnedSemaphorePermit>);

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something to do for the writer.
    wake: Condvar,
    /// The writer has done what it was asked for.
    done: Condvar,
    places: Arc<Semaphore>,
    on_full: OnFull,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Waiting {
    /// Bodies of records, each with a line break behind it.
    bodies: Vec<u8>,
    records: usize,
    /// Of those, the ones that took places.
    placed: usize,
    /// Of the batch that the writer has.
    in_hand: (usize, usize),
    lost: Lost,
    strangers: Strangers,
    flush: u64,
    flushed: u64,
    reopen: bool,
    stop: bool,
    has_ended: bool,
}

/// Refusals of callers whom nobody knows.
#[derive(Default)]
struct Strangers {
    /// Since when they are counted, and how many have had records since.
    second: Option<Instant>,
    recorded: u32,
    left_out: Lost,
    told: Option<Instant>,
}

/// Records that found no place.
#[derive(Clone, Copy, Default)]
pub(super) struct Lost {
    pub(super) count: u64,
    /// When the first one did not.
    pub(super) since: Option<SystemTime>,
}

/// What the writer has to do.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bodies: Vec<u8>,
    pub(super) records: usize,
    placed: usize,
    /// After those.
    pub(super) lost: Lost,
    /// Of callers whom nobody knows, besides.
    pub(super) left_out: Lost,
    pub(super) reopen: bool,
    pub(super) stop: bool,
    flush: u64,
}

impl Queue {
    pub(super) fn new(on_full: OnFull, metrics: &Arc<Metrics>) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            places: Arc::new(Semaphore::new(RECORDS_MAX)),
            on_full,
            metrics: metrics.clone(),
        }
    }

    /// Whether somebody has to wait where there is no place.
    pub(super) fn blocks(&self) -> bool {
        self.on_full == OnFull::Block
    }

    /// # Cancellation
    /// Gives its turn up.
    pub(super) async fn place(&self) -> Place {
        // Closed when nobody writes any more: the record is counted as lost then.
        Place(self.places.clone().acquire_owned().await.ok())
    }

    /// Whether the refusal of a caller whom nobody knows has a record of its own. If not, it is counted.
    pub(super) fn admits_stranger(&self, now: Instant) -> bool {
        let strangers = &mut self.waiting().strangers;
        if strangers.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            (strangers.second, strangers.recorded) = (Some(now), 0);
        }
        if strangers.recorded < STRANGERS_A_SECOND {
            strangers.recorded += 1;
            return true;
        }
        strangers.left_out.count += 1;
        strangers.left_out.since.get_or_insert_with(SystemTime::now);
        false
    }

    pub(super) fn push(&self, place: Place, body: &[u8]) {
        let was_kept = place.0.is_some();
        let takes_place = !was_kept && self.blocks();
        let permit = place.0.or_else(|| takes_place.then(|| self.places.clone().try_acquire_owned().ok()).flatten());
        let mut waiting = self.waiting();
        let was_idle = waiting.records == 0 && waiting.lost.count == 0;
        let has_place = self.blocks() || waiting.records + waiting.in_hand.0 < RECORDS_MAX;
        let has_room = was_kept || waiting.bodies.len() + body.len() <= BYTES_MAX;
        let is_taken = has_place && has_room && !waiting.has_ended;
        let is_first_lost = !is_taken && waiting.lost.count == 0;
        if is_taken {
            waiting.placed += usize::from(permit.is_some());
            // The writer gives it back.
            permit.into_iter().for_each(OwnedSemaphorePermit::forget);
            waiting.bodies.extend_from_slice(body);
            waiting.bodies.push(b'\n');
            waiting.records += 1;
        } else {
            waiting.lose(1);
        }
        // Nothing is counted or logged with the lock held: all workers come by here.
        drop(waiting);
        if was_idle {
            self.wake.notify_one();
        }
        if !is_taken {
            self.metrics.audit.lost(1);
        }
        if is_first_lost {
            tracing::error!("the audit log cannot be written fast enough: records are being lost");
        }
    }

    /// Waits for something to do, until `deadline` at most, and gathers for a moment.
    pub(super) fn take(&self, deadline: Option<Instant>, batch: &mut Batch) {
        let mut waiting = self.waiting();
        while waiting.is_idle() {
            waiting = match deadline {
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    None => break,
                    Some(left) => self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0,
                },
            };
        }
        if waiting.records > 0 && !waiting.stop && waiting.flush == waiting.flushed {
            waiting = self.wake.wait_timeout(waiting, GATHER).unwrap_or_else(PoisonError::into_inner).0;
        }
        // The same load fits into it again; after a burst it is given back.
        batch.bodies.shrink_to(BUFFER_KEPT_BYTES.max(2 * batch.bodies.len()));
        batch.bodies.clear();
        std::mem::swap(&mut waiting.bodies, &mut batch.bodies);
        batch.records = std::mem::take(&mut waiting.records);
        batch.placed = std::mem::take(&mut waiting.placed);
        waiting.in_hand = (batch.records, batch.placed);
        batch.lost = std::mem::take(&mut waiting.lost);
        batch.left_out = Lost::default();
        let (now, is_last) = (Instant::now(), waiting.stop);
        let strangers = &mut waiting.strangers;
        let is_due = strangers.told.is_none_or(|told| now.duration_since(told) >= LEFT_OUT_EVERY);
        if strangers.left_out.count > 0 && (is_due || is_last) {
            strangers.told = Some(now);
            batch.left_out = std::mem::take(&mut strangers.left_out);
        }
        batch.reopen = std::mem::take(&mut waiting.reopen);
        batch.stop = waiting.stop;
        batch.flush = waiting.flush;
    }

    /// The records of `batch` are written, or will never be.
    pub(super) fn finished(&self, batch: &Batch) {
        self.places.add_permits(batch.placed);
        let mut waiting = self.waiting();
        waiting.in_hand = (0, 0);
        waiting.flushed = batch.flush;
        drop(waiting);
        self.done.notify_all();
    }

    /// The writer will take nothing more. Returns how many records it has not taken.
    pub(super) fn abandon(&self) -> u64 {
        let mut waiting = self.waiting();
        waiting.has_ended = true;
        waiting.bodies = Vec::new();
        std::mem::take(&mut waiting.records) as u64
    }

    /// The writer died of a defect: what it had in hand counts as lost, although some of it may have been written. Its places
    /// are free again, so that whoever waits for one goes on.
    pub(super) fn lose_in_hand(&self) {
        let mut waiting = self.waiting();
        let (records, placed) = std::mem::take(&mut waiting.in_hand);
        waiting.lose(records as u64);
        drop(waiting);
        self.metrics.audit.lost(records as u64);
        self.places.add_permits(placed);
    }

    /// Nobody will write any more: nobody is to wait for that.
    pub(super) fn ended(&self) {
        self.waiting().has_ended = true;
        self.places.close();
        self.done.notify_all();
    }

    /// Rests before another attempt; not when there is to be no other.
    pub(super) fn pause(&self, duration: Duration) {
        let waiting = self.waiting();
        if !waiting.stop {
            drop(self.wake.wait_timeout(waiting, duration));
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.waiting().stop
    }

    pub(super) fn reopen(&self) {
        self.waiting().reopen = true;
        self.wake.notify_one();
    }

    pub(super) fn flush(&self) {
        let mut waiting = self.waiting();
        waiting.flush += 1;
        let wanted = waiting.flush;
        self.wake.notify_one();
        self.wait(waiting, |waiting| waiting.flushed >= wanted);
    }

    pub(super) fn stop(&self) {
        self.waiting().stop = true;
        self.wake.notify_one();
    }

    /// Stops the writer and waits until it has ended. False: the target took it too long.
    pub(super) fn close(&self) -> bool {
        self.stop();
        self.wait(self.waiting(), |_| false)
    }

    fn wait(&self, mut waiting: MutexGuard<'_, Waiting>, is_done: impl Fn(&Waiting) -> bool) -> bool {
        let deadline = Instant::now() + CLOSE_DEADLINE;
        while !waiting.has_ended && !is_done(&waiting) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            waiting = self.done.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Bodies are appended whole and counters set at once, so a panic elsewhere leaves nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn lose(&mut self, records: u64) {
        self.lost.count += records;
        if records > 0 {
            self.lost.since.get_or_insert_with(SystemTime::now);
        }
    }

    fn is_idle(&self) -> bool {
        self.records == 0 && self.lost.count == 0 && !self.reopen && !self.stop && self.flush == self.flushed
    }
}
