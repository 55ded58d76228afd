//! The identity source: can it be reached, whom does it say we are, and does that fit clock and configuration?

use super::Report;
use crate::cli::check::counted;
use crate::cli::output::span;
use crate::identity::{Counters, IdentityStore, NoSvid, Snapshot, SourceStatus, Svid, probe, spawn};
use postern_config::authz::{Principal, Rules};
use postern_config::identity::{BundleEndpoint, Endpoint, Identity, IdentitySource};
use postern_config::{Config, SvidSelector, Transport, TrustDomain};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An agent that knows us answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn examine(report: &mut Report, config: Option<&Config>, workload_api: Option<&str>) {
    let mut identity = config.map(|config| config.identity.clone()).unwrap_or_default();
    if let IdentitySource::WorkloadApi { endpoint: configured } = &identity.source {
        let Some(endpoint) = endpoint(report, workload_api, configured.clone()) else { return };
        if let Endpoint::Unix(path) = &endpoint
            && !socket_reachable(report, path)
        {
            return;
        }
        identity.source = IdentitySource::WorkloadApi { endpoint: Some(endpoint) };
    }
    let endpoints = std::mem::take(&mut identity.federation);
    let store = Arc::new(IdentityStore::default());
    receive(&identity, &store).await;
    federated(report, endpoints, &store, identity.compat).await;
    let snapshot = store.load();
    if snapshot.svids.is_empty() {
        nothing_issued(report, &snapshot.source);
        return;
    }
    let now = SystemTime::now();
    for svid in &snapshot.svids {
        issued(report, svid, now);
    }
    if let Some(config) = config {
        selected(report, config, &snapshot, now);
        trusted(report, config, &snapshot);
    }
}

/// The flag wins over the file, the file over the environment.
pub(super) fn endpoint(report: &mut Report, flag: Option<&str>, configured: Option<Endpoint>) -> Option<Endpoint> {
    let from_environment = std::env::var("SPIFFE_ENDPOINT_SOCKET").ok();
    let (text, place) = match (flag, configured, &from_environment) {
        (Some(text), _, _) => (text, "--workload-api"),
        (None, Some(endpoint), _) => return Some(endpoint),
        (None, None, Some(text)) => (text.as_str(), "$SPIFFE_ENDPOINT_SOCKET"),
        (None, None, None) => {
            report.fail(
                "agent",
                "nobody says where the Workload API is",
                "set `identity: { workload_api: unix:///run/spire/agent/public/api.sock }` or $SPIFFE_ENDPOINT_SOCKET",
            );
            return None;
        }
    };
    match Endpoint::parse(text) {
        Ok(endpoint) => Some(endpoint),
        Err(error) => {
            let what = format!("{place}, `{text}`, {error}");
            report.fail("agent", what, "write unix:///PATH or tcp://IP:PORT");
            None
        }
    }
}

pub(super) fn socket_reachable(report: &mut Report, path: &Path) -> bool {
    let shown = path.display();
    let error = match UnixStream::connect(path) {
        Ok(_) => {
            report.ok("agent", format!("listens on {shown}"));
            return true;
        }
        Err(error) => error,
    };
    let fix = match error.kind() {
        ErrorKind::NotFound => "start the agent, or mount its socket's folder here (not the socket: it is made anew)",
        ErrorKind::ConnectionRefused => "the socket is there but nobody listens: start the agent",
        ErrorKind::PermissionDenied => "let this user into the folder and at the socket, by group or mode",
        _ => "see whether the agent runs and this path is its socket",
    };
    report.fail("agent", format!("{shown}: {error}"), fix);
    false
}

/// What the source gives within [`PATIENCE`], or what it said instead, is in `store` afterwards.
async fn receive(identity: &Identity, store: &Arc<IdentityStore>) {
    let mut changed = store.subscribe();
    let source = spawn(identity, None, store.clone(), Arc::new(Counters::default()));
    if source.is_ok() {
        let received = async {
            while store.load().svids.is_empty() && changed.changed().await.is_ok() {
                // The agent's no is an answer; the rest may still become a yes.
                if matches!(store.load().source, SourceStatus::Denied { .. }) {
                    return;
                }
            }
        };
        // Out of patience is judged by what the store then holds.
        let _ = tokio::time::timeout(PATIENCE, received).await;
    }
}

/// Each bundle endpoint is asked once; what is kept on disk stays as it is.
pub(super) async fn federated(
    report: &mut Report,
    endpoints: Vec<BundleEndpoint>,
    store: &Arc<IdentityStore>,
    compat: bool,
) {
    for endpoint in endpoints {
        let what = format!("{} from {}", endpoint.trust_domain, endpoint.url);
        match probe(endpoint, store.clone(), compat).await {
            Ok(()) => report.ok("federation", what),
            Err(reason) => report.fail(
                "federation",
                format!("{what}: {reason}"),
                "correct `identity.federation`; with `https_spiffe`, a new bootstrap bundle mends trust that was lost",
            ),
        }
    }
}

pub(super) fn nothing_issued(report: &mut Report, source: &SourceStatus) {
    const SUBJECT: &str = "identity";
    match source {
        SourceStatus::Denied { .. } => report.fail(
            SUBJECT,
            "the agent answers, and has no identity for this workload",
            "make a registration entry whose selectors match this process (`spire-server entry create … -selector \
             unix:uid:N`), and wait for the agent to learn of it",
        ),
        SourceStatus::Waiting { reason } | SourceStatus::Broken { reason, .. } => report.fail(
            SUBJECT,
            format!("none within {}: {reason}", span(PATIENCE)),
            "see the agent's log; is this path its Workload API, and not its admin socket?",
        ),
        SourceStatus::Connected => report.fail(
            SUBJECT,
            format!("the source is connected and sent no identity within {}", span(PATIENCE)),
            "see the agent's log",
        ),
    }
}

pub(super) fn issued(report: &mut Report, svid: &Svid, now: SystemTime) {
    let id = &svid.id;
    if let Ok(early) = svid.not_before.duration_since(now)
        && !early.is_zero()
    {
        report.fail(
            "clock",
            format!("{id} is valid in {} only: this clock is behind the issuer's", span(early)),
            "set the clock (NTP)",
        );
        return;
    }
    match svid.not_after.duration_since(now) {
        Ok(left) => {
            let hint = svid.hint.as_ref().map(|hint| format!(", hint {hint}")).unwrap_or_default();
            report.ok("identity", format!("{id}, expires in {}{hint}", span(left)));
            let lifetime = svid.not_after.duration_since(svid.not_before).unwrap_or_default();
            if left < lifetime / 10 {
                report.warn(
                    "identity",
                    format!("{id} has less than a tenth of its lifetime of {} left", span(lifetime)),
                    "agents renew at half: see the agent's log, and whether it reaches its server",
                );
            }
        }
        Err(late) => report.fail(
            "clock",
            format!("{id} expired {} ago: the agent does not renew, or this clock is ahead", span(late.duration())),
            "set the clock (NTP); see the agent's log",
        ),
    }
}

/// Listeners and services that name an SVID which is not there.
fn selected(report: &mut Report, config: &Config, snapshot: &Snapshot, now: SystemTime) {
    let ports = config.inbound.iter().map(|inbound| (&inbound.name, &inbound.svid));
    let services = config.outbound.services.iter().filter_map(|service| match &service.transport {
        Transport::Mesh { svid, .. } => Some((&service.name, svid)),
        _ => None,
    });
    for (name, selector) in ports.chain(services) {
        if let Err(NoSvid::NotSelected(_)) = snapshot.select(selector, now) {
            let wanted = match selector {
                SvidSelector::Default => "the default SVID".to_owned(),
                SvidSelector::Id(id) => id.to_string(),
                SvidSelector::Hint(hint) => format!("an SVID with the hint {hint}"),
            };
            report.fail(
                "identity",
                format!("{name} wants {wanted}, and the agent gives none such"),
                "correct `svid:`, or register that identity for this workload",
            );
        }
    }
}

/// Peers that the configuration expects from trust domains that we cannot verify.
fn trusted(report: &mut Report, config: &Config, snapshot: &Snapshot) {
    let mut expected = BTreeSet::new();
    for inbound in &config.inbound {
        for rule in inbound.rule_sets().flat_map(Rules::all) {
            if let Principal::Spiffe(patterns) = &rule.who {
                expected.extend(patterns.iter().map(|pattern| pattern.trust_domain_name().to_owned()));
            }
        }
    }
    for service in &config.outbound.services {
        if let Transport::Mesh { identity, .. } = &service.transport {
            expected.extend(identity.iter().map(|pattern| pattern.trust_domain_name().to_owned()));
        }
    }
    for name in expected {
        let usable = TrustDomain::parse(&name).ok().and_then(|domain| snapshot.bundles.get(&domain));
        match usable.map_or(0, |bundle| bundle.anchors.len()) {
            0 => report.fail(
                "trust",
                format!("there is no usable bundle of {name}: its peers would be refused"),
                "federate with it: `-federatesWith` in this workload's registration entry, or `identity.federation`",
            ),
            roots => report.ok("trust", format!("{name}, {}", counted(roots, "usable root"))),
        }
    }
}
