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

use crate::refusal::Refusal;
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

/// Reads `path`, which is without its query. `lax` permits raw non-ASCII and a stray `%`, nothing else.
///
/// Linear in the path (THREATS PN-25), and without allocation if it has none of `%`, `;`, `//` and `/.`.
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
    let mut readings = Readings { raw: Cow::Borrowed(path), further: Vec::new() };
    if !(features.encoded || features.parameters || is_unresolved(path)) {
        return Ok(readings);
    }
    let decodings: &[Decoding] = if features.encoded {
        &[Decoding::None, Decoding::SlashIsData, Decoding::SlashSeparates]
    } else {
        &[Decoding::None]
    };
    let parameters: &[Parameters] = if features.parameters {
        &[Parameters::Kept, Parameters::StrippedFirst, Parameters::StrippedLast]
    } else {
        &[Parameters::Kept]
    };
    for &decoding in decodings {
        for &parameters in parameters {
            add_resolved(&mut readings, transform(path, decoding, parameters)?)?;
        }
    }
    Ok(readings)
}

/// Whether and how an application decodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decoding {
    None,
    /// `%2F` is a character of a segment, as RFC 3986 §2.2 has it.
    SlashIsData,
    /// `%2F` is a `/`, as applications have it that decode the path whole.
    SlashSeparates,
}

/// Whether an application knows path parameters (`/orders;v=1`), and when it takes them off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parameters {
    Kept,
    /// Before decoding: `%3B` is data, and a parameter may hold `%2F`.
    StrippedFirst,
    /// After decoding.
    StrippedLast,
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
        features.encoded |= width == 3 || byte == b'%' || !byte.is_ascii();
        index += width;
    }
    Ok(features)
}

/// The byte that a percent code at the start of `bytes` stands for.
fn percent_code(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => Some(hexadecimal(*high)? << 4 | hexadecimal(*low)?),
        _ => None,
    }
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn transform(path: &str, decoding: Decoding, parameters: Parameters) -> Result<Cow<'_, str>, PathProblem> {
    let stripped = if parameters == Parameters::StrippedFirst { strip_parameters(path) } else { Cow::Borrowed(path) };
    let decoded = match decoding {
        Decoding::None => stripped,
        Decoding::SlashIsData => Cow::Owned(decode(&stripped, b"%2F")?),
        Decoding::SlashSeparates => Cow::Owned(decode(&stripped, b"/")?),
    };
    Ok(match parameters {
        Parameters::StrippedLast => Cow::Owned(strip_parameters(&decoded).into_owned()),
        Parameters::Kept | Parameters::StrippedFirst => decoded,
    })
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

/// When a reader merges `//`: the order matters, `/a//../b` is `/a/b` to RFC 3986 and `/b` to nginx (PN-03).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slashes {
    Kept,
    MergedFirst,
    MergedLast,
}

fn is_unresolved(text: &str) -> bool {
    text.as_bytes().windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

fn add_resolved(readings: &mut Readings<'_>, text: Cow<'_, str>) -> Result<(), PathProblem> {
    if !is_unresolved(&text) {
        readings.add(text);
        return Ok(());
    }
    readings.add(resolve(&text, Slashes::Kept)?.into());
    if text.contains("//") {
        readings.add(resolve(&text, Slashes::MergedFirst)?.into());
        readings.add(resolve(&text, Slashes::MergedLast)?.into());
    }
    Ok(())
}

/// RFC 3986 §5.2.4, but a path above the root is refused instead of clamped: applications differ there.
fn resolve(text: &str, slashes: Slashes) -> Result<String, PathProblem> {
    let mut resolved = String::with_capacity(text.len());
    let mut segments = text[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => resolved.truncate(resolved.rfind('/').ok_or(PathProblem::AboveRoot)?),
            "" if slashes == Slashes::MergedFirst => {}
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
    if slashes == Slashes::MergedLast {
        let mut previous = None;
        resolved.retain(|character| previous.replace(character) != Some('/') || character != '/');
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests;
