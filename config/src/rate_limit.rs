//! `rate_limit:` of a port or route: how many requests a caller may make in a time.

use crate::bounds::Count;
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::values::Span;
use crate::yaml::Node;
use schemars::JsonSchema;
use std::time::Duration;

/// More is no limit.
const REQUESTS_MAX: u32 = 1_000_000;
/// So long a caller may have to wait for its next request.
const PER_MAX: Duration = Duration::from_secs(24 * 3600);

/// A token bucket for each caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In `per`, in the long run. From 1 to a million.
    pub requests: u32,
    pub per: Duration,
    /// At once, after a time without any. Default: `requests`.
    pub burst: u32,
    pub by: CountedBy,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum CountedBy {
    /// The caller's SPIFFE ID; callers without one by their address.
    #[default]
    Identity,
    /// The address that connected; IPv6 by its first 64 bits.
    Source,
    /// All callers together.
    Everyone,
}

/// How many requests a caller may make in a time; more are refused with 429.
#[derive(JsonSchema)]
#[schemars(rename = "RateLimit", deny_unknown_fields, extend("required" = ["requests", "per"]))]
pub(crate) struct RawRateLimit {
    /// How many in `per`, in the long run; up to 1,000,000.
    requests: Field<Count>,
    /// The time in which so many are let through; up to 24h.
    per: Field<Span>,
    /// How many at once, after a time without any; up to 1,000,000.
    #[schemars(extend("x-default" = "as many as `requests`"))]
    burst: Field<Count>,
    /// Whose requests are counted together: those of one `identity` (of callers without one: of one address), of one `source`
    /// address, or of `everyone`.
    #[schemars(extend("default" = "identity"))]
    by: Field<CountedBy>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawRateLimit {
    const NAME: &'static str = "`rate_limit`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            requests: keys.required("requests", "write how many, such as `requests: 100`"),
            per: keys.required("per", "write in which time, such as `per: 1s`"),
            burst: keys.optional("burst"),
            by: keys.optional("by"),
            place: keys.place(),
        }
    }
}

impl RawRateLimit {
    /// `None`: its problems have been told.
    pub fn check(self, reader: &mut Reader) -> Option<RateLimit> {
        let (Count(requests), Span(per)) = (self.requests.into_option()?, self.per.into_option()?);
        let burst = self.burst.into_option().map_or(requests, |count| count.0);
        if requests > REQUESTS_MAX || burst > REQUESTS_MAX {
            let hint = format!("write {REQUESTS_MAX} or less, or remove `rate_limit`");
            reader.problem(&self.place, format!("more than {REQUESTS_MAX} requests are no limit"), hint);
            return None;
        }
        if per > PER_MAX {
            reader.problem(&self.place, "`per` is longer than 24h", "write how many in a shorter time");
            return None;
        }
        Some(RateLimit { requests, per, burst, by: self.by.or_default() })
    }
}

impl FromNode for CountedBy {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("identity", Self::Identity), ("source", Self::Source), ("everyone", Self::Everyone)])
    }
}

#[cfg(test)]
mod tests {
    use super::{CountedBy, RateLimit};
    use crate::Config;
    use std::path::Path;
    use std::time::Duration;

    fn load(limit: &str) -> Result<RateLimit, String> {
        let text = format!(
            "inbound:\n  - port: 80\n    allow: [{{ spiffe: 'spiffe://td/a' }}]\n    rate_limit: {{ {limit} }}\n    \
             routes: [{{ match: {{ path: /a }}, rate_limit: {{ {limit} }} }}]\n"
        );
        let config = Config::from_str(Path::new("t.yaml"), &text).map_err(|problems| problems.to_string())?;
        let again = Config::from_str(Path::new("t.yaml"), &config.to_effective_yaml()).expect("reads again");
        assert!(again.same_as(&config), "{}", config.to_effective_yaml());
        let port = &config.inbound[0];
        assert_eq!(port.rate_limit, port.routes[0].rate_limit);
        assert!(port.is_about_requests(), "what is no request could not be counted");
        Ok(port.rate_limit.expect("a limit"))
    }

    #[test]
    fn a_limit_is_read_and_has_its_bounds() {
        let second = Duration::from_secs(1);
        let expected = RateLimit { requests: 5, per: second, burst: 5, by: CountedBy::Identity };
        assert_eq!(load("requests: 5, per: 1s"), Ok(expected));
        let expected = RateLimit { burst: 9, by: CountedBy::Source, ..expected };
        assert_eq!(load("requests: 5, per: 1s, burst: 9, by: source"), Ok(expected));
        assert_eq!(load("requests: 1000000, per: 24h").map(|limit| limit.requests), Ok(1_000_000));
        for (limit, expected) in [
            ("requests: 1000001, per: 1s", "are no limit"),
            ("requests: 1, per: 1s, burst: 1000001", "are no limit"),
            ("requests: 1, per: 25h", "longer than 24h"),
            ("requests: 0, per: 1s", "requests: 0"),
            ("requests: 1, per: 0s", "per: 0s"),
            ("requests: 1", "`per` is missing"),
            ("requests: 1, per: 1s, by: route", "is not known"),
        ] {
            let problems = load(limit).expect_err(limit);
            assert!(problems.contains(expected), "{limit}: {problems}");
        }
    }
}
