//! The rules for certificates that sign others: the roots of a bundle and the intermediates that a peer presents.

use crate::tls::certificate::Fields;
use postern_config::{SpiffeId, SpiffeIdError};

impl Fields<'_> {
    /// The rules for every certificate that signs others, root or intermediate.
    ///
    /// # Errors
    /// [`AuthorityFault`], the first rule broken.
    pub fn check_authority(&self, rules: AuthorityRules) -> Result<(), AuthorityFault> {
        if !self.basic_constraints.as_ref().is_some_and(|constraints| constraints.ca) {
            return Err(AuthorityFault::NotCa);
        }
        if self.key_usage.as_ref().is_some_and(|usage| !usage.key_cert_sign) {
            return Err(AuthorityFault::NoKeyCertSign);
        }
        if let Some(oid) = &self.unknown_critical {
            return Err(AuthorityFault::UnknownCriticalExtension { oid: oid.clone() });
        }
        match rules {
            AuthorityRules::Rfc5280 => Ok(()),
            AuthorityRules::X509Svid => self.check_spiffe_authority(),
        }
    }

    fn check_spiffe_authority(&self) -> Result<(), AuthorityFault> {
        match &self.key_usage {
            None => return Err(AuthorityFault::KeyUsageMissing),
            Some(usage) if !usage.critical => return Err(AuthorityFault::KeyUsageNotCritical),
            Some(_) => {}
        }
        let uris = self.subject_alt_name.iter().flat_map(|names| names.uris.iter());
        for uri in uris.filter(|uri| uri.starts_with(b"spiffe:")) {
            let text = std::str::from_utf8(uri).map_err(|_not_text| AuthorityFault::IdNotText)?;
            let id = SpiffeId::parse(text).map_err(AuthorityFault::IdInvalid)?;
            if !id.path().is_empty() {
                return Err(AuthorityFault::IdHasPath { id });
            }
        }
        Ok(())
    }
}

/// Which rules a signing certificate has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityRules {
    /// X509-SVID §3.2 and §4: what the data plane asks for.
    X509Svid,
    /// RFC 5280 §6.1.4 (k) and (n) alone, for corpora of certificates that are not SPIFFE's.
    Rfc5280,
}

/// The rule that a signing certificate breaks, be it in a bundle or presented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityFault {
    #[error("its basicConstraints does not say cA (X509-SVID §4.1)")]
    NotCa,
    #[error("it has no keyUsage (X509-SVID §4.3)")]
    KeyUsageMissing,
    #[error("its keyUsage is not critical (X509-SVID §4.3)")]
    KeyUsageNotCritical,
    #[error("its keyUsage lacks keyCertSign (X509-SVID §4.3)")]
    NoKeyCertSign,
    #[error("it has a critical extension, {oid}, that is unknown here (RFC 5280 §4.2)")]
    UnknownCriticalExtension { oid: String },
    #[error("its SPIFFE ID {id} has a path (X509-SVID §3.2)")]
    IdHasPath { id: SpiffeId },
    #[error("its SPIFFE ID is invalid (SPIFFE-ID §2)")]
    IdInvalid(#[source] SpiffeIdError),
    #[error("its SPIFFE ID is not text (SPIFFE-ID §2)")]
    IdNotText,
}

impl AuthorityFault {
    pub fn section(&self) -> &'static str {
        match self {
            Self::NotCa => "X509-SVID §4.1",
            Self::KeyUsageMissing | Self::KeyUsageNotCritical | Self::NoKeyCertSign => "X509-SVID §4.3",
            Self::UnknownCriticalExtension { .. } => "RFC 5280 §4.2",
            Self::IdHasPath { .. } => "X509-SVID §3.2",
            Self::IdInvalid(_) | Self::IdNotText => "SPIFFE-ID §2",
        }
    }
}
