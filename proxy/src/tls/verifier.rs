//! Who a peer is: the X509-SVID rules of SPIFFE, and nothing else decides it.
//!
//! One rule after the other, leaf first, so that the reason names the rule and not its consequence. Pure: chain, bundles
//! and time are arguments; the handshake (`mesh`), the re-check of live connections and `postern verify` run this code.

use crate::identity::{AuthorityId, Bundle};
use crate::tls::bundle::{chain_digest, sha256};
use crate::tls::certificate::Fields;
use crate::tls::path::verify_path;
use crate::tls::peer::{Peer, Role};
use postern_config::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

pub use crate::tls::svid_error::SvidError;

/// webpki walks six intermediates at most; the rest is tolerance for peers that send their root as well.
pub const CHAIN_COUNT_MAX: usize = 10;
/// rustls reads no longer Certificate message either.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;

/// How the leaf's extensions are judged (DESIGN, rulings).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Strictness {
    #[default]
    Strict,
    /// Accepts leaves without basicConstraints or with non-critical keyUsage (some PKIs). Nothing else.
    Compat,
}

/// Makes a peer known by the chain (leaf first) that it presented in `role`.
///
/// # Errors
/// [`SvidError`]: the first rule broken.
pub fn verify_svid(
    chain: &[CertificateDer<'_>],
    bundles: &HashMap<TrustDomain, Arc<Bundle>>,
    generation: u64,
    role: Role,
    now: SystemTime,
    strictness: Strictness,
) -> Result<Peer, SvidError> {
    let (leaf, intermediates) = bound(chain)?;
    let fields = Fields::read(leaf).map_err(SvidError::LeafMalformed)?;
    let id = read_id(&fields)?;
    check_leaf(&fields, role, strictness)?;
    let bundle = choose_bundle(&id, bundles)?;
    let path = verify_path(leaf, &fields, intermediates, &bundle.anchors, role, now)?;
    Ok(Peer {
        id,
        fingerprint: sha256(leaf),
        chain_fingerprint: chain_digest(chain),
        serial: fields.serial,
        not_after: fields.not_after,
        authority: path.anchor.authority,
        issued: path.issued,
        generation,
        rendered: Default::default(),
        chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
    })
}

/// Checks a live peer again after its bundle changed, and returns the authority that vouches now.
///
/// Cheap when the authority that vouched is still in the bundle: the path below it cannot have changed. A re-issued
/// certificate of the same key counts as the same authority, even if its constraints are new: new handshakes see those.
///
/// The end of a leaf's or an intermediate's validity is no reason here: what follows from expiry is `on_expiry`'s to
/// say, so the path is judged at a time when the leaf was valid.
///
/// # Errors
/// [`SvidError`]: a new handshake of this peer would fail with it.
pub fn still_trusted(
    peer: &Peer,
    bundles: &HashMap<TrustDomain, Arc<Bundle>>,
    role: Role,
    now: SystemTime,
    strictness: Strictness,
) -> Result<AuthorityId, SvidError> {
    let bundle = choose_bundle(&peer.id, bundles)?;
    if bundle.anchors.iter().any(|anchor| anchor.authority == peer.authority) {
        return Ok(peer.authority);
    }
    let (leaf, _) = bound(&peer.chain)?;
    let fields = Fields::read(leaf).map_err(SvidError::LeafMalformed)?;
    let verify_at = |time| {
        verify_svid(&peer.chain, bundles, peer.generation, role, time, strictness).map(|verified| verified.authority)
    };
    match verify_at(now.clamp(fields.not_before, fields.not_after.max(fields.not_before))) {
        // An intermediate may end before its leaf; when the leaf was issued, it was valid.
        Err(SvidError::IssuerExpired) => verify_at(fields.not_before),
        verdict => verdict,
    }
}

/// Would a peer that was accepted with `compat` be accepted without it?
///
/// # Errors
/// [`SvidError`]: a new handshake of this peer would fail with it.
pub fn is_strictly_valid(peer: &Peer, role: Role) -> Result<(), SvidError> {
    let (leaf, _) = bound(&peer.chain)?;
    check_leaf(&Fields::read(leaf).map_err(SvidError::LeafMalformed)?, role, Strictness::Strict)
}

/// Before anything is parsed: a flood of certificates costs a length check (SPIFFE checklist A2.29).
pub(super) fn bound<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
) -> Result<(&'a CertificateDer<'b>, &'a [CertificateDer<'b>]), SvidError> {
    if chain.len() > CHAIN_COUNT_MAX {
        return Err(SvidError::ChainTooLong { count: chain.len(), max: CHAIN_COUNT_MAX });
    }
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > CHAIN_BYTES_MAX {
        return Err(SvidError::ChainTooLarge { bytes, max: CHAIN_BYTES_MAX });
    }
    chain.split_first().ok_or(SvidError::NoCertificate)
}

/// X509-SVID §2: "An X.509 SVID MUST contain exactly one URI SAN", and §5.2: it must be a SPIFFE ID with a path.
fn read_id(fields: &Fields<'_>) -> Result<SpiffeId, SvidError> {
    let names = fields.subject_alt_name.as_ref().ok_or(SvidError::NoSubjectAltName)?;
    let uri = match names.uris.as_slice() {
        [] => return Err(SvidError::NoUriName),
        [uri] => uri,
        several => return Err(SvidError::MultipleUriNames { count: several.len() }),
    };
    let text = std::str::from_utf8(uri).map_err(|_not_text| SvidError::UriNotText)?;
    let id = SpiffeId::parse(text).map_err(|source| SvidError::InvalidId { uri: excerpt(text), source })?;
    if id.path().is_empty() {
        return Err(SvidError::IdWithoutPath { id: id.to_string() });
    }
    // X509-SVID §3.1; RFC 5280 §4.1.2.6: "If subject naming information is present only in the subjectAltName
    // extension, then the subject name MUST be an empty sequence and the subjectAltName extension MUST be critical."
    if fields.subject_is_empty && !names.critical {
        return Err(SvidError::NameNotCritical);
    }
    Ok(id)
}

/// What makes a certificate a leaf SVID: X509-SVID §4.1, §4.3, §4.4 and §5.2.
fn check_leaf(fields: &Fields<'_>, role: Role, strictness: Strictness) -> Result<(), SvidError> {
    match (&fields.basic_constraints, strictness) {
        (Some(constraints), _) if constraints.ca => return Err(SvidError::LeafIsCa),
        (None, Strictness::Strict) => return Err(SvidError::BasicConstraintsMissing),
        (Some(_), _) | (None, Strictness::Compat) => {}
    }
    let key_usage = fields.key_usage.as_ref().ok_or(SvidError::KeyUsageMissing)?;
    if key_usage.key_cert_sign {
        return Err(SvidError::KeyCertSign);
    }
    if key_usage.crl_sign {
        return Err(SvidError::CrlSign);
    }
    if !key_usage.digital_signature {
        return Err(SvidError::NoDigitalSignature);
    }
    if !key_usage.critical && strictness == Strictness::Strict {
        return Err(SvidError::KeyUsageNotCritical);
    }
    if !allows(fields, role) {
        return Err(SvidError::WrongUsage { role });
    }
    if !fields.key_is_accepted {
        return Err(SvidError::KeyNotAccepted);
    }
    Ok(())
}

/// id-kp 1 and 2. `anyExtendedKeyUsage` is not taken for them: webpki would refuse it, and so it has one meaning.
fn allows(fields: &Fields<'_>, role: Role) -> bool {
    const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
    const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
    let needed = match role {
        Role::Client => CLIENT_AUTH,
        Role::Server => SERVER_AUTH,
    };
    fields.extended_key_usage.as_ref().is_none_or(|purposes| purposes.contains(&needed))
}

/// Only the roots of the leaf's own trust domain (SPIFFE Workload API §4.6; Federation §7.3), never a union.
fn choose_bundle<'a>(id: &SpiffeId, bundles: &'a HashMap<TrustDomain, Arc<Bundle>>) -> Result<&'a Bundle, SvidError> {
    let trust_domain = id.trust_domain();
    match bundles.get(&trust_domain) {
        None => Err(SvidError::NoBundle { trust_domain }),
        Some(bundle) if bundle.anchors.is_empty() => Err(SvidError::EmptyBundle { trust_domain }),
        Some(bundle) => Ok(bundle),
    }
}

/// A peer's text for a log: escaped, and no more of it than helps.
fn excerpt(text: &str) -> String {
    const CHARACTERS_MAX: usize = 120;
    text.chars().take(CHARACTERS_MAX).flat_map(char::escape_default).collect()
}
