//! The life of one entry. What goes over the wire is tried in tests/it/tokens_out.rs.

use super::*;
use crate::identity::dev::{DevConfig, DevProvider, DevWorkload};
use crate::identity::{SourceHandle, spawn};
use postern_config::identity::{Identity, IdentitySource};
use std::time::Instant;
use tempfile::TempDir;

const AUDIENCE: &str = "spiffe://example.org/db";

struct Scene {
    tokens: Arc<OwnTokens>,
    counters: Arc<Counters>,
    provider: DevProvider,
    own: SpiffeId,
    _directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with_room_for(TOKENS_MAX)
    }

    fn with_room_for(entries_max: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = SpiffeId::parse("spiffe://example.org/web").unwrap();
        let web = DevWorkload {
            name: "web".to_owned(),
            socket: None,
            svids: vec![(own.clone(), None)],
            federates_with: Vec::new(),
        };
        let provider = DevProvider::start(DevConfig {
            state_dir: directory.path().to_owned(),
            trust_domains: vec![TrustDomain::parse("example.org").unwrap()],
            workloads: vec![web],
            svid_ttl: Duration::from_secs(3600),
            ca_ttl: Duration::from_secs(24 * 3600),
        })
        .unwrap();
        let counters = Arc::new(Counters::default());
        let tokens = OwnTokens::with_room_for(entries_max, Handle::current(), counters.clone());
        tokens.set_endpoint(Some(Endpoint::Unix(provider.socket("web").unwrap())));
        Self { tokens, counters, provider, own, _directory: directory }
    }

    async fn get(&self, audience: &str) -> Result<HeaderValue, Refused> {
        self.tokens.get(&self.own, audience).await
    }

    fn entry(&self, audience: &str) -> Arc<Entry> {
        self.tokens.entries.load()[&self.own][audience].clone()
    }

    /// What the agent says of keys, followed from when it has said so first.
    async fn follow_keys(&self) -> (Arc<IdentityStore>, SourceHandle) {
        let (store, endpoint) = (Arc::new(IdentityStore::default()), self.tokens.endpoint.load_full());
        let source = IdentitySource::WorkloadApi { endpoint: endpoint.map(Arc::unwrap_or_clone) };
        let config = Identity { source, ..Identity::default() };
        let handle = spawn(&config, None, store.clone(), Arc::default()).unwrap();
        until_keys(&store, 1).await;
        tokio::spawn(self.tokens.clone().follow_keys(store.clone()));
        // It has begun.
        tokio::task::yield_now().await;
        (store, handle)
    }

    fn audiences(&self) -> Vec<String> {
        self.tokens.held().into_iter().map(|held| held.audience).collect()
    }

    fn fetched(&self) -> u64 {
        self.counters.tokens_fetched.load(Relaxed)
    }
}

async fn until_keys(store: &IdentityStore, count: usize) {
    let mut changes = store.subscribe();
    let waiting = async {
        while store.load().token_keys.values().map(|set| set.keys().len()).sum::<usize>() != count {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("keys in time");
}

/// The clock was set, or the machine slept: timers know nothing of either (THREATS JW-26).
#[tokio::test]
async fn jw_26_a_token_that_ended_before_its_renewal_is_fetched_anew_at_once() {
    let scene = Scene::new();
    let first = scene.get(AUDIENCE).await.unwrap();
    let entry = scene.entry(AUDIENCE);
    let over = SystemTime::now() - Duration::from_secs(1);
    let token = Token { header: first.clone(), fetched_at: over, expires_at: over, ends_at: over, key_id: None };
    entry.token.store(Some(Arc::new(token)));
    let second = scene.get(AUDIENCE).await.expect("another one");
    assert_ne!(first, second);
    assert_eq!(scene.fetched(), 2);
}

#[tokio::test]
async fn the_one_that_was_used_longest_ago_makes_room() {
    let scene = Scene::with_room_for(2);
    for audience in ["a", "b", "a", "c"] {
        scene.get(audience).await.unwrap();
        // A later millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(scene.audiences(), ["a", "c"]);
    assert_eq!(scene.counters.tokens_kept.load(Relaxed), 2);
    scene.get("b").await.expect("room for it again");
    assert_eq!((scene.audiences(), scene.fetched()), (vec!["b".to_owned(), "c".to_owned()], 4));
}

/// Else a request that found an entry just when it was let go of would wait for a task that is no more.
#[tokio::test]
async fn who_waits_at_an_entry_hears_that_it_is_let_go_of() {
    let scene = Scene::new();
    let entry = Entry::new(&scene.own, AUDIENCE, SystemTime::now());
    let (waited, ()) = tokio::join!(entry.wait(), async { entry.let_go() });
    assert!(matches!(waited, Waited::LetGo));
    assert!(!entry.fail("too late".to_owned()), "what is let go of stays so");
    assert!(matches!(entry.wait().await, Waited::LetGo));
    // And another of the same name is not taken for it.
    scene.get(AUDIENCE).await.unwrap();
    scene.tokens.remove(&Arc::new(entry));
    assert_eq!(scene.audiences(), [AUDIENCE]);
}

#[tokio::test]
async fn a_failure_is_remembered_and_refuses_at_once_until_the_agent_is_back() {
    let scene = Scene::new();
    scene.provider.stop();
    let refused = scene.get(AUDIENCE).await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::TokenUnavailable);
    let (start, entry) = (Instant::now(), scene.entry(AUDIENCE));
    for _ in 0..1000 {
        scene.get(AUDIENCE).await.unwrap_err();
    }
    assert!(start.elapsed() < WAIT_MAX, "nobody waits: {:?}", start.elapsed());
    let failed = scene.counters.token_fetches_failed.load(Relaxed);
    assert!(failed < 20, "{failed} attempts for a thousand requests");
    assert_eq!(scene.counters.tokens_missed.load(Relaxed), 1001);
    scene.provider.restart().unwrap();
    // Attempts go on by themselves.
    while entry.usable(SystemTime::now()).is_none() {
        assert!(start.elapsed() < Duration::from_secs(30), "never again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    scene.get(AUDIENCE).await.expect("from the same entry");
    assert!(Arc::ptr_eq(&entry, &scene.entry(AUDIENCE)));
}

#[tokio::test]
async fn jw_26_a_thousand_at_once_are_one_fetch_for_each_audience() {
    let scene = Scene::new();
    let audiences = ["a", "b", "c", "d"];
    let gets = (0..1000).map(|number| scene.get(audiences[number % audiences.len()]));
    let tokens: Vec<HeaderValue> = futures_util::future::try_join_all(gets).await.unwrap();
    assert!(tokens.iter().all(HeaderValue::is_sensitive));
    assert_eq!(tokens.iter().map(HeaderValue::as_bytes).collect::<HashSet<_>>().len(), audiences.len());
    assert_eq!(scene.fetched(), audiences.len() as u64);
}

#[tokio::test]
async fn a_token_goes_with_its_key_and_no_sooner() {
    let scene = Scene::new();
    let (store, _source) = scene.follow_keys().await;
    let own = scene.own.trust_domain();
    let old = scene.get(AUDIENCE).await.unwrap();
    scene.provider.publish_new_authority(&own).unwrap();
    scene.provider.reissue(&own).unwrap();
    until_keys(&store, 2).await;
    assert_eq!(scene.get(AUDIENCE).await.unwrap(), old, "still believed");
    let new = scene.get("of-the-new-key").await.unwrap();
    scene.provider.remove_old_authorities(&own).unwrap();
    until_keys(&store, 1).await;
    let (entry, start) = (scene.entry(AUDIENCE), Instant::now());
    while entry.usable(SystemTime::now()).is_some_and(|token| token == old) {
        assert!(start.elapsed() < Duration::from_secs(30), "it stays");
        tokio::task::yield_now().await;
    }
    assert_ne!(scene.get(AUDIENCE).await.expect("another one"), old);
    assert_eq!(scene.get("of-the-new-key").await.unwrap(), new);
    assert_eq!(scene.fetched(), 3);
}
