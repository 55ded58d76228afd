//! Keeps one Workload API stream open for ever, and gives every message to the store.
//!
//! Why one stream and not two: `FetchX509SVID` carries the SVIDs *and* the bundles, own and federated, as one state.
//! A `FetchX509Bundles` stream beside it would say the same at another time, and the two could not be swapped in
//! atomically (Workload API §4.3). So `FetchX509Bundles` is for a process without an SVID, which only validates
//! (§5.2.2): [`Profile::BundlesOnly`].

use super::backoff::Backoff;
use super::events::{Counters, DiscardReason};
use super::message::{Update, check_bundles, check_svids};
use super::message_fault::MessageFault;
use super::publisher::{Publisher, chain};
use super::source::Profile;
use super::workload_api::{Keepalive, StreamEnd, address_of, fetch_bundles, fetch_svids};
use crate::tls::Strictness;
use postern_config::identity::Endpoint;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tonic::Streaming;

/// How soon an agent's new socket is noticed. A look at one directory entry; a watch would need its own fallback for
/// directories that do not exist yet.
const SOCKET_LOOK_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) struct Supervisor {
    pub(crate) endpoint: Endpoint,
    pub(crate) profile: Profile,
    pub(crate) strictness: Strictness,
    pub(crate) publisher: Publisher,
}

impl Supervisor {
    /// Never returns.
    ///
    /// # Cancellation
    /// Dropping the future closes the stream; what was published stays.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        let mut keepalive = Keepalive::default();
        loop {
            let (socket, started) = (SocketIdentity::of(&self.endpoint), Instant::now());
            let end = match self.profile {
                Profile::SvidsAndBundles => self.follow_svids(keepalive, &mut backoff).await,
                Profile::BundlesOnly => self.follow_bundles(keepalive, &mut backoff).await,
            };
            self.report(&end);
            if matches!(end, StreamEnd::CutOff) {
                keepalive = keepalive.after_cut_off(started.elapsed());
            }
            let delay = match end {
                StreamEnd::NotSupported { .. } => Backoff::slow(fastrand::f64()),
                _ if self.publisher.denial_runs() => backoff.next_of_denial(fastrand::f64()),
                _ => backoff.next(fastrand::f64()),
            };
            if wait(&self.endpoint, delay, socket).await == Wake::SocketAppeared {
                backoff.reset();
            }
            Counters::count(&self.publisher.counters.reconnects);
        }
    }

    async fn follow_svids(&self, keepalive: Keepalive, backoff: &mut Backoff) -> StreamEnd {
        match fetch_svids(&self.endpoint, keepalive).await {
            Ok(stream) => self.follow(stream, backoff, |message, now| check_svids(message, now, self.strictness)).await,
            Err(end) => end,
        }
    }

    async fn follow_bundles(&self, keepalive: Keepalive, backoff: &mut Backoff) -> StreamEnd {
        match fetch_bundles(&self.endpoint, keepalive).await {
            Ok(stream) => self.follow(stream, backoff, check_bundles).await,
            Err(end) => end,
        }
    }

    /// Applies message after message; a message that breaks a rule is discarded and the stream stays.
    async fn follow<M>(
        &self,
        mut stream: Streaming<M>,
        backoff: &mut Backoff,
        check: impl Fn(M, SystemTime) -> Result<Update, MessageFault>,
    ) -> StreamEnd {
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return StreamEnd::Ended,
                Err(status) => return status.into(),
            };
            let now = SystemTime::now();
            match check(message, now) {
                Ok(update) => {
                    self.publisher.apply(update, now);
                    backoff.reset();
                }
                Err(fault) => self.publisher.discard(&fault),
            }
        }
    }

    fn report(&self, end: &StreamEnd) {
        let (endpoint, now) = (address_of(&self.endpoint), SystemTime::now());
        match end {
            StreamEnd::Denied(_) => {
                // Once a denial, not once an attempt.
                if self.publisher.denied(now) {
                    tracing::warn!(endpoint, error = chain(end), "no identity from the Workload API; will try again");
                }
            }
            StreamEnd::NotSupported { .. } => {
                tracing::error!(
                    endpoint,
                    error = chain(end),
                    "the Workload API refuses our request; will try again slowly"
                );
                self.publisher.broken(&chain(end), now);
            }
            StreamEnd::TooLarge => {
                self.publisher.discard_unreadable(DiscardReason::TooLarge, end);
                self.publisher.broken(&chain(end), now);
            }
            StreamEnd::Connect { .. }
            | StreamEnd::ConnectTimeout { .. }
            | StreamEnd::Ended
            | StreamEnd::CutOff
            | StreamEnd::NoToken
            | StreamEnd::Failed { .. } => {
                tracing::debug!(endpoint, error = chain(end), "the Workload API stream ended; will try again");
                self.publisher.broken(&chain(end), now);
            }
        }
    }
}

/// Waits for `delay`, or until there is another socket than `seen`, because then the agent has just started.
pub(super) async fn wait(endpoint: &Endpoint, delay: Duration, seen: Option<SocketIdentity>) -> Wake {
    let deadline = Instant::now() + delay;
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Wake::Elapsed;
        }
        tokio::time::sleep_until(deadline.min(now + SOCKET_LOOK_INTERVAL)).await;
        let current = SocketIdentity::of(endpoint);
        if current.is_some() && current != seen {
            return Wake::SocketAppeared;
        }
    }
}

#[derive(PartialEq)]
pub(super) enum Wake {
    Elapsed,
    SocketAppeared,
}

/// Tells a socket from the one that was at the same path before: inode numbers alone are used again at once.
#[derive(PartialEq)]
pub(super) struct SocketIdentity {
    device: u64,
    inode: u64,
    changed_at: (i64, i64),
}

impl SocketIdentity {
    pub(super) fn of(endpoint: &Endpoint) -> Option<Self> {
        match endpoint {
            Endpoint::Unix(path) => Self::at(path),
            Endpoint::Tcp(_) => None,
        }
    }

    fn at(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let changed_at = (metadata.ctime(), metadata.ctime_nsec());
        Some(Self { device: metadata.dev(), inode: metadata.ino(), changed_at })
    }
}
