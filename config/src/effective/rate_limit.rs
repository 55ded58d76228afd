//! One rate limit written out.

use crate::rate_limit::{CountedBy, RateLimit};
use crate::units::print_duration;
use serde_json::{Value, json};

pub(super) fn rate_limit(limit: RateLimit) -> Value {
    let by = match limit.by {
        CountedBy::Identity => "identity",
        CountedBy::Source => "source",
        CountedBy::Everyone => "everyone",
    };
    json!({ "requests": limit.requests, "per": print_duration(limit.per), "burst": limit.burst, "by": by })
}
