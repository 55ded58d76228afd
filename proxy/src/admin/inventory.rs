//! `GET /inventory`: every credential that this process holds or has seen, what takes trust back, and which policy decides.
//!
//! What other endpoints show is shown as there.

use super::{AdminState, ConnectionInfo, TokenInfo, levers, views};
use crate::break_glass::Active;
use crate::identity::{AuthorityId, Snapshot};
use crate::telemetry::json::rfc3339;
use crate::tls::certificate::hex;
use crate::tls::crl::Crl;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) async fn inventory(state: &AdminState, now: SystemTime) -> Value {
    let connections = (state.connections)().await;
    let caller_tokens = tokens((state.tokens)().await, now);
    let identity = state.identity.load();
    let config = state.config_status.load();
    let counters = state.metrics.identity_counters();
    let (seen, not_kept) = state.seen.all();
    let seen: Vec<_> = seen
        .into_iter()
        .map(|(id, last)| json!({ "spiffe_id": id.as_str(), "last_handshake_at": rfc3339(last) }))
        .collect();
    json!({
        "taken_at": rfc3339(now),
        "version": env!("CARGO_PKG_VERSION"),
        "started_at": rfc3339(state.started_at),
        "policy": { "digest": config.digest, "generation": config.generation },
        "identities": views::identities(&identity, &counters, &state.own_tokens, now),
        "peers": peers(&connections, now),
        "caller_tokens": caller_tokens,
        "seen": seen,
        "seen_not_kept": not_kept,
        "revocation_lists": lists(&identity, now),
        "denied": levers::denied(state),
        "break_glass": state.break_glass.load().as_deref().map(override_of),
    })
}

/// Certificates of peers that have live connections, by SPIFFE ID and certificate.
fn peers(connections: &[ConnectionInfo], now: SystemTime) -> Vec<Value> {
    let mut by_certificate: BTreeMap<(&str, &str), Vec<&ConnectionInfo>> = BTreeMap::new();
    for connection in connections {
        if let (Some(id), Some(sha256)) = (&connection.peer_spiffe_id, &connection.peer_sha256) {
            by_certificate.entry((id, sha256)).or_default().push(connection);
        }
    }
    let peers = by_certificate.into_iter().map(|((id, sha256), connections)| {
        let first = connections[0];
        let oldest = connections.iter().map(|connection| connection.opened_at.as_str()).min();
        json!({
            "spiffe_id": id,
            "sha256": sha256,
            "serial": first.peer_serial,
            "authority": first.peer_authority,
            "not_after": first.peer_not_after,
            "expires_in_seconds": first.peer_not_after.as_deref().and_then(|end| seconds_until(end, now)),
            "connections": connections.len(),
            "oldest_opened_at": oldest,
        })
    });
    peers.collect()
}

fn seconds_until(end: &str, now: SystemTime) -> Option<i64> {
    let end = OffsetDateTime::parse(end, &Rfc3339).ok()?;
    Some((end - OffsetDateTime::from(now)).whole_seconds())
}

/// Each once, though several workers may have seen it.
fn tokens(tokens: Vec<TokenInfo>, now: SystemTime) -> Vec<Value> {
    let mut by_id: BTreeMap<[u8; 32], TokenInfo> = BTreeMap::new();
    for token in tokens {
        let used_at = token.used_at;
        let known = by_id.entry(token.id_hash).or_insert(token);
        known.used_at = known.used_at.max(used_at);
    }
    let rows = by_id.values().map(|token| {
        json!({
            "subject": token.subject,
            "spiffe_id": token.is_svid.then_some(&token.subject),
            "issuer": token.issuer,
            "audience": token.audience,
            "sha256": hex(&token.id_hash),
            "age_seconds": token.issued_at.map(|at| -views::seconds_until(at, now)),
            "expires_in_seconds": views::seconds_until(token.expires_at, now),
            "last_use_at": rfc3339(token.used_at),
        })
    });
    rows.collect()
}

/// One row for each list and the authority that it is of.
fn lists(identity: &Snapshot, now: SystemTime) -> Vec<Value> {
    let bound = &identity.revocations.lists;
    let row = |list: &Crl, authority: Option<&AuthorityId>| {
        json!({
            "sha256": hex(&list.digest),
            "authority": authority.map(|authority| hex(&authority.0)),
            "this_update": rfc3339(list.this_update),
            "next_update": list.next_update.map(rfc3339),
            "stale": list.is_stale(now),
        })
    };
    let mut rows: Vec<_> =
        bound.iter().flat_map(|(authority, by)| by.0.iter().map(|list| row(list, Some(authority)))).collect();
    rows.extend(bound.unbound.iter().map(|list| row(list, None)));
    rows
}

fn override_of(active: &Active) -> Value {
    json!({
        "reason": active.written.reason,
        "author": active.written.author,
        "until": active.written.until_text(),
        "sha256": active.digest,
        "signer": active.signer,
    })
}
