//! Which paths.

use super::{Segment, WILDCARD_WORDS};
use std::fmt;

/// Which paths: exact (`/orders`), template (`/orders/{id}/items`: `{name}` or `*` is exactly one segment), and `/**`
/// as the end for the path itself and everything below it (segment-aware: `/admin/**` matches `/admin`, `/admin/`,
/// `/admin/x`, never `/administrator`). `/**` alone is every path. A request's `*` is data (THREATS PN-22).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    text: String,
    /// Without the final `**`. Empty only for `/**`. The last one is the empty literal if the path ends with `/`.
    segments: Vec<Segment>,
    /// `/**` at the end.
    open_ended: bool,
}

const PATH_BYTES_MAX: usize = 4096;

impl PathPattern {
    /// # Errors
    /// Words for the operator that name the rule broken.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else { return Err("does not start with `/`".to_owned()) };
        if text.len() > PATH_BYTES_MAX {
            return Err(format!("is longer than {PATH_BYTES_MAX} bytes"));
        }
        if let Some(character) = text.chars().find(|c| c.is_control() || c.is_whitespace() || *c == '\\') {
            return Err(format!("has the character {character:?}, which no path that is let through has"));
        }
        if text.contains(['?', '#']) {
            return Err("has a query or fragment; only the path is compared".to_owned());
        }
        // Every reading of a path must match (DESIGN, rulings), and one of them has no `%` codes and no parameters.
        if text.contains('%') {
            return Err("has a `%` code; write the character that it stands for".to_owned());
        }
        if text.contains(';') {
            return Err("has a `;`; path parameters are not compared".to_owned());
        }
        // `/**` alone has no segment before it, and `"".split('/')` would give one that is empty.
        let (before, open_ended) = match rest {
            "**" => (None, true),
            rest => rest.strip_suffix("/**").map_or((Some(rest), false), |before| (Some(before), true)),
        };
        let mut segments = Vec::new();
        let mut texts = before.into_iter().flat_map(|before| before.split('/')).peekable();
        while let Some(text) = texts.next() {
            let may_be_empty = texts.peek().is_none() && !open_ended;
            segments.push(Self::segment(text, may_be_empty)?);
        }
        Ok(Self { text: text.to_owned(), segments, open_ended })
    }

    fn segment(text: &str, may_be_empty: bool) -> Result<Segment, String> {
        match text {
            "" if !may_be_empty => Err("has `//`, which no path has once slashes are merged".to_owned()),
            "." | ".." => Err("has a segment `.` or `..`, which no path has once dots are removed".to_owned()),
            "**" => Err("has `**` before its end, where only `*` may stand".to_owned()),
            text => Segment::parse(text).ok_or_else(|| WILDCARD_WORDS.to_owned()),
        }
    }

    /// `/**`: every path.
    pub fn everything() -> Self {
        Self { text: "/**".to_owned(), segments: Vec::new(), open_ended: true }
    }

    /// `path` is one reading of a request's path, without query.
    pub fn matches(&self, path: &str) -> bool {
        self.matches_given(path, &[])
    }

    /// As [`PathPattern::matches`]; a capture that `given` has a value for matches that value alone.
    pub fn matches_given(&self, path: &str, given: &[(String, &str)]) -> bool {
        if self.segments.is_empty() {
            return true;
        }
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut texts = path.split('/');
        for segment in &self.segments {
            let Some(text) = texts.next() else { return false };
            if !segment.matches_given(text, given) {
                return false;
            }
        }
        self.open_ended || texts.next().is_none()
    }

    /// Names of the `{captures}` in it, in order.
    pub fn captures(&self) -> Vec<&str> {
        self.segments.iter().filter_map(Segment::capture).collect()
    }

    /// The path if the pattern has no wildcard and no capture.
    pub fn exact(&self) -> Option<&str> {
        (!self.open_ended && self.segments.iter().all(Segment::is_literal)).then_some(&self.text)
    }

    /// Greater is more specific: exact before template before prefix, longer before shorter. Equal for two patterns
    /// that could both match one path is a load error.
    pub fn specificity(&self) -> u64 {
        let literals = self.segments.iter().filter(|segment| segment.is_literal()).count() as u64;
        let kind: u64 = match (self.open_ended, literals == self.segments.len() as u64) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        // A pattern has fewer segments than bytes, at most 4096, so 16 bits hold each count.
        (kind << 32) | ((self.segments.len() as u64) << 16) | literals
    }

    /// Whether some path matches both.
    pub fn could_overlap(&self, other: &Self) -> bool {
        let lengths_fit = match (self.open_ended, other.open_ended) {
            (false, false) => self.segments.len() == other.segments.len(),
            (true, false) => other.segments.len() >= self.segments.len(),
            (false, true) => self.segments.len() >= other.segments.len(),
            (true, true) => true,
        };
        let mut pairs = self.segments.iter().zip(&other.segments);
        lengths_fit && pairs.all(|(one, other)| one.could_overlap(other))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
