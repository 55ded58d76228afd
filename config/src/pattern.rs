//! Host, path and SPIFFE ID patterns: parse, match, print. Pure: bytes in, verdict out.

use crate::spiffe_id::SpiffeId;
use std::fmt;

/// Which SPIFFE IDs: an exact ID, `spiffe://td/**` (everything in the trust domain), or segments of which some are `*`
/// (exactly one segment) and the last may be `**` (one or more). `{name}` stands for a capture of the host pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffePattern {
    text: String,
}

impl SpiffePattern {
    /// # Errors
    /// Words for the operator that name the rule broken.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned() })
    }

    pub fn matches(&self, id: &SpiffeId) -> bool {
        self.text == id.as_str()
    }

    /// Names of the `{captures}` in it, in order.
    pub fn captures(&self) -> Vec<&str> {
        Vec::new()
    }

    /// The pattern with its captures replaced; every value is one host label, so it is one path segment.
    pub fn expand(&self, captures: &Captures<'_>) -> Option<SpiffePattern> {
        let _ = captures;
        Some(self.clone())
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the `{names}` of a host pattern stood for.
pub type Captures<'a> = Vec<(String, &'a str)>;

/// Which hosts: exact (`payments.shop.svc`), or labels of which some are `*` or `{name}` (exactly one label each), with
/// `**` allowed as the first (one or more labels). Compared in lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    text: String,
}

impl HostPattern {
    /// # Errors
    /// Words for the operator that name the rule broken.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned() })
    }

    /// `host` is already lower-case, without port and trailing dot.
    pub fn matches<'a>(&self, host: &'a str) -> Option<Captures<'a>> {
        (self.text == host).then(Vec::new)
    }

    /// The host if the pattern has no wildcard and no capture: such patterns go into a hash table.
    pub fn exact(&self) -> Option<&str> {
        Some(&self.text)
    }

    /// Greater is more specific; equal for two patterns that could both match one host is a load error.
    pub fn specificity(&self) -> u64 {
        0
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which paths: exact (`/orders`), template (`/orders/{id}/items`: `{name}` or `*` is exactly one segment), and `/**`
/// as the end for the path itself and everything below it (segment-aware: `/admin/**` matches `/admin`, `/admin/`,
/// `/admin/x`, never `/administrator`). `/**` alone is every path. A request's `*` is data (THREATS PN-22).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    text: String,
}

impl PathPattern {
    /// # Errors
    /// Words for the operator that name the rule broken.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned() })
    }

    /// `path` is one reading of a request's path, without query.
    pub fn matches(&self, path: &str) -> bool {
        self.text == path
    }

    /// Greater is more specific: exact before template before prefix, longer before shorter.
    pub fn specificity(&self) -> u64 {
        0
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
