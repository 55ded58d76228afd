//! Which SPIFFE IDs.

use super::{Captures, Segment, WILDCARD_WORDS};
use crate::spiffe_id::{ID_BYTES_MAX, SpiffeId, SpiffeIdError, TrustDomain};
use std::fmt;

/// Which SPIFFE IDs: an exact ID, `spiffe://td/**` (everything in the trust domain), or segments of which some are `*`
/// (exactly one segment) and the last may be `**` (one or more). `{name}` stands for a capture of the host pattern.
///
/// The trust domain is always written out: no pattern can match the IDs of two of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffePattern {
    text: String,
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
    /// `/**` at the end.
    open_ended: bool,
    has_capture: bool,
}

impl SpiffePattern {
    /// # Errors
    /// Words for the operator that name the rule broken.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("spiffe://") else {
            return Err("does not start with `spiffe://` in lower case (SPIFFE-ID §2)".to_owned());
        };
        if text.len() > ID_BYTES_MAX {
            return Err(SpiffeIdError::TooLong.to_string());
        }
        let (name, path) = rest.split_once('/').map_or((rest, None), |(name, path)| (name, Some(path)));
        if name.contains(['*', '{', '}']) {
            return Err("has a wildcard in its trust domain, which must be written out".to_owned());
        }
        let trust_domain = TrustDomain::parse(name).map_err(|error| error.to_string())?;
        let Some(path) = path else {
            return Err(format!(
                "names a trust domain, which no workload's ID is equal to; `spiffe://{name}/**` is everything in it"
            ));
        };
        // `**` alone has no segment before it, and `"".split('/')` would give one that is empty.
        let (before, open_ended) = match path {
            "**" => (None, true),
            path => path.strip_suffix("/**").map_or((Some(path), false), |before| (Some(before), true)),
        };
        let mut segments = Vec::new();
        for segment in before.into_iter().flat_map(|before| before.split('/')) {
            segments.push(Self::segment(name, segment)?);
        }
        let has_capture = segments.iter().any(|segment| segment.capture().is_some());
        let pattern = Self { text: text.to_owned(), trust_domain, segments, open_ended, has_capture };
        if !pattern.has_wildcard() {
            SpiffeId::parse(text).map_err(|error| error.to_string())?;
        }
        Ok(pattern)
    }

    fn segment(trust_domain: &str, text: &str) -> Result<Segment, String> {
        if text == "**" {
            return Err("has `**` before its end, where only `*` may stand".to_owned());
        }
        let segment = Segment::parse(text).ok_or_else(|| WILDCARD_WORDS.to_owned())?;
        if segment.is_literal() {
            SpiffeId::parse(&format!("spiffe://{trust_domain}/{text}")).map_err(|error| error.to_string())?;
        }
        Ok(segment)
    }

    fn has_wildcard(&self) -> bool {
        self.open_ended || !self.segments.iter().all(Segment::is_literal)
    }

    /// A pattern whose captures have not been replaced matches nothing.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        !self.has_capture && self.matches_capturing(id, |_, _| ())
    }

    pub fn has_capture(&self) -> bool {
        self.has_capture
    }

    /// As [`SpiffePattern::matches`], and what stood where it has captures.
    pub fn capture<'a>(&self, id: &'a SpiffeId) -> Option<Captures<'a>> {
        let mut captures = Captures::new();
        self.matches_capturing(id, |name, text| captures.push((name.to_owned(), text))).then_some(captures)
    }

    fn matches_capturing<'a>(&self, id: &'a SpiffeId, mut capture: impl FnMut(&str, &'a str)) -> bool {
        if self.trust_domain.as_str() != id.trust_domain_name() {
            return false;
        }
        // A SPIFFE ID without a path is the trust domain itself, never a workload.
        let Some(path) = id.path().strip_prefix('/') else { return false };
        let mut path = path.split('/');
        for segment in &self.segments {
            let Some(text) = path.next() else { return false };
            if !segment.matches(text) {
                return false;
            }
            if let Some(name) = segment.capture() {
                capture(name, text);
            }
        }
        path.next().is_some() == self.open_ended
    }

    /// The trust domain that every ID which matches is of.
    pub fn trust_domain_name(&self) -> &str {
        self.trust_domain.as_str()
    }

    /// The ID if the pattern has no wildcard and no capture.
    pub fn exact(&self) -> Option<SpiffeId> {
        if self.has_wildcard() { None } else { SpiffeId::parse(&self.text).ok() }
    }

    /// Names of the `{captures}` in it, in order.
    pub fn captures(&self) -> Vec<&str> {
        self.segments.iter().filter_map(Segment::capture).collect()
    }

    /// The pattern with its captures replaced; every value is one host label, so it is one path segment. `None` if a
    /// capture has no value, or one that no SPIFFE ID may hold.
    pub fn expand(&self, captures: &Captures<'_>) -> Option<SpiffePattern> {
        let mut text = format!("spiffe://{}", self.trust_domain);
        for segment in &self.segments {
            let part = match segment {
                Segment::Literal(literal) => literal,
                Segment::Any => "*",
                Segment::Capture(name) => {
                    let (_, value) = captures.iter().find(|(captured, _)| **captured == **name)?;
                    // A value must not become a wildcard or a second segment, whatever the host's spelling.
                    SpiffeId::parse(&format!("spiffe://-/{value}")).ok().filter(|_| !value.contains('/'))?;
                    value
                }
            };
            text.push('/');
            text.push_str(part);
        }
        if self.open_ended {
            text.push_str("/**");
        }
        Self::parse(&text).ok()
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
