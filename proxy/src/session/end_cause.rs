//! Why live connections end: stable names for records and metrics.

/// Why a live connection, or a request on one, was ended by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndCause {
    /// Our own SVID was withdrawn.
    IdentityWithdrawn = 1,
    /// The authority that vouched for the peer is gone, or the peer's chain no longer verifies.
    AuthorityRemoved,
    /// The peer's trust domain is gone.
    TrustDomainRemoved,
    /// A list of the authority that issued it took the peer's certificate back, or ours.
    CertificateRevoked,
    /// The peer, its certificate or its token is on the deny list.
    DenyListed,
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
    /// A request's body did not arrive in time.
    BodyIdle,
    /// Nothing of a request moved for too long.
    StreamIdle,
    /// The caller did not take what was there for it.
    WriteStall,
    /// Its place was wanted by somebody else.
    OverLimit,
    /// HTTP/2 frames that carry nothing, too many.
    Http2Flood,
    /// HTTP/2 streams that were given up as soon as they were opened, too many.
    Http2Resets,
    /// We are shutting down.
    Draining,
    /// A request took longer than its `request_timeout`.
    RequestTimeout,
    /// The other end did not answer a ping.
    Unresponsive,
}

impl EndCause {
    pub const ALL: [Self; 19] = [
        Self::IdentityWithdrawn,
        Self::AuthorityRemoved,
        Self::TrustDomainRemoved,
        Self::CertificateRevoked,
        Self::DenyListed,
        Self::PolicyChanged,
        Self::SvidExpired,
        Self::SvidRotated,
        Self::Idle,
        Self::HeaderTimeout,
        Self::BodyIdle,
        Self::StreamIdle,
        Self::WriteStall,
        Self::OverLimit,
        Self::Http2Flood,
        Self::Http2Resets,
        Self::Draining,
        Self::RequestTimeout,
        Self::Unresponsive,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityWithdrawn => "identity_withdrawn",
            Self::AuthorityRemoved => "authority_removed",
            Self::TrustDomainRemoved => "trust_domain_removed",
            Self::CertificateRevoked => "certificate_revoked",
            Self::DenyListed => "deny_listed",
            Self::PolicyChanged => "policy_changed",
            Self::SvidExpired => "svid_expired",
            Self::SvidRotated => "svid_rotated",
            Self::Idle => "idle",
            Self::HeaderTimeout => "header_timeout",
            Self::BodyIdle => "body_idle",
            Self::StreamIdle => "stream_idle",
            Self::WriteStall => "write_stall",
            Self::OverLimit => "over_limit",
            Self::Http2Flood => "http2_flood",
            Self::Http2Resets => "http2_resets",
            Self::Draining => "draining",
            Self::RequestTimeout => "request_timeout",
            Self::Unresponsive => "unresponsive",
        }
    }

    /// Is it one of the teardown table's (DESIGN, rulings): identity or policy took away what had been given? The others
    /// are deadlines and limits.
    pub fn ends_trust(self) -> bool {
        match self {
            Self::IdentityWithdrawn
            | Self::AuthorityRemoved
            | Self::TrustDomainRemoved
            | Self::CertificateRevoked
            | Self::DenyListed
            | Self::PolicyChanged
            | Self::SvidExpired
            | Self::SvidRotated => true,
            Self::Idle
            | Self::HeaderTimeout
            | Self::BodyIdle
            | Self::StreamIdle
            | Self::WriteStall
            | Self::OverLimit
            | Self::Http2Flood
            | Self::Http2Resets
            | Self::Draining
            | Self::RequestTimeout
            | Self::Unresponsive => false,
        }
    }

    pub(super) fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| *cause as u8 == value)
    }
}
