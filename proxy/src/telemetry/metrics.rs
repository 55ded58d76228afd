//! Every metric that Postern has, by name. No other file names one.
//!
//! Labels hold values from configuration, from our own SVIDs and bundles, or from closed enums; never what a peer sent.
//! Series are keyed by ourselves: the `prometheus` crate hashes label values without a separator, so that `["ab","c"]`
//! and `["a","bc"]` share one series there. The crate does what it does well, the exposition format.

use super::counters::{Histogram, PortMetrics};
use super::dns::{DnsCounters, DnsResult};
use super::identity_figures::IdentityFigures;
use super::{AuditCounters, AuthorizerCounters, Direction, exposition};
use crate::drift;
use crate::identity::{Counters as IdentityCounters, Snapshot};
use crate::revocation::guard::Change;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// What a scraper is told about a metric, and what `docs/metrics.md` is made of.
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const PORT: &[&str] = &["direction", "name"];

macro_rules! families {
    ($($constant:ident = $name:literal $kind:ident $labels:expr, $help:literal;)*) => {
        $(pub(super) const $constant: Family = Family { name: $name, kind: Kind::$kind, labels: $labels, help: $help };)*
        /// All of them, in the order of the exposition.
        pub const FAMILIES: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    INFO = "postern_info" Gauge &["version", "policy_digest"], "Always 1; says which version runs which policy.";
    START_TIME = "postern_start_time_seconds" Gauge &[], "When this process started, in seconds since 1970.";
    CONNECTIONS = "postern_connections_opened_total" Counter PORT, "Connections accepted (inbound) or asked for by the application (outbound).";
    CONNECTIONS_ACTIVE = "postern_connections_active" Gauge PORT, "Connections that are open now.";
    REQUESTS = "postern_requests_total" Counter &["direction", "name", "status"], "Requests that have ended, by class of the status code (1xx to 5xx), refused ones included; `unanswered`: the caller left, or the connection was cut, before there was a status.";
    REQUESTS_ACTIVE = "postern_requests_active" Gauge PORT, "Requests in flight.";
    REQUEST_DURATION = "postern_request_duration_seconds" Histogram PORT, "From the end of a request's head to the end of its answer.";
    REFUSALS = "postern_refusals_total" Counter &["direction", "name", "code"], "Connections and requests refused, by reason code.";
    BYTES_RECEIVED = "postern_received_bytes_total" Counter PORT, "Bytes received from the caller (TLS removed).";
    BYTES_SENT = "postern_sent_bytes_total" Counter PORT, "Bytes sent to the caller (TLS removed).";
    HANDSHAKE_DURATION = "postern_handshake_duration_seconds" Histogram PORT, "TLS handshakes that succeeded.";
    DETECT_TIMEOUTS = "postern_detect_timeouts_total" Counter PORT, "Connections whose protocol had to be guessed because nothing was sent in time; declare `protocol:` for this port.";
    EXPIRED_KEPT = "postern_connections_kept_after_expiry_total" Counter PORT, "L4 connections that outlived an SVID because of `on_expiry: keep`.";
    OBSERVED = "postern_observed_denials_total" Counter PORT, "Requests and L4 connections that the rules refuse and `mode: observe` let through.";
    CONDITIONS_FAILED = "postern_conditions_failed_total" Counter PORT, "Requests and connections that were refused because the `when` of a rule could not be decided; the record says which, and why.";
    RETRIES = "postern_retries_total" Counter &["direction", "name", "result"], "Requests sent again: `unprocessed`, because the other side said that it had not processed them; `replayed`, idempotent ones whose reused connection had ended. `over_budget` ones were not sent again.";
    EJECTIONS = "postern_endpoint_ejections_total" Counter PORT, "Times that a worker began to pass an endpoint over, because it could not be reached or its requests failed.";
    EJECTED = "postern_endpoints_ejected" Gauge PORT, "Endpoints that are passed over now, summed over workers.";
    ENDS = "postern_ends_total" Counter &["direction", "name", "cause"], "Connections, and requests on them, that Postern ended by itself: because trust or permission ended, a deadline passed, or a limit was reached.";
    STREAM_RESETS = "postern_stream_resets_total" Counter &["direction", "name", "code"], "HTTP/2 streams that Postern reset, by error code. Those with another code than `other` were malformed or too many, and became no request: no record of theirs exists.";
    TEARDOWN = "postern_teardown_seconds" Histogram &["cause"], "From the end of trust to the last byte of an affected connection.";
    AUTHORIZER_VERDICTS = "postern_authorizer_verdicts_total" Counter &["authorizer", "verdict"], "Questions to an authorizer: `allowed` and `denied` by it; `error_refused` and `error_allowed` because it gave no answer that could be followed, as `on_error` says.";
    AUTHORIZER_DURATION = "postern_authorizer_duration_seconds" Histogram &["authorizer"], "From the question to what came of it.";
    IDENTITY_STATE = "postern_identity_state" Gauge &["state"], "1 for the state of the default identity, 0 for the others.";
    IDENTITY_GENERATION = "postern_identity_generation" Gauge &[], "Rises with every change of SVIDs, bundles or their source.";
    SVID_EXPIRY = "postern_svid_expiry_seconds" Gauge &["svid", "hint"], "Seconds until our SVID expires; negative once it has.";
    IDENTITY_AGE = "postern_identity_update_age_seconds" Gauge &[], "Seconds since SVIDs or bundles were last received.";
    BUNDLE_ANCHORS = "postern_bundle_anchors" Gauge &["trust_domain"], "Usable roots of a trust domain; 0: its peers are refused.";
    BUNDLE_AGE = "postern_bundle_update_age_seconds" Gauge &["trust_domain"], "Seconds since this content of a bundle was first received.";
    TOKEN_KEYS = "postern_token_keys" Gauge &["trust_domain"], "Keys that JWT-SVIDs of a trust domain are verified with; 0: they are refused.";
    ISSUER_KEYS = "postern_issuer_keys" Gauge &["issuer"], "Keys that tokens of an issuer are verified with; 0: they are refused.";
    ISSUER_FETCHES = "postern_issuer_fetches_total" Counter &["issuer", "result"], "Attempts to have the keys of an issuer: fetches, and looks at its file.";
    IDENTITY_UPDATES = "postern_identity_updates_total" Counter &[], "Messages of the identity source that were taken.";
    IDENTITY_DISCARDS = "postern_identity_discards_total" Counter &["reason"], "Messages of the identity source that were refused whole; the last good one stays.";
    BUNDLES_REFUSED = "postern_identity_bundles_refused_total" Counter &[], "Malformed federated bundles, malformed keys for tokens, and roots that may vouch for nobody.";
    BUNDLE_FETCHES = "postern_bundle_fetches_total" Counter &["trust_domain", "result"], "Polls of the bundle endpoints in `identity.federation`.";
    IDENTITY_RECONNECTS = "postern_identity_reconnects_total" Counter &[], "Attempts to reach the identity source after the first.";
    DENIED = "postern_deny_list_entries" Gauge &[], "SPIFFE IDs, certificates and tokens that are denied, by file and admin socket.";
    CRLS = "postern_crls" Gauge &["state"], "Certificate revocation lists that are in force (`current`), past their nextUpdate (`stale`), or signed by no authority known here (`unused`).";
    OWN_TAKEN_BACK = "postern_own_svids_taken_back" Gauge &[], "SVIDs of ours that were revoked or denied, and so are not used.";
    REVOCATIONS_REFUSED = "postern_revocation_loads_refused_total" Counter &[], "Times that a deny list or a revocation list in a file could not be taken; what was in force stays.";
    BREAK_GLASS = "postern_break_glass" Gauge &[], "1 while a break-glass override is in force.";
    BREAK_GLASS_USED = "postern_break_glass_used_total" Counter &[], "Requests and L4 connections that the rules refuse and a break-glass override let in.";
    GUARD_ALARMS = "postern_guard_alarms_total" Counter &["change"], "Changes of identity, policy and deny list that would cut more of what lives than `revocation.guard` lets pass unsaid.";
    DRIFT = "postern_drift_total" Counter &["kind"], "Things that were valid and not what they were before, as `drift` says which are looked for; denied ones too.";
    TOKEN_FETCHES = "postern_token_fetches_total" Counter &["result"], "Requests to the Workload API for a JWT-SVID of ours.";
    TOKENS_MISSED = "postern_tokens_missed_total" Counter &[], "Requests refused because there was no JWT-SVID to send with them.";
    TOKENS_KEPT = "postern_tokens_kept" Gauge &[], "Audiences for which JWT-SVIDs of ours are kept fresh, or asked for.";
    APP_TOKENS_REMOVED = "postern_app_tokens_removed_total" Counter &[], "Requests whose application wrote a credential that was replaced by ours, or refused.";
    CONFIG_GENERATION = "postern_config_generation" Gauge &[], "Rises with every configuration taken.";
    CONFIG_SUCCESS = "postern_config_last_load_success_timestamp_seconds" Gauge &[], "When a configuration was last taken.";
    CONFIG_FAILURE = "postern_config_last_load_failure_timestamp_seconds" Gauge &[], "When a configuration was last refused; 0: never.";
    CONFIG_LOADS = "postern_config_loads_total" Counter &["result"], "Configurations taken and refused.";
    DRAINING = "postern_draining" Gauge &[], "1 while we shut down.";
    ACCESS_LOG_DROPPED = "postern_access_log_dropped_total" Counter &[], "Records dropped because the access log could not be written fast enough.";
    ACCESS_LOG_ERRORS = "postern_access_log_errors_total" Counter &[], "Failed writes of the access log; each is tried again.";
    AUDIT_RECORDS = "postern_audit_records_total" Counter &[], "Records appended to the audit log.";
    AUDIT_LOST = "postern_audit_lost_total" Counter &[], "Records of the audit log that found no place and were lost; a record of the kind `gap` counts them too.";
    AUDIT_ERRORS = "postern_audit_errors_total" Counter &[], "Failed writes of the audit log, of its second place, or of what it synchronizes; writes of the log are tried again.";
    AUDIT_SEALS = "postern_audit_seals_total" Counter &[], "Seals of the audit log.";
    AUDIT_SEALED_AT = "postern_audit_last_seal_timestamp_seconds" Gauge &[], "When the audit log was last sealed; 0: never.";
    AUDIT_UNSEALED = "postern_audit_unsealed_records" Gauge &[], "Records of the audit log behind its last seal.";
    AUDIT_UNSENT = "postern_audit_seals_unsent_total" Counter &[], "Seals that did not come to the second place; a later one that does covers the same, and a record of the kind `unsent` counts them.";
    AUDIT_BROKEN = "postern_audit_broken_total" Counter &[], "Histories of the audit log that were found changed at the start; each was set aside, and another log begun.";
    OVER_LIMIT = "postern_connections_over_limit_total" Counter &[], "Connections closed at once because `limits.connections` were open.";
    ACCEPT_ERRORS = "postern_accept_errors_total" Counter &[], "Connections that could not be accepted.";
    MEMORY_PRESSURE = "postern_memory_pressure" Gauge &[], "1 while no new connection is taken because of `limits.memory`.";
    DESCRIPTOR_EXHAUSTION = "postern_descriptor_exhaustion_total" Counter &[], "Times that no file descriptor was left for a connection; raise `nofile` or lower `limits.connections`.";
    DNS_QUERIES = "postern_dns_queries_total" Counter &["result"], "Name queries of the application (`capture.dns`): `declared` and `expansion` were answered here, `forwarded` upstream and `cached` by what upstream said before; `failed`: no nameserver answered.";
    TASK_PANICS = "postern_task_panics_total" Counter &[], "Connections ended by a defect in Postern.";
    RESIDENT_MEMORY = "process_resident_memory_bytes" Gauge &[], "Memory of this process that is in RAM.";
    CPU_SECONDS = "process_cpu_seconds_total" Counter &[], "CPU time of this process, user and system.";
    OPEN_DESCRIPTORS = "process_open_fds" Gauge &[], "Open file descriptors of this process.";
    MAX_DESCRIPTORS = "process_max_fds" Gauge &[], "How many file descriptors this process may have.";
}

/// Causes of [`Metrics::teardown`] are written in our code; more than this many would be a mistake there.
const CAUSES_MAX: usize = 32;
const TEARDOWN_BOUNDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// All metrics of a process: made once, handed to whoever counts.
pub struct Metrics {
    pub(super) started_at: SystemTime,
    pub(super) global: Global,
    /// Counted by the audit log.
    pub audit: AuditCounters,
    /// Counted by the identity source.
    pub(super) identity_counters: Arc<IdentityCounters>,
    authorizers: Mutex<BTreeMap<String, Arc<AuthorizerCounters>>>,
    ports: Mutex<BTreeMap<(Direction, String), Arc<PortMetrics>>>,
    teardowns: Mutex<BTreeMap<&'static str, Arc<Histogram>>>,
    identity: Mutex<IdentityFigures>,
    policy_digest: Mutex<String>,
}

/// What is counted once a process. Methods of [`Metrics`] write, `exposition` reads.
#[derive(Default)]
pub(super) struct Global {
    pub(super) config_generation: AtomicU64,
    pub(super) config_success_at: AtomicU64,
    pub(super) config_failure_at: AtomicU64,
    pub(super) config_taken: AtomicU64,
    pub(super) config_refused: AtomicU64,
    pub(super) draining: AtomicBool,
    pub(super) access_log_dropped: AtomicU64,
    pub(super) access_log_errors: AtomicU64,
    pub(super) over_limit: AtomicU64,
    pub(super) memory_pressure: AtomicBool,
    pub(super) accept_errors: AtomicU64,
    pub(super) descriptor_exhaustion: AtomicU64,
    pub(super) task_panics: AtomicU64,
    pub(super) revocations_refused: AtomicU64,
    pub(super) break_glass: AtomicBool,
    pub(super) break_glass_used: AtomicU64,
    guard_alarms: [AtomicU64; Change::ALL.len()],
    drift: [AtomicU64; drift::Kind::ALL.len()],
    pub(super) dns: DnsCounters,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started_at: SystemTime::now(),
            global: Global::default(),
            audit: AuditCounters::default(),
            identity_counters: Arc::default(),
            authorizers: Mutex::default(),
            ports: Mutex::default(),
            teardowns: Mutex::default(),
            identity: Mutex::default(),
            policy_digest: Mutex::default(),
        }
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// The handle of an inbound port; the same one for the same name, also after a reload. To be called when
    /// configuration is compiled, with names from it.
    pub fn inbound(&self, name: &str) -> Arc<PortMetrics> {
        self.port(Direction::Inbound, name)
    }

    /// As [`inbound`](Self::inbound), of an outbound service.
    pub fn outbound(&self, service: &str) -> Arc<PortMetrics> {
        self.port(Direction::Outbound, service)
    }

    /// The numbers of an authorizer, as [`inbound`](Self::inbound). Those that no configuration holds any more are forgotten.
    pub fn authorizer(&self, name: &str) -> Arc<AuthorizerCounters> {
        let mut authorizers = lock(&self.authorizers);
        authorizers.retain(|other, counters| other == name || Arc::strong_count(counters) > 1);
        authorizers.entry(name.to_owned()).or_default().clone()
    }

    pub(super) fn authorizers(&self) -> Vec<(String, Arc<AuthorizerCounters>)> {
        lock(&self.authorizers).iter().map(|(name, counters)| (name.clone(), counters.clone())).collect()
    }

    fn port(&self, direction: Direction, name: &str) -> Arc<PortMetrics> {
        lock(&self.ports).entry((direction, name.to_owned())).or_default().clone()
    }

    /// Forgets ports and services that the configuration no longer names and that no connection holds.
    pub fn retain_ports(&self, named: impl Fn(Direction, &str) -> bool) {
        lock(&self.ports).retain(|(direction, name), port| named(*direction, name) || Arc::strong_count(port) > 1);
    }

    /// Every port and service, inbound first, in the order of names.
    pub fn ports(&self) -> Vec<(Direction, String, Arc<PortMetrics>)> {
        let ports = lock(&self.ports);
        ports.iter().map(|((direction, name), port)| (*direction, name.clone(), port.clone())).collect()
    }

    /// Trust ended for `cause`; `duration` later the last byte of an affected connection had been carried.
    pub fn teardown(&self, cause: &'static str, duration: Duration) {
        let mut teardowns = lock(&self.teardowns);
        if teardowns.len() >= CAUSES_MAX && !teardowns.contains_key(cause) {
            return;
        }
        let histogram = teardowns.entry(cause).or_insert_with(|| Arc::new(Histogram::new(TEARDOWN_BOUNDS))).clone();
        drop(teardowns);
        histogram.observe(duration.as_secs_f64());
    }

    pub(super) fn teardowns(&self) -> Vec<(&'static str, Arc<Histogram>)> {
        lock(&self.teardowns).iter().map(|(cause, histogram)| (*cause, histogram.clone())).collect()
    }

    /// Takes the figures of `snapshot` over: called when somebody scrapes, so that ages and expiry are of that moment.
    pub fn update_identity(&self, snapshot: &Snapshot, now: SystemTime) {
        *lock(&self.identity) = IdentityFigures::of(snapshot, now);
    }

    pub(super) fn identity_figures(&self) -> IdentityFigures {
        lock(&self.identity).clone()
    }

    /// For `identity::spawn`.
    pub fn identity_counters(&self) -> Arc<IdentityCounters> {
        self.identity_counters.clone()
    }

    /// A configuration was taken; `digest` names the policy made of it.
    pub fn config_taken(&self, generation: u64, digest: &str, now: SystemTime) {
        self.global.config_generation.store(generation, Relaxed);
        self.global.config_success_at.store(unix_seconds(now), Relaxed);
        self.global.config_taken.fetch_add(1, Relaxed);
        digest.clone_into(&mut lock(&self.policy_digest));
    }

    /// A configuration was refused; the last good one stays.
    pub fn config_refused(&self, now: SystemTime) {
        self.global.config_failure_at.store(unix_seconds(now), Relaxed);
        self.global.config_refused.fetch_add(1, Relaxed);
    }

    pub(super) fn policy_digest(&self) -> String {
        lock(&self.policy_digest).clone()
    }

    pub fn set_draining(&self) {
        self.global.draining.store(true, Relaxed);
    }

    pub fn access_log_dropped(&self, records: u64) {
        self.global.access_log_dropped.fetch_add(records, Relaxed);
    }

    pub fn access_log_dropped_so_far(&self) -> u64 {
        self.global.access_log_dropped.load(Relaxed)
    }

    pub fn access_log_failed(&self) {
        self.global.access_log_errors.fetch_add(1, Relaxed);
    }

    /// A connection was closed at once, because as many as allowed were open.
    pub fn connection_over_limit(&self) {
        self.global.over_limit.fetch_add(1, Relaxed);
    }

    pub fn set_memory_pressure(&self, pressed: bool) {
        self.global.memory_pressure.store(pressed, Relaxed);
    }

    pub fn accept_failed(&self) {
        self.global.accept_errors.fetch_add(1, Relaxed);
    }

    pub fn descriptors_exhausted(&self) {
        self.global.descriptor_exhaustion.fetch_add(1, Relaxed);
    }

    pub fn task_panicked(&self) {
        self.global.task_panics.fetch_add(1, Relaxed);
    }

    /// A deny list or a revocation list in a file was not taken.
    pub fn revocations_refused(&self) {
        self.global.revocations_refused.fetch_add(1, Relaxed);
    }

    pub fn set_break_glass(&self, acts: bool) {
        self.global.break_glass.store(acts, Relaxed);
    }

    pub fn break_glass_used(&self) {
        self.global.break_glass_used.fetch_add(1, Relaxed);
    }

    pub fn guard_alarm(&self, change: Change) {
        self.global.guard_alarms[change as usize].fetch_add(1, Relaxed);
    }

    pub fn guard_alarms(&self, change: Change) -> u64 {
        self.global.guard_alarms[change as usize].load(Relaxed)
    }

    pub fn drift(&self, kind: drift::Kind) {
        self.global.drift[kind as usize].fetch_add(1, Relaxed);
    }

    pub fn drifts(&self, kind: drift::Kind) -> u64 {
        self.global.drift[kind as usize].load(Relaxed)
    }

    pub fn dns_query(&self, result: DnsResult) {
        self.global.dns.add(result);
    }

    pub fn dns_queries(&self, result: DnsResult) -> u64 {
        self.global.dns.count(result)
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        exposition::render(self)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after each statement, so a panic elsewhere does not make it wrong.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
