//! From what a source sent to what we believe: every rule about an update, checked on receipt.
//!
//! Pure: message and time are arguments. An update is taken whole or not at all (THREATS TL-20): one SVID that breaks
//! a rule discards the message. The one exception is a *federated* bundle, because it must not be in a foreign domain's
//! power to stop our own rotation: a malformed one is refused alone, and the last good one of that domain stays.
//!
//! Our own bundle is different: an SVID whose own bundle does not vouch for it discards the message, also when the
//! bundle is well-formed and merely holds no usable authority. A bad state never replaces a good one.

use super::key::PrivateKeyBytes;
use super::message_fault::{BundleFault, MessageFault, Warning};
use super::proto::{X509BundlesResponse, X509svid, X509svidResponse};
use super::snapshot::{Bundle, Svid};
use crate::revocation::LISTS_MAX;
use crate::tls::bundle::{AnchorProblem, load_bundle, split_der};
use crate::tls::certificate::Fields;
use crate::tls::crl::Crl;
use crate::tls::{Role, Strictness, verify_svid};
use postern_config::{SpiffeId, TrustDomain};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

/// Workload API §8: longer hints need not be supported.
const HINT_BYTES_MAX: usize = 1024;

/// A checked message.
pub(crate) struct Update {
    pub(crate) svids: Vec<Svid>,
    pub(crate) bundles: HashMap<TrustDomain, Arc<Bundle>>,
    /// Present in the message, but not usable as sent: keep the last good one.
    pub(crate) refused: Vec<TrustDomain>,
    /// Lists of revoked certificates.
    pub(crate) crls: Vec<Arc<Crl>>,
    /// Some of the lists in the message were not usable: keep the last good ones beside the others.
    pub(crate) keeps_crls: bool,
    /// What an operator should hear of although the update is applied.
    pub(crate) warnings: Vec<Warning>,
}

/// One identity as a source gives it, before any check.
pub(crate) struct SvidMaterial {
    /// What the source says it is. Files say nothing.
    pub(crate) claimed: Option<SpiffeId>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyBytes,
    pub(crate) hint: Option<String>,
}

/// Checks a message of `FetchX509SVID`.
///
/// # Errors
/// [`MessageFault`]: discard it, keep what we have.
pub(crate) fn check_svids(
    message: X509svidResponse,
    now: SystemTime,
    strictness: Strictness,
) -> Result<Update, MessageFault> {
    let X509svidResponse { svids, crl, federated_bundles } = message;
    // The keys move into buffers that are zeroized before anything can fail.
    let svids: Vec<(X509svid, PrivateKeyBytes)> = svids.into_iter().map(take_key).collect();
    if svids.is_empty() {
        return Err(MessageFault::Empty("svids"));
    }
    let mut update = Update::new();
    let mut own = OwnBundles::default();
    let mut materials = Vec::with_capacity(svids.len());
    for (svid, key) in svids {
        require_present(&svid, &key)?;
        let id = SpiffeId::parse(&svid.spiffe_id)?;
        let chain = split_der(&svid.x509_svid).map_err(|source| MessageFault::Chain { id: id.clone(), source })?;
        own.add(id.trust_domain(), svid.bundle)?;
        let hint = (!svid.hint.is_empty()).then_some(svid.hint);
        materials.push(SvidMaterial { claimed: Some(id), chain, key, hint });
    }
    for (trust_domain, encoded) in own.0 {
        let certificates = split_der(&encoded)
            .map_err(|source| MessageFault::OwnBundle { trust_domain: trust_domain.clone(), source })?;
        update.add_own_bundle(trust_domain, certificates, now);
    }
    for material in materials {
        update.add_svid(material, now, strictness)?;
    }
    update.add_federated(federated_bundles, now);
    update.add_crls(crl);
    Ok(update)
}

/// Checks a message of `FetchX509Bundles`: all bundles are foreign here, as there is no SVID.
///
/// # Errors
/// [`MessageFault::Empty`].
pub(crate) fn check_bundles(message: X509BundlesResponse, now: SystemTime) -> Result<Update, MessageFault> {
    if message.bundles.is_empty() {
        return Err(MessageFault::Empty("bundles"));
    }
    let mut update = Update::new();
    update.add_federated(message.bundles, now);
    update.add_crls(message.crl);
    Ok(update)
}

impl Update {
    pub(crate) fn new() -> Self {
        Self {
            svids: Vec::new(),
            bundles: HashMap::new(),
            refused: Vec::new(),
            crls: Vec::new(),
            keeps_crls: false,
            warnings: Vec::new(),
        }
    }

    /// Loads the bundle of a trust domain in which we have an SVID. Whether it vouches for that, `add_svid` finds out.
    pub(crate) fn add_own_bundle(
        &mut self,
        trust_domain: TrustDomain,
        certificates: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) {
        let (bundle, problems) = load_bundle(trust_domain.clone(), certificates, now);
        self.warn_of_anchors(&trust_domain, problems);
        self.bundles.insert(trust_domain, Arc::new(bundle));
    }

    /// Checks one of our own SVIDs against the bundles added before, in both roles, and adds it.
    pub(crate) fn add_svid(
        &mut self,
        material: SvidMaterial,
        now: SystemTime,
        strictness: Strictness,
    ) -> Result<(), MessageFault> {
        let SvidMaterial { claimed, chain, key, hint } = material;
        let unverified = |source| MessageFault::Unverified { claimed: claimed.clone(), source };
        let peer = verify_svid(&chain, &self.bundles, 0, Role::Server, now, strictness).map_err(unverified)?;
        verify_svid(&chain, &self.bundles, 0, Role::Client, now, strictness).map_err(unverified)?;
        let id = peer.id;
        if let Some(claimed) = claimed
            && claimed != id
        {
            return Err(MessageFault::IdMismatch { claimed, found: id });
        }
        let signing_key = key.signing_key().map_err(|source| MessageFault::Key { id: id.clone(), source })?;
        let certified = CertifiedKey::new(chain, signing_key);
        certified.keys_match().map_err(|source| MessageFault::KeyMismatch { id: id.clone(), source })?;
        let not_before = match certified.cert.first() {
            Some(leaf) => Fields::read(leaf)?.not_before,
            None => return Err(MessageFault::LeafId),
        };
        let hint = self.usable_hint(&id, hint);
        self.svids.push(Svid {
            hint,
            certified: Arc::new(certified),
            not_before,
            not_after: peer.not_after,
            serial: peer.serial,
            fingerprint: peer.fingerprint,
            authority: peer.authority,
            issued: peer.issued,
            rendered: Default::default(),
            id,
        });
        Ok(())
    }

    /// Bundles of foreign trust domains, keyed by the SPIFFE ID of each (Workload API §5.1).
    fn add_federated(&mut self, encoded: BTreeMap<String, Vec<u8>>, now: SystemTime) {
        for (key, bytes) in encoded {
            let trust_domain = match SpiffeId::parse(&key) {
                Ok(id) if id.path().is_empty() => id.trust_domain(),
                _ => {
                    self.warnings.push(Warning::BundleKey(key.chars().take(80).collect()));
                    continue;
                }
            };
            // No bytes are an empty bundle, not a broken one: Trust Domain and Bundle §4.1.3 has it refuse everyone.
            let split = if bytes.is_empty() { Ok(Vec::new()) } else { split_der(&bytes) };
            match split {
                Ok(certificates) => self.add_foreign_bundle(trust_domain, certificates, now),
                Err(error) => self.refuse(trust_domain, BundleFault::Split(error)),
            }
        }
    }

    /// A bundle from its own endpoint, by the same rules.
    pub(crate) fn add_fetched_bundle(
        &mut self,
        trust_domain: TrustDomain,
        certificates: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) {
        self.add_foreign_bundle(trust_domain, certificates, now);
        self.bundles.values_mut().filter_map(Arc::get_mut).for_each(|bundle| bundle.fetched = true);
    }

    pub(crate) fn add_foreign_bundle(
        &mut self,
        trust_domain: TrustDomain,
        certificates: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) {
        if self.bundles.contains_key(&trust_domain) {
            return self.warnings.push(Warning::OwnDomainFederated(trust_domain));
        }
        let (bundle, mut problems) = load_bundle(trust_domain.clone(), certificates, now);
        if bundle.anchors.is_empty() {
            let unreadable = problems.iter().position(|problem| matches!(problem, AnchorProblem::Malformed { .. }));
            if let Some(index) = unreadable
                && let AnchorProblem::Malformed { source, .. } = problems.swap_remove(index)
            {
                return self.refuse(trust_domain, BundleFault::Unreadable(source));
            }
            self.warnings.push(Warning::BundleUnusable { trust_domain: trust_domain.clone() });
        }
        self.warn_of_anchors(&trust_domain, problems);
        self.bundles.insert(trust_domain, Arc::new(bundle));
    }

    /// Workload API §5.1: lists of no trust domain in particular. Whose each is, its signature says, when it is published. A
    /// broken one must not stop our own rotation (SPIFFE checklist A1.24).
    fn add_crls(&mut self, encoded: Vec<Vec<u8>>) {
        for bytes in encoded.iter().take(LISTS_MAX) {
            match Crl::read(bytes) {
                Ok(crl) => self.crls.push(Arc::new(crl)),
                Err(source) => {
                    self.keeps_crls = true;
                    self.warnings.push(Warning::RevocationList(source));
                }
            }
        }
        if encoded.len() > LISTS_MAX {
            self.keeps_crls = true;
            self.warnings.push(Warning::RevocationLists { count: encoded.len() });
        }
    }

    /// Keeps the last good bundle of a foreign trust domain.
    pub(crate) fn refuse(&mut self, trust_domain: TrustDomain, source: BundleFault) {
        if self.bundles.contains_key(&trust_domain) {
            return self.warnings.push(Warning::OwnDomainFederated(trust_domain));
        }
        self.refused.push(trust_domain.clone());
        self.warnings.push(Warning::BundleRefused { trust_domain, source });
    }

    fn warn_of_anchors(&mut self, trust_domain: &TrustDomain, problems: Vec<AnchorProblem>) {
        let warning = |source| Warning::Anchor { trust_domain: trust_domain.clone(), source };
        self.warnings.extend(problems.into_iter().map(warning));
    }

    /// A hint that is too long is none; one that is taken stays, as selection takes the first.
    fn usable_hint(&mut self, id: &SpiffeId, hint: Option<String>) -> Option<String> {
        let hint = hint?;
        if hint.len() > HINT_BYTES_MAX {
            self.warnings.push(Warning::HintTooLong(id.clone()));
            return None;
        }
        if self.svids.iter().any(|svid| svid.hint.as_deref() == Some(hint.as_str())) {
            self.warnings.push(Warning::HintTwice { id: id.clone() });
        }
        Some(hint)
    }
}

/// The encoded bundles of the trust domains in which we have SVIDs, in the order of the message.
#[derive(Default)]
struct OwnBundles(Vec<(TrustDomain, Vec<u8>)>);

impl OwnBundles {
    fn add(&mut self, trust_domain: TrustDomain, encoded: Vec<u8>) -> Result<(), MessageFault> {
        match self.0.iter().find(|(known, _)| *known == trust_domain) {
            None => self.0.push((trust_domain, encoded)),
            Some((_, known)) if *known == encoded => {}
            Some(_) => return Err(MessageFault::BundlesDiffer(trust_domain)),
        }
        Ok(())
    }
}

fn take_key(mut svid: X509svid) -> (X509svid, PrivateKeyBytes) {
    let key = PrivateKeyBytes::pkcs8(std::mem::take(&mut svid.x509_svid_key));
    (svid, key)
}

/// Workload API §4.5, for the fields of §5.1.
fn require_present(svid: &X509svid, key: &PrivateKeyBytes) -> Result<(), MessageFault> {
    let fields = [
        ("X509SVID.spiffe_id", svid.spiffe_id.is_empty()),
        ("X509SVID.x509_svid", svid.x509_svid.is_empty()),
        ("X509SVID.x509_svid_key", key.is_empty()),
        ("X509SVID.bundle", svid.bundle.is_empty()),
    ];
    match fields.into_iter().find(|(_, empty)| *empty) {
        Some((field, _)) => Err(MessageFault::Empty(field)),
        None => Ok(()),
    }
}

/// The trust domain of a chain that came without a claim. Only which bundle to load depends on it; `add_svid` verifies.
pub(crate) fn leaf_trust_domain(chain: &[CertificateDer<'_>]) -> Result<TrustDomain, MessageFault> {
    let fields = Fields::read(chain.first().ok_or(MessageFault::LeafId)?)?;
    match fields.subject_alt_name.map(|names| names.uris).as_deref() {
        Some([uri]) => {
            let text = std::str::from_utf8(uri).map_err(|_not_text| MessageFault::LeafId)?;
            Ok(SpiffeId::parse(text)?.trust_domain())
        }
        _ => Err(MessageFault::LeafId),
    }
}
