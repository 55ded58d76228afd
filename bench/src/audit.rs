//! What the audit log takes: to write so many records through the writer's thread, and to verify them.

use crate::parts::identity::Workload;
use anyhow::ensure;
use clap::Args;
use postern::audit::record::{Decision, Outcome};
use postern::audit::{AuditLog, Start};
use postern::cli::audit::{VerifyArgs, examine};
use postern::identity::IdentityStore;
use postern::telemetry::record::{ConnectionFacts, Outcome as Ended, RequestRecord};
use postern::telemetry::{Direction, Metrics};
use postern_config::audit::{Decisions, OnFull, Seal};
use postern_config::{Audit, AuditTarget, Mode, Place, SvidSelector};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Args)]
pub struct AuditArguments {
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
}

pub fn run(arguments: &AuditArguments) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("audit.json");
    let workload = Workload::new()?;
    let (snapshot, peer) = (workload.snapshot(), workload.peer()?);
    let identity = Arc::new(IdentityStore::default());
    identity.publish(|_| (*snapshot).clone());
    let config = Audit {
        to: AuditTarget::File { path: path.clone(), rotate: None },
        decisions: Decisions::default(),
        on_full: OnFull::Block,
        seal: Seal { every: Duration::from_secs(60), records: 10_000 },
        second_place: None,
        place: Place::command_line(),
    };
    let digest = "0".repeat(64);
    let metrics = Arc::new(Metrics::new());
    let start =
        Start { boot: 1, policy: &digest, svid: &SvidSelector::Default, identity: &identity, metrics: &metrics };
    let log = AuditLog::start(Some(&config), &start)?;
    let decision = Decision {
        outcome: Outcome::Allowed,
        mode: Mode::Enforce,
        policy: &digest,
        peer: Some(&peer),
        own: Some(&snapshot.svids[0]),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;

    let started = Instant::now();
    for connection in 0..arguments.records {
        let record = RequestRecord {
            connection: ConnectionFacts {
                direction: Direction::Inbound,
                name: "orders",
                connection,
                protocol: Some("http"),
                ..ConnectionFacts::default()
            },
            decision: "0badcafe-7f000001",
            method: "GET",
            path: "/orders/7/items",
            host: Some("orders.shop.svc"),
            status: Some(200),
            outcome: Ended { route: Some("read-orders"), rule: Some("web"), ..Ended::default() },
            ..RequestRecord::default()
        };
        log.request(runtime.block_on(log.place()), &decision, &record);
    }
    log.close();
    let (written, bytes) = (started.elapsed(), std::fs::metadata(&path)?.len());
    println!("{} records, {} MiB, written in {written:.2?}", arguments.records, bytes >> 20);

    let started = Instant::now();
    let examined = examine(&VerifyArgs { files: vec![path], whole: true, ..VerifyArgs::default() })?;
    let verified = started.elapsed();
    ensure!(
        matches!(examined.exit_code(), 0 | 3) && examined.report.records > arguments.records,
        "{:?}",
        examined.report
    );
    println!("{} seals, verified in {verified:.2?}", examined.report.sealed.seals);
    Ok(())
}
