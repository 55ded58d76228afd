//! Queries for names that are none of ours: asked upstream over UDP, over TCP where the answer is cut short, and of the
//! next nameserver where one does not answer; answers are cached.
//!
//! One question that several ask at the same time goes out once. That also ends a loop: a nameserver on this host whose
//! own queries are captured asks us what we are asking it, and then all wait for one answer until the deadline.

use super::cache::{Cache, Key};
use super::wire::{Query, Reply, ReplyError};
use crate::tasks;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

/// For one query in all: resolvers ask again after 5 s (resolv.conf(5), `timeout`), and should get an answer before.
const DEADLINE: Duration = Duration::from_secs(4);
/// For one nameserver, before the next one is asked, or the same again.
const ATTEMPT: Duration = Duration::from_millis(1200);
/// Each nameserver is asked twice; what is lost once need not be lost again.
const ROUNDS: usize = 2;
/// Different questions that are under way at a time; each holds a socket.
const IN_FLIGHT_MAX: usize = 256;
/// After this long the first nameserver of the list is tried first again.
const FIRST_AGAIN: Duration = Duration::from_secs(30);

/// Asks nameservers, and remembers what they said.
pub struct Forwarder {
    upstreams: Vec<SocketAddr>,
    mark: NonZeroU32,
    cache: Mutex<Cache>,
    in_flight: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    /// Which one answered last, and since when that is not the first of the list.
    preferred: Mutex<Option<(usize, Instant)>>,
    failing: AtomicBool,
}

type Outcome = Result<Arc<Reply>, Failure>;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no nameserver answered in time")]
    NoAnswer,
    #[error("{IN_FLIGHT_MAX} questions are under way already")]
    Busy,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Cache,
    Upstream,
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the nameserver cannot be reached")]
    Io(#[from] io::Error),
    #[error("the nameserver's message {0}")]
    Reply(#[from] ReplyError),
}

impl Forwarder {
    pub fn new(upstreams: Vec<SocketAddr>, mark: NonZeroU32) -> Self {
        Self {
            upstreams,
            mark,
            cache: Mutex::default(),
            in_flight: Mutex::default(),
            preferred: Mutex::default(),
            failing: AtomicBool::new(false),
        }
    }

    pub fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }

    /// Would a new one be the same?
    pub fn asks(&self, upstreams: &[SocketAddr], mark: NonZeroU32) -> bool {
        self.upstreams == upstreams && self.mark == mark
    }

    /// The answer, and how old it is.
    ///
    /// # Errors
    /// There is none.
    ///
    /// # Cancellation
    /// The question goes on, and its answer is cached.
    pub async fn resolve(self: &Arc<Self>, query: &Query) -> Result<(Arc<Reply>, Duration, Source), Failure> {
        let key = Key::of(query);
        if let Some((reply, age)) = lock(&self.cache).get(&key, Instant::now()) {
            return Ok((reply, age, Source::Cache));
        }
        let mut outcome = self.join_or_start(key, query)?;
        // An error means that the task is gone without an outcome.
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or(Err(Failure::NoAnswer)).map(|reply| (reply, Duration::ZERO, Source::Upstream))
    }

    fn join_or_start(self: &Arc<Self>, key: Key, query: &Query) -> Result<watch::Receiver<Option<Outcome>>, Failure> {
        let mut in_flight = lock(&self.in_flight);
        if let Some(outcome) = in_flight.get(&key) {
            return Ok(outcome.clone());
        }
        if in_flight.len() >= IN_FLIGHT_MAX {
            return Err(Failure::Busy);
        }
        let (sender, receiver) = watch::channel(None);
        in_flight.insert(key.clone(), receiver.clone());
        let (forwarder, query) = (self.clone(), query.clone());
        tasks::spawn(async move {
            // Its place is given back however this task ends.
            let _place = Place { forwarder: &forwarder, key: &key };
            let outcome = forwarder.ask_all(&query).await.map(Arc::new);
            if let Ok(reply) = &outcome {
                lock(&forwarder.cache).insert(key.clone(), reply.clone(), Instant::now());
            }
            sender.send_replace(Some(outcome));
        });
        Ok(receiver)
    }

    async fn ask_all(&self, query: &Query) -> Result<Reply, Failure> {
        let end = Instant::now() + DEADLINE;
        let first = self.first_to_ask();
        for _ in 0..ROUNDS {
            let mut failed = None;
            for turn in 0..self.upstreams.len() {
                let index = (first + turn) % self.upstreams.len();
                let upstream = self.upstreams[index];
                let left = end.saturating_duration_since(Instant::now()).min(ATTEMPT);
                match timeout(left, self.ask(upstream, query)).await {
                    Ok(Ok(reply)) if reply.is_failure() => failed = Some(reply),
                    Ok(Ok(reply)) => {
                        self.answered(index);
                        return Ok(reply);
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%upstream, error = &error as &dyn std::error::Error, "nameserver failed");
                        // A refused port answers at once: twice the same in a row would tell nothing new.
                        tokio::task::yield_now().await;
                    }
                    Err(_) => tracing::debug!(%upstream, "nameserver did not answer in time"),
                }
            }
            // Somebody answered that it cannot answer: asking once more would tell the same.
            if let Some(reply) = failed {
                return Ok(reply);
            }
        }
        if !self.failing.swap(true, Relaxed) {
            tracing::warn!(upstreams = ?self.upstreams, "no nameserver answers; names of declared services still do");
        }
        Err(Failure::NoAnswer)
    }

    fn first_to_ask(&self) -> usize {
        let mut preferred = lock(&self.preferred);
        match *preferred {
            Some((index, since)) if since.elapsed() < FIRST_AGAIN => index,
            _ => {
                *preferred = None;
                0
            }
        }
    }

    fn answered(&self, index: usize) {
        if self.failing.swap(false, Relaxed) {
            tracing::info!(upstream = %self.upstreams[index], "a nameserver answers again");
        }
        let mut preferred = lock(&self.preferred);
        if preferred.map_or(0, |(index, _)| index) != index {
            *preferred = Some((index, Instant::now()));
        }
    }

    async fn ask(&self, upstream: SocketAddr, query: &Query) -> Result<Reply, AskError> {
        let reply = self.ask_udp(upstream, query).await?;
        match reply.truncated {
            true => self.ask_tcp(upstream, query).await,
            false => Ok(reply),
        }
    }

    /// From a port and with an id that nobody can guess (RFC 5452 §9.2): the kernel chooses a random port for each socket.
    async fn ask_udp(&self, upstream: SocketAddr, query: &Query) -> Result<Reply, AskError> {
        let any = match upstream {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).await?;
        self.mark(&socket);
        // Messages of others do not arrive at a connected socket.
        socket.connect(upstream).await?;
        let id = random_id()?;
        socket.send(&query.forwarded(id)).await?;
        let mut buffer = vec![0; super::wire::UDP_BYTES_MAX];
        loop {
            let length = socket.recv(&mut buffer).await?;
            match Reply::read(&buffer[..length], query, id) {
                Ok(reply) => return Ok(reply),
                // Somebody guesses, or an old answer is late: the true one may still come (RFC 5452 §9.1).
                Err(ReplyError::OtherId | ReplyError::OtherQuestion | ReplyError::NotAResponse) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn ask_tcp(&self, upstream: SocketAddr, query: &Query) -> Result<Reply, AskError> {
        let socket = match upstream {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        self.mark(&socket);
        let mut stream = socket.connect(upstream).await?;
        let id = random_id()?;
        stream.write_all(&with_length(&query.forwarded(id))).await?;
        let length = stream.read_u16().await?;
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await?;
        Ok(Reply::read(&bytes, query, id)?)
    }

    /// So that the packet filter knows our queries. Without CAP_NET_ADMIN it knows them by our user.
    fn mark(&self, socket: &impl std::os::fd::AsFd) {
        let _ = socket2::SockRef::from(socket).set_mark(self.mark.get());
    }
}

/// A message over TCP (RFC 1035 §4.2.2), in one write so that it is one segment (RFC 7766 §8).
pub fn with_length(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(&message[..usize::from(length)]);
    bytes
}

fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("the system has no randomness"))?;
    Ok(u16::from_be_bytes(bytes))
}

struct Place<'f> {
    forwarder: &'f Forwarder,
    key: &'f Key,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.forwarder.in_flight).remove(self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after each statement, so a panic elsewhere does not make it wrong.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(in crate::dns) mod tests;
