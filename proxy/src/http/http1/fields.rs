//! Header and trailer fields (RFC 9112 §5).

use super::Malformed;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Header;
use std::mem::MaybeUninit;
use std::ops::Range;

/// In one message of an upstream.
pub const FIELDS_MAX: usize = 100;

/// Room for what is added on the way.
const ADDED: usize = 4;

/// Where [`httparse`] puts what it finds.
pub type Room<'a> = [MaybeUninit<Header<'a>>; FIELDS_MAX];

pub fn room<'a>() -> Room<'a> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// Where fields are in the bytes that they were read from: those are about to move.
pub struct Places(Vec<Place>);

struct Place {
    name: (u32, u32),
    value: (u32, u32),
}

impl Places {
    /// `fields`: found in `bytes`.
    pub fn of(bytes: &[u8], fields: &[Header<'_>]) -> Self {
        let within = |part: &[u8]| {
            let start = (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
            (start as u32, (start + part.len()) as u32)
        };
        let place = |field: &Header<'_>| Place { name: within(field.name.as_bytes()), value: within(field.value) };
        Self(fields.iter().map(place).collect())
    }

    /// The fields of `head`, which share its memory. `heard` gets each of them.
    ///
    /// # Errors
    /// A name or a value is none, or `heard` says so.
    pub fn map(
        &self,
        head: &Bytes,
        mut heard: impl FnMut(&HeaderName, &HeaderValue) -> Result<(), Malformed>,
    ) -> Result<HeaderMap, Malformed> {
        let mut fields = HeaderMap::with_capacity(self.0.len() + ADDED);
        for place in &self.0 {
            let name = HeaderName::from_bytes(&head[range(place.name)])?;
            let value = HeaderValue::from_maybe_shared(head.slice(range(place.value)))?;
            heard(&name, &value)?;
            fields.append(name, value);
        }
        Ok(fields)
    }
}

fn range((start, end): (u32, u32)) -> Range<usize> {
    start as usize..end as usize
}

/// `Content-Length` (RFC 9110 §8.6): digits alone, and no more than a body may have.
pub fn read_length(value: &HeaderValue) -> Option<u64> {
    // `parse` takes a plus sign.
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// What `Connection` says of the time behind a message (RFC 9112 §9.3).
#[derive(Default)]
pub struct Persistence {
    close: bool,
    keep_alive: bool,
}

impl Persistence {
    pub fn hear(&mut self, connection: &HeaderValue) {
        for option in connection.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    pub fn lasts(&self, is_http10: bool) -> bool {
        !self.close && (self.keep_alive || !is_http10)
    }
}

/// Writes `fields` as lines.
pub fn write(fields: &HeaderMap, into: &mut Vec<u8>) {
    for (name, value) in fields {
        write_one(name, value, into);
    }
}

pub fn write_one(name: &HeaderName, value: &HeaderValue, into: &mut Vec<u8>) {
    into.extend_from_slice(name.as_str().as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value.as_bytes());
    into.extend_from_slice(b"\r\n");
}

/// RFC 9112 §2.2 leaves it to the recipient whether that is a line break. Two hops that choose differently are what smuggling
/// lives on.
pub fn has_bare_line_feed(lines: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', lines).any(|at| at == 0 || lines[at - 1] != b'\r')
}

/// May a head end behind the first `seen` of `bytes`, in which it did not? It is not to be read anew for every byte that comes.
pub fn may_end(bytes: &[u8], seen: usize) -> bool {
    let from = seen.min(bytes.len()).saturating_sub(2);
    let is_end = |at: usize| matches!(bytes[from + at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]);
    seen == 0 || memchr::memchr_iter(b'\n', &bytes[from..]).any(is_end)
}
