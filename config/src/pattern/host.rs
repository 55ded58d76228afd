//! Which hosts.

use super::{Segment, WILDCARD_WORDS};
use std::fmt;
use std::net::Ipv6Addr;

/// What the `{names}` of a host pattern stood for.
pub type Captures<'a> = Vec<(String, &'a str)>;

/// Which hosts: exact (`payments.shop.svc`), or labels of which some are `*` or `{name}` (exactly one label each), with
/// `**` allowed as the first (one or more labels). Compared in lower case, without port and trailing dot. An IPv6
/// address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    text: String,
    /// Without the leading `**`. One literal for an IPv6 address.
    labels: Vec<Segment>,
    /// `**` stands first.
    open_ended: bool,
}

/// RFC 1035 §2.3.4.
const LABEL_BYTES_MAX: usize = 63;
const HOST_BYTES_MAX: usize = 253;

impl HostPattern {
    /// # Errors
    /// Words for the operator that name the rule broken.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(inside) = lower.strip_prefix('[') {
            return Self::ipv6(inside);
        }
        let text = lower.strip_suffix('.').unwrap_or(&lower).to_owned();
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.contains(':') {
            return Err("has a port or scheme; hosts are compared by their name alone".to_owned());
        }
        if text.len() > HOST_BYTES_MAX {
            return Err(format!("is longer than {HOST_BYTES_MAX} bytes (RFC 1035 §2.3.4)"));
        }
        // `**` alone has no label behind it, and `"".split('.')` would give one that is empty.
        let (behind, open_ended) = match text.as_str() {
            "**" => (None, true),
            text => text.strip_prefix("**.").map_or((Some(text), false), |behind| (Some(behind), true)),
        };
        let mut labels = Vec::new();
        for label in behind.into_iter().flat_map(|behind| behind.split('.')) {
            labels.push(Self::label(label)?);
        }
        let pattern = Self { text, labels, open_ended };
        let mut names = pattern.captures();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("has the capture `{{{}}}` twice", pair[0])),
            None => Ok(pattern),
        }
    }

    fn ipv6(inside: &str) -> Result<Self, String> {
        let address: Ipv6Addr = inside
            .strip_suffix(']')
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| "is not an IPv6 address in brackets".to_owned())?;
        let text = format!("[{address}]");
        Ok(Self { labels: vec![Segment::Literal(text.as_str().into())], text, open_ended: false })
    }

    fn label(text: &str) -> Result<Segment, String> {
        if text.is_empty() {
            return Err("has an empty label".to_owned());
        }
        if text == "**" {
            return Err("has `**` behind its beginning, where only `*` may stand".to_owned());
        }
        let label = Segment::parse(text).ok_or_else(|| WILDCARD_WORDS.to_owned())?;
        if let Segment::Literal(literal) = &label {
            if literal.len() > LABEL_BYTES_MAX {
                return Err(format!("has a label of more than {LABEL_BYTES_MAX} bytes (RFC 1035 §2.3.4)"));
            }
            if !literal.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) {
                return Err("has a character other than a-z 0-9 - _ in a label".to_owned());
            }
        }
        Ok(label)
    }

    /// `host` is already lower-case, without port and trailing dot.
    pub fn matches<'a>(&self, host: &'a str) -> Option<Captures<'a>> {
        if self.is_exact() {
            return (self.text == host).then(Vec::new);
        }
        // An address in brackets has no labels; `**` or `*` must not reach it by accident of its spelling.
        if host.starts_with('[') || host.split('.').any(str::is_empty) {
            return None;
        }
        // From the right, so that `**` is what remains.
        let mut host_labels = host.rsplit('.');
        let mut captures = Vec::new();
        for label in self.labels.iter().rev() {
            let text = host_labels.next()?;
            if !label.matches(text) {
                return None;
            }
            if let Segment::Capture(name) = label {
                captures.push((name.to_string(), text));
            }
        }
        captures.reverse();
        (host_labels.next().is_some() == self.open_ended).then_some(captures)
    }

    /// As [`HostPattern::matches`]; a capture that `given` has a value for matches that value alone.
    pub fn matches_given(&self, host: &str, given: &[(String, &str)]) -> bool {
        let agrees = |(name, text): &(String, &str)| given.iter().all(|(other, value)| other != name || value == text);
        self.matches(host).is_some_and(|captures| captures.iter().all(agrees))
    }

    /// The host if the pattern has no wildcard and no capture: such patterns go into a hash table.
    pub fn exact(&self) -> Option<&str> {
        self.is_exact().then_some(&self.text)
    }

    fn is_exact(&self) -> bool {
        !self.open_ended && self.labels.iter().all(Segment::is_literal)
    }

    /// Names of the `{captures}` in it, in order.
    pub fn captures(&self) -> Vec<&str> {
        self.labels.iter().filter_map(Segment::capture).collect()
    }

    /// Greater is more specific; equal for two patterns that could both match one host is a load error. More written
    /// labels win, then a pattern without `**`, then the longer one.
    pub fn specificity(&self) -> u64 {
        let literals = self.labels.iter().filter(|label| label.is_literal()).count() as u64;
        // A host has at most 127 labels, so eight bits hold each count.
        (1 << 20) | (literals << 9) | (u64::from(!self.open_ended) << 8) | self.labels.len() as u64
    }

    /// Whether some host matches both.
    pub fn could_overlap(&self, other: &Self) -> bool {
        let lengths_fit = match (self.open_ended, other.open_ended) {
            (false, false) => self.labels.len() == other.labels.len(),
            (true, false) => other.labels.len() > self.labels.len(),
            (false, true) => self.labels.len() > other.labels.len(),
            (true, true) => true,
        };
        let addresses = self.text.starts_with('[') || other.text.starts_with('[');
        if addresses {
            return self.text == other.text;
        }
        let mut pairs = self.labels.iter().rev().zip(other.labels.iter().rev());
        lengths_fit && pairs.all(|(one, other)| one.could_overlap(other))
    }
}

impl HostPattern {
    /// Whether some host matches both, with no way to say which is meant.
    pub(crate) fn ties_with(&self, other: &Self) -> bool {
        self.specificity() == other.specificity() && self.could_overlap(other)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
