//! Every plausible reading of a request's path.
//!
//! Applications disagree about paths: some decode `%2F`, some merge `//`, some strip `;parameters`, some do none of it. We
//! do not guess which one stands behind us. A request is allowed only if **every** reading is allowed, a path without an
//! honest reading is refused, and what was read goes on unchanged (DESIGN, ruling "path"; THREATS PN-01 to PN-28).
//!
//! A decoded reading keeps four codes, in upper case: `%20`, `%23` (`#`), `%25` (`%`) and `%3F` (`?`), besides `%2F` where
//! it is data. So different decoded paths stay different, and to decode a reading again changes nothing. Because the path
//! as it came is a reading too, a rule for `/admin` does not allow `/%61dmin`: write a wildcard where callers may encode.
//!
//! Pure. The host's one meaning is in [`super::target`].

use crate::refusal::{Refusal, Refused};
use std::borrow::Cow;

pub use super::target::{Form, Target, read_again, read_target};

/// The readings of one path: as it came first, then those that differ from it and from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readings<'a> {
    raw: Cow<'a, str>,
    /// Empty, and so not allocated, for a plain path.
    further: Vec<Box<str>>,
}

impl<'a> Readings<'a> {
    /// For a target that names no path: `CONNECT host:port` (empty) and `OPTIONS *` (`*`).
    pub(crate) fn of_no_path(target: &'a str) -> Self {
        Self { raw: Cow::Borrowed(target), further: Vec::new() }
    }

    /// The path as it came, and as it goes on.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Raw first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.raw.as_ref()).chain(self.further.iter().map(AsRef::as_ref))
    }

    /// For allow rules: they match only if every reading does.
    pub fn all(&self, predicate: impl FnMut(&str) -> bool) -> bool {
        self.iter().all(predicate)
    }

    /// For deny rules: they match if one reading does.
    pub fn any(&self, predicate: impl FnMut(&str) -> bool) -> bool {
        self.iter().any(predicate)
    }

    /// To be kept while the request is in flight, and decided again when the policy changes.
    pub fn into_owned(self) -> Readings<'static> {
        Readings { raw: Cow::Owned(self.raw.into_owned()), further: self.further }
    }

    fn add(&mut self, reading: Cow<'_, str>) {
        if !self.any(|known| known == reading) {
            self.further.push(reading.into_owned().into_boxed_str());
        }
    }
}

/// Why a path has no honest reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    #[error("the path does not start with `/`")]
    NotAbsolute,
    #[error("the path has a control character or a space, raw or as a percent code")]
    Control,
    #[error("the path has a backslash, raw or as `%5C`")]
    Backslash,
    #[error("the path has a raw `?` or `#`")]
    Delimiter,
    #[error("the path has a `%` without two hexadecimal digits")]
    PercentCode,
    #[error("the path has raw bytes outside ASCII")]
    NonAscii,
    #[error("the path is not UTF-8 when decoded")]
    NotUtf8,
    #[error("the path leads above the root")]
    AboveRoot,
}

impl PathProblem {
    pub fn refusal(self) -> Refusal {
        Refusal::BadPath
    }

    /// A route may permit it by name (`lax_path`): read again with `lax`, and refuse if the route selected does not.
    pub fn is_lax(self) -> bool {
        matches!(self, Self::PercentCode | Self::NonAscii)
    }
}

impl From<PathProblem> for Refused {
    fn from(problem: PathProblem) -> Self {
        Self::new(problem.refusal(), problem.to_string())
    }
}

/// Reads `path`, which is without its query. `lax` permits raw non-ASCII and a stray `%`, nothing else.
///
/// Linear in the path (THREATS PN-25): there are at most 130 orders of steps, and of nearly all paths one or two. And without allocation if it has none of `%`, `;`, `//` and `/.`.
///
/// # Errors
/// [`PathProblem`]: refused with 400, whatever the rules say.
pub fn read_path(path: &str, lax: bool) -> Result<Readings<'_>, PathProblem> {
    match is_plain(path) {
        true => Ok(Readings { raw: Cow::Borrowed(path), further: Vec::new() }),
        false => read_every_way(path, lax),
    }
}

/// Nearly every path: only letters, digits and a few signs, no empty segment and none that begins with a dot. It has one
/// reading, and this finds out at a third of the cost.
fn is_plain(path: &str) -> bool {
    let mut previous = 0;
    let all_plain = path.bytes().all(|byte| {
        let is_plain = match byte {
            b'/' | b'.' => previous != b'/',
            byte => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'=' | b',' | b'+' | b'@'),
        };
        previous = byte;
        is_plain
    });
    all_plain && path.starts_with('/')
}

fn read_every_way(path: &str, lax: bool) -> Result<Readings<'_>, PathProblem> {
    let features = scan(path, lax)?;
    let mut orders = Orders { readings: Readings { raw: Cow::Borrowed(path), further: Vec::new() }, seen: Vec::new() };
    if features.encoded || features.parameters || is_unresolved(path) {
        orders.follow(path, &STEPS)?;
    }
    Ok(orders.readings)
}

/// What an application may do to a path, each once and in any order. Whatever it does, whoever opens a file or calls another
/// removes the dots that are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// `%2F` is a character of a segment, as RFC 3986 §2.2 has it.
    DecodeButSlashes,
    /// `%2F` is a `/`, as applications have it that decode the path whole.
    Decode,
    /// Before decoding, `%3B` is data, and a parameter may hold `%2F`.
    StripParameters,
    /// Before dots are removed or behind that: `/a//../b` is `/a/b` to RFC 3986 and `/b` to nginx (PN-03).
    MergeSlashes,
    /// Before decoding, a segment with `%2F` is one.
    RemoveDots,
}

const STEPS: [Step; 5] =
    [Step::DecodeButSlashes, Step::Decode, Step::StripParameters, Step::MergeSlashes, Step::RemoveDots];

impl Step {
    fn take(self, text: &str) -> Result<Cow<'_, str>, PathProblem> {
        Ok(match self {
            Self::DecodeButSlashes => Cow::Owned(decode(text, b"%2F")?),
            Self::Decode => Cow::Owned(decode(text, b"/")?),
            Self::StripParameters => strip_parameters(text),
            Self::MergeSlashes => merge_slashes(text),
            Self::RemoveDots => remove_dots(text)?,
        })
    }

    fn decodes(self) -> bool {
        matches!(self, Self::DecodeButSlashes | Self::Decode)
    }
}

struct Orders<'a> {
    readings: Readings<'a>,
    /// What was followed, and with which steps left.
    seen: Vec<(Box<str>, Vec<Step>)>,
}

impl Orders<'_> {
    fn follow(&mut self, text: &str, left: &[Step]) -> Result<(), PathProblem> {
        self.readings.add(remove_dots(text)?);
        for step in left {
            let next = step.take(text)?;
            // What changes nothing may come later as well.
            if next == text {
                continue;
            }
            let is_left = |other: &&Step| *other != step && !(step.decodes() && other.decodes());
            let left: Vec<Step> = left.iter().filter(is_left).copied().collect();
            if self.seen.iter().any(|(seen, steps)| left.iter().all(|step| steps.contains(step)) && **seen == *next) {
                continue;
            }
            self.seen.push((Box::from(&*next), left.clone()));
            self.follow(&next, &left)?;
        }
        Ok(())
    }
}

/// What a path has that readers disagree about.
struct Features {
    encoded: bool,
    parameters: bool,
}

/// One pass: refuses what has no honest reading, and says what is to be read in several ways.
fn scan(path: &str, lax: bool) -> Result<Features, PathProblem> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathProblem::NotAbsolute);
    }
    let mut features = Features { encoded: false, parameters: false };
    let mut index = 0;
    while index < bytes.len() {
        let (byte, width) = match (bytes[index], percent_code(&bytes[index..])) {
            (_, Some(decoded)) => (decoded, 3),
            (b'%', None) if lax => (b'%', 1),
            (b'%', None) => return Err(PathProblem::PercentCode),
            (b'?' | b'#', None) => return Err(PathProblem::Delimiter),
            (b' ', None) => return Err(PathProblem::Control),
            (byte, None) if !byte.is_ascii() && !lax => return Err(PathProblem::NonAscii),
            (byte, None) => (byte, 1),
        };
        match byte {
            0..0x20 | 0x7F => return Err(PathProblem::Control),
            b'\\' => return Err(PathProblem::Backslash),
            b';' => features.parameters = true,
            _ => {}
        }
        features.encoded |= width == 3 || byte == b'%';
        index += width;
    }
    Ok(features)
}

/// The byte that a percent code at the start of `bytes` stands for.
fn percent_code(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => Some(16 * hexadecimal(*high)? + hexadecimal(*low)?),
        _ => None,
    }
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Decodes once. `%252e` stays: its `%25` is data (PN-09).
fn decode(text: &str, slash: &[u8]) -> Result<String, PathProblem> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = percent_code(&bytes[index..]);
        match (code, bytes[index]) {
            (Some(b'/'), _) => decoded.extend_from_slice(slash),
            // A delimiter that was encoded is data, and may not become one again.
            (Some(b' '), _) => decoded.extend_from_slice(b"%20"),
            (Some(b'#'), _) => decoded.extend_from_slice(b"%23"),
            (Some(b'?'), _) => decoded.extend_from_slice(b"%3F"),
            (Some(b'%'), _) | (None, b'%') => decoded.extend_from_slice(b"%25"),
            (Some(byte), _) | (None, byte) => decoded.push(byte),
        }
        index += if code.is_some() { 3 } else { 1 };
    }
    // PN-10: `%C0%AE` is an overlong `.` to careless decoders; what is not UTF-8 has no honest reading.
    String::from_utf8(decoded).or(Err(PathProblem::NotUtf8))
}

/// Takes everything from the first `;` of each segment to its end.
fn strip_parameters(text: &str) -> Cow<'_, str> {
    if !text.contains(';') {
        return Cow::Borrowed(text);
    }
    let mut stripped = String::with_capacity(text.len());
    let mut within_parameter = false;
    for character in text.chars() {
        match character {
            '/' => within_parameter = false,
            ';' => within_parameter = true,
            _ => {}
        }
        if !within_parameter {
            stripped.push(character);
        }
    }
    Cow::Owned(stripped)
}

fn is_unresolved(text: &str) -> bool {
    text.as_bytes().windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

fn merge_slashes(text: &str) -> Cow<'_, str> {
    if !text.contains("//") {
        return Cow::Borrowed(text);
    }
    let mut previous = None;
    Cow::Owned(
        text.chars().filter(|character| previous.replace(*character) != Some('/') || *character != '/').collect(),
    )
}

/// RFC 3986 §5.2.4, but a path above the root is refused instead of clamped: applications differ there.
fn remove_dots(text: &str) -> Result<Cow<'_, str>, PathProblem> {
    if !text.contains("/.") {
        return Ok(Cow::Borrowed(text));
    }
    let mut resolved = String::with_capacity(text.len());
    let mut segments = text[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => resolved.truncate(resolved.rfind('/').ok_or(PathProblem::AboveRoot)?),
            _ => {
                resolved.push('/');
                resolved.push_str(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            resolved.push('/');
        }
    }
    Ok(Cow::Owned(resolved))
}

#[cfg(test)]
mod tests;
