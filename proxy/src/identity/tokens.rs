//! JWT-SVIDs of our own: fetched when somebody first needs one, renewed before they end, and shown by the request path
//! without a lock.
//!
//! Each pair of identity and audience has one task, on the control plane: so there is never more than one fetch for it, and
//! requests only read what it left. A token is renewed at half of its life (SPIRE's agent does the same), and the older one is
//! used until shortly before its end when the agent is slow or gone.

use super::backoff::Backoff;
use super::events::Counters;
use super::publisher::chain;
use super::workload_api::{StreamEnd, TokenClient};
use crate::refusal::{Refusal, Refused};
use crate::token::{TokenProblem, read_own};
use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use postern_config::SpiffeId;
use postern_config::identity::Endpoint;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Pairs of identity and audience. Audiences are the configuration's, or SPIFFE IDs of peers that were verified.
pub const TOKENS_MAX: usize = 1024;
/// A request waits no longer for a token that nobody had.
const WAIT_MAX: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// What is sent arrives a little later, at a clock that is a little ahead.
const SKEW_MAX: Duration = Duration::from_secs(10);
/// An agent that gives a token which is about to end is not asked more often than this.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
/// How often a task looks whether its token is still used.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// All tokens of this process.
pub struct OwnTokens {
    control: Handle,
    entries: ArcSwap<Entries>,
    /// Entries are added one at a time; requests that find theirs never take it.
    adding: Mutex<()>,
    /// `None`: the identity comes from files.
    endpoint: ArcSwapOption<Endpoint>,
    client: tokio::sync::Mutex<Option<(Arc<Endpoint>, TokenClient)>>,
    counters: Arc<Counters>,
}

type Entries = HashMap<SpiffeId, HashMap<Box<str>, Arc<Entry>>>;

struct Entry {
    own: SpiffeId,
    audience: Box<str>,
    token: ArcSwapOption<Token>,
    /// Why there is none, or no newer one. Changes with every attempt.
    state: watch::Sender<State>,
    /// Rises with every request that used it.
    uses: AtomicU64,
}

struct Token {
    /// `Bearer …`, marked as sensitive: HTTP/2 keeps it out of its tables (RFC 7541 §7.1.3).
    header: HeaderValue,
    fetched_at: SystemTime,
    expires_at: SystemTime,
    /// From then on it is not sent any more.
    ends_at: SystemTime,
}

#[derive(Clone)]
enum State {
    /// The first attempt began then.
    Asking(Instant),
    Fetched,
    Failed(String),
}

/// What is known of one token, without the token.
#[derive(Clone, Debug)]
pub struct HeldToken {
    pub own: SpiffeId,
    pub audience: String,
    /// `None`: there is none.
    pub fetched_at: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    pub uses: u64,
    pub last_error: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the identity comes from files, which bring no tokens")]
    NoEndpoint,
    #[error(transparent)]
    Stream(#[from] StreamEnd),
    #[error("the agent did not answer within {FETCH_TIMEOUT:?}")]
    Timeout,
    #[error("the agent's token cannot be used")]
    Unusable(#[from] TokenProblem),
    #[error("the agent's token cannot be written as a header")]
    NoHeader,
}

impl OwnTokens {
    /// Fetches run on `control`.
    pub fn new(control: Handle, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            control,
            entries: ArcSwap::default(),
            adding: Mutex::default(),
            endpoint: ArcSwapOption::empty(),
            client: tokio::sync::Mutex::default(),
            counters,
        })
    }

    /// Where tokens come from; what was fetched stays.
    pub fn set_endpoint(&self, endpoint: Option<Endpoint>) {
        self.endpoint.store(endpoint.map(Arc::new));
    }

    /// The value of `Authorization` that shows `audience` a token of `own`.
    ///
    /// # Errors
    /// `TokenUnavailable`: there is none, and why. At once where the last attempt failed, after two seconds where the first
    /// one is under way.
    pub async fn get(self: &Arc<Self>, own: &SpiffeId, audience: &str) -> Result<HeaderValue, Refused> {
        let entry = match self.entries.load().get(own).and_then(|of_own| of_own.get(audience)) {
            Some(entry) => entry.clone(),
            None => self.add(own, audience)?,
        };
        entry.uses.fetch_add(1, Relaxed);
        if let Some(header) = entry.usable(SystemTime::now()) {
            return Ok(header);
        }
        let waited = Box::pin(entry.wait()).await;
        waited.map_err(|why| self.unavailable(&format!("no token for `{}`: {why}", audience.escape_debug())))
    }

    fn unavailable(&self, why: &str) -> Refused {
        Counters::count(&self.counters.tokens_missed);
        Refused::new(Refusal::TokenUnavailable, why.to_owned())
    }

    fn add(self: &Arc<Self>, own: &SpiffeId, audience: &str) -> Result<Arc<Entry>, Refused> {
        let _one_at_a_time = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.entries.load_full();
        if let Some(entry) = current.get(own).and_then(|of_own| of_own.get(audience)) {
            return Ok(entry.clone());
        }
        if current.values().map(HashMap::len).sum::<usize>() >= TOKENS_MAX {
            return Err(self.unavailable(&format!("as many as {TOKENS_MAX} audiences have tokens already")));
        }
        let entry = Arc::new(Entry {
            own: own.clone(),
            audience: audience.into(),
            token: ArcSwapOption::empty(),
            state: watch::Sender::new(State::Asking(Instant::now())),
            uses: AtomicU64::new(0),
        });
        let mut entries = Entries::clone(&current);
        entries.entry(own.clone()).or_default().insert(audience.into(), entry.clone());
        self.entries.store(Arc::new(entries));
        self.control.spawn(keep(self.clone(), entry.clone()));
        Ok(entry)
    }

    fn remove(&self, entry: &Entry) {
        let _one_at_a_time = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Entries::clone(&self.entries.load());
        if let Some(of_own) = entries.get_mut(&entry.own) {
            of_own.remove(&entry.audience);
            if of_own.is_empty() {
                entries.remove(&entry.own);
            }
        }
        self.entries.store(Arc::new(entries));
    }

    /// By identity and audience, in the order of their names.
    pub fn held(&self) -> Vec<HeldToken> {
        let entries = self.entries.load();
        let mut held: Vec<_> = entries.values().flat_map(HashMap::values).map(|entry| entry.view()).collect();
        held.sort_unstable_by(|one, other| (&one.own, &one.audience).cmp(&(&other.own, &other.audience)));
        held
    }

    async fn fetch(&self, entry: &Entry) -> Result<Token, FetchError> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.ask(entry)).await.unwrap_or(Err(FetchError::Timeout));
        if matches!(fetched, Err(FetchError::Stream(_) | FetchError::Timeout)) {
            // Perhaps only its connection is broken.
            self.client.lock().await.take();
        }
        let (token, now) = (fetched?, SystemTime::now());
        let expires_at = read_own(&token, &entry.own, &entry.audience, now)?;
        let bearer = Zeroizing::new(format!("Bearer {}", &*token));
        let mut header = HeaderValue::from_str(&bearer).map_err(|_invalid| FetchError::NoHeader)?;
        header.set_sensitive(true);
        let life = expires_at.duration_since(now).unwrap_or_default();
        Ok(Token { header, fetched_at: now, expires_at, ends_at: expires_at - SKEW_MAX.min(life / 10) })
    }

    async fn ask(&self, entry: &Entry) -> Result<Zeroizing<String>, FetchError> {
        let endpoint = self.endpoint.load_full().ok_or(FetchError::NoEndpoint)?;
        let client = {
            let mut client = self.client.lock().await;
            match &*client {
                Some((of, client)) if *of == endpoint => client.clone(),
                _ => {
                    let connected = TokenClient::connect(&endpoint).await?;
                    *client = Some((endpoint, connected.clone()));
                    connected
                }
            }
        };
        Ok(client.fetch(&entry.own, &entry.audience).await?)
    }
}

impl Entry {
    fn usable(&self, now: SystemTime) -> Option<HeaderValue> {
        self.token.load().as_ref().filter(|token| now < token.ends_at).map(|token| token.header.clone())
    }

    /// # Errors
    /// Why there is none.
    async fn wait(&self) -> Result<HeaderValue, String> {
        let mut state = self.state.subscribe();
        loop {
            let (asked, failed) = match &*state.borrow_and_update() {
                State::Asking(since) => (*since, None),
                State::Fetched => (Instant::now(), None),
                State::Failed(why) => (Instant::now(), Some(why.clone())),
            };
            if let Some(header) = self.usable(SystemTime::now()) {
                return Ok(header);
            }
            if let Some(why) = failed {
                return Err(why);
            }
            let left = WAIT_MAX.saturating_sub(asked.elapsed());
            if !matches!(tokio::time::timeout(left, state.changed()).await, Ok(Ok(()))) {
                return Err("the agent has not answered yet".to_owned());
            }
        }
    }

    fn view(&self) -> HeldToken {
        let token = self.token.load();
        HeldToken {
            own: self.own.clone(),
            audience: self.audience.to_string(),
            fetched_at: token.as_ref().map(|token| token.fetched_at),
            expires_at: token.as_ref().map(|token| token.expires_at),
            uses: self.uses.load(Relaxed),
            last_error: match &*self.state.borrow() {
                State::Failed(why) => Some(why.clone()),
                State::Asking(_) | State::Fetched => None,
            },
        }
    }
}

/// Keeps one token fresh as long as somebody uses it.
async fn keep(tokens: Arc<OwnTokens>, entry: Arc<Entry>) {
    let (own, audience) = (entry.own.clone(), entry.audience.escape_debug().to_string());
    let mut backoff = Backoff::default();
    loop {
        let uses = entry.uses.load(Relaxed);
        match tokens.fetch(&entry).await {
            Ok(token) => {
                Counters::count(&tokens.counters.tokens_fetched);
                backoff.reset();
                let life = token.expires_at.duration_since(token.fetched_at).unwrap_or_default();
                tracing::debug!(%own, audience, life_s = life.as_secs(), "token received");
                let ends_at = token.ends_at;
                entry.token.store(Some(Arc::new(token)));
                entry.state.send_replace(State::Fetched);
                // A tenth more or less, so that what began together does not stay together.
                tokio::time::sleep(life.mul_f64(0.45 + fastrand::f64() / 10.0).max(RENEWAL_MIN)).await;
                if !used_again(&entry, uses, ends_at).await {
                    tracing::debug!(%own, audience, "a token is let go of: nobody uses it");
                    return tokens.remove(&entry);
                }
            }
            Err(error) => {
                Counters::count(&tokens.counters.token_fetches_failed);
                let why = chain(&error);
                if !matches!(&*entry.state.borrow(), State::Failed(before) if *before == why) {
                    tracing::warn!(%own, audience, error = why, "no token from the Workload API; will try again");
                }
                entry.state.send_replace(State::Failed(why));
                tokio::time::sleep(backoff.next(fastrand::f64())).await;
                // Nobody has asked since, and what there was is over.
                if entry.uses.load(Relaxed) == uses && entry.usable(SystemTime::now()).is_none() {
                    return tokens.remove(&entry);
                }
            }
        }
    }
}

/// Waits until somebody uses the token again, at the longest until it ends.
async fn used_again(entry: &Entry, before: u64, ends_at: SystemTime) -> bool {
    loop {
        if entry.uses.load(Relaxed) != before {
            return true;
        }
        match ends_at.duration_since(SystemTime::now()) {
            Ok(left) => tokio::time::sleep(left.min(LOOK_EVERY)).await,
            Err(_over) => return false,
        }
    }
}
