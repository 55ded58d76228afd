//! One pair of identity and audience: its token, and how the attempts to have one fare.
//!
//! Its task writes here, requests read; a request that finds its token over says so, and the task hears it.

use super::{HeldToken, RENEWAL_MIN, WAIT_MAX};
use arc_swap::ArcSwapOption;
use http::HeaderValue;
use postern_config::SpiffeId;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::timeout;

/// How often a task looks whether its token is still used.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Entry {
    pub(super) own: SpiffeId,
    pub(super) audience: Box<str>,
    pub(super) token: ArcSwapOption<Token>,
    /// Changes with every attempt.
    state: watch::Sender<State>,
    /// Rises with every request that used it.
    uses: AtomicU64,
    /// Milliseconds since 1970: who has waited longest makes room for others.
    used_at: AtomicU64,
}

pub(super) struct Token {
    /// `Bearer …`, marked as sensitive: HTTP/2 keeps it out of its tables (RFC 7541 §7.1.3).
    pub(super) header: HeaderValue,
    pub(super) fetched_at: SystemTime,
    pub(super) expires_at: SystemTime,
    /// From then on it is not sent any more.
    pub(super) ends_at: SystemTime,
    pub(super) key_id: Option<String>,
}

#[derive(Clone)]
enum State {
    /// There is none, and somebody has waited since then.
    Asking(Instant),
    Fetched,
    /// Why there is none, or no newer one.
    Failed(String),
    /// Nobody keeps it fresh any more, and who looks for it finds another or none.
    LetGo,
}

/// What came of waiting for a token.
pub(super) enum Waited {
    Token(HeaderValue),
    Nothing(String),
    LetGo,
}

impl Entry {
    pub(super) fn new(own: &SpiffeId, audience: &str, now: SystemTime) -> Self {
        Self {
            own: own.clone(),
            audience: audience.into(),
            token: ArcSwapOption::empty(),
            state: watch::Sender::new(State::Asking(Instant::now())),
            uses: AtomicU64::new(0),
            used_at: AtomicU64::new(millis(now)),
        }
    }

    pub(super) fn used(&self, now: SystemTime) {
        self.uses.fetch_add(1, Relaxed);
        self.used_at.store(millis(now), Relaxed);
    }

    pub(super) fn uses(&self) -> u64 {
        self.uses.load(Relaxed)
    }

    pub(super) fn used_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.used_at.load(Relaxed))
    }

    pub(super) fn usable(&self, now: SystemTime) -> Option<HeaderValue> {
        self.token.load().as_ref().filter(|token| now < token.ends_at).map(|token| token.header.clone())
    }

    /// For a request that found none. At once where the last attempt failed.
    pub(super) async fn wait(&self) -> Waited {
        let mut state = self.state.subscribe();
        loop {
            let current = state.borrow_and_update().clone();
            if let Some(header) = self.usable(SystemTime::now()) {
                return Waited::Token(header);
            }
            let since = match current {
                State::Asking(since) => since,
                // It ended before its renewal.
                State::Fetched => {
                    self.ask();
                    continue;
                }
                State::Failed(why) => return Waited::Nothing(why),
                State::LetGo => return Waited::LetGo,
            };
            let left = WAIT_MAX.saturating_sub(since.elapsed());
            if !matches!(timeout(left, state.changed()).await, Ok(Ok(()))) {
                return Waited::Nothing("the agent has not answered yet".to_owned());
            }
        }
    }

    fn ask(&self) {
        self.state.send_if_modified(|state| {
            let is_over = matches!(state, State::Fetched);
            if is_over {
                *state = State::Asking(Instant::now());
            }
            is_over
        });
    }

    /// False: it was let go of meanwhile.
    pub(super) fn hold(&self, token: Token) -> bool {
        self.token.store(Some(Arc::new(token)));
        self.say(State::Fetched)
    }

    /// False: it was let go of meanwhile.
    pub(super) fn fail(&self, why: String) -> bool {
        self.say(State::Failed(why))
    }

    fn say(&self, next: State) -> bool {
        self.state.send_if_modified(|state| {
            let is_kept = !matches!(state, State::LetGo);
            if is_kept {
                *state = next;
            }
            is_kept
        })
    }

    /// Its key is one of those, which are no more: the next request has another fetched. False: it is not, or it was renewed
    /// meanwhile.
    pub(super) fn forget(&self, key_ids: &HashSet<&str>) -> bool {
        let held = self.token.load_full();
        let key_id = held.as_ref().and_then(|token| token.key_id.as_deref());
        if !key_id.is_some_and(|key_id| key_ids.contains(key_id)) {
            return false;
        }
        let found = self.token.compare_and_swap(&held, None);
        found.as_ref().map(Arc::as_ptr) == held.as_ref().map(Arc::as_ptr)
    }

    pub(super) fn let_go(&self) {
        self.state.send_replace(State::LetGo);
    }

    pub(super) fn has_failed(&self, why: &str) -> bool {
        matches!(&*self.state.borrow(), State::Failed(before) if before == why)
    }

    /// Until `pause` after a fetch is over: sooner when a request finds that the token is, for a clock may be set and a machine
    /// may sleep, and timers know nothing of either. False: it was let go of.
    pub(super) async fn until_renewal(&self, pause: Duration) -> bool {
        tokio::time::sleep(RENEWAL_MIN).await;
        self.undisturbed(pause.saturating_sub(RENEWAL_MIN)).await;
        !self.is_let_go()
    }

    /// Where tokens come from has changed: a failure says nothing any more.
    pub(super) fn ask_again(&self) {
        self.state.send_if_modified(|state| {
            let has_failed = matches!(state, State::Failed(_));
            if has_failed {
                *state = State::Asking(Instant::now());
            }
            has_failed
        });
    }

    /// After a failure, unless it says nothing any more. False: it was let go of.
    pub(super) async fn until_next_attempt(&self, pause: Duration) -> bool {
        let _ = timeout(pause, self.state.subscribe().wait_for(|state| !matches!(state, State::Failed(_)))).await;
        !self.is_let_go()
    }

    /// Waits until somebody uses the token again, at the longest until it ends. `before`: its uses before it was fetched.
    pub(super) async fn used_again(&self, before: u64, ends_at: SystemTime) -> bool {
        loop {
            if self.is_let_go() {
                return false;
            }
            if self.uses() != before {
                return true;
            }
            match ends_at.duration_since(SystemTime::now()) {
                Ok(left) => self.undisturbed(left.min(LOOK_EVERY)).await,
                Err(_over) => return false,
            }
        }
    }

    async fn undisturbed(&self, pause: Duration) {
        let _ = timeout(pause, self.state.subscribe().wait_for(|state| !matches!(state, State::Fetched))).await;
    }

    fn is_let_go(&self) -> bool {
        matches!(&*self.state.borrow(), State::LetGo)
    }

    pub(super) fn view(&self) -> HeldToken {
        let token = self.token.load();
        HeldToken {
            own: self.own.clone(),
            audience: self.audience.to_string(),
            fetched_at: token.as_ref().map(|token| token.fetched_at),
            expires_at: token.as_ref().map(|token| token.expires_at),
            uses: self.uses(),
            used_at: self.used_at(),
            last_error: match &*self.state.borrow() {
                State::Failed(why) => Some(why.clone()),
                State::Asking(_) | State::Fetched | State::LetGo => None,
            },
        }
    }
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
