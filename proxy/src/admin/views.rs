//! What the endpoints show, as JSON. No secret has a way in: keys do not implement `Serialize`.

use super::AdminState;
use crate::identity::tokens::{HeldToken, OwnTokens};
use crate::identity::{Anchor, Counters, Snapshot, SourceStatus};
use crate::telemetry::json::rfc3339;
use crate::telemetry::upstream_counters::Retry;
use crate::token::KeySet;
use serde_json::{Map, Value, json};
use std::time::SystemTime;

pub(super) fn version() -> Value {
    json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "optimized" },
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "tls": { "library": "rustls", "provider": "aws-lc-rs", "post_quantum": true, "fips": false },
    })
}

pub(super) fn readiness(missing: &[(&'static str, String)], notes: &[String]) -> Value {
    let reasons = missing.iter().map(|(name, reason)| json!({ "condition": name, "reason": reason }));
    json!({ "ready": missing.is_empty(), "missing": reasons.collect::<Vec<_>>(), "notes": notes })
}

pub(super) fn state(state: &AdminState, now: SystemTime) -> Value {
    let config = state.config_status.load();
    let identity = state.identity.load();
    let missing = state.readiness.missing();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "started_at": rfc3339(state.started_at),
        "uptime_seconds": now.duration_since(state.started_at).map_or(0, |uptime| uptime.as_secs()),
        "readiness": readiness(&missing, &state.notes()),
        "identity": {
            "state": identity.state(now).as_str(),
            "generation": identity.generation,
            "source": source(&identity.source),
        },
        "config": {
            "generation": config.generation,
            "digest": config.digest,
            "loaded_at": config.loaded_at.map(rfc3339),
            "last_error": config.last_error,
        },
        "log": state.log.current(),
        "access_log": { "enabled": state.access_log.enabled(), "dropped": state.metrics.access_log_dropped_so_far() },
        "ports": ports(state),
    })
}

fn ports(state: &AdminState) -> Vec<Value> {
    let ports = state.metrics.ports().into_iter().map(|(direction, name, port)| {
        let figures = port.figures();
        let mut refusals: Vec<_> = figures.refusals.iter().map(|(refusal, count)| (refusal.code(), *count)).collect();
        refusals.sort_unstable();
        let refusals: Map<String, Value> =
            refusals.into_iter().map(|(code, count)| (code.to_owned(), json!(count))).collect();
        json!({
            "direction": direction.as_str(),
            "name": name,
            "connections_active": figures.connections_active,
            "connections_opened": figures.connections_opened,
            "requests": figures.requests.iter().sum::<u64>() + figures.requests_unanswered,
            "requests_active": figures.requests_active,
            "refusals": refusals,
            "retries": Retry::ALL.iter().map(|retry| figures.upstream.retries(*retry)).sum::<u64>(),
            "endpoints_ejected": figures.upstream.ejected(),
            "ejections": figures.upstream.ejections(),
        })
    });
    ports.collect()
}

fn source(status: &SourceStatus) -> Value {
    match status {
        SourceStatus::Waiting { reason } => json!({ "status": "waiting", "reason": reason }),
        SourceStatus::Connected => json!({ "status": "connected" }),
        SourceStatus::Broken { since, reason } => {
            json!({ "status": "broken", "since": rfc3339(*since), "reason": reason })
        }
        SourceStatus::Denied { since, cut } => {
            json!({ "status": "denied", "since": rfc3339(*since), "connections_cut": cut })
        }
    }
}

pub(super) fn identities(snapshot: &Snapshot, counters: &Counters, own_tokens: &OwnTokens, now: SystemTime) -> Value {
    let svids = snapshot.svids.iter().map(|svid| {
        json!({
            "spiffe_id": svid.id.as_str(),
            "hint": svid.hint,
            "serial": svid.serial,
            "sha256": hex(&svid.fingerprint),
            "authority": hex(&svid.authority.0),
            "not_before": rfc3339(svid.not_before),
            "not_after": rfc3339(svid.not_after),
            "age_seconds": -seconds_until(svid.not_before, now),
            "expires_in_seconds": seconds_until(svid.not_after, now),
        })
    });
    let mut bundles: Vec<_> = snapshot.bundles.values().collect();
    bundles.sort_unstable_by(|one, other| one.trust_domain.cmp(&other.trust_domain));
    let bundles = bundles.into_iter().map(|bundle| {
        json!({
            "trust_domain": bundle.trust_domain.as_str(),
            "updated_at": rfc3339(bundle.updated_at),
            "fetched": bundle.fetched,
            "authorities": bundle.anchors.iter().map(|anchor| authority(anchor, now)).collect::<Vec<_>>(),
        })
    });
    json!({
        "state": snapshot.state(now).as_str(),
        "generation": snapshot.generation,
        "source": source(&snapshot.source),
        "received_at": snapshot.received_at.map(rfc3339),
        "svids": svids.collect::<Vec<_>>(),
        "bundles": bundles.collect::<Vec<_>>(),
        "token_keys": token_keys(snapshot),
        "issuer_keys": issuer_keys(snapshot),
        "tokens": own_tokens.held().into_iter().map(|token| own_token(&token, now)).collect::<Vec<_>>(),
        "bundle_endpoints": bundle_endpoints(counters),
        "issuers": issuers(counters),
    })
}

fn token_keys(snapshot: &Snapshot) -> Vec<Value> {
    let mut sets: Vec<_> = snapshot.token_keys.iter().collect();
    sets.sort_unstable_by_key(|(trust_domain, _)| trust_domain.as_str());
    let keys = sets.into_iter().map(|(trust_domain, set)| {
        json!({ "trust_domain": trust_domain.as_str(), "keys": usable(set), "ignored": set.ignored().len() })
    });
    keys.collect()
}

/// Of issuers that are no trust domain. One of which there are no keys is not among them.
fn issuer_keys(snapshot: &Snapshot) -> Vec<Value> {
    let mut sets: Vec<_> = snapshot.issuer_keys.iter().collect();
    sets.sort_unstable_by_key(|(issuer, _)| issuer.as_str());
    let keys = sets
        .into_iter()
        .map(|(issuer, set)| json!({ "issuer": issuer, "keys": usable(set), "ignored": set.ignored().len() }));
    keys.collect()
}

fn usable(set: &KeySet) -> Vec<Value> {
    let usable = set.keys().iter().map(|key| {
        let algorithms: Vec<_> = key.prepared.algorithms().map(|algorithm| algorithm.to_string()).collect();
        json!({ "key_id": key.key_id, "algorithms": algorithms })
    });
    usable.collect()
}

/// For whom and until when, and never the token.
fn own_token(token: &HeldToken, now: SystemTime) -> Value {
    json!({
        "spiffe_id": token.own.as_str(),
        "audience": token.audience,
        "fetched_at": token.fetched_at.map(rfc3339),
        "expires_at": token.expires_at.map(rfc3339),
        "age_seconds": token.fetched_at.map(|at| -seconds_until(at, now)),
        "expires_in_seconds": token.expires_at.map(|end| seconds_until(end, now)),
        "uses": token.uses,
        "last_use_at": (token.uses > 0).then(|| rfc3339(token.used_at)),
        "last_error": token.last_error,
    })
}

fn bundle_endpoints(counters: &Counters) -> Vec<Value> {
    let endpoints = counters.fetches().into_iter().map(|(trust_domain, fetches)| {
        json!({
            "trust_domain": trust_domain.as_str(),
            "succeeded": fetches.succeeded,
            "failed": fetches.failed,
            "last_success": fetches.last_success.map(rfc3339),
            "last_error": fetches.last_error,
        })
    });
    endpoints.collect()
}

/// By their names in the file; those of which there are no keys too.
fn issuers(counters: &Counters) -> Vec<Value> {
    let issuers = counters.issuers().into_iter().map(|(name, figures)| {
        json!({
            "name": name,
            "keys": figures.keys,
            "succeeded": figures.fetches.succeeded,
            "failed": figures.fetches.failed,
            "last_success": figures.fetches.last_success.map(rfc3339),
            "last_error": figures.fetches.last_error,
        })
    });
    issuers.collect()
}

fn authority(anchor: &Anchor, now: SystemTime) -> Value {
    json!({
        "id": hex(&anchor.authority.0),
        "not_before": rfc3339(anchor.not_before),
        "not_after": rfc3339(anchor.not_after),
        "age_seconds": -seconds_until(anchor.not_before, now),
        "expires_in_seconds": seconds_until(anchor.not_after, now),
    })
}

/// Negative once it is past.
pub(super) fn seconds_until(at: SystemTime, now: SystemTime) -> i64 {
    let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match at.duration_since(now) {
        Ok(left) => whole(left.as_secs()),
        Err(error) => -whole(error.duration().as_secs()),
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
