//! DNS messages as bytes (RFC 1035 §4): what a query asks, and what of somebody else's answer has to be known to pass it
//! on. Pure.
//!
//! Answers of others are kept as they came, but for their TTLs: taking a message apart and putting it together again would
//! lose what this program does not know. So nothing here builds records out of foreign bytes; it walks over them.

mod reply;

use std::ops::Range;

pub use reply::{Reply, ReplyError};

pub const HEADER_BYTES: usize = 12;
/// RFC 1035 §2.3.4, and without EDNS also the size of an answer over UDP.
pub const UDP_BYTES_MIN: usize = 512;
/// What we say that we take, and more than which we never send over UDP: answers on loopback are not fragmented.
pub const UDP_BYTES_MAX: usize = 4096;
/// RFC 1035 §2.3.4, with the length of each label and the root's.
const NAME_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: u8 = 63;
/// A message of 64 KiB cannot hold more records than this (RFC 1035 §4.1.3: eleven bytes each at least).
const RECORDS_MAX: usize = 65_535 / 11;

/// Bits of the header's second word (RFC 1035 §4.1.1, RFC 4035 §3.1.6).
pub mod flag {
    pub const RESPONSE: u16 = 0x8000;
    pub const AUTHORITATIVE: u16 = 0x0400;
    pub const TRUNCATED: u16 = 0x0200;
    pub const RECURSION_DESIRED: u16 = 0x0100;
    pub const RECURSION_AVAILABLE: u16 = 0x0080;
    pub const AUTHENTIC: u16 = 0x0020;
    pub const CHECKING_DISABLED: u16 = 0x0010;
    pub const OPCODE: u16 = 0x7800;
    pub const CODE: u16 = 0x000f;
}

/// Types of records (RFC 1035 §3.2.2 and the registry of IANA).
pub mod kind {
    pub const A: u16 = 1;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const SIG: u16 = 24;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const TSIG: u16 = 250;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

pub const CLASS_IN: u16 = 1;

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NameError = 3,
    NotImplemented = 4,
    Refused = 5,
    BadVersion = 16,
}

/// One question, and how its answer may look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    /// Of the client's: RD, AD and CD.
    pub flags: u16,
    /// Name, type and class as they came, letters' case included.
    pub question: Box<[u8]>,
    pub kind: u16,
    pub class: u16,
    pub edns: Option<Edns>,
}

/// What an OPT record says (RFC 6891 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    pub udp_bytes: usize,
    pub dnssec_ok: bool,
}

/// Why a message is no query for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    /// Nothing is answered to it: two servers would answer each other's answers for ever.
    #[error("is a response")]
    Response,
    #[error("has no whole header")]
    Short,
    #[error("is malformed (RFC 1035 §4)")]
    Malformed,
    #[error("is neither a standard query nor signed by nobody")]
    Unsupported,
    #[error("asks for the transfer of a zone")]
    Transfer,
    #[error("is of a version of EDNS that is not known (RFC 6891 §6.1.3)")]
    EdnsVersion,
}

impl Unanswerable {
    /// `None`: no answer at all.
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Response | Self::Short => None,
            Self::Malformed => Some(Code::FormatError),
            Self::Unsupported => Some(Code::NotImplemented),
            Self::Transfer => Some(Code::Refused),
            Self::EdnsVersion => Some(Code::BadVersion),
        }
    }
}

impl Query {
    /// # Errors
    /// One variant a rule.
    pub fn read(bytes: &[u8]) -> Result<Self, Unanswerable> {
        let header = Header::read(bytes).ok_or(Unanswerable::Short)?;
        if header.flags & flag::RESPONSE != 0 {
            return Err(Unanswerable::Response);
        }
        if header.flags & flag::OPCODE != 0 {
            return Err(Unanswerable::Unsupported);
        }
        let [1, answers, authorities, additionals] = header.counts else { return Err(Unanswerable::Malformed) };
        let name_end = plain_name_end(bytes, HEADER_BYTES).ok_or(Unanswerable::Malformed)?;
        let (kind, class) = u16_at(bytes, name_end).zip(u16_at(bytes, name_end + 2)).ok_or(Unanswerable::Malformed)?;
        if matches!(kind, kind::AXFR | kind::IXFR) {
            return Err(Unanswerable::Transfer);
        }
        let question_end = name_end + 4;
        if matches!(kind, kind::OPT | 0) || answers != 0 || authorities != 0 {
            return Err(Unanswerable::Malformed);
        }
        let edns = read_additionals(bytes, question_end, additionals)?;
        Ok(Self {
            id: header.id,
            flags: header.flags & (flag::RECURSION_DESIRED | flag::AUTHENTIC | flag::CHECKING_DISABLED),
            question: bytes[HEADER_BYTES..question_end].into(),
            kind,
            class,
            edns,
        })
    }

    /// In lower case, without the final dot. `None`: no host can have this name (RFC 1123 §2.1, and `_`).
    pub fn host(&self) -> Option<String> {
        let mut text = String::with_capacity(self.question.len());
        let mut at = 0;
        loop {
            let length = usize::from(*self.question.get(at)?);
            if length == 0 {
                return (!text.is_empty()).then_some(text);
            }
            let label = self.question.get(at + 1..at + 1 + length)?;
            if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            at += 1 + length;
        }
    }

    /// The same question of another type.
    pub fn with_kind(&self, kind: u16) -> Self {
        let mut other = self.clone();
        let at = other.question.len() - 4;
        other.question[at..at + 2].copy_from_slice(&kind.to_be_bytes());
        other.kind = kind;
        other
    }

    /// How long an answer over UDP may be.
    pub fn udp_bytes(&self) -> usize {
        self.edns.map_or(UDP_BYTES_MIN, |edns| edns.udp_bytes.clamp(UDP_BYTES_MIN, UDP_BYTES_MAX))
    }

    /// As it is sent to an upstream, under another id. Options of the client's EDNS stay here: cookies and the client's
    /// address are matters of one hop (RFC 7873 §5, RFC 7871 §11.1).
    pub fn forwarded(&self, id: u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.question.len() + OPT_BYTES);
        bytes.extend(id.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        for count in [1_u16, 0, 0, u16::from(self.edns.is_some())] {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend(&self.question);
        if let Some(edns) = self.edns {
            bytes.extend(opt_record(edns.dnssec_ok, Code::NoError));
        }
        bytes
    }
}

pub const OPT_BYTES: usize = 11;

/// An OPT record without options (RFC 6891 §6.1.2).
pub fn opt_record(dnssec_ok: bool, code: Code) -> [u8; OPT_BYTES] {
    let [size_high, size_low] = (UDP_BYTES_MAX as u16).to_be_bytes();
    let code_high = (code as u16 >> 4) as u8;
    let dnssec_ok = if dnssec_ok { 0x80 } else { 0 };
    [0, 0, kind::OPT as u8, size_high, size_low, code_high, 0, dnssec_ok, 0, 0, 0]
}

fn read_additionals(bytes: &[u8], at: usize, count: u16) -> Result<Option<Edns>, Unanswerable> {
    let mut edns = None;
    for record in Records::new(bytes, at, usize::from(count)) {
        let record = record.ok_or(Unanswerable::Malformed)?;
        match record.kind {
            // RFC 6891 §6.1.1: more than one is an error, and its name is the root.
            kind::OPT if edns.is_some() || bytes[record.start] != 0 => return Err(Unanswerable::Malformed),
            kind::OPT if record.ttl.to_be_bytes()[1] != 0 => return Err(Unanswerable::EdnsVersion),
            kind::OPT => {
                edns = Some(Edns { udp_bytes: usize::from(record.class), dnssec_ok: record.ttl & 0x8000 != 0 });
            }
            // A signature over the message as it was written ends with our writing another.
            kind::TSIG | kind::SIG => return Err(Unanswerable::Unsupported),
            _ => {}
        }
    }
    Ok(edns)
}

pub struct Header {
    pub id: u16,
    pub flags: u16,
    /// Questions, answers, authorities, additionals.
    pub counts: [u16; 4],
}

impl Header {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| u16_at(bytes, index * 2);
        Some(Self { id: word(0)?, flags: word(1)?, counts: [word(2)?, word(3)?, word(4)?, word(5)?] })
    }
}

/// A resource record, by where it stands (RFC 1035 §4.1.3).
struct Record {
    start: usize,
    kind: u16,
    class: u16,
    ttl: u32,
    data: Range<usize>,
}

/// Walks over records; `None` where one is not whole, and then no more.
struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8], at: usize, count: usize) -> Self {
        Self { bytes, at, left: count.min(RECORDS_MAX) }
    }

    fn record(&self) -> Option<Record> {
        let fixed = name_end(self.bytes, self.at)?;
        let length = usize::from(u16_at(self.bytes, fixed + 8)?);
        let data = fixed + 10..fixed + 10 + length;
        self.bytes.get(data.clone())?;
        Some(Record {
            start: self.at,
            kind: u16_at(self.bytes, fixed)?,
            class: u16_at(self.bytes, fixed + 2)?,
            ttl: u32_at(self.bytes, fixed + 4)?,
            data,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Option<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.record();
        match &record {
            Some(record) => self.at = record.data.end,
            None => self.left = 0,
        }
        Some(record)
    }
}

/// Where a name ends that may end in a pointer (RFC 1035 §4.1.4). Pointers are not followed: nobody here reads the names
/// of records, so they cannot lead in a circle.
fn name_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=LABEL_BYTES_MAX => at += 1 + usize::from(length),
            // The two highest bits are set: a pointer of two bytes.
            0xc0..=u8::MAX => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - start >= NAME_BYTES_MAX {
            return None;
        }
    }
}

/// Where a name ends that has no pointer: the first one of a message has nothing to point to.
fn plain_name_end(bytes: &[u8], start: usize) -> Option<usize> {
    let end = name_end(bytes, start)?;
    (bytes[end - 1] == 0 && end - start <= NAME_BYTES_MAX && is_plain(bytes, start, end)).then_some(end)
}

fn is_plain(bytes: &[u8], start: usize, end: usize) -> bool {
    let mut at = start;
    while at < end - 1 {
        match bytes[at] {
            length @ 1..=LABEL_BYTES_MAX => at += 1 + usize::from(length),
            _ => return false,
        }
    }
    at == end - 1
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([word[0], word[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(bytes, at)?) << 16 | u32::from(u16_at(bytes, at + 2)?))
}

#[cfg(test)]
pub(in crate::dns) mod tests;
