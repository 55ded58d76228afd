//! Bundles of other trust domains from their bundle endpoints (SPIFFE Federation §5, §6): polled, verified, published.
//!
//! One task a relationship. What it fetches vouches for the configured trust domain and no other, whatever the document
//! says (Trust Domain and Bundle §3). A failure changes nothing that is published, and waits for the next poll.

pub(super) mod fetch;

use super::bundle_format::{BundleError, SpiffeBundleDocument, parse_spiffe_bundle};
use super::file_content::{FileFault, read_bundle};
use super::message::Update;
use super::publisher::{Publisher, chain};
use super::snapshot::Bundle;
use super::store::IdentityStore;
use crate::tls::bundle::load_bundle;
use crate::tls::certificate::hex;
use crate::tls::web::WebRoots;
use crate::tls::{EndpointTrust, Strictness, WebRootsError, WebTls};
use fetch::{FetchError, Trust, fetch};
use postern_config::SpiffeId;
use postern_config::identity::{BundleEndpoint, EndpointProfile};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the bundle does not advise otherwise (SPIFFE Federation §4.1).
const POLL_DEFAULT: Duration = Duration::from_secs(300);
/// An endpoint is not asked more often, whatever it advises. SPIRE does the same.
const POLL_MIN: Duration = Duration::from_secs(60);
/// Nor less often: a removed authority has to become known.
const POLL_MAX: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Relationship {
    endpoint: BundleEndpoint,
    publisher: Publisher,
    strictness: Strictness,
    /// What was fetched last, by us or by the process before us.
    latest: Option<Latest>,
}

struct Latest {
    bundle: Arc<Bundle>,
    sequence: Option<u64>,
    /// Of the bootstrap file that it goes back to; `None` with `https_web`.
    bootstrap_sha256: Option<[u8; 32]>,
}

/// Who begins the chain of fetches, each of which believes the one before it.
struct Bootstrap {
    bundle: Bundle,
    sha256: [u8; 32],
}

/// Why a poll brought no bundle.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("the bundle was not fetched")]
    Fetch(#[from] FetchError),
    #[error("what the endpoint sent is no SPIFFE bundle")]
    Document(#[from] BundleError),
    #[error("`spiffe_sequence` is {found}, older than the {known} that is in use")]
    OlderSequence { found: u64, known: u64 },
    #[error("none of the bundle's authorities can be read")]
    Unreadable,
    #[error("the bootstrap bundle cannot be used")]
    Bootstrap(#[source] FileFault),
    #[error("the roots cannot be used")]
    Roots(#[source] WebRootsError),
    #[error("the bootstrap bundle is not the one that it goes back to")]
    BootstrapReplaced,
    #[error("the file cannot be read")]
    Kept(#[source] io::Error),
    #[error("the process is ending")]
    Ending,
}

/// One fetch, published to `store` and kept nowhere: for a look at whether a relationship works.
///
/// # Errors
/// Why it does not, with all causes.
pub async fn probe(mut endpoint: BundleEndpoint, store: Arc<IdentityStore>, compat: bool) -> Result<(), String> {
    let strictness = if compat { Strictness::Compat } else { Strictness::Strict };
    let publisher = Publisher { store, counters: Arc::default() };
    let kept = endpoint.keep.take();
    let mut relationship = Relationship::new(endpoint, publisher, strictness);
    if let Some(path) = kept {
        relationship.take_kept(path).await;
    }
    relationship.attempt(SystemTime::now()).await.map(|_interval| ()).map_err(|error| chain(&error))
}

impl Relationship {
    pub(crate) fn new(endpoint: BundleEndpoint, publisher: Publisher, strictness: Strictness) -> Self {
        Self { endpoint, publisher, strictness, latest: None }
    }

    /// Never returns.
    ///
    /// # Cancellation
    /// Dropping the future ends the fetch; what was published stays.
    pub(crate) async fn run(mut self) {
        if let Some(path) = self.endpoint.keep.clone() {
            self.take_kept(path).await;
        }
        // Until something was fetched there is no interval to wait for, and no bundle to serve: the shortest one.
        let mut interval = POLL_MIN;
        loop {
            if let Some(advised) = self.poll().await {
                interval = advised;
            }
            tokio::time::sleep(spread(interval, fastrand::f64())).await;
        }
    }

    /// The interval until the next poll, if this one succeeded. Each fetch is logged (SPIFFE Federation §7.6).
    async fn poll(&mut self) -> Option<Duration> {
        let now = SystemTime::now();
        let outcome = self.attempt(now).await;
        let BundleEndpoint { trust_domain, url, .. } = &self.endpoint;
        match outcome {
            Ok(interval) => {
                let sequence = self.latest.as_ref().and_then(|latest| latest.sequence);
                tracing::info!(%trust_domain, %url, sequence, next_s = interval.as_secs(), "bundle fetched");
                self.publisher.counters.fetched(trust_domain, Ok(now));
                Some(interval)
            }
            Err(error) => {
                let (reason, served) = (chain(&error), self.latest.is_some());
                tracing::error!(%trust_domain, %url, error = reason, served, "no bundle fetched; what we have stays");
                self.publisher.counters.fetched(trust_domain, Err(reason));
                None
            }
        }
    }

    async fn attempt(&mut self, now: SystemTime) -> Result<Duration, PollError> {
        let bootstrap = self.bootstrap(now).await?;
        let sha256 = bootstrap.as_ref().map(|bootstrap| bootstrap.sha256);
        let trust = self.trust(bootstrap).await?;
        let bytes = fetch(&self.endpoint.url, &trust, self.endpoint.follow_redirects).await?;
        let document = parse_spiffe_bundle(&bytes)?;
        self.take(&document, sha256)?;
        self.keep(&bytes, sha256).await;
        Ok(poll_interval(document.refresh_hint_seconds))
    }

    /// The bootstrap file as it is now. One that was replaced goes before whatever was fetched on the word of the one
    /// before it, because that is how an operator mends a relationship that lost its trust.
    async fn bootstrap(&mut self, now: SystemTime) -> Result<Option<Bootstrap>, PollError> {
        let EndpointProfile::HttpsSpiffe { id, bootstrap: path } = &self.endpoint.profile else { return Ok(None) };
        let (read_path, shown) = (path.clone(), path.display().to_string());
        let (certificates, sha256) = blocking(move || read_bundle(&read_path)).await?.map_err(PollError::Bootstrap)?;
        let (bundle, problems) = load_bundle(id.trust_domain(), certificates, now);
        for problem in problems {
            tracing::warn!(
                bootstrap = shown,
                problem = chain(&problem),
                "a certificate of the bootstrap bundle is not used"
            );
        }
        if self.latest.as_ref().is_some_and(|latest| latest.bootstrap_sha256 != Some(sha256)) {
            let trust_domain = &self.endpoint.trust_domain;
            tracing::info!(%trust_domain, bootstrap = shown, "the bootstrap bundle was replaced: this fetch believes it");
            self.latest = None;
        }
        Ok(Some(Bootstrap { bundle, sha256 }))
    }

    /// Whom to believe in this poll. Roots are read each time, so that renewed ones need no restart.
    async fn trust(&self, bootstrap: Option<Bootstrap>) -> Result<Trust, PollError> {
        match (&self.endpoint.profile, bootstrap) {
            (EndpointProfile::HttpsSpiffe { id, .. }, Some(bootstrap)) => {
                let bundle = self.believed(id, bootstrap.bundle);
                Ok(Trust::Spiffe(EndpointTrust { id: id.clone(), bundle, strictness: self.strictness }))
            }
            (EndpointProfile::HttpsSpiffe { .. }, None) => unreachable!("that profile has a bootstrap bundle"),
            (EndpointProfile::HttpsWeb { roots }, _) => {
                let roots = roots.clone();
                let made = blocking(move || WebRoots::read(roots.as_deref()).and_then(WebTls::new)).await?;
                made.map(Trust::Web).map_err(PollError::Roots)
            }
        }
    }

    /// The bundle of the endpoint's own trust domain. Where the endpoint serves that one itself, every fetch believes the
    /// one before it (SPIFFE Federation §5.2.2.4).
    fn believed(&self, id: &SpiffeId, bootstrap: Bundle) -> Arc<Bundle> {
        let own = id.trust_domain();
        let known = match own == self.endpoint.trust_domain {
            true => self.latest.as_ref().map(|latest| latest.bundle.clone()),
            false => self.publisher.store.load().bundles.get(&own).cloned(),
        };
        known.unwrap_or_else(|| Arc::new(bootstrap))
    }

    /// Publishes a bundle. A lower sequence than the one in use is refused (SPIFFE Federation §4.2).
    fn take(&mut self, document: &SpiffeBundleDocument, bootstrap_sha256: Option<[u8; 32]>) -> Result<(), PollError> {
        let known = self.latest.as_ref().and_then(|latest| latest.sequence);
        if let (Some(found), Some(known)) = (document.sequence, known)
            && found < known
        {
            return Err(PollError::OlderSequence { found, known });
        }
        let trust_domain = self.endpoint.trust_domain.clone();
        document.report_ignored(&self.endpoint.url.to_string());
        let mut update = Update::new();
        update.add_fetched_bundle(trust_domain.clone(), document.x509_authorities.clone(), SystemTime::now());
        let bundle = update.bundles.get(&trust_domain).cloned();
        self.publisher.federate(update);
        let bundle = bundle.ok_or(PollError::Unreadable)?;
        self.latest = Some(Latest { bundle, sequence: document.sequence.or(known), bootstrap_sha256 });
        Ok(())
    }

    /// What the process before us fetched serves until the endpoint has answered, unless the bootstrap file is another.
    async fn take_kept(&mut self, path: PathBuf) {
        let shown = path.display().to_string();
        let read = blocking(move || Kept::read(&path)).await;
        let bootstrap = self.bootstrap(SystemTime::now()).await;
        let outcome = match (read, bootstrap) {
            (Ok(Ok(None)), _) => return,
            (Ok(Ok(Some(kept))), Ok(bootstrap)) => {
                let sha256 = bootstrap.map(|bootstrap| bootstrap.sha256);
                match kept.bootstrap_sha256 == sha256.map(|digest| hex(&digest)) {
                    true => parse_spiffe_bundle(kept.document.as_bytes())
                        .map_err(PollError::from)
                        .and_then(|document| self.take(&document, sha256)),
                    false => Err(PollError::BootstrapReplaced),
                }
            }
            (Ok(Err(error)), _) => Err(PollError::Kept(error)),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        let trust_domain = &self.endpoint.trust_domain;
        match outcome {
            Ok(()) => tracing::info!(%trust_domain, file = shown, "kept bundle in use until the endpoint answers"),
            Err(error) => {
                tracing::warn!(%trust_domain, file = shown, error = chain(&error), "the kept bundle is not used");
            }
        }
    }

    async fn keep(&self, bytes: &[u8], bootstrap_sha256: Option<[u8; 32]>) {
        let Some(path) = self.endpoint.keep.clone() else { return };
        let shown = path.display().to_string();
        let document = String::from_utf8_lossy(bytes).into_owned();
        let kept = Kept { bootstrap_sha256: bootstrap_sha256.map(|digest| hex(&digest)), document };
        if let Ok(Err(error)) = blocking(move || kept.write(&path)).await {
            tracing::warn!(file = shown, %error, "the fetched bundle cannot be kept for the next start");
        }
    }
}

/// The last fetched bundle on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// In hexadecimal. With another bootstrap file, what it led to is not believed.
    bootstrap_sha256: Option<String>,
    /// To the letter.
    document: String,
}

impl Kept {
    /// `None`: there is none yet.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whole or not at all: a reader, and the next start after a crash, see the old file or the new one.
    fn write(&self, path: &Path) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(&beside, path)
    }
}

/// Between two polls (SPIFFE Federation §4.1; Trust Domain and Bundle §4.1.2). A hint of 0 advises nothing.
fn poll_interval(refresh_hint_seconds: Option<u64>) -> Duration {
    match refresh_hint_seconds {
        None | Some(0) => POLL_DEFAULT,
        Some(seconds) => Duration::from_secs(seconds).clamp(POLL_MIN, POLL_MAX),
    }
}

/// Up to a tenth earlier, but for the shortest, so that a fleet that started together does not poll together.
/// `random` in [0, 1).
fn spread(interval: Duration, random: f64) -> Duration {
    (interval - interval.mul_f64(0.1 * random.clamp(0.0, 1.0))).max(POLL_MIN.min(interval))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PollError> {
    tokio::task::spawn_blocking(work).await.map_err(|_ending| PollError::Ending)
}
