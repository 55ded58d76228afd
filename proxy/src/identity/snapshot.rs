//! The immutable state of identity that one handshake sees whole.

use crate::revocation::Revocations;
use crate::telemetry::json::Rendered;
use crate::tls::SvidError;
use crate::tls::peer::Issued;
use crate::tls::verified::VerifiedPeers;
use crate::token::KeySet;
use postern_config::{SpiffeId, SvidSelector, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// SHA-256 of an authority's SubjectPublicKeyInfo: survives re-issue of its certificate with the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuthorityId(pub [u8; 32]);

impl std::fmt::Debug for AuthorityId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One of our own X509-SVIDs, checked on receipt.
pub struct Svid {
    pub id: SpiffeId,
    pub hint: Option<String>,
    /// Chain (leaf first) and key, ready for rustls. Its `Debug` does not print the key.
    pub certified: Arc<rustls::sign::CertifiedKey>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Lower-case hex.
    pub serial: String,
    /// SHA-256 of the leaf's DER.
    pub fingerprint: [u8; 32],
    /// The authority (of the bundle in the same message) that vouches for it.
    pub authority: AuthorityId,
    /// As a peer's.
    pub issued: Vec<Issued>,
    /// As a peer's.
    pub rendered: Rendered,
}

/// One root of a bundle that passed SPIFFE's CA rules at load.
pub struct Anchor {
    pub der: CertificateDer<'static>,
    pub anchor: TrustAnchor<'static>,
    pub authority: AuthorityId,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// The usable roots of one trust domain. Empty: every SVID of it is refused (Trust Domain and Bundle §4.1.3).
pub struct Bundle {
    pub trust_domain: TrustDomain,
    pub anchors: Vec<Anchor>,
    /// When this content was received first.
    pub updated_at: SystemTime,
    /// From its bundle endpoint: updates of the identity source leave it alone.
    pub fetched: bool,
}

/// What the source says of itself at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// Nothing was received yet; the reason of the last attempt.
    Waiting { reason: String },
    /// The stream is open (or the files were read).
    Connected,
    /// The stream is broken; what we have is served until it expires.
    Broken { since: SystemTime, reason: String },
    /// The agent answers `PermissionDenied`. `cut`: it has lasted the configured grace, live connections end.
    Denied { since: SystemTime, cut: bool },
}

/// Promise 4 of DESIGN: stale is a state, not a surprise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityState {
    Fresh,
    ServingStale,
    Expired,
    NoIdentity,
}

impl IdentityState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::ServingStale => "serving stale",
            Self::Expired => "expired",
            Self::NoIdentity => "no identity",
        }
    }
}

/// Why there is no SVID for a handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSvid {
    #[error("no identity has been received yet")]
    None,
    #[error("the agent denies this workload an identity")]
    Denied,
    #[error("the SVID expired")]
    Expired,
    #[error("the SVID was taken back: {0}")]
    TakenBack(#[source] SvidError),
    #[error("no SVID matches {0:?}")]
    NotSelected(SvidSelector),
}

impl NoSvid {
    pub fn refusal(&self) -> crate::refusal::Refusal {
        match self {
            Self::None | Self::NotSelected(_) => crate::refusal::Refusal::NoIdentity,
            Self::Denied | Self::TakenBack(_) => crate::refusal::Refusal::IdentityDenied,
            Self::Expired => crate::refusal::Refusal::IdentityExpired,
        }
    }
}

/// The keys that JWT-SVIDs of each trust domain are verified with. One that does not change keeps its `Arc`.
pub type TokenKeys = HashMap<TrustDomain, Arc<KeySet>>;

/// Keys of issuers that are no trust domain, by `iss`.
pub type IssuerKeys = HashMap<String, Arc<KeySet>>;

/// SVIDs, bundles and the state of their source at one generation.
///
/// An SVID or bundle that did not change keeps its `Arc` from one generation to the next: `Arc::ptr_eq` tells.
#[derive(Clone)]
pub struct Snapshot {
    /// Rises by one with every publication.
    pub generation: u64,
    /// In the order of the message; the first is the default identity (Workload API §8).
    pub svids: Vec<Arc<Svid>>,
    pub bundles: HashMap<TrustDomain, Arc<Bundle>>,
    pub token_keys: Arc<TokenKeys>,
    /// What takes trust back; the store binds it to the bundles beside it.
    pub revocations: Arc<Revocations>,
    pub issuer_keys: Arc<IssuerKeys>,
    pub source: SourceStatus,
    /// When SVIDs or bundles last changed, or the source came back with the same ones (not merely failed).
    pub received_at: Option<SystemTime>,
    /// When the store published it: the start of event → last byte.
    pub published: Instant,
    /// Peers that were found good by these bundles.
    pub verified: VerifiedPeers,
}

pub(super) type Bundles = HashMap<TrustDomain, Arc<Bundle>>;

pub(super) fn same_bundles(one: &Bundles, other: &Bundles) -> bool {
    let known =
        |(name, bundle): (&TrustDomain, &Arc<Bundle>)| other.get(name).is_some_and(|it| Arc::ptr_eq(it, bundle));
    one.len() == other.len() && one.iter().all(known)
}

impl Snapshot {
    pub fn empty() -> Self {
        Self {
            generation: 0,
            svids: Vec::new(),
            bundles: HashMap::new(),
            token_keys: Arc::default(),
            revocations: Arc::default(),
            issuer_keys: Arc::default(),
            source: SourceStatus::Waiting { reason: "starting".to_owned() },
            received_at: None,
            published: Instant::now(),
            verified: VerifiedPeers::default(),
        }
    }

    /// Whether lists are bound to authorities in both alike.
    pub(super) fn binds_alike(&self, other: &Self) -> bool {
        let same_svids = self.svids.len() == other.svids.len()
            && self.svids.iter().zip(&other.svids).all(|(one, other)| Arc::ptr_eq(one, other));
        Arc::ptr_eq(&self.revocations, &other.revocations) && same_svids && same_bundles(&self.bundles, &other.bundles)
    }

    /// The SVID to use in a new handshake.
    ///
    /// # Errors
    /// [`NoSvid`]: fail closed, by name.
    pub fn select(&self, selector: &SvidSelector, now: SystemTime) -> Result<&Arc<Svid>, NoSvid> {
        if matches!(self.source, SourceStatus::Denied { .. }) {
            return Err(NoSvid::Denied);
        }
        self.select_of_live(selector, now)
    }

    /// The SVID that connections of the moment were made with: as [`Snapshot::select`], also while the agent denies it and
    /// the grace has not passed.
    ///
    /// # Errors
    /// As [`Snapshot::select`].
    pub fn select_of_live(&self, selector: &SvidSelector, now: SystemTime) -> Result<&Arc<Svid>, NoSvid> {
        if matches!(self.source, SourceStatus::Denied { cut: true, .. }) {
            return Err(NoSvid::Denied);
        }
        if self.svids.is_empty() {
            return Err(NoSvid::None);
        }
        let svid = match selector {
            SvidSelector::Default => self.svids.first(),
            SvidSelector::Id(id) => self.svids.iter().find(|svid| svid.id == *id),
            SvidSelector::Hint(hint) => self.svids.iter().find(|svid| svid.hint.as_deref() == Some(hint)),
        }
        .ok_or_else(|| NoSvid::NotSelected(selector.clone()))?;
        if svid.not_after <= now {
            return Err(NoSvid::Expired);
        }
        // Others may not know it yet; to go on with it is nobody's wish.
        self.revocations.check_own(svid, now).map_err(NoSvid::TakenBack)?;
        Ok(svid)
    }

    /// The state of the default SVID.
    pub fn state(&self, now: SystemTime) -> IdentityState {
        match self.svids.first() {
            None => IdentityState::NoIdentity,
            Some(_) if matches!(self.source, SourceStatus::Denied { .. }) => IdentityState::NoIdentity,
            Some(svid) if self.revocations.check_own(svid, now).is_err() => IdentityState::NoIdentity,
            Some(svid) if svid.not_after <= now => IdentityState::Expired,
            Some(_) if self.source == SourceStatus::Connected => IdentityState::Fresh,
            Some(_) => IdentityState::ServingStale,
        }
    }
}
