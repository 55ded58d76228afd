//! The access log: records go in from any thread without blocking, whole lines come out of one writer thread.
//!
//! A record is serialized where it arises, into a buffer of that thread, and copied behind the others that wait. The
//! writer is woken once a batch, not once a line: it gathers for a few milliseconds, takes everything, and writes it in
//! one call. When the target is slower than the traffic, records are dropped and counted; the data path never waits.

use super::log_file::LogFile;
use super::metrics::Metrics;
use super::record::{ConnectionRecord, RequestRecord};
use arc_swap::ArcSwapOption;
use postern_config::telemetry::AccessLog as Target;
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Records that may wait for the writer, the ones it is writing included. At 10,000 requests a second this is a stall of
/// 0.4 s; ztunnel found that 128,000 lines cost it 8 MB of memory in good times too.
pub const LINES_MAX: usize = 4096;
/// The same in bytes, for each of the [`SHARDS`].
const SHARD_BYTES_MAX: usize = 2 << 20;
/// Threads that log append to different buffers, so that a worker does not wait for its neighbour.
const SHARDS: usize = 4;
/// How long the writer gathers before it takes a batch.
const GATHER: Duration = Duration::from_millis(5);
/// What a buffer may keep of its memory when it is empty.
const BUFFER_KEPT_BYTES: usize = 64 << 10;
/// A flush that the target does not let through is given up after this.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// A cheap handle; its clones write to the same target, also after that was replaced. The writer ends when the last one is
/// gone.
#[derive(Clone)]
pub struct AccessLog {
    writer: Arc<ArcSwapOption<Writer>>,
}

struct Writer {
    queue: Arc<Queue>,
}

struct Queue {
    shards: [Mutex<Shard>; SHARDS],
    /// Lines that are in a shard or being written.
    lines: AtomicUsize,
    orders: Mutex<Orders>,
    /// There is something to write, or an order.
    wake: Condvar,
    /// `orders.flushed` has risen.
    flushed: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Shard {
    bytes: Vec<u8>,
    lines: usize,
}

#[derive(Default)]
struct Orders {
    flush: u64,
    flushed: u64,
    reopen: bool,
    stop: bool,
}

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

impl AccessLog {
    /// Opens the target and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn start(target: &Target, metrics: &Arc<Metrics>) -> io::Result<Self> {
        match target {
            Target::Off => Ok(Self::off()),
            Target::Stdout => Self::write_to(LogFile::stdout()?, metrics),
            Target::File(path) => {
                let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                Self::write_to(LogFile::open(path).map_err(named)?, metrics)
            }
        }
    }

    pub fn off() -> Self {
        Self { writer: Arc::default() }
    }

    fn write_to(file: LogFile, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            shards: Default::default(),
            lines: AtomicUsize::new(0),
            orders: Mutex::default(),
            wake: Condvar::new(),
            flushed: Condvar::new(),
            metrics: metrics.clone(),
        });
        let of_writer = queue.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || of_writer.run(file))?;
        Ok(Self { writer: Arc::new(ArcSwapOption::from_pointee(Writer { queue })) })
    }

    /// Whether it is worth making a record.
    pub fn enabled(&self) -> bool {
        self.writer.load().is_some()
    }

    /// Records go where those of `other` go from now on. What waits is still written to the target before.
    pub fn replace(&self, other: &Self) {
        self.writer.store(other.writer.load_full());
    }

    pub fn request(&self, record: &RequestRecord<'_>) {
        self.push(|line| record.write(line));
    }

    pub fn connection(&self, record: &ConnectionRecord<'_>) {
        self.push(|line| record.write(line));
    }

    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let writer = self.writer.load();
        let Some(writer) = &*writer else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            write(line);
            writer.queue.push(line);
        });
    }

    /// Waits until everything that was logged before is written, 2 s at most. Blocks the thread: for shutdown and tests.
    pub fn flush(&self) {
        if let Some(writer) = self.writer.load_full() {
            writer.queue.flush();
        }
    }

    /// Opens the file anew, after it was renamed (SIGHUP). The writer also looks by itself once a second.
    pub fn reopen(&self) {
        if let Some(writer) = self.writer.load_full() {
            writer.queue.orders().reopen = true;
            writer.queue.wake.notify_one();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.orders().stop = true;
        self.queue.wake.notify_one();
    }
}

impl Queue {
    fn push(&self, line: &[u8]) {
        let before = self.lines.fetch_add(1, AcqRel);
        if before >= LINES_MAX || !self.append(line) {
            self.lines.fetch_sub(1, AcqRel);
            self.metrics.access_log_dropped(1);
        } else if before == 0 {
            // Under the lock, so that the writer is either before its look at `lines` or already waiting.
            let _orders = self.orders();
            self.wake.notify_one();
        }
    }

    fn append(&self, line: &[u8]) -> bool {
        let mut shard = lock(&self.shards[shard_of_this_thread()]);
        if shard.bytes.len() + line.len() > SHARD_BYTES_MAX {
            return false;
        }
        shard.bytes.extend_from_slice(line);
        shard.lines += 1;
        true
    }

    fn flush(&self) {
        let deadline = Instant::now() + FLUSH_DEADLINE;
        let mut orders = self.orders();
        orders.flush += 1;
        let wanted = orders.flush;
        self.wake.notify_one();
        while orders.flushed < wanted {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            orders = self.flushed.wait_timeout(orders, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The writer's thread.
    fn run(&self, mut file: LogFile) {
        let mut batch = Shard::default();
        loop {
            let (flush, stop) = self.wait(&mut file);
            for shard in &self.shards {
                std::mem::swap(&mut *lock(shard), &mut batch);
                self.write(&mut file, &batch);
                self.lines.fetch_sub(batch.lines, AcqRel);
                batch.lines = 0;
                // The same load fits into it again; after a burst it is given back.
                batch.bytes.shrink_to(BUFFER_KEPT_BYTES.max(2 * batch.bytes.len()));
                batch.bytes.clear();
            }
            self.orders().flushed = flush;
            self.flushed.notify_all();
            if stop {
                return;
            }
        }
    }

    /// Until there is something to do; then gathers for a moment, unless somebody waits for it.
    fn wait(&self, file: &mut LogFile) -> (u64, bool) {
        let mut orders = self.orders();
        while self.lines.load(std::sync::atomic::Ordering::Acquire) == 0
            && !orders.stop
            && !orders.reopen
            && orders.flush == orders.flushed
        {
            orders = self.wake.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
        if !orders.stop && orders.flush == orders.flushed {
            orders = self.wake.wait_timeout(orders, GATHER).unwrap_or_else(PoisonError::into_inner).0;
        }
        if std::mem::take(&mut orders.reopen) {
            file.reopen_at_next_write();
        }
        (orders.flush, orders.stop)
    }

    /// Tries again until the batch is out or we are told to stop: meanwhile new records wait, and then are dropped.
    fn write(&self, file: &mut LogFile, batch: &Shard) {
        const PAUSE: Duration = Duration::from_millis(100);
        let mut written = 0;
        while let Err(error) = file.write(&batch.bytes, &mut written) {
            self.metrics.access_log_failed();
            if error.kind() == io::ErrorKind::BrokenPipe || self.orders().stop {
                // Nobody will ever read it. What was cut off counts as not written.
                let lost = batch.bytes[written..].iter().filter(|byte| **byte == b'\n').count();
                self.metrics.access_log_dropped(lost as u64);
                return;
            }
            tracing::warn!(%error, "the access log cannot be written; records are dropped when {LINES_MAX} wait");
            std::thread::sleep(PAUSE);
        }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        lock(&self.orders)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Lines are appended whole and counters set at once, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads take shards in turn, so that as many workers as there are shards never meet.
fn shard_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.with(|shard| {
        shard.get().unwrap_or_else(|| {
            let index = NEXT.fetch_add(1, AcqRel) % SHARDS;
            shard.set(Some(index));
            index
        })
    })
}

#[cfg(test)]
mod tests;
