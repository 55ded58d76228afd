//! JWT-SVIDs of our own: fetched when somebody first needs one, renewed before they end, and shown by the request path
//! without a lock.
//!
//! Each pair of identity and audience has one task, on the control plane: so there is never more than one fetch for it, and
//! requests only read what it left. A token is renewed at half of its life (SPIRE's agent does the same), and the older one is
//! used until shortly before its end when the agent is slow or gone.

mod entry;

use super::backoff::Backoff;
use super::events::Counters;
use super::publisher::chain;
use super::snapshot::TokenKeys;
use super::store::IdentityStore;
use super::supervisor::{SocketIdentity, Wake, wait};
use super::workload_api::{StreamEnd, TokenClient};
use crate::refusal::{Refusal, Refused};
use crate::token::{OwnToken, TokenProblem, read_own};
use arc_swap::{ArcSwap, ArcSwapOption};
use entry::{Entry, Token, Waited};
use http::HeaderValue;
use postern_config::identity::Endpoint;
use postern_config::{SpiffeId, TrustDomain};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

/// Pairs of identity and audience; beyond it the one goes that was used longest ago. Audiences are the configuration's, or
/// SPIFFE IDs of peers that were verified: no caller can fill this with names.
pub const TOKENS_MAX: usize = 1024;
/// A request waits no longer for a token that nobody had.
const WAIT_MAX: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// What is sent arrives a little later, at a clock that is a little ahead.
const SKEW_MAX: Duration = Duration::from_secs(10);
/// An agent that gives a token which is about to end is not asked more often than this.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
/// So long why there is none is remembered without anybody asking, and attempts go on.
const FAILURE_KEPT: Duration = Duration::from_secs(30);

/// All tokens of this process.
pub struct OwnTokens {
    control: Handle,
    entries: ArcSwap<Entries>,
    entries_max: usize,
    /// Entries are added one at a time; requests that find theirs never take it.
    adding: Mutex<()>,
    /// `None`: the identity comes from files.
    endpoint: ArcSwapOption<Endpoint>,
    client: tokio::sync::Mutex<Option<(Arc<Endpoint>, TokenClient)>>,
    counters: Arc<Counters>,
}

type Entries = HashMap<SpiffeId, HashMap<Box<str>, Arc<Entry>>>;

/// What is known of one token, without the token.
#[derive(Clone, Debug)]
pub struct HeldToken {
    pub own: SpiffeId,
    pub audience: String,
    /// `None`: there is none.
    pub fetched_at: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    pub uses: u64,
    /// Or when it was asked for.
    pub used_at: SystemTime,
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

impl FetchError {
    /// Perhaps only the connection is broken. An answer, whatever it says, came over a good one.
    fn is_of_connection(&self) -> bool {
        match self {
            Self::Timeout => true,
            Self::Stream(end) => {
                !matches!(end, StreamEnd::Denied(_) | StreamEnd::NotSupported { .. } | StreamEnd::NoToken)
            }
            Self::NoEndpoint | Self::Unusable(_) | Self::NoHeader => false,
        }
    }
}

impl OwnTokens {
    /// Fetches run on `control`.
    pub fn new(control: Handle, counters: Arc<Counters>) -> Arc<Self> {
        Self::with_room_for(TOKENS_MAX, control, counters)
    }

    fn with_room_for(entries_max: usize, control: Handle, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            control,
            entries: ArcSwap::default(),
            entries_max,
            adding: Mutex::default(),
            endpoint: ArcSwapOption::empty(),
            client: tokio::sync::Mutex::default(),
            counters,
        })
    }

    /// Where tokens come from; what was fetched stays, and what could not be fetched is asked for again.
    pub fn set_endpoint(&self, endpoint: Option<Endpoint>) {
        self.endpoint.store(endpoint.map(Arc::new));
        all(&self.entries.load()).for_each(|entry| entry.ask_again());
    }

    /// After a failure: for `pause`, or until there is another socket than `seen`. False: the entry was let go of.
    async fn pause(&self, entry: &Entry, pause: Duration, seen: Option<SocketIdentity>, backoff: &mut Backoff) -> bool {
        let Some(endpoint) = self.endpoint.load_full() else { return entry.until_next_attempt(pause).await };
        tokio::select! {
            is_kept = entry.until_next_attempt(pause) => is_kept,
            wake = wait(&endpoint, pause, seen) => {
                if wake == Wake::SocketAppeared {
                    backoff.reset();
                }
                true
            }
        }
    }

    fn socket(&self) -> Option<SocketIdentity> {
        self.endpoint.load().as_ref().and_then(|endpoint| SocketIdentity::of(endpoint))
    }

    /// The value of `Authorization` that shows `audience` a token of `own`.
    ///
    /// # Errors
    /// `TokenUnavailable`: there is none, and why. At once where the last attempt failed, after two seconds where the first
    /// one is under way.
    pub async fn get(self: &Arc<Self>, own: &SpiffeId, audience: &str) -> Result<HeaderValue, Refused> {
        // Twice: the one that was found may just be let go of.
        for _ in 0..2 {
            let (found, now) = (self.find(own, audience), SystemTime::now());
            let entry = found.unwrap_or_else(|| self.add(own, audience, now));
            entry.used(now);
            if let Some(header) = entry.usable(now) {
                return Ok(header);
            }
            match Box::pin(entry.wait()).await {
                Waited::Token(header) => return Ok(header),
                Waited::Nothing(why) => return Err(self.unavailable(audience, &why)),
                Waited::LetGo => {}
            }
        }
        Err(self.unavailable(audience, "others took its place"))
    }

    fn find(&self, own: &SpiffeId, audience: &str) -> Option<Arc<Entry>> {
        self.entries.load().get(own).and_then(|of_own| of_own.get(audience)).cloned()
    }

    fn unavailable(&self, audience: &str, why: &str) -> Refused {
        Counters::count(&self.counters.tokens_missed);
        Refused::new(Refusal::TokenUnavailable, format!("no token for `{}`: {why}", audience.escape_debug()))
    }

    fn add(self: &Arc<Self>, own: &SpiffeId, audience: &str, now: SystemTime) -> Arc<Entry> {
        let _one_at_a_time = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = self.find(own, audience) {
            return entry;
        }
        let mut entries = Entries::clone(&self.entries.load());
        let is_full = all(&entries).count() >= self.entries_max;
        let oldest = all(&entries).min_by_key(|entry| entry.used_at()).cloned().filter(|_| is_full);
        if let Some(oldest) = &oldest {
            take(&mut entries, oldest);
        }
        let entry = Arc::new(Entry::new(own, audience, now));
        entries.entry(own.clone()).or_default().insert(audience.into(), entry.clone());
        self.publish(entries);
        if let Some(oldest) = oldest {
            let audience = oldest.audience.escape_debug().to_string();
            tracing::debug!(own = %oldest.own, audience, "a token is let go of: others were used since");
            oldest.let_go();
        }
        self.control.spawn(keep(self.clone(), entry.clone()));
        entry
    }

    fn remove(&self, entry: &Arc<Entry>) {
        {
            let _one_at_a_time = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
            let mut entries = Entries::clone(&self.entries.load());
            take(&mut entries, entry);
            self.publish(entries);
        }
        // Whoever has found it already looks again.
        entry.let_go();
    }

    fn publish(&self, entries: Entries) {
        self.counters.tokens_kept.store(all(&entries).count() as u64, Relaxed);
        self.entries.store(Arc::new(entries));
    }

    /// Lets go of tokens whose key goes: nobody believes them any more, and half of their life is long. Keys that were never
    /// seen are not missed, for a token may come before the message with its key. Ends with the store.
    pub async fn follow_keys(self: Arc<Self>, identity: Arc<IdentityStore>) {
        let mut changes = identity.subscribe();
        let mut before = identity.load().token_keys.clone();
        while changes.changed().await.is_ok() {
            let after = identity.load().token_keys.clone();
            for (trust_domain, key_ids) in gone(&before, &after) {
                let entries = self.entries.load();
                let own = all(&entries).filter(|entry| entry.own.trust_domain() == *trust_domain);
                let forgotten = own.filter(|entry| entry.forget(&key_ids)).count();
                if forgotten > 0 {
                    tracing::info!(%trust_domain, ?key_ids, tokens = forgotten, "tokens were let go of: their key is no more");
                }
            }
            before = after;
        }
    }

    /// By identity and audience, in the order of their names.
    pub fn held(&self) -> Vec<HeldToken> {
        let entries = self.entries.load();
        let mut held: Vec<_> = all(&entries).map(|entry| entry.view()).collect();
        held.sort_unstable_by(|one, other| (&one.own, &one.audience).cmp(&(&other.own, &other.audience)));
        held
    }

    async fn fetch(&self, entry: &Entry) -> Result<Token, FetchError> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.ask(entry)).await.unwrap_or(Err(FetchError::Timeout));
        if fetched.as_ref().is_err_and(FetchError::is_of_connection) {
            self.client.lock().await.take();
        }
        let (token, now) = (fetched?, SystemTime::now());
        let OwnToken { expires_at, key_id } = read_own(&token, &entry.own, &entry.audience, now)?;
        let bearer = Zeroizing::new(format!("Bearer {}", &*token));
        let mut header = HeaderValue::from_str(&bearer).map_err(|_invalid| FetchError::NoHeader)?;
        header.set_sensitive(true);
        let life = expires_at.duration_since(now).unwrap_or_default();
        Ok(Token { header, fetched_at: now, expires_at, ends_at: expires_at - SKEW_MAX.min(life / 10), key_id })
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

/// Ids of keys that were there before.
fn gone<'a>(before: &'a TokenKeys, after: &TokenKeys) -> Vec<(&'a TrustDomain, HashSet<&'a str>)> {
    let changed = before.iter().filter(|(name, set)| !after.get(*name).is_some_and(|same| Arc::ptr_eq(same, set)));
    let gone = changed.map(|(name, set)| {
        let gone = set.keys().iter().filter(|key| !after.get(name).is_some_and(|set| set.contains(key.thumbprint)));
        (name, gone.filter_map(|key| key.key_id.as_deref()).collect())
    });
    gone.collect()
}

fn all(entries: &Entries) -> impl Iterator<Item = &Arc<Entry>> {
    entries.values().flat_map(HashMap::values)
}

fn take(entries: &mut Entries, entry: &Arc<Entry>) {
    let Some(of_own) = entries.get_mut(&entry.own) else { return };
    if of_own.get(&entry.audience).is_some_and(|found| Arc::ptr_eq(found, entry)) {
        of_own.remove(&entry.audience);
    }
    if of_own.is_empty() {
        entries.remove(&entry.own);
    }
}

/// Keeps one token fresh as long as somebody uses it.
async fn keep(tokens: Arc<OwnTokens>, entry: Arc<Entry>) {
    let (own, audience) = (entry.own.clone(), entry.audience.escape_debug().to_string());
    let mut backoff = Backoff::default();
    loop {
        let (uses, socket) = (entry.uses(), tokens.socket());
        match tokens.fetch(&entry).await {
            Ok(token) => {
                Counters::count(&tokens.counters.tokens_fetched);
                backoff.reset();
                let life = token.expires_at.duration_since(token.fetched_at).unwrap_or_default();
                tracing::debug!(%own, audience, life_s = life.as_secs(), "token received");
                let ends_at = token.ends_at;
                // A tenth more or less, so that what began together does not stay together.
                let pause = life.mul_f64(0.45 + fastrand::f64() / 10.0);
                if !entry.hold(token) || !entry.until_renewal(pause).await {
                    return;
                }
                if !entry.used_again(uses, ends_at).await {
                    tracing::debug!(%own, audience, "a token is let go of: nobody uses it");
                    return tokens.remove(&entry);
                }
            }
            Err(error) => {
                Counters::count(&tokens.counters.token_fetches_failed);
                let why = chain(&error);
                if !entry.has_failed(&why) {
                    tracing::warn!(%own, audience, error = why, "no token from the Workload API; will try again");
                }
                let pause = backoff.next(fastrand::f64());
                if !entry.fail(why) || !tokens.pause(&entry, pause, socket, &mut backoff).await {
                    return;
                }
                let now = SystemTime::now();
                let idle = now.duration_since(entry.used_at()).unwrap_or_default();
                if idle >= FAILURE_KEPT && entry.usable(now).is_none() {
                    return tokens.remove(&entry);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
