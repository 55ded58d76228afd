//! Inventories held against the entries that a SPIRE server has registered. Pure.

use super::list;
use anyhow::Context as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// Registered SPIFFE IDs, each with the end of its last entry in seconds since 1970, if it has one.
pub struct Entries(BTreeMap<String, Option<u64>>);

/// Lines for whoever looks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub unknown: Vec<String>,
    pub stale: Vec<String>,
    pub unused: Vec<String>,
    /// Identities seen of trust domains of which no entry is: another server has them.
    pub elsewhere: usize,
    /// Handshakes whose identities were not kept.
    pub not_kept: u64,
}

impl Entries {
    /// `spire-server entry show -output json`: `{"entries": [{"spiffe_id": {"trust_domain", "path"}, "expires_at"}]}`, or a list
    /// of such objects, where it was asked page by page.
    ///
    /// # Errors
    /// It is something else.
    pub fn read(text: &Value) -> anyhow::Result<Self> {
        let pages: Vec<&Value> = if text.is_array() { list(text).collect() } else { vec![text] };
        let mut by_id = BTreeMap::new();
        for page in pages {
            let entries = page["entries"].as_array().context("it has no list `entries`")?;
            for entry in entries {
                let id = &entry["spiffe_id"];
                let domain = id["trust_domain"].as_str().context("an entry has no `spiffe_id.trust_domain`")?;
                let id = format!("spiffe://{domain}{}", id["path"].as_str().unwrap_or_default());
                let end = expiry(&entry["expires_at"])?;
                // The longest of several counts; 0 is for ever.
                let last = by_id.entry(id).or_insert(Some(0));
                *last = last.zip(end).map(|(one, other)| one.max(other));
            }
        }
        Ok(Self(by_id))
    }

    fn trust_domains(&self) -> BTreeSet<&str> {
        self.0.keys().map(|id| trust_domain(id)).collect()
    }
}

/// 64-bit numbers are texts in the JSON of protocol buffers.
fn expiry(value: &Value) -> anyhow::Result<Option<u64>> {
    let seconds = match value {
        Value::Null => 0,
        Value::String(digits) => digits.parse().context("an `expires_at` is no number")?,
        number => number.as_u64().context("an `expires_at` is no number")?,
    };
    Ok(Some(seconds).filter(|seconds| *seconds > 0))
}

/// Of all `inventories` together: an entry is used when one of them saw it.
pub fn compare(entries: &Entries, inventories: &[Value], now: SystemTime) -> Findings {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let domains = entries.trust_domains();
    let mut findings = Findings::default();
    let mut own = BTreeSet::new();
    let mut peers = BTreeSet::new();
    for inventory in inventories {
        for svid in list(&inventory["identities"]["svids"]) {
            let Some(id) = svid["spiffe_id"].as_str() else { continue };
            own.insert(id);
            if svid["expires_in_seconds"].as_i64().is_some_and(|left| left <= 0) {
                findings.stale.push(format!("{id}: our SVID has expired"));
            }
        }
        let seen = list(&inventory["peers"]).chain(list(&inventory["seen"])).chain(list(&inventory["caller_tokens"]));
        peers.extend(seen.filter_map(|peer| peer["spiffe_id"].as_str()));
        findings.not_kept += inventory["seen_not_kept"].as_u64().unwrap_or(0);
    }
    for id in own.union(&peers) {
        if !domains.contains(trust_domain(id)) {
            findings.elsewhere += 1;
            continue;
        }
        let is_own = own.contains(id);
        match entries.0.get(*id) {
            None if is_own => findings.stale.push(format!("{id}: our SVID has no entry")),
            None => findings.unknown.push((*id).to_owned()),
            Some(Some(end)) if *end <= now => findings.stale.push(format!("{id}: its entry has expired")),
            Some(_) => {}
        }
    }
    let is_unused = |id: &&String| !own.contains(id.as_str()) && !peers.contains(id.as_str());
    findings.unused = entries.0.keys().filter(is_unused).cloned().collect();
    findings
}

fn trust_domain(id: &str) -> &str {
    let rest = id.strip_prefix("spiffe://").unwrap_or(id);
    rest.split_once('/').map_or(rest, |(domain, _)| domain)
}
