//! Every way in which Postern says no: one table from reason code to HTTP, gRPC and retry advice (DESIGN, rulings).
//!
//! A refusal has words for the inside (log, record) elsewhere; what leaves the process is the code (to the peer's
//! sidecar only) and the decision id.

use crate::authz::external::Denial;
use http::StatusCode;
use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// A closed set. `code()` is stable: logs, metrics and records use it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// We hold no SVID (yet, or no longer).
    NoIdentity,
    /// The agent answers `PermissionDenied`.
    IdentityDenied,
    /// Our SVID is past its notAfter.
    IdentityExpired,
    /// Plaintext on a port that wants mTLS.
    PlaintextRefused,
    /// TLS on a port that wants plaintext.
    TlsRefused,
    /// The TLS handshake failed before an identity was known (not our verifier's verdict).
    TlsHandshakeFailed,
    /// A deadline of the handshake passed.
    TlsHandshakeTimeout,
    /// Our verifier refused the peer's SVID; the record names the rule.
    PeerNotVerified,
    /// The bytes are of a protocol that this port does not carry.
    ProtocolRefused,
    /// No first bytes in time, on a port where L7 rules exist.
    DetectTimeout,
    /// No allow rule matches.
    NotAllowed,
    /// A deny rule matches.
    Denied,
    /// A require rule does not match.
    RequirementUnmet,
    /// The authorizer said no.
    ExternalDenied,
    /// The authorizer gave no answer, or none that can be followed.
    ExternalUnavailable,
    /// The route wants a token, and there is none.
    TokenMissing,
    /// The token is not believed; the record names the rule.
    TokenInvalid,
    /// The token is good, and not its caller's to show.
    TokenNotBound,
    /// It is valid, not what it was before, and the file says `deny` of that.
    DriftRefused,
    /// The peer forwards for somebody it may not speak for, or who is on the deny list.
    ForwardedCallerRefused,
    /// The token was shown before, and is taken one time only.
    TokenReplayed,
    /// Outbound: there is no token for whom it goes to.
    TokenUnavailable,
    /// Outbound: the application brought a credential of its own, where it has to have none.
    AppTokenRefused,
    /// No route matches.
    NoRoute,
    /// Readings of the path select different routes.
    AmbiguousRoute,
    /// The path has no honest reading.
    BadPath,
    /// Host or authority missing, doubled, contradictory or malformed.
    BadHost,
    /// Framing or headers that a strict proxy does not pass on.
    BadRequest,
    /// An `Expect` other than `100-continue`.
    ExpectationRefused,
    /// More or larger header fields than allowed.
    HeadersTooLarge,
    /// A longer target than can be read.
    TargetTooLong,
    /// More requests than `rate_limit` says.
    RateLimited,
    /// A longer body than its authorizer is shown.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// CONNECT where no route says so.
    ConnectRefused,
    /// An upgrade that this port does not carry, or one with a body.
    UpgradeRefused,
    /// Outbound: the local user that called is not one of the service's.
    LocalUserRefused,
    /// Outbound: the service is for some local users, and nobody knows which one called.
    LocalUserUnknown,
    /// Outbound: no service is declared for this destination.
    UnknownService,
    /// Outbound: the answerer's SVID is valid, but not one of the expected identities.
    WrongUpstreamIdentity,
    /// Outbound: the answerer is expected, another one than before, and the file says `deny` of that.
    UpstreamDrift,
    /// Outbound: the answerer could not be verified.
    UpstreamNotVerified,
    /// Outbound: no endpoint could be reached.
    UpstreamUnreachable,
    /// Outbound: the name has no usable address.
    UpstreamUnresolved,
    /// The upstream answered with something that is not the protocol.
    UpstreamProtocol,
    /// Outbound: the answerer took our SVID for none that it trusts, or wants.
    UpstreamRefusedUs,
    /// Outbound: the peer's sidecar refused a stream of its tunnel.
    PeerRefused,
    /// The upstream closed before it answered.
    UpstreamClosed,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// Inbound: the application could not be reached.
    AppUnreachable,
    /// More connections or requests than allowed.
    OverLimit,
    /// A connection came when nobody served any more.
    Draining,
    /// The connection's trust ended while the request was in flight.
    TrustEnded,
    /// What is to be called is a listener of ours: what it receives would come back.
    Loop,
    /// Our own fault.
    Internal,
}

impl Refusal {
    /// The stable, short name.
    pub fn code(self) -> &'static str {
        self.row().0
    }

    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).expect("the table below holds valid status codes")
    }

    /// Nothing was decided against it: what was allowed could not be done. Who answered as somebody else was refused.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::TokenUnavailable
                | Self::BodyTimeout
                | Self::UpstreamUnreachable
                | Self::UpstreamUnresolved
                | Self::UpstreamProtocol
                | Self::UpstreamRefusedUs
                | Self::PeerRefused
                | Self::UpstreamClosed
                | Self::UpstreamTimeout
                | Self::AppUnreachable
        )
    }

    /// Status code of gRPC (google.rpc.Code).
    pub fn grpc_status(self) -> u8 {
        self.row().2
    }

    #[rustfmt::skip]
    fn row(self) -> (&'static str, u16, u8) {
        match self {
            Self::NoIdentity            => ("no_identity",             503, 14),
            Self::IdentityDenied        => ("identity_denied",         503, 14),
            Self::IdentityExpired       => ("identity_expired",        503, 14),
            Self::PlaintextRefused      => ("plaintext_refused",       400,  3),
            Self::TlsRefused            => ("tls_refused",             400,  3),
            Self::TlsHandshakeFailed    => ("tls_handshake_failed",    400, 16),
            Self::TlsHandshakeTimeout   => ("tls_handshake_timeout",   400,  4),
            Self::PeerNotVerified       => ("peer_not_verified",       403, 16),
            Self::ProtocolRefused       => ("protocol_refused",        400,  3),
            Self::DetectTimeout         => ("detect_timeout",          408,  4),
            Self::NotAllowed            => ("not_allowed",             403,  7),
            Self::Denied                => ("denied",                  403,  7),
            Self::RequirementUnmet      => ("requirement_unmet",       403,  7),
            Self::ExternalDenied        => ("external_denied",         403,  7),
            // Envoy says 403 here by default. Whoever asked would take that for a verdict, and it is none: it may ask again.
            Self::ExternalUnavailable   => ("external_unavailable",    503, 14),
            Self::TokenMissing          => ("token_missing",           401, 16),
            Self::TokenInvalid          => ("token_invalid",           401, 16),
            Self::TokenNotBound         => ("token_not_bound",         403,  7),
            Self::DriftRefused          => ("drift_refused",           403,  7),
            Self::ForwardedCallerRefused => ("forwarded_caller_refused", 403, 7),
            Self::TokenReplayed         => ("token_replayed",          401, 16),
            Self::TokenUnavailable      => ("token_unavailable",       503, 14),
            Self::AppTokenRefused       => ("app_token_refused",       400,  3),
            Self::NoRoute               => ("no_route",                403,  7),
            Self::AmbiguousRoute        => ("ambiguous_route",         400,  3),
            Self::BadPath               => ("bad_path",                400,  3),
            Self::BadHost               => ("bad_host",                400,  3),
            Self::BadRequest            => ("bad_request",             400,  3),
            Self::ExpectationRefused    => ("expectation_refused",     417,  3),
            Self::HeadersTooLarge       => ("headers_too_large",       431,  8),
            Self::TargetTooLong         => ("target_too_long",         414,  8),
            Self::RateLimited           => ("rate_limited",            429,  8),
            Self::BodyTooLarge          => ("body_too_large",          413,  8),
            Self::BodyTimeout           => ("body_timeout",            408,  4),
            Self::ConnectRefused        => ("connect_refused",         405, 12),
            Self::UpgradeRefused        => ("upgrade_refused",         400,  3),
            Self::LocalUserRefused      => ("local_user_refused",      403,  7),
            Self::LocalUserUnknown      => ("local_user_unknown",      403,  7),
            Self::UnknownService        => ("unknown_service",         403,  7),
            Self::WrongUpstreamIdentity => ("wrong_upstream_identity", 502, 14),
            Self::UpstreamDrift         => ("upstream_drift",          502, 14),
            Self::UpstreamNotVerified   => ("upstream_not_verified",   502, 14),
            Self::UpstreamUnreachable   => ("upstream_unreachable",    503, 14),
            Self::UpstreamUnresolved    => ("upstream_unresolved",     503, 14),
            Self::UpstreamProtocol      => ("upstream_protocol",       502, 14),
            Self::UpstreamRefusedUs     => ("upstream_refused_us",     502, 14),
            Self::PeerRefused           => ("peer_refused",            502, 14),
            Self::UpstreamClosed        => ("upstream_closed",         502, 14),
            Self::UpstreamTimeout       => ("upstream_timeout",        504,  4),
            Self::AppUnreachable        => ("app_unreachable",         503, 14),
            Self::OverLimit             => ("over_limit",              503,  8),
            Self::Draining              => ("draining",                503, 14),
            Self::TrustEnded            => ("trust_ended",             503, 14),
            Self::Loop                  => ("loop",                    508, 13),
            Self::Internal              => ("internal",                500, 13),
        }
    }
}

/// A refusal with its words for the inside: log and record, never for whoever asked, unless
/// [`words_outside`](Refused::words_outside) says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub refusal: Refusal,
    pub detail: Cow<'static, str>,
    /// What the authorizer wants to be answered.
    pub denial: Option<Arc<Denial>>,
    /// Seconds until it may be tried again, where that is known.
    pub retry_after: Option<NonZeroU32>,
}

impl Refused {
    pub fn new(refusal: Refusal, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal, detail: detail.into(), denial: None, retry_after: None }
    }

    /// For records. `None`: the code says it all.
    pub fn words_inside(&self) -> Option<&str> {
        Some(&*self.detail).filter(|detail| !detail.is_empty())
    }

    /// The authorizer's no, in its own words.
    pub fn by_authorizer(name: &str, denial: Denial) -> Self {
        let detail = format!("authorizer {name} answered {}", denial.status.as_u16());
        Self { denial: Some(Arc::new(denial)), ..Self::new(Refusal::ExternalDenied, detail) }
    }

    /// More than `which` limit says, until `after`.
    pub fn rate_limited(which: &str, after: Duration) -> Self {
        // Rounded up: who comes earlier is refused again (RFC 9110 §10.2.3 has whole seconds).
        let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        let detail = format!("more requests than the `rate_limit` of {which} lets through");
        Self { retry_after: NonZeroU32::new(seconds), ..Self::new(Refusal::RateLimited, detail) }
    }

    /// Status code of HTTP.
    pub fn status(&self) -> StatusCode {
        self.denial.as_ref().map_or_else(|| self.refusal.status(), |denial| denial.status)
    }

    /// Status code of gRPC.
    pub fn grpc_status(&self) -> u8 {
        self.denial.as_ref().map_or_else(|| self.refusal.grpc_status(), |denial| denial.grpc_status())
    }

    /// Which limit a request was above: who does not learn that cannot stay below it.
    pub fn words_outside(&self) -> Option<&str> {
        let names_limit = matches!(self.refusal, Refusal::HeadersTooLarge | Refusal::TargetTooLong);
        (names_limit && !self.detail.is_empty()).then_some(&self.detail)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, detail: Cow::Borrowed(""), denial: None, retry_after: None }
    }
}
