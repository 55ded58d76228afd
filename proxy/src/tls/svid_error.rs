//! Why a peer's X509-SVID is refused: one variant a rule, each with a stable code and the section it is from.

use crate::tls::authority::AuthorityFault;
use crate::tls::certificate::{CertificateFault, Subject};
use crate::tls::peer::Role;
use postern_config::{SpiffeIdError, TrustDomain};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The verifier's verdict when it is no. Codes are stable: logs, metrics, records and `postern verify` use them alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    #[error("the peer presented no certificate")]
    NoCertificate,
    #[error("the chain has {count} certificates, more than the {max} read")]
    ChainTooLong { count: usize, max: usize },
    #[error("the chain has {bytes} bytes, more than the {max} read")]
    ChainTooLarge { bytes: usize, max: usize },

    #[error("the leaf cannot be read")]
    LeafMalformed(#[source] CertificateFault),
    #[error("the leaf is not usable X.509 (RFC 5280 §4.1)")]
    LeafUnusable(#[source] webpki::Error),
    #[error("the leaf has a critical extension that is unknown here (RFC 5280 §4.2)")]
    UnknownCriticalExtension,
    #[error("the leaf's key is none of RSA (2048 to 8192 bits), P-256, P-384, P-521 and Ed25519")]
    KeyNotAccepted,

    #[error("the leaf has no subjectAltName, so no SPIFFE ID (X509-SVID §2); its subject is never read as one")]
    NoSubjectAltName,
    #[error("the leaf's subjectAltName has no URI, so it has no SPIFFE ID (X509-SVID §2)")]
    NoUriName,
    #[error("the leaf has {count} URI names where exactly one is allowed (X509-SVID §2)")]
    MultipleUriNames { count: usize },
    #[error("the leaf's URI name is not text (SPIFFE-ID §2)")]
    UriNotText,
    #[error("the leaf's SPIFFE ID `{uri}` breaks a rule")]
    InvalidId { uri: String, source: SpiffeIdError },
    #[error("the leaf's SPIFFE ID `{id}` has no path: it names a trust domain, not a workload (X509-SVID §5.2)")]
    IdWithoutPath { id: String },
    #[error("the leaf's subject is empty and its subjectAltName not critical (X509-SVID §3.1)")]
    NameNotCritical,

    #[error("the leaf has no basicConstraints (X509-SVID §5.2; `compat` accepts it)")]
    BasicConstraintsMissing,
    #[error("the leaf is a CA (X509-SVID §5.2)")]
    LeafIsCa,
    #[error("the leaf has no keyUsage (X509-SVID §4.3)")]
    KeyUsageMissing,
    #[error("the leaf's keyUsage is not critical (X509-SVID §4.3; `compat` accepts it)")]
    KeyUsageNotCritical,
    #[error("the leaf's keyUsage has keyCertSign (X509-SVID §5.2)")]
    KeyCertSign,
    #[error("the leaf's keyUsage has cRLSign (X509-SVID §5.2)")]
    CrlSign,
    #[error("the leaf's keyUsage lacks digitalSignature (X509-SVID §4.3)")]
    NoDigitalSignature,
    #[error("the leaf's extendedKeyUsage does not allow it as a TLS {role} (X509-SVID §4.4)")]
    WrongUsage { role: Role },

    #[error("there is no bundle for the trust domain {trust_domain} (SPIFFE Workload API §4.6)")]
    NoBundle { trust_domain: TrustDomain },
    #[error("no authority of the trust domain {trust_domain} is usable (Trust Domain and Bundle §4.1.3)")]
    EmptyBundle { trust_domain: TrustDomain },

    #[error("the certificate with serial number {serial} was revoked by the authority that issued it (RFC 5280 §6.3)")]
    Revoked { serial: String },
    #[error(
        "the revocation list of an authority is stale, and `revocation.stale_crls` is `refuse` (RFC 5280 §5.1.2.5)"
    )]
    RevocationStale,
    #[error("the deny list has {entry}")]
    DenyListed { entry: String },

    #[error("the leaf expired at {}", instant(*not_after))]
    Expired { not_after: SystemTime },
    #[error("the leaf is not valid before {}; maybe a clock is wrong", instant(*not_before))]
    NotYetValid { not_before: SystemTime },

    #[error("no authority of the trust domain's bundle issued it, directly or through the certificates presented")]
    UnknownIssuer,
    #[error(
        "an issuer is named, but its key did not sign it (RFC 5280 §6.1.3); maybe another domain's or an older root"
    )]
    BadSignature,
    #[error("a signature's algorithm is not accepted here")]
    UnsupportedAlgorithm(#[source] webpki::Error),
    #[error("the issuer `{subject}` may not issue")]
    Issuer { subject: Subject, source: AuthorityFault },
    #[error("the issuer `{subject}` cannot be read")]
    IssuerMalformed { subject: Subject, source: CertificateFault },
    #[error("an issuer is not usable X.509 (RFC 5280 §6.1)")]
    IssuerUnusable(#[source] webpki::Error),
    #[error("an issuer expired (RFC 5280 §6.1.3)")]
    IssuerExpired,
    #[error("an issuer is not valid yet (RFC 5280 §6.1.3)")]
    IssuerNotYetValid,
    #[error("an issuer's extendedKeyUsage does not allow issuing for a TLS {role} (X509-SVID §4.4)")]
    IssuerWrongUsage { role: Role },
    #[error("the authority that vouches, `{subject}`, is outside its validity")]
    AuthorityNotValid { subject: Subject },
    #[error("there are more intermediates than a pathLenConstraint allows (RFC 5280 §6.1.4)")]
    PathLength,
    #[error("a name is outside an issuer's name constraints (RFC 5280 §4.2.1.10)")]
    NameConstraint,
    #[error("an issuer has URI name constraints, which are not supported: refused rather than guessed at")]
    UriNameConstraint,
    #[error("an issuer has directory name constraints, which are not supported: refused rather than guessed at")]
    DirectoryNameConstraint,
    #[error("the path has more than six intermediates")]
    PathTooLong,
    #[error("finding a path takes more work than is spent on a peer")]
    PathTooComplex,
}

impl SvidError {
    /// The stable, short name.
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// Where the rule is from.
    pub fn section(&self) -> &'static str {
        self.row().1
    }

    /// What rustls is told, so that the alert on the wire is the fitting one (RFC 8446 §6.2).
    pub fn certificate_error(&self) -> rustls::CertificateError {
        use rustls::CertificateError as Told;
        match self {
            Self::LeafMalformed(_) | Self::LeafUnusable(_) | Self::IssuerMalformed { .. } | Self::IssuerUnusable(_) => {
                Told::BadEncoding
            }
            Self::UnknownCriticalExtension => Told::UnhandledCriticalExtension,
            Self::Expired { .. } | Self::IssuerExpired | Self::AuthorityNotValid { .. } => Told::Expired,
            Self::NotYetValid { .. } | Self::IssuerNotYetValid => Told::NotValidYet,
            // The peer learns that it was taken back, not by which list.
            Self::Revoked { .. } | Self::DenyListed { .. } => Told::Revoked,
            Self::RevocationStale => Told::UnknownRevocationStatus,
            Self::NoBundle { .. } | Self::EmptyBundle { .. } | Self::UnknownIssuer | Self::BadSignature => {
                Told::UnknownIssuer
            }
            Self::WrongUsage { .. } | Self::IssuerWrongUsage { .. } => Told::InvalidPurpose,
            _identity_rules_and_limits => Told::ApplicationVerificationFailure,
        }
    }

    #[rustfmt::skip]
    fn row(&self) -> (&'static str, &'static str) {
        match self {
            Self::NoCertificate             => ("no_certificate",              "RFC 8446 §4.4.2.4"),
            Self::ChainTooLong { .. }       => ("chain_too_long",              "limit: certificates presented"),
            Self::ChainTooLarge { .. }      => ("chain_too_large",             "limit: bytes presented"),
            Self::LeafMalformed(fault)      => (malformed_code(fault),         malformed_section(fault)),
            Self::LeafUnusable(_)           => ("leaf_unusable",               "RFC 5280 §4.1"),
            Self::UnknownCriticalExtension  => ("unknown_critical_extension",  "RFC 5280 §4.2"),
            Self::KeyNotAccepted            => ("key_not_accepted",            "limit: kinds of keys"),
            Self::NoSubjectAltName          => ("no_subject_alt_name",         "X509-SVID §2"),
            Self::NoUriName                 => ("no_uri_name",                 "X509-SVID §2"),
            Self::MultipleUriNames { .. }   => ("multiple_uri_names",          "X509-SVID §2"),
            Self::UriNotText                => ("uri_not_text",                "SPIFFE-ID §2"),
            Self::InvalidId { .. }          => ("invalid_spiffe_id",           "SPIFFE-ID §2"),
            Self::IdWithoutPath { .. }      => ("spiffe_id_without_path",      "X509-SVID §5.2"),
            Self::NameNotCritical           => ("subject_alt_name_not_critical", "X509-SVID §3.1"),
            Self::BasicConstraintsMissing   => ("basic_constraints_missing",   "X509-SVID §5.2"),
            Self::LeafIsCa                  => ("leaf_is_ca",                  "X509-SVID §5.2"),
            Self::KeyUsageMissing           => ("key_usage_missing",           "X509-SVID §4.3"),
            Self::KeyUsageNotCritical       => ("key_usage_not_critical",      "X509-SVID §4.3"),
            Self::KeyCertSign               => ("key_cert_sign",               "X509-SVID §5.2"),
            Self::CrlSign                   => ("crl_sign",                    "X509-SVID §5.2"),
            Self::NoDigitalSignature        => ("no_digital_signature",        "X509-SVID §4.3"),
            Self::WrongUsage { .. }         => ("wrong_usage",                 "X509-SVID §4.4"),
            Self::NoBundle { .. }           => ("no_bundle",                   "SPIFFE Workload API §4.6"),
            Self::EmptyBundle { .. }        => ("empty_bundle",                "Trust Domain and Bundle §4.1.3"),
            Self::Revoked { .. }            => ("revoked",                     "RFC 5280 §6.3"),
            Self::RevocationStale           => ("revocation_stale",            "RFC 5280 §5.1.2.5"),
            Self::DenyListed { .. }         => ("deny_listed",                 "configuration: deny list"),
            Self::Expired { .. }            => ("expired",                     "RFC 5280 §6.1.3"),
            Self::NotYetValid { .. }        => ("not_yet_valid",               "RFC 5280 §6.1.3"),
            Self::UnknownIssuer             => ("unknown_issuer",              "X509-SVID §5.1"),
            Self::BadSignature              => ("bad_signature",               "RFC 5280 §6.1.3"),
            Self::UnsupportedAlgorithm(_)   => ("unsupported_algorithm",       "RFC 5280 §6.1.3"),
            Self::Issuer { source, .. }     => (issuer_code(source),           source.section()),
            Self::IssuerMalformed { .. }    => ("issuer_malformed",            "RFC 5280 §4.1"),
            Self::IssuerUnusable(_)         => ("issuer_unusable",             "RFC 5280 §6.1"),
            Self::IssuerExpired             => ("issuer_expired",              "RFC 5280 §6.1.3"),
            Self::IssuerNotYetValid         => ("issuer_not_yet_valid",        "RFC 5280 §6.1.3"),
            Self::IssuerWrongUsage { .. }   => ("issuer_wrong_usage",          "X509-SVID §4.4"),
            Self::AuthorityNotValid { .. }  => ("authority_not_valid",         "RFC 5280 §6.1.3"),
            Self::PathLength                => ("path_length",                 "RFC 5280 §6.1.4"),
            Self::NameConstraint            => ("name_constraint",             "RFC 5280 §4.2.1.10"),
            Self::UriNameConstraint         => ("uri_name_constraint_unsupported", "X509-SVID §4.2"),
            Self::DirectoryNameConstraint   => ("directory_name_constraint_unsupported", "RFC 5280 §4.2.1.10"),
            Self::PathTooLong               => ("path_too_long",               "limit: intermediates"),
            Self::PathTooComplex            => ("path_too_complex",            "limit: work"),
        }
    }
}

fn malformed_code(fault: &CertificateFault) -> &'static str {
    match fault {
        CertificateFault::DuplicateExtension { .. } => "duplicate_extension",
        _ => "leaf_malformed",
    }
}

fn malformed_section(fault: &CertificateFault) -> &'static str {
    match fault {
        CertificateFault::TooLarge | CertificateFault::NotX509 | CertificateFault::TrailingBytes => "RFC 5280 §4.1",
        CertificateFault::DuplicateExtension { .. } => "RFC 5280 §4.2",
        CertificateFault::SubjectAltName(_) => "RFC 5280 §4.2.1.6",
        CertificateFault::KeyUsage(_) => "RFC 5280 §4.2.1.3",
        CertificateFault::BasicConstraints(_) => "RFC 5280 §4.2.1.9",
        CertificateFault::ExtendedKeyUsage(_) => "RFC 5280 §4.2.1.12",
        CertificateFault::NameConstraints(_) => "RFC 5280 §4.2.1.10",
    }
}

fn issuer_code(fault: &AuthorityFault) -> &'static str {
    match fault {
        AuthorityFault::NotCa => "issuer_not_ca",
        AuthorityFault::KeyUsageMissing => "issuer_key_usage_missing",
        AuthorityFault::KeyUsageNotCritical => "issuer_key_usage_not_critical",
        AuthorityFault::NoKeyCertSign => "issuer_no_key_cert_sign",
        AuthorityFault::UnknownCriticalExtension { .. } => "issuer_unknown_critical_extension",
        AuthorityFault::IdHasPath { .. } => "issuer_spiffe_id_with_path",
        AuthorityFault::IdInvalid(_) | AuthorityFault::IdNotText => "issuer_spiffe_id_invalid",
    }
}

/// RFC 3339, for people.
pub fn instant(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_outside_its_years| format!("{time:?}"))
}
