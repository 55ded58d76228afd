//! What an operator can ask a running process, and the little that can be changed in it.
//!
//! Four doors: metrics and readiness on TCP ports of their own, the admin endpoints on a unix socket (callers checked by
//! peer credentials) and, when asked for, read-only on loopback TCP. None is reachable through the data path, and all
//! run beside it: a slow or greedy caller here costs only itself ([`door`]).
//!
//! Reading order: [`endpoints`] (the table), [`door`] (accepting, deadlines), [`socket`], [`readiness`].

mod door;
mod endpoints;
mod inventory;
mod levers;
pub mod readiness;
mod socket;
mod views;

pub use readiness::{Condition, Readiness};
pub use socket::{AllowedUids, bind_unix_socket, own_uid};

use crate::audit::AuditLog;
use crate::break_glass::{self, InForce};
use crate::capture::CloseAsked;
use crate::identity::IdentityStore;
use crate::identity::tokens::OwnTokens;
use crate::revocation::{Gate, Levers};
use crate::seen::SeenPeers;
use crate::telemetry::{AccessLog, LogHandle, Metrics};
use crate::token::{Subject, Verified};
use arc_swap::ArcSwap;
use endpoints::Door;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::{TcpListener, UnixListener};

/// Everything that the endpoints read or call.
pub struct AdminState {
    pub identity: Arc<IdentityStore>,
    pub own_tokens: Arc<OwnTokens>,
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub log: LogHandle,
    /// What runs, as JSON.
    pub effective_config: ArcSwap<String>,
    /// Asks every worker for its live connections.
    pub connections: Box<dyn Fn() -> BoxFuture<'static, Vec<ConnectionInfo>> + Send + Sync>,
    /// Asks every worker for the callers' tokens that it remembers.
    pub tokens: Box<dyn Fn() -> BoxFuture<'static, Vec<TokenInfo>> + Send + Sync>,
    /// Asks every worker why a request was refused, by its decision's id. `None`: nobody remembers it.
    pub explain: Box<ExplainDecision>,
    /// Starts a drain, as SIGTERM does.
    pub drain: Box<dyn Fn() + Send + Sync>,
    pub access_log: AccessLog,
    pub audit: AuditLog,
    pub gate: Arc<Gate>,
    pub levers: Arc<Levers>,
    pub break_glass: InForce,
    pub seen: Arc<SeenPeers>,
    pub started_at: SystemTime,
    pub config_status: ArcSwap<ConfigStatus>,
}

type ExplainDecision = dyn Fn(&str) -> BoxFuture<'static, Option<Value>> + Send + Sync;

impl AdminState {
    /// What stands in no one's way, and has to be known.
    fn notes(&self) -> Vec<String> {
        let mut notes = self.readiness.notes();
        notes.extend(self.break_glass.load().as_deref().map(break_glass::note));
        notes
    }
}

/// Which configuration runs, and what became of the last attempt to replace it.
#[derive(Clone, Debug, Default)]
pub struct ConfigStatus {
    pub generation: u64,
    pub digest: String,
    pub loaded_at: Option<SystemTime>,
    /// All problems of the last file that was refused; `None` when the last attempt was taken.
    pub last_error: Option<String>,
}

/// A live connection. Times are RFC 3339.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionInfo {
    pub id: u64,
    pub direction: &'static str,
    /// The listener's name (inbound) or the service's (outbound).
    pub listener: String,
    pub protocol: &'static str,
    pub remote: String,
    pub peer_spiffe_id: Option<String>,
    pub peer_not_after: Option<String>,
    /// Of its leaf certificate, hex; so the next.
    pub peer_sha256: Option<String>,
    pub peer_serial: Option<String>,
    /// SHA-256 of the public key that vouched, hex.
    pub peer_authority: Option<String>,
    pub own_spiffe_id: Option<String>,
    pub opened_at: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// `open`, `draining`, `kept after expiry` …
    pub state: &'static str,
}

/// A caller's token that was found good. Times are of the token, but `used_at`.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    pub subject: String,
    /// Whether that is a SPIFFE ID; what an issuer of others' tokens calls so is none.
    pub is_svid: bool,
    pub issuer: Option<String>,
    pub audience: Vec<String>,
    /// Of its id, as records have it.
    pub id_hash: [u8; 32],
    pub issued_at: Option<SystemTime>,
    pub expires_at: SystemTime,
    pub used_at: SystemTime,
}

impl TokenInfo {
    pub fn of(token: &Verified, used_at: SystemTime) -> Self {
        Self {
            subject: token.subject.to_string(),
            is_svid: matches!(token.subject, Subject::Workload(_)),
            issuer: token.registered.issuer.clone(),
            audience: token.registered.audience.clone(),
            id_hash: token.id_hash,
            issued_at: token.registered.issued_at,
            expires_at: token.registered.expires_at,
            used_at,
        }
    }
}

/// `GET /metrics`, nothing else. Ends when it is asked to close and its last caller has gone.
pub async fn serve_metrics(listener: TcpListener, state: Arc<AdminState>, asked: CloseAsked) {
    door::serve_tcp(listener, Door::Metrics, state, asked).await;
}

/// `GET /healthz/ready`, nothing else.
pub async fn serve_readiness(listener: TcpListener, state: Arc<AdminState>, asked: CloseAsked) {
    door::serve_tcp(listener, Door::Readiness, state, asked).await;
}

/// All endpoints, for callers whose user is in `allowed`.
pub async fn serve_socket(
    listener: UnixListener,
    allowed: Arc<ArcSwap<AllowedUids>>,
    state: Arc<AdminState>,
    asked: CloseAsked,
) {
    door::serve_unix(listener, allowed, state, asked).await;
}

/// The endpoints that only read, for whoever reaches the loopback address by a loopback name.
pub async fn serve_tcp_readonly(listener: TcpListener, state: Arc<AdminState>, asked: CloseAsked) {
    door::serve_tcp(listener, Door::ReadOnly, state, asked).await;
}

#[cfg(test)]
pub(crate) mod tests;
