//! Tokens against the SPIFFE checklist (C-3) and the threat catalogue (JW), other issuers' tokens, key sets, and properties.

pub(crate) mod cases;
mod issuers;
mod key_sets;
mod properties;
mod rows;
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
pub(crate) mod signers;

use super::keys::{KeySet, Origin};
use super::{Expectation, Presenter, TokenProblem, Trust, Verified, judge};
use cases::{AUDIENCE, Case, LEEWAY, Verdict, World, all};
use postern_config::TrustDomain;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

/// 2026-11-22, always.
pub(crate) const NOW: u64 = 1_795_305_600;

pub(crate) static WORLD: LazyLock<World> = LazyLock::new(|| World::new(NOW));
pub(crate) static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| all(&WORLD));
static AUDIENCES: LazyLock<Vec<String>> = LazyLock::new(|| vec![AUDIENCE.to_owned()]);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn expectation() -> Expectation<'static> {
    Expectation { audiences: &AUDIENCES, leeway: Duration::from_secs(LEEWAY), presenter: Presenter::Unknown }
}

fn key_set(document: &Value, origin: Origin) -> KeySet {
    KeySet::parse(document.to_string().as_bytes(), origin).unwrap_or_else(|error| panic!("{document}: {error}"))
}

fn trusted(bundles: &[(&str, Value)], origin: Origin) -> HashMap<TrustDomain, Arc<KeySet>> {
    let bundle = |(name, document): &(&str, Value)| {
        (TrustDomain::parse(name).expect("a trust domain"), Arc::new(key_set(document, origin)))
    };
    bundles.iter().map(bundle).collect()
}

/// The token of the case, or another, as the case would have it judged.
fn judged(case: &Case, token: &[u8]) -> Result<Verified, TokenProblem> {
    let origin = if case.spiffe_bundles { Origin::SpiffeBundle } else { Origin::WorkloadApi };
    let bundles = trusted(&case.bundles, origin);
    judge(token, &Trust::TrustDomains(&bundles), &expectation(), at(NOW))
}

fn verdict(case: &Case) -> Verdict {
    match judged(case, case.token.as_bytes()) {
        Ok(_) => Verdict::Accepted,
        Err(problem) => Verdict::Refused(problem.code()),
    }
}

/// Every case of one row of the checklists.
fn check(row: &str) {
    let of_row: Vec<_> = CASES.iter().filter(|case| case.name.split(' ').any(|word| word == row)).collect();
    assert!(!of_row.is_empty(), "no case of {row}");
    let found = of_row.into_iter().map(|case| (&case.name, case.verdict, verdict(case)));
    let wrong: Vec<_> = found.filter(|(_, expected, found)| expected != found).collect();
    assert!(wrong.is_empty(), "name, expected, found: {wrong:#?}");
}
