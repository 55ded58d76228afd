//! The audit log: a record of every decision and of what became of our credentials, in a chain that shows when one of them
//! was changed, removed or moved, sealed with the workload's own key.
//!
//! Nothing of it is on the data path but the making of a record and its way into a bounded queue; without an `audit:`
//! section nothing is but one branch.
//!
//! Reading order: [`chain`] (what a line is), [`record`] (what stands in it), [`seal`], then `queue` and `writer` (how it
//! gets out), and [`verify`] (how it is read).

pub mod archive;
pub mod chain;
mod event;
#[cfg(test)]
pub(crate) mod fixtures;
mod history;
mod queue;
pub mod record;
pub mod seal;
mod second_place;
mod target;
pub mod verify;
pub mod watch;
mod writer;

pub use history::BROKEN_MARK;
pub use queue::Place;
pub use target::OpenError;

use crate::identity::IdentityStore;
use crate::telemetry::record::{ConnectionRecord, RequestRecord};
use crate::telemetry::{Direction, Metrics};
use crate::upstream::client::chain as chain_of;
use postern_config::audit::Decisions;
use postern_config::{Audit, SvidSelector};
use queue::Queue;
use record::{Decision, Event, Outcome, Process};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use writer::Writer;

/// A cheap handle; its clones write to the same log.
#[derive(Clone, Default)]
pub struct AuditLog(Option<Arc<Open>>);

struct Open {
    queue: Arc<Queue>,
    decisions: Decisions,
}

/// What a log needs to know of the process that writes it.
pub struct Start<'a> {
    /// What its decision ids begin with.
    pub boot: u32,
    pub policy: &'a str,
    /// Whose key seals.
    pub svid: &'a SvidSelector,
    pub identity: &'a Arc<IdentityStore>,
    pub metrics: &'a Arc<Metrics>,
}

thread_local! {
    static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AuditLog {
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens the log and starts its writer. Without a section there is none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn start(config: Option<&Audit>, start: &Start<'_>) -> Result<Self, OpenError> {
        let Some(config) = config else { return Ok(Self::off()) };
        let decisions = config.decisions;
        let queue = Arc::new(Queue::new(config.on_full, start.metrics));
        let (config, svid, policy) = (config.clone(), start.svid.clone(), start.policy.to_owned());
        let (boot, identity, metrics) = (start.boot, start.identity.clone(), start.metrics.clone());
        let its = queue.clone();
        let open = move || {
            let (denials, allows_percent) = (decisions.denials, decisions.allows_percent);
            let process = Process { boot, policy: &policy, denials, allows_percent };
            Writer::open(&config, &svid, &identity, &process, &its, &metrics)
        };
        let writer = open()?;
        let thread = std::thread::Builder::new().name("audit-log".to_owned());
        let its = queue.clone();
        thread.spawn(move || keep_alive(&its, writer, Writer::run, open)).map_err(OpenError::Thread)?;
        Ok(Self(Some(Arc::new(Open { queue, decisions }))))
    }

    /// Whether there is one.
    pub fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Whether somebody may have to wait for a [`place`](Self::place).
    pub fn blocks(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.queue.blocks())
    }

    /// With `on_full: block`, waits until there is a place, which it leaves to others: nothing is begun that could not be
    /// recorded now.
    ///
    /// # Cancellation
    /// Gives its turn up.
    pub async fn room(&self) {
        drop(self.place().await);
    }

    /// With `on_full: block`, waits until the record of a decision will have a place. To be taken when the decision is made,
    /// and not before: who holds one keeps it from others.
    ///
    /// # Cancellation
    /// Gives its turn up.
    pub async fn place(&self) -> Place {
        match &self.0 {
            // Boxed, so that what waits takes no room in the requests that do not.
            Some(open) if open.queue.blocks() => Box::pin(open.queue.place()).await,
            _ => Place::default(),
        }
    }

    pub fn request(&self, place: Place, decision: &Decision<'_>, record: &RequestRecord<'_>) {
        if let Some(open) = self.0.as_ref().filter(|open| open.wants(decision.outcome)) {
            open.push(place, |body| decision.write_request(record, body));
        }
    }

    pub fn connection(&self, place: Place, decision: &Decision<'_>, record: &ConnectionRecord<'_>) {
        let is_recorded = |open: &&Arc<Open>| {
            let is_stranger = decision.peer.is_none() && record.connection.direction == Direction::Inbound;
            open.wants(decision.outcome) && (!is_stranger || open.admits_stranger(decision.outcome))
        };
        if let Some(open) = self.0.as_ref().filter(is_recorded) {
            open.push(place, |body| decision.write_connection(record, body));
        }
    }

    pub fn event(&self, event: &Event<'_>) {
        if let Some(open) = &self.0 {
            open.push(Place::default(), |body| event.write(body, SystemTime::now()));
        }
    }

    /// Waits until everything that was recorded before is written. Blocks the thread: for tests.
    pub fn flush(&self) {
        if let Some(open) = &self.0 {
            open.queue.flush();
        }
    }

    /// The file was renamed (SIGHUP). The writer also looks by itself once a second.
    pub fn reopen(&self) {
        if let Some(open) = &self.0 {
            open.queue.reopen();
        }
    }

    /// Writes and seals what there is. Blocks the thread, not for long: for the end of the process.
    pub fn close(&self) {
        if let Some(open) = &self.0
            && !open.queue.close()
        {
            tracing::error!("the audit log could not be closed in time");
        }
    }
}

impl Open {
    fn wants(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Refused | Outcome::Observed | Outcome::Failed | Outcome::Cut => self.decisions.denials,
            Outcome::Allowed => match self.decisions.allows_percent {
                0 => false,
                share => share >= 100 || fastrand::u8(..100) < share,
            },
        }
    }

    fn admits_stranger(&self, outcome: Outcome) -> bool {
        outcome != Outcome::Refused || self.queue.admits_stranger(Instant::now())
    }

    fn push(&self, place: Place, write: impl FnOnce(&mut Vec<u8>)) {
        BODY.with_borrow_mut(|body| {
            write(body);
            self.queue.push(place, body);
        });
    }
}

/// Between two attempts to begin again.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

/// Runs the writer until the end of the process. After a defect another one begins, with what is in the file; until then it is
/// as with a disk that takes nothing.
fn keep_alive<W, E: std::error::Error + 'static>(
    queue: &Queue,
    mut writer: W,
    run: impl Fn(W),
    open: impl Fn() -> Result<W, E>,
) {
    while catch_unwind(AssertUnwindSafe(|| run(writer))).is_err() {
        queue.lose_in_hand();
        tracing::error!("a defect ended the writer of the audit log; it begins again");
        writer = loop {
            queue.pause(BEGIN_AGAIN);
            match open() {
                Ok(writer) => break writer,
                Err(error) => {
                    let error = chain_of(&error);
                    tracing::error!(error, "the writer of the audit log cannot begin again");
                }
            }
            if queue.is_stopping() {
                queue.abandon();
                return queue.ended();
            }
        };
    }
    queue.ended();
}

impl Drop for Open {
    fn drop(&mut self) {
        self.queue.stop();
    }
}

#[cfg(test)]
mod tests;
