//! A small, strict reader of DER, for what the X.509 libraries decode too kindly or not at all.
//!
//! Pure and bounded: bytes in, borrowed slices out. Definite lengths in their shortest form only, single-byte tags only;
//! whatever else a peer sends is an error, never a guess.

use rustls_pki_types::CertificateDer;

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OBJECT_IDENTIFIER: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
/// `[0]` and `[1]`, constructed: the two subtrees of NameConstraints (RFC 5280 §4.2.1.10).
pub const CONTEXT_0: u8 = 0xA0;
pub const CONTEXT_1: u8 = 0xA1;

/// A certificate larger than this is none: webpki reads two-byte lengths only.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;
/// The largest concatenation [`split_der`] reads: the Workload API's message limit.
pub const CONCATENATED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most certificates in one field. SPIRE keeps a handful of authorities a trust domain.
pub const CONCATENATED_COUNT_MAX: usize = 1024;

/// Splits concatenated DER certificates, as the Workload API carries chains (leaf first) and bundles (SPIFFE Workload
/// API §5.1). Only the outer SEQUENCE is read; what is in it is judged by whoever uses it.
///
/// # Errors
/// [`DerError`]: the whole field is refused, since a concatenation cannot be read on behind a broken element.
pub fn split_der(concatenated: &[u8]) -> Result<Vec<CertificateDer<'static>>, DerError> {
    if concatenated.is_empty() {
        return Err(DerError::Empty);
    }
    if concatenated.len() > CONCATENATED_BYTES_MAX {
        return Err(DerError::TooLarge { bytes: concatenated.len(), max: CONCATENATED_BYTES_MAX });
    }
    let mut reader = Reader::new(concatenated);
    let mut certificates = Vec::new();
    while !reader.at_end() {
        if certificates.len() == CONCATENATED_COUNT_MAX {
            return Err(DerError::TooMany { max: CONCATENATED_COUNT_MAX });
        }
        let element = reader.element()?;
        if element.tag != SEQUENCE {
            return Err(DerError::Tag { expected: SEQUENCE, found: element.tag });
        }
        if element.whole.len() > CERTIFICATE_BYTES_MAX {
            return Err(DerError::TooLarge { bytes: element.whole.len(), max: CERTIFICATE_BYTES_MAX });
        }
        certificates.push(CertificateDer::from(element.whole.to_vec()));
    }
    Ok(certificates)
}

/// What is wrong with an encoding (X.690 §8, §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerError {
    #[error("there are no bytes")]
    Empty,
    #[error("the bytes end within an element")]
    Truncated,
    #[error("an element has tag {found:#04x} where {expected:#04x} belongs")]
    Tag { expected: u8, found: u8 },
    #[error("an element has a tag of more than one byte")]
    LongTag,
    #[error("a length is indefinite, not in its shortest form, or too long (X.690 §10.1)")]
    Length,
    #[error("bytes follow the last element")]
    TrailingBytes,
    #[error("a value is impossible for its type")]
    Value,
    #[error("{bytes} bytes are more than the {max} allowed")]
    TooLarge { bytes: usize, max: usize },
    #[error("there are more than {max} certificates")]
    TooMany { max: usize },
}

/// One element: its tag, its content, and both with the length between them.
pub struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    pub whole: &'a [u8],
}

/// Reads elements one behind the other.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The tag of the next element.
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// # Errors
    /// [`DerError`] when the bytes are not one whole element in DER.
    pub fn element(&mut self) -> Result<Element<'a>, DerError> {
        let [tag, first_length, after_first @ ..] = self.rest else {
            return Err(DerError::Truncated);
        };
        if tag & 0x1f == 0x1f {
            return Err(DerError::LongTag);
        }
        let (length, length_bytes) = match first_length {
            short @ 0..=0x7f => (usize::from(*short), 0),
            0x81..=0x83 => {
                let count = usize::from(first_length & 0x7f);
                let digits = after_first.get(..count).ok_or(DerError::Truncated)?;
                let length = digits.iter().fold(0, |sum, digit| 256 * sum + usize::from(*digit));
                // X.690 §10.1: the shortest form, so nothing that one byte fewer would have held.
                let least = if count == 1 { 0x80 } else { 1 << (8 * (count - 1)) };
                if length < least {
                    return Err(DerError::Length);
                }
                (length, count)
            }
            _ => return Err(DerError::Length),
        };
        let header_bytes = 2 + length_bytes;
        let end = header_bytes + length;
        let whole = self.rest.get(..end).ok_or(DerError::Truncated)?;
        self.rest = &self.rest[end..];
        Ok(Element { tag: *tag, content: &whole[header_bytes..], whole })
    }

    /// The content of the next element, which must have `tag`.
    ///
    /// # Errors
    /// As [`Reader::element`], or another tag.
    pub fn expect(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        let element = self.element()?;
        if element.tag == tag { Ok(element.content) } else { Err(DerError::Tag { expected: tag, found: element.tag }) }
    }

    /// # Errors
    /// [`DerError::TrailingBytes`] when something is left.
    pub fn finish(&self) -> Result<(), DerError> {
        if self.at_end() { Ok(()) } else { Err(DerError::TrailingBytes) }
    }
}

/// The content of the only element in `bytes`, which must have `tag`.
///
/// # Errors
/// As [`Reader::expect`], or bytes behind it.
pub fn only(bytes: &[u8], tag: u8) -> Result<&[u8], DerError> {
    let mut reader = Reader::new(bytes);
    let content = reader.expect(tag)?;
    reader.finish()?;
    Ok(content)
}
