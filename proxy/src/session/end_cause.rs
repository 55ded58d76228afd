//! Why live connections end: stable names for records and metrics.

/// Why a live connection was ended by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndCause {
    /// Our own SVID was withdrawn.
    IdentityWithdrawn = 1,
    /// The authority that vouched for the peer is gone, or the peer's chain no longer verifies.
    AuthorityRemoved,
    /// The peer's trust domain is gone.
    TrustDomainRemoved,
    /// The policy no longer allows what the connection carries.
    PolicyChanged,
    /// Our SVID or the peer's expired.
    SvidExpired,
    /// Our SVID was replaced; only ever retires.
    SvidRotated,
    /// Nothing happened on it for too long.
    Idle,
    /// A request's head did not arrive in time.
    HeaderTimeout,
    /// We are shutting down.
    Draining,
    /// The other end did not answer a ping.
    Unresponsive,
}

impl EndCause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityWithdrawn => "identity_withdrawn",
            Self::AuthorityRemoved => "authority_removed",
            Self::TrustDomainRemoved => "trust_domain_removed",
            Self::PolicyChanged => "policy_changed",
            Self::SvidExpired => "svid_expired",
            Self::SvidRotated => "svid_rotated",
            Self::Idle => "idle",
            Self::HeaderTimeout => "header_timeout",
            Self::Draining => "draining",
            Self::Unresponsive => "unresponsive",
        }
    }

    /// Is it one of the teardown table's (DESIGN, rulings): identity or policy took away what had been given? The others
    /// are deadlines.
    pub(super) fn ends_trust(self) -> bool {
        match self {
            Self::IdentityWithdrawn
            | Self::AuthorityRemoved
            | Self::TrustDomainRemoved
            | Self::PolicyChanged
            | Self::SvidExpired
            | Self::SvidRotated => true,
            Self::Idle | Self::HeaderTimeout | Self::Draining | Self::Unresponsive => false,
        }
    }

    pub(super) fn from_u8(value: u8) -> Option<Self> {
        [
            Self::IdentityWithdrawn,
            Self::AuthorityRemoved,
            Self::TrustDomainRemoved,
            Self::PolicyChanged,
            Self::SvidExpired,
            Self::SvidRotated,
            Self::Idle,
            Self::HeaderTimeout,
            Self::Draining,
            Self::Unresponsive,
        ]
        .into_iter()
        .find(|cause| *cause as u8 == value)
    }
}
