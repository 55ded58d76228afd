//! The fields of one certificate that SPIFFE's rules are about, read once and strictly.
//!
//! x509-parser opens the envelope; the extensions that decide are read here from their bytes, because x509-parser turns
//! a URI that is not text into "no URI", and webpki ignores keyUsage. Pure: no clock, no I/O.

use crate::tls::der::{self, DerError, Reader};
use std::fmt;
use std::time::{Duration, SystemTime};
use x509_parser::certificate::{X509Certificate, X509CertificateParser};
use x509_parser::nom::Parser;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519,
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::public_key::PublicKey;

/// As rustls does for signatures.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What of a certificate the verifier and the bundle loader look at.
pub struct Fields<'a> {
    pub subject: Subject,
    pub subject_is_empty: bool,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Lower-case hex.
    pub serial: String,
    /// The whole SubjectPublicKeyInfo, header included.
    pub spki: &'a [u8],
    /// Of a kind and size whose signatures rustls takes.
    pub key_is_accepted: bool,
    pub subject_alt_name: Option<SubjectAltName<'a>>,
    pub key_usage: Option<KeyUsage>,
    pub basic_constraints: Option<BasicConstraints>,
    /// Contents of the OIDs. `None`: no such extension, so every usage is allowed (RFC 5280 §4.2.1.12).
    pub extended_key_usage: Option<Vec<&'a [u8]>>,
    pub name_constraints: NameConstraintForms,
    /// The first critical extension that is not one of RFC 5280's.
    pub unknown_critical: Option<String>,
}

pub struct SubjectAltName<'a> {
    pub critical: bool,
    /// The value of every name with tag `[6]`, whatever its bytes are.
    pub uris: Vec<&'a [u8]>,
}

pub struct KeyUsage {
    pub critical: bool,
    pub digital_signature: bool,
    pub key_cert_sign: bool,
    pub crl_sign: bool,
}

pub struct BasicConstraints {
    pub ca: bool,
    /// How many intermediates may stand between it and the leaf.
    pub path_length: Option<usize>,
}

/// Forms of name in an authority's name constraints that webpki refuses without reading them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameConstraintForms {
    pub uri: bool,
    pub directory_name: bool,
}

/// Why bytes are no certificate that we can judge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    #[error("it is larger than {} bytes", der::CERTIFICATE_BYTES_MAX)]
    TooLarge,
    #[error("it is not an X.509 certificate (RFC 5280 §4.1)")]
    NotX509,
    #[error("bytes follow the certificate")]
    TrailingBytes,
    #[error("it has extension {oid} twice (RFC 5280 §4.2)")]
    DuplicateExtension { oid: String },
    #[error("its subjectAltName is malformed (RFC 5280 §4.2.1.6)")]
    SubjectAltName(#[source] DerError),
    #[error("its keyUsage is malformed (RFC 5280 §4.2.1.3)")]
    KeyUsage(#[source] DerError),
    #[error("its basicConstraints is malformed (RFC 5280 §4.2.1.9)")]
    BasicConstraints(#[source] DerError),
    #[error("its extendedKeyUsage is malformed (RFC 5280 §4.2.1.12)")]
    ExtendedKeyUsage(#[source] DerError),
    #[error("its nameConstraints is malformed (RFC 5280 §4.2.1.10)")]
    NameConstraints(#[source] DerError),
}

impl<'a> Fields<'a> {
    /// # Errors
    /// [`CertificateFault`]. An extension that occurs twice is one: two readers could each believe another of them.
    pub fn read(der: &'a [u8]) -> Result<Self, CertificateFault> {
        if der.len() > der::CERTIFICATE_BYTES_MAX {
            return Err(CertificateFault::TooLarge);
        }
        let (rest, certificate) = X509CertificateParser::new()
            .with_deep_parse_extensions(false)
            .parse(der)
            .map_err(|_parser_words| CertificateFault::NotX509)?;
        if !rest.is_empty() {
            return Err(CertificateFault::TrailingBytes);
        }
        refuse_duplicates(&certificate)?;
        let key_usage = match extension(&certificate, &OID_X509_EXT_KEY_USAGE) {
            Some((critical, value)) => Some(read_key_usage(critical, value).map_err(CertificateFault::KeyUsage)?),
            None => None,
        };
        let basic_constraints = match extension(&certificate, &OID_X509_EXT_BASIC_CONSTRAINTS) {
            Some((_, value)) => Some(read_basic_constraints(value).map_err(CertificateFault::BasicConstraints)?),
            None => None,
        };
        let extended_key_usage = match extension(&certificate, &OID_X509_EXT_EXTENDED_KEY_USAGE) {
            Some((_, value)) => Some(read_purposes(value).map_err(CertificateFault::ExtendedKeyUsage)?),
            None => None,
        };
        let subject_alt_name = match extension(&certificate, &OID_X509_EXT_SUBJECT_ALT_NAME) {
            Some((critical, value)) => {
                let uris = read_uris(value).map_err(CertificateFault::SubjectAltName)?;
                Some(SubjectAltName { critical, uris })
            }
            None => None,
        };
        let name_constraints = match extension(&certificate, &OID_X509_EXT_NAME_CONSTRAINTS) {
            Some((_, value)) => read_name_constraints(value).map_err(CertificateFault::NameConstraints)?,
            None => NameConstraintForms::default(),
        };
        Ok(Self {
            subject: Subject::of(&certificate),
            subject_is_empty: certificate.subject().iter().next().is_none(),
            not_before: system_time(certificate.validity().not_before.timestamp()),
            not_after: system_time(certificate.validity().not_after.timestamp()),
            serial: hex(certificate.raw_serial()),
            spki: certificate.tbs_certificate.subject_pki.raw,
            key_is_accepted: key_is_accepted(&certificate),
            unknown_critical: unknown_critical(&certificate),
            subject_alt_name,
            key_usage,
            basic_constraints,
            extended_key_usage,
            name_constraints,
        })
    }
}

/// A certificate's subject in words for people: bounded, without controls. Never an identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject(String);

impl Subject {
    /// Characters kept: enough to recognise a certificate, too few to flood a log.
    const CHARACTERS_MAX: usize = 120;

    fn of(certificate: &X509Certificate<'_>) -> Self {
        let name = certificate.subject().to_string();
        Self(name.chars().take(Self::CHARACTERS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect())
    }

    /// Of a certificate that could not be read.
    pub fn unreadable() -> Self {
        Self("an unreadable certificate".to_owned())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("(no subject)") } else { f.write_str(&self.0) }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).map(char::from).collect()
}

/// RFC 5280 §4.2: "A certificate MUST NOT include more than one instance of a particular extension."
fn refuse_duplicates(certificate: &X509Certificate<'_>) -> Result<(), CertificateFault> {
    let mut seen: Vec<&Oid<'_>> = certificate.extensions().iter().map(|extension| &extension.oid).collect();
    seen.sort_unstable_by(|left, right| left.as_bytes().cmp(right.as_bytes()));
    match seen.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(CertificateFault::DuplicateExtension { oid: pair[0].to_id_string() }),
        None => Ok(()),
    }
}

/// Criticality and value. Only the first is looked for: duplicates were refused.
fn extension<'a>(certificate: &X509Certificate<'a>, oid: &Oid<'_>) -> Option<(bool, &'a [u8])> {
    certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid == *oid)
        .map(|extension| (extension.critical, extension.value))
}

/// Counts by tag before any decoding (SPIFFE checklist A2.2): a second URI SAN counts even if its bytes are not text.
fn read_uris(value: &[u8]) -> Result<Vec<&[u8]>, DerError> {
    const URI_TAG_NUMBER: u8 = 6;
    const CONTEXT_PRIMITIVE_URI: u8 = 0x80 + URI_TAG_NUMBER;
    let mut names = Reader::new(der::only(value, der::SEQUENCE)?);
    let mut uris = Vec::new();
    while !names.at_end() {
        let name = names.element()?;
        match name.tag {
            CONTEXT_PRIMITIVE_URI => uris.push(name.content),
            // GeneralName has choices [0] to [8] and nothing else; `[6]` is IA5String, so never constructed.
            tag if tag & 0xC0 != 0x80 || tag & 0x1f > 8 || tag & 0x1f == URI_TAG_NUMBER => {
                return Err(DerError::Tag { expected: CONTEXT_PRIMITIVE_URI, found: tag });
            }
            _other_form => {}
        }
    }
    Ok(uris)
}

/// RFC 5280 §4.2.1.3, bits counted from the first byte's highest.
fn read_key_usage(critical: bool, value: &[u8]) -> Result<KeyUsage, DerError> {
    let [unused, bits @ ..] = der::only(value, der::BIT_STRING)? else {
        return Err(DerError::Value);
    };
    let padding = bits.last().map_or(0, |last| last & !(0xff_u8.checked_shl(u32::from(*unused)).unwrap_or(0)));
    if *unused > 7 || (bits.is_empty() && *unused != 0) || padding != 0 {
        return Err(DerError::Value);
    }
    let bit = |number: u8| bits.first().is_some_and(|byte| byte & (0x80 >> number) != 0);
    Ok(KeyUsage { critical, digital_signature: bit(0), key_cert_sign: bit(5), crl_sign: bit(6) })
}

/// `cA BOOLEAN DEFAULT FALSE`: an explicit FALSE is not DER, but many issuers write it and webpki takes it.
fn read_basic_constraints(value: &[u8]) -> Result<BasicConstraints, DerError> {
    let mut fields = Reader::new(der::only(value, der::SEQUENCE)?);
    let ca = match fields.peek() {
        Some(der::BOOLEAN) => match fields.expect(der::BOOLEAN)? {
            [0x00] => false,
            [0xff] => true,
            _ => return Err(DerError::Value),
        },
        _ => false,
    };
    let path_length = match fields.peek() {
        // One byte holds every length that matters; a longer number limits nothing that we would accept.
        Some(der::INTEGER) => match fields.expect(der::INTEGER)? {
            [length @ 0..=0x7f] => Some(usize::from(*length)),
            [0, rest @ ..] if rest.first().is_some_and(|byte| byte & 0x80 != 0) => Some(usize::from(u8::MAX)),
            [1..=0x7f, _, ..] => Some(usize::from(u8::MAX)),
            _ => return Err(DerError::Value),
        },
        _ => None,
    };
    fields.finish()?;
    Ok(BasicConstraints { ca, path_length })
}

fn read_purposes(value: &[u8]) -> Result<Vec<&[u8]>, DerError> {
    let mut purposes = Reader::new(der::only(value, der::SEQUENCE)?);
    let mut oids = Vec::new();
    while !purposes.at_end() {
        oids.push(purposes.expect(der::OBJECT_IDENTIFIER)?);
    }
    if oids.is_empty() { Err(DerError::Empty) } else { Ok(oids) }
}

fn read_name_constraints(value: &[u8]) -> Result<NameConstraintForms, DerError> {
    const URI: u8 = 0x86;
    const DIRECTORY_NAME: u8 = 0xA4;
    let mut forms = NameConstraintForms::default();
    let mut constraints = Reader::new(der::only(value, der::SEQUENCE)?);
    while !constraints.at_end() {
        let subtrees = constraints.element()?;
        if subtrees.tag != der::CONTEXT_0 && subtrees.tag != der::CONTEXT_1 {
            return Err(DerError::Tag { expected: der::CONTEXT_0, found: subtrees.tag });
        }
        let mut subtrees = Reader::new(subtrees.content);
        while !subtrees.at_end() {
            match Reader::new(subtrees.expect(der::SEQUENCE)?).element()?.tag {
                URI => forms.uri = true,
                DIRECTORY_NAME => forms.directory_name = true,
                _other_form => {}
            }
        }
    }
    Ok(forms)
}

/// RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519 (THREATS TL-24).
fn key_is_accepted(certificate: &X509Certificate<'_>) -> bool {
    let key = certificate.public_key();
    let curve = || key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        return curve().is_some_and(|curve| [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521].contains(&curve));
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => RSA_BITS.contains(&rsa.key_size()),
        _ => key.algorithm.algorithm == OID_SIG_ED25519,
    }
}

/// RFC 5280 §4.2: "A certificate-using system MUST reject the certificate if it encounters a critical extension it does
/// not recognize". id-ce is 2.5.29; its extensions that constrain a path are applied by webpki or refused.
fn unknown_critical(certificate: &X509Certificate<'_>) -> Option<String> {
    const ID_CE: &[u8] = &[0x55, 0x1d];
    // keyUsage to authorityKeyIdentifier, policies, constraints: those of RFC 5280 §4.2.1.
    const KNOWN: [u8; 13] = [14, 15, 17, 18, 19, 30, 31, 32, 33, 35, 36, 37, 54];
    let known = |oid: &[u8]| oid.strip_prefix(ID_CE).is_some_and(|rest| matches!(rest, [id] if KNOWN.contains(id)));
    certificate
        .extensions()
        .iter()
        .find(|extension| extension.critical && !known(extension.oid.as_bytes()))
        .map(|extension| extension.oid.to_id_string())
}

/// Whether `now` is past the second that `not_after` names: RFC 5280 §4.1.2.5 has no fractions, and notAfter is inclusive.
pub fn has_ended(not_after: SystemTime, now: SystemTime) -> bool {
    not_after + Duration::from_secs(1) <= now
}

fn system_time(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_secs(after),
        Err(_before) => SystemTime::UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
    }
}
