//! Somebody else's answer: is it one to what was asked, how long does it live, and where are its TTLs. Pure.

use super::{Code, HEADER_BYTES, Header, Query, Record, Records, flag, kind, u32_at};
use std::time::Duration;

/// Somebody else's answer, without its OPT record.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub bytes: Box<[u8]>,
    /// Where the TTLs are.
    pub ttls: Box<[usize]>,
    pub code: u16,
    pub truncated: bool,
    /// Has it an A or AAAA record?
    pub has_address: bool,
    /// How long it may be kept; zero: not at all.
    pub lifetime: Duration,
}

/// Which rule an upstream's message breaks. It is not believed, and another one is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("is malformed")]
    Malformed,
    #[error("is no response to a standard query")]
    NotAResponse,
    #[error("has another id")]
    OtherId,
    #[error("answers another question")]
    OtherQuestion,
    #[error("has an extended error, {0}")]
    ExtendedError(u8),
}

/// Kept no longer, whatever its TTL: a name that moves is found again.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// RFC 2308 §5 lets negative answers live for hours; one for a name that is about to appear should not.
const NEGATIVE_LIFETIME_MAX: Duration = Duration::from_secs(300);

impl Reply {
    /// `bytes` came in answer to `query`, which went out as `id`.
    ///
    /// # Errors
    /// One variant a rule.
    pub fn read(bytes: &[u8], query: &Query, id: u16) -> Result<Self, ReplyError> {
        let header = Header::read(bytes).ok_or(ReplyError::Malformed)?;
        if header.id != id {
            return Err(ReplyError::OtherId);
        }
        if header.flags & flag::RESPONSE == 0 || header.flags & flag::OPCODE != 0 {
            return Err(ReplyError::NotAResponse);
        }
        let [1, answers, authorities, additionals] = header.counts.map(usize::from) else {
            return Err(ReplyError::OtherQuestion);
        };
        let records_start = HEADER_BYTES + query.question.len();
        let question = bytes.get(HEADER_BYTES..records_start).ok_or(ReplyError::OtherQuestion)?;
        if !same_question(question, &query.question) {
            return Err(ReplyError::OtherQuestion);
        }
        let mut found = Found::default();
        let mut end = records_start;
        let count = answers + authorities + additionals;
        for (index, record) in Records::new(bytes, records_start, count).enumerate() {
            let record = record.ok_or(ReplyError::Malformed)?;
            end = record.data.end;
            if record.kind == kind::OPT {
                // It is the last one, or somebody has written it where it means nothing.
                if index + 1 != count || index < answers + authorities {
                    return Err(ReplyError::Malformed);
                }
                match record.ttl.to_be_bytes()[0] {
                    0 => end = record.start,
                    extended => return Err(ReplyError::ExtendedError(extended)),
                }
                found.has_opt = true;
                break;
            }
            found.take(bytes, query, &record, index < answers);
        }
        let code = header.flags & flag::CODE;
        let truncated = header.flags & flag::TRUNCATED != 0;
        let mut kept: Box<[u8]> = bytes[..end].into();
        let additionals = (additionals - usize::from(found.has_opt)) as u16;
        kept[10..12].copy_from_slice(&additionals.to_be_bytes());
        let lifetime = if truncated { Duration::ZERO } else { found.lifetime(code) };
        let has_address = found.has_address;
        Ok(Self { bytes: kept, ttls: found.ttls.into(), code, truncated, has_address, lifetime })
    }

    /// Might another nameserver know better?
    pub fn is_failure(&self) -> bool {
        self.code != Code::NoError as u16 && self.code != Code::NameError as u16
    }
}

/// What is gathered on the way over an answer's records.
#[derive(Default)]
struct Found {
    ttls: Vec<usize>,
    ttl_min: Option<u32>,
    answered: bool,
    has_address: bool,
    has_opt: bool,
    /// The smaller one of the SOA record's TTL and its MINIMUM (RFC 2308 §5).
    negative_ttl: Option<u32>,
}

impl Found {
    fn take(&mut self, bytes: &[u8], query: &Query, record: &Record, is_answer: bool) {
        self.ttls.push(record.data.start - 6);
        // RFC 2181 §8: a TTL with the highest bit set is zero.
        let ttl = if record.ttl > i32::MAX as u32 { 0 } else { record.ttl };
        self.ttl_min = Some(self.ttl_min.map_or(ttl, |least| least.min(ttl)));
        if is_answer {
            self.answered |= record.kind == query.kind || query.kind == kind::ANY;
            self.has_address |= matches!(record.kind, kind::A | kind::AAAA);
        } else if record.kind == kind::SOA && record.data.len() >= 4 {
            let minimum = u32_at(bytes, record.data.end - 4).unwrap_or(0);
            self.negative_ttl = Some(ttl.min(minimum));
        }
    }

    fn lifetime(&self, code: u16) -> Duration {
        let positive = code == Code::NoError as u16 && self.answered;
        let negative = code == Code::NameError as u16 || (code == Code::NoError as u16 && !self.answered);
        let seconds = |ttl: Option<u32>| Duration::from_secs(u64::from(ttl.unwrap_or(0)));
        match (positive, negative) {
            (true, _) => seconds(self.ttl_min).min(LIFETIME_MAX),
            // RFC 2308 §5: without an SOA record a negative answer is not cached.
            (_, true) if self.negative_ttl.is_some() => {
                seconds(self.negative_ttl).min(seconds(self.ttl_min)).min(NEGATIVE_LIFETIME_MAX)
            }
            _ => Duration::ZERO,
        }
    }
}

/// Letters' case does not matter (RFC 4343); type and class are compared as bytes, none of which are letters that could be
/// mistaken: both words are below 0x41 or of equal bytes.
fn same_question(one: &[u8], other: &[u8]) -> bool {
    let Some(name) = one.len().checked_sub(4) else { return false };
    one.len() == other.len() && one[..name].eq_ignore_ascii_case(&other[..name]) && one[name..] == other[name..]
}
