//! Keys of token issuers that are no trust domain: read from their files or fetched from their addresses, and published.
//!
//! One task an issuer. A failure changes nothing that is published, until what we have is too old to be believed.

use super::federation::fetch::{FetchError, Inside, Trust, fetch_once};
use super::publisher::{Publisher, chain};
use crate::tls::web::WebRoots;
use crate::tls::{WebRootsError, WebTls};
use crate::token::keys::ISSUER_DOCUMENT_BYTES_MAX;
use crate::token::{KeySet, KeySetError, Origin};
use bytes::Bytes;
use postern_config::identity::{BundleUrl, BundleUrlError};
use postern_config::{IssuerKeysFrom, TokenIssuer};
use serde::Deserialize;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two fetches. Issuers publish a key well before they sign with it, and one that they take back has to be gone soon.
const FETCH_EVERY: Duration = Duration::from_secs(300);
/// After a fetch that failed, while there are keys or none.
const FETCH_AGAIN: Duration = Duration::from_secs(30);
/// Between two looks at a file; it is of this host.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two fetches that tokens with an unknown key cause: who may show a token must not make us a burden for its issuer.
const FETCH_ASKED_EVERY: Duration = Duration::from_secs(30);
/// So long the last good keys stay while no others can be had: an issuer may be away over a night, and not for ever.
const KEEP_STALE: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct IssuerKeysSource {
    issuer: Arc<TokenIssuer>,
    publisher: Publisher,
    /// Closed from the start where nobody asks.
    asked: mpsc::Receiver<()>,
    /// When a fetch was caused by who asked.
    asked_at: Option<Instant>,
    /// What the published keys were read from.
    document: Option<Bytes>,
    /// When keys were found good last. `None`: none are published.
    good_at: Option<Instant>,
    /// Why there was nothing last: said once.
    told: Option<String>,
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssuerFault {
    #[error("nothing was fetched")]
    Fetch(#[from] FetchError),
    #[error("the roots cannot be used")]
    Roots(#[from] WebRootsError),
    #[error("what the issuer publishes below /.well-known/openid-configuration is not its configuration")]
    Discovery(#[from] serde_json::Error),
    #[error("the configuration is of the issuer `{found}` (OpenID Connect Discovery §4.3)")]
    OtherIssuer { found: String },
    #[error("its `jwks_uri`, `{address}`,")]
    KeysAddress { address: String, source: BundleUrlError },
    #[error("the file cannot be read")]
    File(#[from] io::Error),
    #[error("the file is not a regular one, or has more than {ISSUER_DOCUMENT_BYTES_MAX} bytes")]
    NoKeyFile,
    #[error("its keys cannot be read")]
    Keys(#[from] KeySetError),
    #[error("the process is ending")]
    Ending,
}

/// OpenID Connect Discovery §3; the rest is for clients.
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl IssuerKeysSource {
    /// And how to ask it for newer keys.
    pub(crate) fn new(issuer: Arc<TokenIssuer>, publisher: Publisher) -> (Self, mpsc::Sender<()>) {
        // Keys that an earlier configuration left do not stay for ever either.
        let is_known = publisher.store.load().issuer_keys.contains_key(&issuer.issuer);
        let good_at = is_known.then(Instant::now);
        let (ask, asked) = mpsc::channel(1);
        (Self { issuer, publisher, asked, asked_at: None, document: None, good_at, told: None }, ask)
    }

    /// Never returns.
    ///
    /// # Cancellation
    /// Dropping the future ends the fetch; what was published stays.
    pub(crate) async fn run(mut self) {
        loop {
            let is_file = matches!(self.issuer.keys, IssuerKeysFrom::File(_));
            let wait = match self.attempt().await {
                _ if is_file => LOOK_EVERY,
                Ok(()) => FETCH_EVERY.mul_f64(1.0 - 0.1 * fastrand::f64()),
                Err(_) => FETCH_AGAIN.mul_f64(1.0 - 0.1 * fastrand::f64()),
            };
            // Who asked until now has been answered.
            let _ = self.asked.try_recv();
            self.wait(wait).await;
        }
    }

    /// Ends after `at_most`, or earlier when keys are asked for.
    async fn wait(&mut self, at_most: Duration) {
        let earliest = self.asked_at.map_or_else(Instant::now, |asked_at| asked_at + FETCH_ASKED_EVERY);
        let asked = async {
            tokio::time::sleep_until(earliest).await;
            self.asked.recv().await
        };
        tokio::select! {
            () = tokio::time::sleep(at_most) => {}
            Some(()) = asked => self.asked_at = Some(Instant::now()),
        }
    }

    pub(super) async fn attempt(&mut self) -> Result<(), IssuerFault> {
        let outcome = match self.document().await {
            Ok(document) => self.take(document),
            Err(fault) => Err(fault),
        };
        match &outcome {
            Ok(()) => {
                self.good_at = Some(Instant::now());
                self.told = None;
            }
            Err(fault) => self.report(&chain(fault)),
        }
        self.count(&outcome);
        outcome
    }

    fn count(&self, outcome: &Result<(), IssuerFault>) {
        let keys = self.publisher.store.load().issuer_keys.get(&self.issuer.issuer).map_or(0, |set| set.keys().len());
        let outcome = outcome.as_ref().map(|()| SystemTime::now()).map_err(|fault| chain(fault));
        self.publisher.counters.issuer_asked(&self.issuer.name, keys, outcome);
    }

    /// Publishes the keys if they are others than before.
    fn take(&mut self, document: Bytes) -> Result<(), IssuerFault> {
        if self.document.as_ref() == Some(&document) {
            return Ok(());
        }
        let keys = KeySet::parse(&document, Origin::Issuer)?;
        let issuer = self.issuer.name.as_str();
        for key in keys.ignored().iter().filter(|key| !key.is_foreign()) {
            tracing::warn!(issuer, key_id = ?key.key_id, problem = chain(&key.fault), "a key for tokens is not used");
        }
        tracing::info!(issuer, keys = keys.keys().len(), "keys of an issuer of tokens received");
        self.publisher.publish_issuer_keys(&self.issuer.issuer, Some(Arc::new(keys)));
        self.document = Some(document);
        Ok(())
    }

    fn report(&mut self, reason: &str) {
        let issuer = self.issuer.name.as_str();
        if self.good_at.is_some_and(|good_at| good_at.elapsed() > KEEP_STALE) {
            tracing::error!(
                issuer,
                reason,
                "the keys of an issuer are older than a day and were given up: its tokens are refused"
            );
            self.publisher.publish_issuer_keys(&self.issuer.issuer, None);
            (self.good_at, self.document) = (None, None);
        } else if self.told.as_deref() != Some(reason) {
            let served = self.good_at.is_some();
            tracing::error!(issuer, reason, served, "no keys of an issuer of tokens; what we have stays");
        }
        self.told = Some(reason.to_owned());
    }

    async fn document(&self) -> Result<Bytes, IssuerFault> {
        match &self.issuer.keys {
            IssuerKeysFrom::File(path) => {
                let path = path.clone();
                blocking(move || read_file(&path)).await?
            }
            IssuerKeysFrom::Url(url) => Ok(fetch_once(url, &self.trust().await?, self.inside()).await?),
            IssuerKeysFrom::Discovery(url) => {
                let trust = self.trust().await?;
                let found = fetch_once(url, &trust, self.inside()).await?;
                let keys = self.keys_address(&found)?;
                Ok(fetch_once(&keys, &trust, self.inside()).await?)
            }
        }
    }

    /// # Errors
    /// The document is of another issuer, which could lend it its keys, or names no `https` address.
    pub(super) fn keys_address(&self, document: &[u8]) -> Result<BundleUrl, IssuerFault> {
        let Discovered { issuer, jwks_uri } = serde_json::from_slice(document)?;
        if issuer != self.issuer.issuer {
            return Err(IssuerFault::OtherIssuer { found: issuer.chars().take(200).collect() });
        }
        let address = || jwks_uri.chars().take(200).collect();
        BundleUrl::parse(&jwks_uri).map_err(|source| IssuerFault::KeysAddress { address: address(), source })
    }

    /// Roots are read each time, so that renewed ones need no restart.
    async fn trust(&self) -> Result<Trust, IssuerFault> {
        let roots = self.issuer.roots.clone();
        let made = blocking(move || WebRoots::read(roots.as_deref()).and_then(WebTls::new)).await?;
        Ok(Trust::Web(made?))
    }

    fn inside(&self) -> Inside {
        if self.issuer.allow_private_addresses { Inside::Allowed } else { Inside::Refused }
    }
}

fn read_file(path: &Path) -> Result<Bytes, IssuerFault> {
    // Asked before it is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(IssuerFault::NoKeyFile);
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(ISSUER_DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > ISSUER_DOCUMENT_BYTES_MAX { Err(IssuerFault::NoKeyFile) } else { Ok(bytes.into()) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, IssuerFault> {
    tokio::task::spawn_blocking(work).await.map_err(|_ending| IssuerFault::Ending)
}
