//! Certificate revocation lists, read strictly (RFC 5280 §5). Pure: bytes and keys in, serial numbers out.
//!
//! Read here and not by a library: webpki finds a list by its issuer's *name*, and SPIRE's authorities have the same name in
//! every trust domain and over every rotation, so that one list would stand in for another's. Here a list belongs to the
//! key that signed it.

use crate::tls::certificate::hex;
use crate::tls::der::{self, BIT_STRING, BOOLEAN, CONTEXT_0, DerError, INTEGER, OBJECT_IDENTIFIER, Reader, SEQUENCE};
use rustls_pki_types::CertificateRevocationListDer;
use std::time::{Duration, SystemTime};
use time::{Date, Month, PrimitiveDateTime, Time};

/// As the Workload API's message limit.
pub const CRL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Serial numbers in one list: of short-lived SVIDs only what has not expired has to be in it.
pub const SERIALS_MAX: usize = 500_000;

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const ENUMERATED: u8 = 0x0a;
const OCTET_STRING: u8 = 0x04;

/// id-ce 35, 20, 28, 46 (a freshest list is somewhere else), 18, 21, 24, 29.
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 20];
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 28];
const REASON_CODE: &[u8] = &[0x55, 0x1d, 21];
const INVALIDITY_DATE: &[u8] = &[0x55, 0x1d, 24];

/// Of ReasonCode: the entry takes back an earlier one, and has no place in a complete list (RFC 5280 §5.3.1).
const REMOVE_FROM_CRL: u8 = 8;

/// A list that can be read. Who signed it, [`Crl::is_signed_by`] finds out.
pub struct Crl {
    pub this_update: SystemTime,
    pub next_update: Option<SystemTime>,
    /// The bytes of its issuing distribution point, which tell lists of one authority apart. Empty: it has none.
    pub scope: Box<[u8]>,
    /// Sorted, each without leading zeros.
    serials: Vec<Box<[u8]>>,
    /// SHA-256 of the whole, for logs.
    pub digest: [u8; 32],
    der: CertificateRevocationListDer<'static>,
}

/// Why bytes are no list that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrlFault {
    #[error("it is larger than {CRL_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is not a certificate list (RFC 5280 §5.1)")]
    Malformed(#[from] DerError),
    #[error("it is not of version 2 (RFC 5280 §5.1.2.1)")]
    Version,
    #[error("it names two signature algorithms (RFC 5280 §5.1.1.2)")]
    AlgorithmsDiffer,
    #[error("one of its times is none (RFC 5280 §5.1.2.4)")]
    Time,
    #[error("it names more than {SERIALS_MAX} certificates")]
    TooMany,
    #[error("it has the critical extension {oid}, which is unknown here (RFC 5280 §5.2)")]
    UnknownCritical { oid: String },
    #[error("it is an indirect list, one of some reasons, or one of attribute certificates (RFC 5280 §5.2.5)")]
    Partial,
    #[error("it takes an entry back, which only a delta list may (RFC 5280 §5.3.1)")]
    RemovesEntries,
}

impl Crl {
    /// # Errors
    /// [`CrlFault`]: the list is refused whole. "If a CRL contains a critical extension that the application cannot process,
    /// then the application MUST NOT use that CRL to determine the status of certificates" (RFC 5280 §5.2).
    pub fn read(bytes: &[u8]) -> Result<Self, CrlFault> {
        if bytes.len() > CRL_BYTES_MAX {
            return Err(CrlFault::TooLarge);
        }
        let outer = Outer::read(bytes)?;
        let mut fields = Reader::new(outer.list.content);
        // Extensions are there only in version 2, and every conforming list has some.
        if fields.expect(INTEGER)? != [1] {
            return Err(CrlFault::Version);
        }
        if fields.expect(SEQUENCE)? != outer.algorithm {
            return Err(CrlFault::AlgorithmsDiffer);
        }
        let _issuer = fields.expect(SEQUENCE)?;
        let this_update = read_time(&mut fields)?;
        let next_update = match fields.peek() {
            Some(UTC_TIME | GENERALIZED_TIME) => Some(read_time(&mut fields)?),
            _ => None,
        };
        let mut serials = Vec::new();
        if fields.peek() == Some(SEQUENCE) {
            let mut entries = Reader::new(fields.expect(SEQUENCE)?);
            while !entries.at_end() {
                if serials.len() == SERIALS_MAX {
                    return Err(CrlFault::TooMany);
                }
                serials.push(read_entry(entries.expect(SEQUENCE)?)?);
            }
        }
        let scope = match fields.peek() {
            Some(CONTEXT_0) => read_extensions(der::only(fields.expect(CONTEXT_0)?, SEQUENCE)?)?,
            _ => &[],
        };
        fields.finish()?;
        serials.sort_unstable();
        serials.dedup();
        Ok(Self {
            this_update,
            next_update,
            scope: scope.into(),
            serials,
            digest: super::bundle::sha256(bytes),
            der: CertificateRevocationListDer::from(bytes.to_vec()),
        })
    }

    /// Whether the key in `spki` (a whole SubjectPublicKeyInfo) signed it.
    ///
    /// Whether that authority's keyUsage has cRLSign (RFC 5280 §6.3.3 (f)) is not asked: whoever may issue may take back, and
    /// to pass over a list is the wrong side to err on.
    pub fn is_signed_by(&self, spki: &[u8]) -> bool {
        let checked = || -> Result<bool, DerError> {
            let outer = Outer::read(&self.der)?;
            let mut key = Reader::new(der::only(spki, SEQUENCE)?);
            let (key_algorithm, key_bits) = (key.expect(SEQUENCE)?, whole_bytes(key.expect(BIT_STRING)?)?);
            Ok(webpki::ALL_VERIFICATION_ALGS.iter().any(|algorithm| {
                algorithm.signature_alg_id().as_ref() == outer.algorithm
                    && algorithm.public_key_alg_id().as_ref() == key_algorithm
                    && algorithm.verify_signature(key_bits, outer.list.whole, outer.signature).is_ok()
            }))
        };
        checked().unwrap_or(false)
    }

    /// `serial`: content bytes of the certificate's INTEGER.
    pub fn names(&self, serial: &[u8]) -> bool {
        self.serials.binary_search_by(|known| (**known).cmp(significant(serial))).is_ok()
    }

    pub fn len(&self) -> usize {
        self.serials.len()
    }

    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    pub fn is_stale(&self, now: SystemTime) -> bool {
        self.next_update.is_some_and(|next| next <= now)
    }

    /// How logs call it.
    pub fn label(&self) -> String {
        hex(&self.digest[..8])
    }
}

/// CertificateList (RFC 5280 §5.1).
struct Outer<'a> {
    list: der::Element<'a>,
    /// Content of its AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Outer<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DerError> {
        let mut fields = Reader::new(der::only(bytes, SEQUENCE)?);
        let list = fields.element()?;
        if list.tag != SEQUENCE {
            return Err(DerError::Tag { expected: SEQUENCE, found: list.tag });
        }
        let algorithm = fields.expect(SEQUENCE)?;
        Reader::new(algorithm).expect(OBJECT_IDENTIFIER)?;
        let signature = whole_bytes(fields.expect(BIT_STRING)?)?;
        fields.finish()?;
        Ok(Self { list, algorithm, signature })
    }
}

/// A BIT STRING of whole bytes.
fn whole_bytes(content: &[u8]) -> Result<&[u8], DerError> {
    match content {
        [0, bytes @ ..] => Ok(bytes),
        _ => Err(DerError::Value),
    }
}

fn read_entry(content: &[u8]) -> Result<Box<[u8]>, CrlFault> {
    let mut fields = Reader::new(content);
    let serial = significant(fields.expect(INTEGER)?);
    read_time(&mut fields)?;
    if fields.peek() == Some(SEQUENCE) {
        let mut extensions = Reader::new(fields.expect(SEQUENCE)?);
        while !extensions.at_end() {
            let extension = Extension::read(extensions.expect(SEQUENCE)?)?;
            match extension.oid {
                REASON_CODE if der::only(extension.value, ENUMERATED)? == [REMOVE_FROM_CRL] => {
                    return Err(CrlFault::RemovesEntries);
                }
                REASON_CODE | INVALIDITY_DATE => {}
                // Certificate Issuer among them: the entries of an indirect list.
                _ => extension.refuse_critical()?,
            }
        }
    }
    fields.finish()?;
    Ok(serial.into())
}

/// The bytes of the issuing distribution point, if there is one.
fn read_extensions(content: &[u8]) -> Result<&[u8], CrlFault> {
    let mut extensions = Reader::new(content);
    let mut scope: &[u8] = &[];
    while !extensions.at_end() {
        let extension = Extension::read(extensions.expect(SEQUENCE)?)?;
        match extension.oid {
            AUTHORITY_KEY_ID | CRL_NUMBER => {}
            ISSUING_DISTRIBUTION_POINT => {
                check_distribution_point(extension.value)?;
                scope = extension.value;
            }
            // A delta list's indicator among them.
            _ => extension.refuse_critical()?,
        }
    }
    Ok(scope)
}

/// RFC 5280 §5.2.5. A list of user or of CA certificates alone names those; one of some reasons, or of other issuers'
/// certificates, says something else than who is revoked.
fn check_distribution_point(value: &[u8]) -> Result<(), CrlFault> {
    const USERS: u8 = 0x81;
    const AUTHORITIES: u8 = 0x82;
    let mut fields = Reader::new(der::only(value, SEQUENCE)?);
    while !fields.at_end() {
        match fields.element()?.tag {
            CONTEXT_0 | USERS | AUTHORITIES => {}
            _ => return Err(CrlFault::Partial),
        }
    }
    Ok(())
}

struct Extension<'a> {
    oid: &'a [u8],
    critical: bool,
    value: &'a [u8],
}

impl<'a> Extension<'a> {
    fn read(content: &'a [u8]) -> Result<Self, DerError> {
        let mut fields = Reader::new(content);
        let oid = fields.expect(OBJECT_IDENTIFIER)?;
        let critical = match fields.peek() {
            Some(BOOLEAN) => fields.expect(BOOLEAN)? == [0xff],
            _ => false,
        };
        let value = fields.expect(OCTET_STRING)?;
        fields.finish()?;
        Ok(Self { oid, critical, value })
    }

    fn refuse_critical(&self) -> Result<(), CrlFault> {
        if self.critical { Err(CrlFault::UnknownCritical { oid: hex(self.oid) }) } else { Ok(()) }
    }
}

/// Issuers write serial numbers with and without the zero that keeps them positive.
pub fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
fn read_time(fields: &mut Reader<'_>) -> Result<SystemTime, CrlFault> {
    let element = fields.element()?;
    let text = std::str::from_utf8(element.content).map_err(|_not_text| CrlFault::Time)?;
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let digits = digits.ok_or(CrlFault::Time)?;
    let number =
        |from: usize| digits.get(from..from + 2).and_then(|pair| pair.parse::<u8>().ok()).ok_or(CrlFault::Time);
    let (year, rest) = match (element.tag, digits.len()) {
        // "Where YY is greater than or equal to 50, the year SHALL be interpreted as 19YY."
        (UTC_TIME, 12) => (i32::from(number(0)?) + if number(0)? >= 50 { 1900 } else { 2000 }, 2),
        (GENERALIZED_TIME, 14) => (i32::from(number(0)?) * 100 + i32::from(number(2)?), 4),
        _ => return Err(CrlFault::Time),
    };
    let month = Month::try_from(number(rest)?).map_err(|_| CrlFault::Time)?;
    let date = Date::from_calendar_date(year, month, number(rest + 2)?).map_err(|_| CrlFault::Time)?;
    let time = Time::from_hms(number(rest + 4)?, number(rest + 6)?, number(rest + 8)?).map_err(|_| CrlFault::Time)?;
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    // Before 1970 is as good as long ago.
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
