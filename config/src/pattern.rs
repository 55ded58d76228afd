//! Host, path and SPIFFE ID patterns: parse, match, print. Pure: bytes in, verdict out.
//!
//! A pattern is cut into segments when it is read and compared segment by segment. Nothing becomes a regular
//! expression, so a `.` is a dot (THREATS PN-21), and a `*` in a request is data (PN-22).

mod host;
mod path;
mod spiffe;

pub use host::{Captures, HostPattern};
pub use path::PathPattern;
pub use spiffe::SpiffePattern;

/// One label of a host, or one segment of a path or of a SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Segment {
    Literal(Box<str>),
    /// `*`: any one segment that is not empty.
    Any,
    /// `{name}`: as `*`, and what stood there has a name.
    Capture(Box<str>),
}

impl Segment {
    /// `None` if `text` is neither `*` nor `{name}` nor free of those characters.
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let mut bytes = name.bytes();
            let starts_well = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
            let goes_on_well = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            return (starts_well && goes_on_well).then(|| Self::Capture(name.into()));
        }
        (!text.contains(['*', '{', '}'])).then(|| Self::Literal(text.into()))
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *text,
            Self::Any | Self::Capture(_) => !text.is_empty(),
        }
    }

    /// As [`Segment::matches`]; a capture that `given` has a value for matches that value alone.
    fn matches_given(&self, text: &str, given: &[(String, &str)]) -> bool {
        let value = self.capture().and_then(|name| given.iter().find(|(other, _)| other == name));
        value.map_or_else(|| self.matches(text), |(_, value)| *value == text)
    }

    /// The name, if this is a capture.
    fn capture(&self) -> Option<&str> {
        match self {
            Self::Capture(name) => Some(name),
            _ => None,
        }
    }

    fn is_literal(&self) -> bool {
        matches!(self, Self::Literal(_))
    }

    /// Whether some text matches both.
    fn could_overlap(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(one), Self::Literal(other)) => one == other,
            (Self::Literal(literal), _) | (_, Self::Literal(literal)) => !literal.is_empty(),
            _ => true,
        }
    }
}

/// The rule that a segment breaks, in the words of all three kinds.
const WILDCARD_WORDS: &str =
    "`*` and `{name}` stand for a whole segment, and a name is a-z 0-9 _ beginning with a letter";

#[cfg(test)]
mod tests;
