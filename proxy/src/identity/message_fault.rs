//! What can be wrong with an update: faults that discard it, and warnings that do not.

use super::events::DiscardReason;
use super::file_content::FileFault;
use super::key::KeyFault;
use crate::revocation::LISTS_MAX;
use crate::tls::SvidError;
use crate::tls::bundle::{AnchorProblem, DerError};
use crate::tls::certificate::CertificateFault;
use crate::tls::crl::CrlFault;
use postern_config::{SpiffeId, SpiffeIdError, TrustDomain};

/// The first rule that a message breaks. Display names it and its place; it never holds a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageFault {
    #[error("field `{0}` is mandatory and empty (SPIFFE Workload API §4.5)")]
    Empty(&'static str),
    #[error("the `spiffe_id` of an SVID is no SPIFFE ID")]
    Id(#[from] SpiffeIdError),
    #[error("the chain of {id} cannot be split")]
    Chain { id: SpiffeId, source: DerError },
    #[error("the leaf cannot be read")]
    Leaf(#[from] CertificateFault),
    #[error("the leaf has not exactly one SPIFFE ID")]
    LeafId,
    #[error("the key of {id} cannot be used")]
    Key { id: SpiffeId, source: KeyFault },
    #[error("the key of {id} does not belong to its leaf")]
    KeyMismatch { id: SpiffeId, source: rustls::Error },
    #[error("the bundle of {trust_domain}, our own, cannot be split")]
    OwnBundle { trust_domain: TrustDomain, source: DerError },
    #[error("two SVIDs of {0} came with different bundles, which must not be merged")]
    BundlesDiffer(TrustDomain),
    #[error("the message says {claimed}, the certificate {found}")]
    IdMismatch { claimed: SpiffeId, found: SpiffeId },
    #[error("the SVID{} is not valid with the bundle that came with it", of(claimed))]
    Unverified { claimed: Option<SpiffeId>, source: SvidError },
}

impl MessageFault {
    pub(crate) fn reason(&self) -> DiscardReason {
        match self {
            Self::Empty(_) => DiscardReason::MandatoryFieldEmpty,
            Self::Id(_) => DiscardReason::MalformedId,
            Self::Chain { .. } | Self::Leaf(_) | Self::LeafId => DiscardReason::MalformedChain,
            Self::Key { .. } => DiscardReason::MalformedKey,
            Self::KeyMismatch { .. } => DiscardReason::KeyMismatch,
            Self::OwnBundle { .. } => DiscardReason::MalformedBundle,
            Self::BundlesDiffer(_) => DiscardReason::BundlesDiffer,
            Self::IdMismatch { .. } => DiscardReason::IdMismatch,
            Self::Unverified { .. } => DiscardReason::Unverified,
        }
    }
}

/// Something in an applied update that an operator should know of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Warning {
    #[error("the key {0:?} of a federated bundle is not the SPIFFE ID of a trust domain; its bundle is ignored")]
    BundleKey(String),
    #[error("the federated bundle of {trust_domain} is malformed and refused; the last good one, if any, stays")]
    BundleRefused { trust_domain: TrustDomain, source: BundleFault },
    #[error("the bundle of {trust_domain} holds nothing usable: its peers are refused")]
    BundleUnusable { trust_domain: TrustDomain },
    #[error("a certificate in the bundle of {trust_domain} is not used")]
    Anchor { trust_domain: TrustDomain, source: AnchorProblem },
    #[error("{0} is our own trust domain and also among the federated bundles; the SVID's own bundle is used")]
    OwnDomainFederated(TrustDomain),
    #[error("the hint of {0} is longer than 1024 bytes and ignored (SPIFFE Workload API §8)")]
    HintTooLong(SpiffeId),
    #[error("{id} has a hint that an earlier SVID has; the first is selected (SPIFFE Workload API §5.2.1)")]
    HintTwice { id: SpiffeId },
    #[error("a certificate revocation list is refused; the last good ones, if any, stay")]
    RevocationList(#[source] CrlFault),
    #[error("of {count} certificate revocation lists the first {LISTS_MAX} are used, and the last good ones stay")]
    RevocationLists { count: usize },
}

impl Warning {
    pub(crate) fn is_refused_bundle(&self) -> bool {
        matches!(
            self,
            Self::BundleKey(_)
                | Self::BundleRefused { .. }
                | Self::BundleUnusable { .. }
                | Self::Anchor { .. }
                | Self::RevocationList(_)
                | Self::RevocationLists { .. }
        )
    }
}

/// Why a federated bundle was refused whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleFault {
    #[error("it cannot be split into certificates")]
    Split(#[from] DerError),
    #[error("none of its certificates can be read")]
    Unreadable(#[source] CertificateFault),
    #[error("its file cannot be used")]
    File(#[from] FileFault),
}

fn of(claimed: &Option<SpiffeId>) -> String {
    claimed.as_ref().map(|id| format!(" of {id}")).unwrap_or_default()
}
