//! From the certificates of a bundle to the roots that may vouch: the filter at load.
//!
//! webpki's `anchor_from_trusted_cert` checks neither cA, keyUsage nor validity, so a leaf that lies in a bundle would
//! be its own root. What SPIFFE forbids an authority is dropped here, with a problem that names the rule; a bundle of
//! which nothing is left refuses every SVID of its trust domain (Trust Domain and Bundle §4.1.3). Pure.

use crate::identity::{Anchor, AuthorityId, Bundle};
use crate::tls::authority::{AuthorityFault, AuthorityRules};
use crate::tls::certificate::{CertificateFault, Fields, Subject, has_ended, hex};
use crate::tls::svid_error::instant;
use aws_lc_rs::digest;
use postern_config::TrustDomain;
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::time::SystemTime;

pub use crate::tls::der::{DerError, split_der};

/// Keeps the usable roots, in order and once each, and says what became of the others.
///
/// A root that is not valid *yet* is kept: staged rotations publish it early, and the verifier looks at its validity in
/// every handshake.
pub fn load_bundle(
    trust_domain: TrustDomain,
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    now: SystemTime,
) -> (Bundle, Vec<AnchorProblem>) {
    load_bundle_by(AuthorityRules::X509Svid, trust_domain, certificates, now)
}

/// [`load_bundle`] with the rules as an argument, for corpora of certificates that are not SPIFFE's.
pub fn load_bundle_by(
    rules: AuthorityRules,
    trust_domain: TrustDomain,
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    now: SystemTime,
) -> (Bundle, Vec<AnchorProblem>) {
    let mut anchors: Vec<Anchor> = Vec::new();
    let mut problems = Vec::new();
    for certificate in certificates {
        if anchors.iter().any(|anchor| anchor.der == certificate) {
            continue;
        }
        match load_anchor(rules, certificate, now) {
            Ok(anchor) => anchors.push(anchor),
            Err(problem) => problems.push(problem),
        }
    }
    (Bundle { trust_domain, anchors, updated_at: now, fetched: false }, problems)
}

/// Why a certificate of a bundle vouches for nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorProblem {
    #[error("{certificate} cannot be read")]
    Malformed { certificate: CertificateLabel, source: CertificateFault },
    #[error("{certificate} is not usable X.509")]
    Unusable { certificate: CertificateLabel, source: webpki::Error },
    #[error("{certificate} is not an authority")]
    NotAuthority { certificate: CertificateLabel, source: AuthorityFault },
    #[error("{certificate} expired at {}", instant(*not_after))]
    Expired { certificate: CertificateLabel, not_after: SystemTime },
}

/// Which certificate a problem is about.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateLabel {
    pub subject: Subject,
    /// SHA-256 of its DER.
    pub fingerprint: [u8; 32],
}

impl fmt::Display for CertificateLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificate `{}` (SHA-256 {})", self.subject, hex(&self.fingerprint))
    }
}

impl fmt::Debug for CertificateLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// webpki passes over critical extensions in a root that it does not know; `check_authority` does not, as Go does not.
fn load_anchor(rules: AuthorityRules, der: CertificateDer<'static>, now: SystemTime) -> Result<Anchor, AnchorProblem> {
    let label = |subject| CertificateLabel { subject, fingerprint: sha256(&der) };
    let fields = Fields::read(&der)
        .map_err(|source| AnchorProblem::Malformed { certificate: label(Subject::unreadable()), source })?;
    fields
        .check_authority(rules)
        .map_err(|source| AnchorProblem::NotAuthority { certificate: label(fields.subject.clone()), source })?;
    let (not_before, not_after) = (fields.not_before, fields.not_after);
    if has_ended(not_after, now) {
        return Err(AnchorProblem::Expired { certificate: label(fields.subject), not_after });
    }
    let anchor = webpki::anchor_from_trusted_cert(&der)
        .map_err(|source| AnchorProblem::Unusable { certificate: label(fields.subject.clone()), source })?
        .to_owned();
    let authority = AuthorityId(sha256(fields.spki));
    Ok(Anchor { anchor, authority, not_before, not_after, der })
}

/// The digest behind every fingerprint and [`AuthorityId`].
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    fingerprint
}

/// Of a whole chain: no two have the same.
pub fn chain_digest(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    sha256(&chain.iter().flat_map(|certificate| sha256(certificate)).collect::<Vec<_>>())
}
