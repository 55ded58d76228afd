//! What keeps a service's bad moment from becoming everybody's: retries within a budget, endpoints passed over, limits.

use crate::bounds::Count;
use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::values::{Span, scalar_schema};
use crate::yaml::Node;
use schemars::JsonSchema;
use std::time::Duration;

/// All of it is counted by each worker for itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Resilience {
    /// From a request's head to the end of its answer. `None`: as long as something moves.
    pub request_timeout: Option<Duration>,
    pub retries: Retries,
    pub outliers: Outliers,
    pub limits: ServiceLimits,
}

/// How many requests may be sent again (PEERS D2: 20 %). What may be sent again at all is not a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Of all requests, in percent. Default 20.
    pub share_percent: u8,
    /// A second besides, so that a service with few requests has some too. Default 3.
    pub per_second: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { share_percent: 20, per_second: 3 }
    }
}

/// When an endpoint is passed over, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// Requests in a row that got no whole answer. Connecting in vain counts at once. Default 5.
    pub failures: u32,
    /// The first time; each time after it twice as long. Default 3 s.
    pub ejection: Duration,
    /// At most. Default 60 s.
    pub ejection_max: Duration,
    /// Of the service's endpoints, in percent. Default 50.
    pub share_max_percent: u8,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            failures: 5,
            ejection: Duration::from_secs(3),
            ejection_max: Duration::from_secs(60),
            share_max_percent: 50,
        }
    }
}

/// What one worker asks of the service at once (PEERS D2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Open connections. `None`: as many as the requests need.
    pub connections: Option<usize>,
    /// Requests under way. Default 10,000.
    pub requests: usize,
    /// Requests and connections that wait for a place among those. Default 1,000.
    pub pending: usize,
    /// How long they wait. Default 1 s.
    pub pending_timeout: Duration,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self { connections: None, requests: 10_000, pending: 1000, pending_timeout: Duration::from_secs(1) }
    }
}

/// A whole number of hundredths: `20%`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent(pub u8);

impl FromNode for Percent {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        const WORDS: &str = "a whole percentage from `0%` to `100%`";
        let text = reader.scalar(node, WORDS)?;
        match text.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|percent| *percent <= 100) {
            Some(percent) => Some(Self(percent)),
            None => {
                reader.wrong(node, format!("is not {WORDS}"), "write such as `20%`");
                None
            }
        }
    }
}

scalar_schema!(Percent, "percentage", { "type": "string", "title": "percentage", "pattern": "^([0-9]|[1-9][0-9]|100)%$" });

/// A whole number from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountOrZero(pub u32);

impl FromNode for CountOrZero {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.number(node, 0, u64::from(u32::MAX)).and_then(|number| number.try_into().ok()).map(Self)
    }
}

scalar_schema!(CountOrZero, "count, may be zero", { "type": "integer", "title": "count", "minimum": 0, "maximum": 0xffff_ffff_u32 });

/// How many requests may be sent again, to all endpoints of the service. Only those are that nobody can have noticed:
/// HTTP/2 streams that the other side says it did not process, and idempotent requests (RFC 9110 §9.2.2) without a body
/// whose reused connection ended before a byte of answer; each once.
#[derive(JsonSchema)]
#[schemars(rename = "Retries", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawRetries {
    /// Of all requests. Saved up for 100 retries at most.
    #[schemars(extend("default" = "20%"))]
    share: Field<Percent>,
    /// Besides, for each second, so that a service with few requests has some too.
    #[schemars(extend("default" = 3))]
    per_second: Field<CountOrZero>,
}

impl Section for RawRetries {
    const NAME: &'static str = "`retries`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { share: keys.optional("share"), per_second: keys.optional("per_second") }
    }
}

impl RawRetries {
    pub fn check(self) -> Retries {
        let Retries { share_percent, per_second } = Retries::default();
        Retries {
            share_percent: self.share.or(Percent(share_percent)).0,
            per_second: self.per_second.or(CountOrZero(per_second)).0,
        }
    }
}

/// When one of several endpoints is passed over. A single one never is.
#[derive(JsonSchema)]
#[schemars(rename = "Outliers", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawOutliers {
    /// After how many requests in a row whose connection broke before there was an answer, or that the peer's sidecar
    /// could not pass on. An endpoint that cannot be connected to is passed over at once.
    #[schemars(extend("default" = 5))]
    failures: Field<Count>,
    /// How long the first time. Each time after it takes twice as long, until a request is answered.
    #[schemars(extend("default" = "3s"))]
    ejection: Field<Span>,
    /// How long at most.
    #[schemars(extend("default" = "1m"))]
    ejection_max: Field<Span>,
    /// How many of the endpoints at most for failed requests. Those above it are used all the same. What cannot be
    /// connected to is passed over however many there are, and used when nothing else is left.
    #[schemars(extend("default" = "50%"))]
    share_max: Field<Percent>,
}

impl Section for RawOutliers {
    const NAME: &'static str = "`outliers`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            failures: keys.optional("failures"),
            ejection: keys.optional("ejection"),
            ejection_max: keys.optional("ejection_max"),
            share_max: keys.optional("share_max"),
        }
    }
}

impl RawOutliers {
    pub fn check(self, reader: &mut Reader) -> Outliers {
        let defaults = Outliers::default();
        let max_place = self.ejection_max.place().cloned();
        let ejection = self.ejection.or(Span(defaults.ejection)).0;
        let ejection_max = self.ejection_max.or(Span(defaults.ejection_max.max(ejection))).0;
        if let (true, Some(place)) = (ejection_max < ejection, max_place) {
            let hint = "write a longer `ejection_max`, or a shorter `ejection`";
            reader.problem(&place, "`ejection_max` is shorter than `ejection`", hint);
        }
        Outliers {
            failures: self.failures.or(Count(defaults.failures)).0,
            ejection,
            ejection_max,
            share_max_percent: self.share_max.or(Percent(defaults.share_max_percent)).0,
        }
    }
}

/// What each worker asks of the service at once. What is above it waits for a moment, and is then refused as
/// `over_limit`.
#[derive(JsonSchema)]
#[schemars(rename = "ServiceLimits", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawServiceLimits {
    /// Open connections, pooled ones and tunnels.
    #[schemars(extend("x-default" = "as many as the requests need"))]
    connections: Field<Count>,
    /// Requests under way.
    #[schemars(extend("default" = 10_000))]
    requests: Field<Count>,
    /// Requests and connections that wait for a place among those.
    #[schemars(extend("default" = 1000))]
    pending: Field<CountOrZero>,
    /// How long they wait.
    #[schemars(extend("default" = "1s"))]
    pending_timeout: Field<Span>,
}

impl Section for RawServiceLimits {
    const NAME: &'static str = "a service's `limits`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            connections: keys.optional("connections"),
            requests: keys.optional("requests"),
            pending: keys.optional("pending"),
            pending_timeout: keys.optional("pending_timeout"),
        }
    }
}

impl RawServiceLimits {
    pub fn check(self) -> ServiceLimits {
        let defaults = ServiceLimits::default();
        ServiceLimits {
            connections: self.connections.into_option().map(Count::as_usize),
            requests: self.requests.into_option().map_or(defaults.requests, Count::as_usize),
            pending: self.pending.into_option().map_or(defaults.pending, |count| count.0 as usize),
            pending_timeout: self.pending_timeout.or(Span(defaults.pending_timeout)).0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Outliers, Retries, ServiceLimits};
    use crate::Config;
    use std::path::Path;
    use std::time::Duration;

    fn load(lines: &str) -> Result<Config, String> {
        let text = format!(
            "outbound:\n  services:\n  - name: a\n    hosts: [a.example]\n    identity: spiffe://example.org/a\n    {}\n",
            lines.replace('\n', "\n    ")
        );
        Config::from_str(Path::new("test.yaml"), &text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_not_written_has_the_defaults_of_its_section() {
        let config =
            load("retries: { per_second: 0 }\noutliers: { ejection: 2m }\nlimits: { requests: 7 }").expect("valid");
        let resilience = &config.outbound.services[0].resilience;
        assert_eq!(resilience.request_timeout, None);
        assert_eq!(resilience.retries, Retries { share_percent: 20, per_second: 0 });
        assert_eq!(resilience.limits, ServiceLimits { requests: 7, ..ServiceLimits::default() });
        // The longest is never shorter than the first.
        let two_minutes = Duration::from_secs(120);
        let expected = Outliers { ejection: two_minutes, ejection_max: two_minutes, ..Outliers::default() };
        assert_eq!(resilience.outliers, expected);
    }

    #[test]
    fn refuses_what_means_nothing() {
        for (lines, expected) in [
            ("retries: { share: 20 }", "is not a whole percentage"),
            ("retries: { share: 101% }", "is not a whole percentage"),
            ("retries: { share: -1% }", "is not a whole percentage"),
            ("outliers: { failures: 0 }", "is not a whole number from 1"),
            ("outliers: { ejection: 10s, ejection_max: 5s }", "`ejection_max` is shorter than `ejection`"),
            ("limits: { requests: 0 }", "is not a whole number from 1"),
            ("limits: { pending_timeout: 0s }", "would end everything at once"),
            ("request_timeout: 0s", "would end everything at once"),
            ("protocol: tcp\nlisten: 127.0.0.1:1\nrequest_timeout: 1s", "`request_timeout` is for HTTP"),
            ("protocol: tls\nretries: {}", "`retries` is for HTTP"),
        ] {
            let problems = load(lines).expect_err(lines);
            assert!(problems.contains(expected), "{lines}: {problems}");
        }
    }
}
