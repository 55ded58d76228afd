//! Why a token is refused: one variant a rule, each with a stable code and the section it is from.
//!
//! No message holds a token or a signature. What it holds of the token is [`Shown`]: escaped and cut.

use super::algorithm::{Algorithm, UnknownAlgorithm};
use super::claims::{AUDIENCES_MAX, TIME_MAX};
use super::json::JsonFault;
use super::jws::{KEY_ID_BYTES_MAX, TOKEN_BYTES_MAX};
use super::keys::CANDIDATES_MAX;
use super::shown::Shown;
use crate::base64::Base64Fault;
use crate::tls::svid_error::instant;
use postern_config::{SpiffeIdError, TrustDomain};
use std::time::SystemTime;

/// The verdict on a token when it is no. Codes are stable: logs, metrics, records and `postern verify` use them alike.
#[derive(Debug, thiserror::Error)]
pub enum TokenProblem {
    #[error("the token has {bytes} bytes, more than the {TOKEN_BYTES_MAX} read")]
    TooLarge { bytes: usize },
    #[error("the token has {parts} parts between dots; compact serialisation has three (RFC 7515 §7.1, JWT-SVID §5.1)")]
    NotCompact { parts: usize },
    #[error("the token's header is not base64url without padding (RFC 7515 §2)")]
    HeaderEncoding(#[source] Base64Fault),
    #[error("the token's payload is not base64url without padding (RFC 7515 §2)")]
    PayloadEncoding(#[source] Base64Fault),
    #[error("the token's signature is not base64url without padding (RFC 7515 §2)")]
    SignatureEncoding(#[source] Base64Fault),
    #[error("the token's header is not a JSON object with one meaning (RFC 7515 §4)")]
    Header(#[source] JsonFault),
    #[error("the token has no signature (RFC 7515 §5.2)")]
    SignatureMissing,

    #[error("the header has no `alg` (RFC 7515 §4.1.1)")]
    AlgorithmMissing,
    #[error("the header's `alg` is not text (RFC 7515 §4.1.1)")]
    AlgorithmNotText,
    #[error("the header's `alg` is not accepted")]
    AlgorithmUnknown(#[source] UnknownAlgorithm),
    #[error("the issuer's tokens are not accepted with the algorithm {algorithm} (RFC 8725 §3.1)")]
    AlgorithmNotAllowed { algorithm: Algorithm },
    #[error("the header has the member `{member}`, which may not be there (JWT-SVID §2, RFC 7515 §4.1.11)")]
    HeaderMember { member: Shown },
    #[error("the header's `typ` is `{found}`, which is neither JWT nor JOSE (JWT-SVID §2.3)")]
    TypeWrong { found: Shown },
    #[error("the header's `typ` is not text (RFC 7515 §4.1.9)")]
    TypeNotText,
    #[error("the header's `kid` is not text (RFC 7515 §4.1.4)")]
    KeyIdNotText,
    #[error("the header's `kid` has {bytes} bytes, more than the {KEY_ID_BYTES_MAX} read")]
    KeyIdTooLong { bytes: usize },

    #[error("the claims are not a JSON object with one meaning (RFC 7519 §4)")]
    Claims(#[source] JsonFault),
    #[error("the token has no `sub`, so it is nobody's (JWT-SVID §3.1)")]
    SubjectMissing,
    #[error("the token's `sub` is not text, or empty (RFC 7519 §4.1.2)")]
    SubjectMalformed,
    #[error("the token's `sub`, `{subject}`, is no SPIFFE ID (JWT-SVID §3.1)")]
    SubjectInvalid { subject: Shown, source: SpiffeIdError },
    #[error("the token's `sub`, `{subject}`, has no path: it names a trust domain, not a workload (JWT-SVID §3.1)")]
    SubjectWithoutPath { subject: Shown },
    #[error("the token is of `{subject}`, and was asked for as our own (Workload API §6.2.1)")]
    SubjectOther { subject: Shown },
    #[error("there are no keys for tokens of the trust domain {trust_domain} (SPIFFE Workload API §6.3)")]
    NoBundle { trust_domain: TrustDomain },
    #[error("no key for tokens of the trust domain {trust_domain} is usable (Trust Domain and Bundle §4.1.3)")]
    EmptyBundle { trust_domain: TrustDomain },
    #[error("the token has no `iss` (RFC 7519 §4.1.1)")]
    IssuerMissing,
    #[error("the token's `iss` is not text (RFC 7519 §4.1.1)")]
    IssuerMalformed,
    #[error("the token's issuer, `{issuer}`, is not one that is believed here (RFC 8725 §3.8)")]
    IssuerUnknown { issuer: Shown },
    #[error("there is no usable key of the issuer `{issuer}` (OpenID Connect Discovery §3)")]
    IssuerWithoutKeys { issuer: Shown },

    #[error("no usable key has the token's `kid`, `{key_id}`; maybe it was rotated out, or is another domain's")]
    KeyUnknown { key_id: Shown },
    #[error("the key with the token's `kid`, `{key_id}`, is not for {algorithm} (RFC 7518 §3.1)")]
    KeyUnfit { key_id: Shown, algorithm: Algorithm },
    #[error("the token has no `kid`, and no key is for {algorithm} (JWT-SVID §2.2)")]
    NoKeyFits { algorithm: Algorithm },
    #[error("the token has no `kid`, and {count} keys would have to be tried, more than {CANDIDATES_MAX}")]
    TooManyCandidates { count: usize },
    #[error("the signature is not of the key that it should be of (RFC 7515 §5.2)")]
    SignatureInvalid,

    #[error("the token has no `aud`, so it is for nobody (JWT-SVID §3.2)")]
    AudienceMissing,
    #[error("the token's `aud` is neither text nor a list of texts, or one of them is empty (RFC 7519 §4.1.3)")]
    AudienceMalformed,
    #[error("the token is for {count} audiences, more than the {AUDIENCES_MAX} read")]
    TooManyAudiences { count: usize },
    #[error("the token is for `{found}`, not for us (JWT-SVID §3.2)")]
    AudienceWrong { found: Shown },
    #[error("the token has no `exp`, so it would never expire (JWT-SVID §3.3)")]
    ExpiryMissing,
    #[error("the token's `{claim}` is no number of seconds between 1970 and {TIME_MAX} (RFC 7519 §2, NumericDate)")]
    TimeMalformed { claim: &'static str },
    #[error("the token expired at {} (JWT-SVID §3.3)", instant(*expires_at))]
    Expired { expires_at: SystemTime },
    #[error("the token is not valid before {}; maybe a clock is wrong (RFC 7519 §4.1.5)", instant(*not_before))]
    NotYetValid { not_before: SystemTime },
    #[error("the token was issued in the future, at {}; maybe a clock is wrong (RFC 7519 §4.1.6)", instant(*issued_at))]
    IssuedInFuture { issued_at: SystemTime },
    #[error("the token's `jti` is not text (RFC 7519 §4.1.7)")]
    TokenIdMalformed,
    #[error("the token's `{claim}` is neither text nor a list of texts (RFC 8693 §4.2)")]
    ScopeMalformed { claim: &'static str },
    #[error("the token's `cnf` is no object, or its `x5t#S256` no SHA-256 in base64url (RFC 7800 §3.1, RFC 8705 §3.1)")]
    ConfirmationMalformed,
    #[error("the token is bound to a certificate (RFC 8705 §3), and who presents it has none, or another")]
    HolderWrong,
    #[error("the deny list has {entry}")]
    DenyListed { entry: String },
    #[error("its issuer's tokens have to say `{claim}` as the file wants it, and this one does not")]
    ClaimWrong { claim: String },
}

impl TokenProblem {
    /// The stable, short name.
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// Where the rule is from.
    pub fn section(&self) -> &'static str {
        self.row().1
    }

    #[rustfmt::skip]
    fn row(&self) -> (&'static str, &'static str) {
        match self {
            Self::TooLarge { .. }              => ("token_too_large",            "limit: token bytes"),
            Self::NotCompact { .. }            => ("not_compact",                "RFC 7515 §7.1"),
            Self::HeaderEncoding(_)            => ("header_encoding",            "RFC 7515 §2"),
            Self::PayloadEncoding(_)           => ("payload_encoding",           "RFC 7515 §2"),
            Self::SignatureEncoding(_)         => ("signature_encoding",         "RFC 7515 §2"),
            Self::Header(fault)                => (header_code(fault),           "RFC 7515 §4"),
            Self::SignatureMissing             => ("signature_missing",          "RFC 7515 §5.2"),
            Self::AlgorithmMissing             => ("algorithm_missing",          "RFC 7515 §4.1.1"),
            Self::AlgorithmNotText             => ("algorithm_not_text",         "RFC 7515 §4.1.1"),
            Self::AlgorithmUnknown(_)          => ("algorithm_unknown",          "JWT-SVID §2.1"),
            Self::AlgorithmNotAllowed { .. }   => ("algorithm_not_allowed",      "RFC 8725 §3.1"),
            Self::HeaderMember { .. }          => ("header_member",              "JWT-SVID §2, RFC 7515 §4.1.11"),
            Self::TypeWrong { .. }             => ("type_wrong",                 "JWT-SVID §2.3"),
            Self::TypeNotText                  => ("type_not_text",              "RFC 7515 §4.1.9"),
            Self::KeyIdNotText                 => ("key_id_not_text",            "RFC 7515 §4.1.4"),
            Self::KeyIdTooLong { .. }          => ("key_id_too_long",            "limit: bytes of a key id"),
            Self::Claims(fault)                => (claims_code(fault),           "RFC 7519 §4"),
            Self::SubjectMissing               => ("subject_missing",            "JWT-SVID §3.1"),
            Self::SubjectMalformed             => ("subject_malformed",          "RFC 7519 §4.1.2"),
            Self::SubjectInvalid { .. }        => ("subject_invalid",            "JWT-SVID §3.1"),
            Self::SubjectWithoutPath { .. }    => ("subject_without_path",       "JWT-SVID §3.1"),
            Self::SubjectOther { .. }          => ("subject_other",              "SPIFFE Workload API §6.2.1"),
            Self::NoBundle { .. }              => ("no_bundle",                  "SPIFFE Workload API §6.3"),
            Self::EmptyBundle { .. }           => ("empty_bundle",               "Trust Domain and Bundle §4.1.3"),
            Self::IssuerMissing                => ("issuer_missing",             "RFC 7519 §4.1.1"),
            Self::IssuerMalformed              => ("issuer_malformed",           "RFC 7519 §4.1.1"),
            Self::IssuerUnknown { .. }         => ("issuer_unknown",             "RFC 8725 §3.8"),
            Self::IssuerWithoutKeys { .. }     => ("issuer_without_keys",        "OpenID Connect Discovery §3"),
            Self::KeyUnknown { .. }            => ("key_unknown",                "RFC 7515 §4.1.4"),
            Self::KeyUnfit { .. }              => ("key_unfit",                  "RFC 7518 §3.1"),
            Self::NoKeyFits { .. }             => ("no_key_fits",                "JWT-SVID §2.2"),
            Self::TooManyCandidates { .. }     => ("too_many_candidates",        "limit: keys tried without a key id"),
            Self::SignatureInvalid             => ("signature_invalid",          "RFC 7515 §5.2"),
            Self::AudienceMissing              => ("audience_missing",           "JWT-SVID §3.2"),
            Self::AudienceMalformed            => ("audience_malformed",         "RFC 7519 §4.1.3"),
            Self::TooManyAudiences { .. }      => ("too_many_audiences",         "limit: audiences"),
            Self::AudienceWrong { .. }         => ("audience_wrong",             "JWT-SVID §3.2"),
            Self::ExpiryMissing                => ("expiry_missing",             "JWT-SVID §3.3"),
            Self::TimeMalformed { .. }         => ("time_malformed",             "RFC 7519 §2"),
            Self::Expired { .. }               => ("expired",                    "JWT-SVID §3.3"),
            Self::NotYetValid { .. }           => ("not_yet_valid",              "RFC 7519 §4.1.5"),
            Self::IssuedInFuture { .. }        => ("issued_in_future",           "RFC 7519 §4.1.6"),
            Self::TokenIdMalformed             => ("token_id_malformed",         "RFC 7519 §4.1.7"),
            Self::ScopeMalformed { .. }        => ("scope_malformed",            "RFC 8693 §4.2"),
            Self::ConfirmationMalformed        => ("confirmation_malformed",     "RFC 7800 §3.1"),
            Self::ClaimWrong { .. }            => ("claim_wrong",                "RFC 8725 §3.8"),
            Self::HolderWrong                  => ("holder_wrong",               "RFC 8705 §3"),
            Self::DenyListed { .. }            => ("deny_listed",                "configuration: deny list"),
        }
    }
}

fn header_code(fault: &JsonFault) -> &'static str {
    match fault {
        JsonFault::Syntax(_) | JsonFault::NotAnObject => "header_malformed",
        JsonFault::MemberTwice { .. } => "header_member_twice",
        JsonFault::TooDeep => "header_too_deep",
    }
}

fn claims_code(fault: &JsonFault) -> &'static str {
    match fault {
        JsonFault::Syntax(_) | JsonFault::NotAnObject => "claims_malformed",
        JsonFault::MemberTwice { .. } => "claim_twice",
        JsonFault::TooDeep => "claims_too_deep",
    }
}
