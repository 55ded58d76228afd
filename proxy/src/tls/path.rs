//! RFC 5280 path validation: webpki's search, and the rules for authorities that webpki leaves out.
//!
//! Knows nothing of identities: `verifier` chooses the roots. Separate so that corpora of DNS certificates can be run
//! through the very code that the data plane uses. Pure.

use crate::identity::{Anchor, AuthorityId};
use crate::tls::authority::{AuthorityFault, AuthorityRules};
use crate::tls::bundle::sha256;
use crate::tls::certificate::{Fields, Subject, has_ended};
use crate::tls::peer::{Issued, Role};
use crate::tls::svid_error::SvidError;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::cell::RefCell;
use std::time::{Duration, SystemTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

/// A path that was found.
pub struct Path<'a> {
    /// The root that it ends at.
    pub anchor: &'a Anchor,
    /// The certificates below it, leaf first.
    pub issued: Vec<Issued>,
}

/// Finds a path from `leaf` through `intermediates` to one of `anchors` at the time `now`.
///
/// webpki bounds the search: six intermediates, 100 signature checks.
///
/// # Errors
/// [`SvidError`]: of several candidate paths the most telling reason.
pub fn verify_path<'a>(
    leaf: &CertificateDer<'_>,
    fields: &Fields<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &'a [Anchor],
    role: Role,
    now: SystemTime,
) -> Result<Path<'a>, SvidError> {
    let terms = Terms { algorithms: webpki::ALL_VERIFICATION_ALGS, rules: AuthorityRules::X509Svid, role, now };
    verify_path_by(&terms, leaf, fields, intermediates, anchors)
}

/// What a path is judged by.
pub struct Terms<'a> {
    /// The data plane takes all of webpki's; a test counts the signatures checked.
    pub algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    pub rules: AuthorityRules,
    pub role: Role,
    pub now: SystemTime,
}

/// [`verify_path`] on other terms than the data plane's.
///
/// # Errors
/// As [`verify_path`].
pub fn verify_path_by<'a>(
    terms: &Terms<'_>,
    leaf: &CertificateDer<'_>,
    fields: &Fields<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &'a [Anchor],
) -> Result<Path<'a>, SvidError> {
    let Terms { algorithms, role, now, .. } = *terms;
    if now < fields.not_before {
        return Err(SvidError::NotYetValid { not_before: fields.not_before });
    }
    // Whole seconds, as webpki counts: a certificate lives through the second that its notAfter names.
    let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO));
    if has_ended(fields.not_after, now) {
        return Err(SvidError::Expired { not_after: fields.not_after });
    }
    let end_entity = EndEntityCert::try_from(leaf).map_err(|error| match error {
        webpki::Error::UnsupportedCriticalExtension => SvidError::UnknownCriticalExtension,
        other => SvidError::LeafUnusable(other),
    })?;
    let usage = match role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    let roots: Vec<TrustAnchor<'_>> = anchors.iter().map(|anchor| borrow(&anchor.anchor)).collect();
    let vouching = |path: &VerifiedPath<'_>| roots.iter().position(|root| std::ptr::eq(root, path.anchor()));
    // webpki's callback can only return webpki's errors: what we found is kept here. The last one stands.
    let objection = RefCell::new(None);
    let check_candidate = |path: &VerifiedPath<'_>| {
        let Some(anchor) = vouching(path).and_then(|index| anchors.get(index)) else {
            return Err(webpki::Error::UnknownIssuer);
        };
        check_authorities(path, anchor, terms).map_err(|error| {
            objection.replace(Some(error));
            webpki::Error::UnknownIssuer
        })
    };
    let result =
        end_entity.verify_for_usage(algorithms, &roots, intermediates, time, usage, None, Some(&check_candidate));
    match result {
        Ok(path) => {
            let anchor = vouching(&path).and_then(|index| anchors.get(index)).ok_or(SvidError::UnknownIssuer)?;
            Ok(Path { anchor, issued: issued(&path, anchor.authority)? })
        }
        Err(error) => Err(objection.take().unwrap_or_else(|| explain(error, intermediates, anchors, role))),
    }
}

/// Who issued what on the path.
fn issued(path: &VerifiedPath<'_>, root: AuthorityId) -> Result<Vec<Issued>, SvidError> {
    let mut issued = Vec::new();
    let mut serial: Box<[u8]> = path.end_entity().serial().into();
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let fields = Fields::read(&der)
            .map_err(|source| SvidError::IssuerMalformed { subject: Subject::unreadable(), source })?;
        issued.push(Issued { serial, by: AuthorityId(sha256(fields.spki)) });
        serial = intermediate.serial().into();
    }
    issued.push(Issued { serial, by: root });
    Ok(issued)
}

/// What webpki does not look at: keyUsage and SPIFFE IDs of intermediates, the root's validity and path length.
fn check_authorities(path: &VerifiedPath<'_>, anchor: &Anchor, terms: &Terms<'_>) -> Result<(), SvidError> {
    let unreadable = |source| SvidError::IssuerMalformed { subject: Subject::unreadable(), source };
    let mut presented = 0;
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let fields = Fields::read(&der).map_err(unreadable)?;
        fields
            .check_authority(terms.rules)
            .map_err(|source| SvidError::Issuer { subject: fields.subject.clone(), source })?;
        // RFC 5280 §6.1.4 (l): self-issued certificates do not count.
        if intermediate.subject() != intermediate.issuer() {
            presented += 1;
        }
    }
    let root = Fields::read(&anchor.der).map_err(unreadable)?;
    if terms.now < anchor.not_before || has_ended(anchor.not_after, terms.now) {
        return Err(SvidError::AuthorityNotValid { subject: root.subject });
    }
    let path_length = root.basic_constraints.and_then(|constraints| constraints.path_length);
    if path_length.is_some_and(|allowed| presented > allowed) {
        return Err(SvidError::PathLength);
    }
    Ok(())
}

/// From webpki's reason to ours. The leaf's own rules were checked before, so what is left is about its issuers.
fn explain(error: webpki::Error, intermediates: &[CertificateDer<'_>], anchors: &[Anchor], role: Role) -> SvidError {
    use webpki::Error as Webpki;
    match error {
        Webpki::UnknownIssuer => SvidError::UnknownIssuer,
        Webpki::InvalidSignatureForPublicKey => SvidError::BadSignature,
        Webpki::CertExpired { .. } => SvidError::IssuerExpired,
        Webpki::CertNotValidYet { .. } => SvidError::IssuerNotYetValid,
        Webpki::RequiredEkuNotFoundContext(_) | Webpki::EmptyEkuExtension => SvidError::IssuerWrongUsage { role },
        Webpki::PathLenConstraintViolated => SvidError::PathLength,
        Webpki::NameConstraintViolation => explain_name_constraint(intermediates, anchors),
        Webpki::MaximumPathDepthExceeded => SvidError::PathTooLong,
        Webpki::MaximumSignatureChecksExceeded
        | Webpki::MaximumPathBuildCallsExceeded
        | Webpki::MaximumNameConstraintComparisonsExceeded => SvidError::PathTooComplex,
        Webpki::EndEntityUsedAsCa => explain_not_ca(intermediates),
        Webpki::CaUsedAsEndEntity => SvidError::LeafIsCa,
        Webpki::UnsupportedSignatureAlgorithmContext(_)
        | Webpki::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => SvidError::UnsupportedAlgorithm(error),
        other => SvidError::IssuerUnusable(other),
    }
}

/// webpki refuses URI and permitted directory constraints without reading them (RUSTSEC-2026-0098): say that it was
/// this, because the cure is another CA certificate, not another leaf.
fn explain_name_constraint(intermediates: &[CertificateDer<'_>], anchors: &[Anchor]) -> SvidError {
    let authorities = intermediates.iter().chain(anchors.iter().map(|anchor| &anchor.der));
    let forms: Vec<_> =
        authorities.filter_map(|der| Fields::read(der).ok().map(|fields| fields.name_constraints)).collect();
    if forms.iter().any(|form| form.uri) {
        SvidError::UriNameConstraint
    } else if forms.iter().any(|form| form.directory_name) {
        SvidError::DirectoryNameConstraint
    } else {
        SvidError::NameConstraint
    }
}

fn explain_not_ca(intermediates: &[CertificateDer<'_>]) -> SvidError {
    intermediates
        .iter()
        .filter_map(|der| Fields::read(der).ok())
        .find(|fields| fields.check_authority(AuthorityRules::Rfc5280) == Err(AuthorityFault::NotCa))
        .map_or(SvidError::IssuerUnusable(webpki::Error::EndEntityUsedAsCa), |fields| SvidError::Issuer {
            subject: fields.subject,
            source: AuthorityFault::NotCa,
        })
}

fn borrow<'a>(anchor: &'a TrustAnchor<'_>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: anchor.subject.as_ref().into(),
        subject_public_key_info: anchor.subject_public_key_info.as_ref().into(),
        name_constraints: anchor.name_constraints.as_ref().map(|constraints| constraints.as_ref().into()),
    }
}
