use super::chain::Record;
use super::fixtures::Signer;
use super::queue::RECORDS_MAX;
use super::record::{Decision, Event, Outcome};
use super::target::numbered;
use super::verify::{Expected, Report, verify};
use super::{AuditLog, OpenError, Start};
use crate::identity::IdentityStore;
use crate::telemetry::record::{ConnectionFacts, ConnectionRecord};
use crate::telemetry::{Direction, Metrics};
use postern_config::audit::{Decisions, OnFull, PostAs, PostUrl, Rotate, Seal, SecondPlace};
use postern_config::{Audit, AuditTarget, Mode, Place, SvidSelector};
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with a log, and whoever signs it.
struct Scene {
    folder: TempDir,
    config: Audit,
    signer: Signer,
    identity: Arc<IdentityStore>,
    metrics: Arc<Metrics>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Audit {
            to: AuditTarget::File { path: folder.path().join("audit.json"), rotate: None },
            decisions: Decisions::default(),
            on_full: OnFull::Gap,
            seal: Seal { every: Duration::from_secs(3600), records: 1000 },
            second_place: None,
            place: Place::command_line(),
        };
        let (signer, identity) = (Signer::new(), Arc::new(IdentityStore::default()));
        identity.publish(|_| signer.snapshot());
        Self { folder, config, signer, identity, metrics: Arc::new(Metrics::new()) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.json")
    }

    fn open(&self) -> Result<AuditLog, OpenError> {
        let start = Start {
            boot: 1,
            policy: "d1",
            svid: &SvidSelector::Default,
            identity: &self.identity,
            metrics: &self.metrics,
        };
        AuditLog::start(Some(&self.config), &start)
    }

    fn rotate(&mut self, size: u64, keep: u32) {
        self.config.to = AuditTarget::File { path: self.path(), rotate: Some(Rotate { size, keep }) };
    }

    /// Oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let rotated = (1..100).map(|number| numbered(&self.path(), number)).filter(|path| path.exists());
        let mut files: Vec<_> = rotated.collect();
        files.reverse();
        files.push(self.path());
        files
    }

    fn verified(&self) -> Report {
        let contents: Vec<_> = self.files().iter().map(|path| fs::read(path).unwrap()).collect();
        let contents = contents.iter().map(Vec::as_slice).collect();
        verify(contents, &self.signer.judge(), &Expected::default()).unwrap()
    }

    fn kinds(&self) -> Vec<String> {
        let contents: String = self.files().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        contents.lines().map(|line| Record::read(line.as_bytes()).unwrap().kind.to_owned()).collect()
    }
}

/// Of the application's connections: those of callers whom nobody knows are left out when they are many.
fn decide(log: &AuditLog, outcome: Outcome, connections: std::ops::Range<u64>) {
    decide_of(Direction::Outbound, log, outcome, connections);
}

fn decide_of(direction: Direction, log: &AuditLog, outcome: Outcome, connections: std::ops::Range<u64>) {
    let decision = Decision { outcome, mode: Mode::Enforce, policy: "d1", peer: None, own: None };
    for connection in connections {
        let connection = ConnectionFacts { connection, direction, ..ConnectionFacts::default() };
        let record = ConnectionRecord { connection, ..ConnectionRecord::default() };
        log.connection(super::Place::default(), &decision, &record);
    }
}

#[test]
fn ds_04_a_flood_of_strangers_is_counted() {
    let scene = Scene::new();
    let log = scene.open().unwrap();
    decide_of(Direction::Inbound, &log, Outcome::Refused, 0..1000);
    log.close();
    let text = fs::read_to_string(scene.path()).unwrap();
    let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count() as u64;
    let left_out: u64 =
        records.iter().filter(|it| it["kind"] == "left_out").map(|it| it["count"].as_u64().unwrap()).sum();
    assert_eq!(count("connection") + left_out, 1000);
    assert!(count("connection") < 500 && count("left_out") > 0, "{left_out}");
}

#[test]
fn without_a_section_nothing_is_made() {
    let scene = Scene::new();
    let start = Start {
        boot: 1,
        policy: "d1",
        svid: &SvidSelector::Default,
        identity: &scene.identity,
        metrics: &scene.metrics,
    };
    let log = AuditLog::start(None, &start).unwrap();
    assert!(!log.enabled());
    decide(&log, Outcome::Refused, 0..3);
    log.flush();
    log.close();
    assert!(!scene.path().exists());
}

#[test]
fn a_log_is_opened_closed_sealed_and_gone_on_with() {
    let scene = Scene::new();
    let log = scene.open().unwrap();
    decide(&log, Outcome::Refused, 0..2);
    log.event(&Event::PolicyLoaded { digest: "d1", generation: 1 });
    log.close();
    drop(log);
    assert_eq!(scene.kinds(), ["opened", "connection", "connection", "event", "closed", "seal"]);
    let log = scene.open().unwrap();
    decide(&log, Outcome::Allowed, 0..1);
    log.close();
    drop(log);
    assert_eq!(scene.kinds()[6..], ["resumed", "connection", "closed", "seal"]);
    let report = scene.verified();
    assert_eq!((report.findings.len(), report.records, report.unsealed(), report.resumed), (0, 10, 0, 1));
    let text = fs::read_to_string(scene.path()).unwrap();
    assert!(text.contains("\"was_closed\":true"), "{text}");
    assert_eq!(scene.metrics.audit.lost_so_far(), 0);
}

#[test]
fn rotation_keeps_the_chain_seals_each_file_and_removes_the_oldest() {
    let mut scene = Scene::new();
    scene.rotate(64 << 10, 2);
    let log = scene.open().unwrap();
    let count = 1000;
    for number in 0..count {
        decide(&log, Outcome::Refused, number..number + 1);
        if number % 100 == 0 {
            log.flush();
        }
    }
    log.close();
    drop(log);
    let report = scene.verified();
    assert_eq!((scene.files().len(), report.findings.len(), report.unsealed()), (3, 0, 0));
    assert!(report.first > 1, "the oldest is gone");
    for path in &scene.files()[..2] {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.lines().last().unwrap().contains("\"cause\":\"rotation\""), "each ends with a seal");
        assert!(text.len() >= 60 << 10 && text.len() < 80 << 10, "{}", text.len());
    }
    // Somebody moved the last one away while we were gone.
    fs::remove_file(numbered(&scene.path(), 2)).unwrap();
    fs::rename(numbered(&scene.path(), 1), numbered(&scene.path(), 2)).unwrap();
    fs::rename(scene.path(), numbered(&scene.path(), 1)).unwrap();
    scene.open().unwrap().close();
    let again = scene.verified();
    assert_eq!((again.findings.len(), again.last, again.resumed), (0, report.last + 3, 1));
}

/// A directory has the name of one of the files, and cannot take the place of another one.
#[test]
fn what_cannot_be_rotated_grows_and_loses_nothing() {
    let mut scene = Scene::new();
    scene.rotate(64 << 10, 3);
    fs::write(numbered(&scene.path(), 1), "").unwrap();
    fs::create_dir(numbered(&scene.path(), 2)).unwrap();
    fs::write(numbered(&scene.path(), 3), "").unwrap();
    let log = scene.open().unwrap();
    for number in 0..400 {
        decide(&log, Outcome::Refused, number..number + 1);
    }
    log.flush();
    log.close();
    drop(log);
    let content = fs::read(scene.path()).unwrap();
    let report = verify(vec![content.as_slice()], &scene.signer.judge(), &Expected::default()).unwrap();
    assert_eq!((report.findings.len(), report.first, report.unsealed()), (0, 1, 0));
    assert!(content.len() > 100 << 10 && report.sealed.seals < 20, "{:?}", report.sealed);
}

#[test]
fn the_bundle_is_kept_beside_the_log_and_vouches_for_its_seals() {
    let scene = Scene::new();
    scene.open().unwrap().close();
    let names =
        fs::read_dir(scene.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let kept: Vec<_> = names.filter(|name| name.starts_with("audit.json.bundle-")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let text = fs::read_to_string(scene.folder.path().join(&kept[0])).unwrap();
    assert!(text.ends_with(&crate::tls::tests::certificates::as_pem(&scene.signer.authority.der)), "{text}");
    let digest = crate::tls::certificate::hex(&crate::tls::bundle::sha256(text.as_bytes()));
    assert_eq!(kept[0], format!("audit.json.bundle-{digest}.pem"));
    assert!(fs::read_to_string(scene.path()).unwrap().contains(&format!("\"bundle\":\"{digest}\"")));
}

#[test]
fn seals_come_after_so_many_records() {
    let mut scene = Scene::new();
    scene.config.seal.records = 4;
    scene.config.second_place = Some(SecondPlace::File(scene.folder.path().join("second")));
    let log = scene.open().unwrap();
    decide(&log, Outcome::Refused, 0..3);
    log.flush();
    assert_eq!(scene.kinds(), ["opened", "connection", "connection", "connection", "seal"]);
    log.close();
    let seals = fs::read_to_string(scene.folder.path().join("second")).unwrap();
    let numbers: Vec<_> = seals.lines().map(|line| Record::read(line.as_bytes()).unwrap().number).collect();
    assert_eq!(numbers, [5, 7], "each seal is in the second place as well");
}

#[test]
fn seals_come_after_so_long_when_there_is_something_to_seal() {
    let mut scene = Scene::new();
    scene.config.seal.every = Duration::from_millis(50);
    let log = scene.open().unwrap();
    let until_sealed = || {
        let end = Instant::now() + Duration::from_secs(20);
        while scene.verified().unsealed() > 0 {
            assert!(Instant::now() < end, "{:?}", scene.kinds());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    log.flush();
    until_sealed();
    let seals = scene.verified().sealed.seals;
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(scene.verified().sealed.seals, seals, "nothing came since");
    decide(&log, Outcome::Refused, 0..1);
    log.flush();
    until_sealed();
    log.close();
    assert!(fs::read_to_string(scene.path()).unwrap().contains("\"cause\":\"interval\""));
}

#[test]
fn without_an_identity_records_wait_for_one_to_be_sealed() {
    let scene = Scene::new();
    scene.identity.publish(|_| crate::identity::Snapshot::empty());
    let log = scene.open().unwrap();
    decide(&log, Outcome::Refused, 0..2);
    log.close();
    drop(log);
    assert_eq!((scene.verified().unsealed(), scene.kinds().last().unwrap().as_str()), (4, "closed"));
    scene.identity.publish(|_| scene.signer.snapshot());
    scene.open().unwrap().close();
    assert_eq!((scene.verified().unsealed(), scene.verified().findings.len()), (0, 0));
}

#[test]
fn what_a_killed_process_left_is_named_and_not_lost() {
    for (cut, torn) in [(1, 0), (2, 1), (100, 1)] {
        let scene = Scene::new();
        let log = scene.open().unwrap();
        decide(&log, Outcome::Refused, 0..3);
        log.flush();
        // It is killed while it writes.
        let written = fs::read(scene.path()).unwrap();
        log.close();
        drop(log);
        fs::remove_file(scene.path()).unwrap();
        fs::write(scene.path(), &written[..written.len() - cut]).unwrap();
        let log = scene.open().unwrap();
        decide(&log, Outcome::Refused, 3..4);
        log.close();
        let report = scene.verified();
        assert_eq!((report.findings.len(), report.torn.len(), report.unsealed()), (0, torn, 0), "{cut} bytes");
        assert!(fs::read_to_string(scene.path()).unwrap().contains("\"was_closed\":false"));
    }
}

#[test]
fn a_file_that_cannot_be_gone_on_with_is_an_error_at_the_start() {
    let scene = Scene::new();
    fs::write(scene.path(), "{\"kind\":\"request\"}\n").unwrap();
    assert!(matches!(scene.open(), Err(OpenError::NoRecord { .. })));
    fs::remove_file(scene.path()).unwrap();
    let log = scene.open().unwrap();
    assert!(matches!(scene.open(), Err(OpenError::Locked { .. })), "two writers");
    log.close();
    let mut nowhere = scene.config.clone();
    nowhere.to = AuditTarget::File { path: "/nowhere/at/all/audit.json".into(), rotate: None };
    let nowhere = Scene { config: nowhere, ..Scene::new() };
    assert!(matches!(nowhere.open(), Err(OpenError::Unopened { .. })));
}

#[test]
fn chance_leaves_out_what_was_allowed_and_nothing_else() {
    let mut scene = Scene::new();
    scene.config.decisions = Decisions { denials: true, allows_percent: 20 };
    let log = scene.open().unwrap();
    decide(&log, Outcome::Allowed, 0..1000);
    decide(&log, Outcome::Refused, 0..50);
    decide(&log, Outcome::Cut, 0..50);
    log.close();
    let text = fs::read_to_string(scene.path()).unwrap();
    let count = |outcome: &str| text.matches(&format!("\"outcome\":\"{outcome}\"")).count();
    assert_eq!((count("refused"), count("cut")), (50, 50));
    assert!((100..320).contains(&count("allowed")), "{}", count("allowed"));
    assert!(scene.verified().gaps.is_empty(), "that is no gap");
}

/// The log leads to a device that is always full; then there is room again.
#[test]
fn f_13_a_full_disk_gives_a_gap_that_says_how_many_were_lost() {
    let scene = Scene::new();
    symlink("/dev/full", scene.path()).unwrap();
    let log = scene.open().unwrap();
    let total = 2 * RECORDS_MAX as u64;
    decide(&log, Outcome::Refused, 0..total);
    let lost = scene.metrics.audit.lost_so_far();
    assert!(lost >= total - RECORDS_MAX as u64, "{lost}");
    make_room(&scene.path());
    log.flush();
    decide(&log, Outcome::Refused, 0..1);
    log.close();
    let report = scene.verified();
    assert_eq!((report.findings.len(), report.unsealed()), (0, 0));
    assert_eq!(report.gaps.iter().map(|(_, lost)| lost).sum::<u64>(), lost);
    let written = scene.kinds().iter().filter(|kind| *kind == "connection").count() as u64;
    assert_eq!(written + lost, total + 1, "what was not lost is there");
    assert!(scene.metrics.render().contains(&format!("postern_audit_lost_total {lost}\n")));
}

#[tokio::test]
async fn f_13_with_block_whoever_decides_waits_and_nothing_is_lost() {
    let mut scene = Scene::new();
    scene.config.on_full = OnFull::Block;
    symlink("/dev/full", scene.path()).unwrap();
    let log = scene.open().unwrap();
    let decision = Decision { outcome: Outcome::Allowed, mode: Mode::Enforce, policy: "d1", peer: None, own: None };
    for _ in 0..RECORDS_MAX {
        log.connection(log.place().await, &decision, &ConnectionRecord::default());
    }
    let mut waiting = std::pin::pin!(log.place());
    let waits = tokio::time::timeout(Duration::from_millis(50), waiting.as_mut()).await;
    assert!(waits.is_err(), "there is no place");
    make_room(&scene.path());
    let place = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("a place");
    log.connection(place, &decision, &ConnectionRecord::default());
    log.close();
    assert_eq!((scene.metrics.audit.lost_so_far(), scene.verified().gaps.len()), (0, 0));
    assert_eq!(scene.kinds().iter().filter(|kind| *kind == "connection").count(), RECORDS_MAX + 1);
}

#[test]
fn follows_a_rename_with_the_same_chain() {
    let scene = Scene::new();
    let log = scene.open().unwrap();
    decide(&log, Outcome::Refused, 0..1);
    log.flush();
    fs::rename(scene.path(), numbered(&scene.path(), 1)).unwrap();
    log.reopen();
    decide(&log, Outcome::Refused, 1..2);
    log.close();
    assert_eq!(scene.kinds(), ["opened", "connection", "connection", "closed", "seal"]);
    assert_eq!(scene.verified().findings, []);
}

fn make_room(path: &Path) {
    // The writer makes a file where there is none.
    fs::remove_file(path).unwrap();
}

/// Somebody changes the file while nobody writes it. The next process signs what it writes, and not that.
#[test]
fn what_was_changed_between_two_processes_is_set_aside_and_not_sealed() {
    let forge = |lines: &mut Vec<String>| {
        // Of the last processes' records: as one that never was a denial, in a chain that agrees with itself.
        let mut forged = Vec::new();
        let first = Record::read(lines[0].as_bytes()).unwrap();
        let mut chain = super::chain::Chain::begin(first.log);
        for line in &*lines {
            let (from, to) = (line.find("\"kind\"").unwrap(), line.rfind(",\"hash\"").unwrap());
            chain.append(line[from..to].replace("refused", "allowed").as_bytes(), &mut forged);
        }
        *lines = String::from_utf8(forged).unwrap().lines().map(str::to_owned).collect();
    };
    type Edit<'a> = (&'a str, &'a dyn Fn(&mut Vec<String>), &'a str);
    let edits: [Edit<'_>; 5] = [
        ("a letter", &|lines| lines[1] = lines[1].replace("refused", "allowed"), "record 2 was changed"),
        ("removed", &|lines| drop(lines.remove(1)), "record 2 was removed"),
        ("the last", &|lines| *lines.last_mut().unwrap() = "{}".to_owned(), "record 5 was changed"),
        ("not the first", &|lines| drop(lines.drain(..1)), ""),
        ("with its hashes", &forge, "the seal in record 5 proves nothing"),
    ];
    for (name, edit, expected) in edits {
        let scene = Scene::new();
        let log = scene.open().unwrap();
        decide(&log, Outcome::Refused, 0..2);
        log.close();
        drop(log);
        let mut lines: Vec<_> = fs::read_to_string(scene.path()).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 5);
        edit(&mut lines);
        fs::write(scene.path(), super::fixtures::text(&lines)).unwrap();
        let log = scene.open().unwrap();
        decide(&log, Outcome::Refused, 2..3);
        log.close();
        drop(log);
        if expected.is_empty() {
            // Its beginning may have been rotated away: whoever verifies it says whether it has to be there.
            assert_eq!(scene.kinds()[4..], ["resumed", "connection", "closed", "seal"], "{name}");
            continue;
        }
        assert_eq!(scene.kinds(), ["opened", "broken", "connection", "closed", "seal"], "{name}");
        let text = fs::read_to_string(scene.path()).unwrap();
        assert!(text.contains(expected), "{name}: {text}");
        assert_eq!((scene.verified().findings.len(), scene.verified().unsealed()), (0, 0), "{name}");
        let entries = fs::read_dir(scene.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> = entries.filter(|path| path.to_string_lossy().contains(super::BROKEN_MARK)).collect();
        assert_eq!(fs::read(&aside[0]).unwrap(), super::fixtures::text(&lines), "{name}: it is kept as it was found");
        assert!(scene.metrics.render().contains("postern_audit_broken_total 1\n"), "{name}");
    }
}

/// Who takes the seals away as well leaves a chain that agrees with itself: no later seal covers it.
#[test]
fn what_lay_unsealed_between_two_processes_is_vouched_for_by_nobody() {
    let scene = Scene::new();
    let log = scene.open().unwrap();
    decide(&log, Outcome::Refused, 0..2);
    log.close();
    drop(log);
    let written = fs::read_to_string(scene.path()).unwrap();
    let without_seal: Vec<_> = written.lines().take(4).map(str::to_owned).collect();
    fs::write(scene.path(), super::fixtures::text(&without_seal)).unwrap();
    scene.open().unwrap().close();
    let report = scene.verified();
    assert_eq!((report.findings.len(), report.unsealed()), (0, 0));
    let spans: Vec<_> = report.spans.iter().map(|span| (span.first, span.last, span.by.is_some())).collect();
    assert_eq!(spans, [(1, 4, false), (5, 7, true)]);
    let text = fs::read_to_string(scene.path()).unwrap();
    assert!(text.contains("\"verified.first\":1,\"verified.last\":4"), "{text}");
}

#[test]
fn a_change_in_the_full_file_before_is_found_at_the_start_too() {
    let mut scene = Scene::new();
    scene.rotate(64 << 10, 3);
    let log = scene.open().unwrap();
    for number in 0..200 {
        decide(&log, Outcome::Refused, number..number + 1);
    }
    log.close();
    drop(log);
    let full = numbered(&scene.path(), 1);
    let text = fs::read_to_string(&full).unwrap();
    fs::write(&full, text.replacen("refused", "allowed", 1)).unwrap();
    scene.open().unwrap().close();
    let lines = fs::read_to_string(scene.path()).unwrap();
    assert!(lines.contains("\"kind\":\"broken\"") && lines.contains("audit.json.1: record 2 was changed"), "{lines}");
    assert!(!full.exists(), "it is set aside as well");
    // What is no log at all stays where it is.
    fs::write(scene.path(), "not ours\n").unwrap();
    assert!(matches!(scene.open(), Err(OpenError::NoRecord { .. })));
}

/// A process was killed while it wrote the first line of a file that it had just rotated.
#[test]
fn the_chain_goes_on_behind_half_a_first_line() {
    let mut scene = Scene::new();
    scene.rotate(64 << 10, 3);
    let log = scene.open().unwrap();
    decide(&log, Outcome::Refused, 0..2);
    log.flush();
    let written = fs::read(scene.path()).unwrap();
    log.close();
    drop(log);
    fs::write(numbered(&scene.path(), 1), &written).unwrap();
    fs::write(scene.path(), "{\"seq\":4,\"prev\":\"00").unwrap();
    scene.open().unwrap().close();
    let report = scene.verified();
    assert_eq!((report.findings.as_slice(), report.torn.len(), report.first, report.last), (&[][..], 1, 1, 6));
    let text = fs::read_to_string(scene.path()).unwrap();
    let report = verify(vec![text.as_bytes()], &scene.signer.judge(), &Expected::default()).unwrap();
    assert_eq!((report.findings.as_slice(), report.first), (&[][..], 4), "also by itself");
}

#[test]
fn a_rotation_that_fails_again_and_again_shifts_nothing_away() {
    let scene = Scene::new();
    let target = AuditTarget::File { path: scene.path(), rotate: Some(Rotate { size: 1 << 20, keep: 5 }) };
    let (mut target, _) = super::target::Target::open(&target).unwrap();
    fs::write(numbered(&scene.path(), 2), "two").unwrap();
    target.rotate().unwrap();
    assert_eq!(fs::read(numbered(&scene.path(), 2)).unwrap(), b"two", "it is behind a free number");
    assert!(numbered(&scene.path(), 1).exists());
}

#[test]
fn a_second_place_with_half_a_line_stays_readable() {
    let mut scene = Scene::new();
    let second = scene.folder.path().join("second");
    fs::write(&second, "{\"seq\":3,\"pre").unwrap();
    scene.config.second_place = Some(SecondPlace::File(second.clone()));
    scene.open().unwrap().close();
    let text = fs::read_to_string(&second).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(Record::read(lines[1].as_bytes()).unwrap().kind, "seal");
}

/// A pipe that nobody reads has room for 64 KiB.
#[test]
fn a_second_place_that_hangs_keeps_nobody() {
    let mut scene = Scene::new();
    let second = scene.folder.path().join("second");
    make_pipe(&second);
    scene.config.seal.records = 2;
    scene.config.second_place = Some(SecondPlace::File(second));
    let started = Instant::now();
    let log = scene.open().unwrap();
    for number in 0..400 {
        decide(&log, Outcome::Refused, number..number + 1);
        log.flush();
    }
    log.close();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!((scene.verified().findings.len(), scene.metrics.audit.lost_so_far()), (0, 0));
    let kinds = scene.kinds();
    assert!(kinds.iter().filter(|kind| *kind == "connection").count() == 400);
    assert!(kinds.iter().any(|kind| kind == "unsent"), "what did not arrive is recorded");
    assert!(!scene.metrics.render().contains("postern_audit_seals_unsent_total 0\n"));
}

fn make_pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// What can be sealed only with a certificate that nobody would believe then waits.
#[test]
fn what_could_not_be_verified_at_its_time_is_not_sealed() {
    let scene = Scene::new();
    let other = Signer::new();
    let foreign = crate::identity::Snapshot { bundles: other.snapshot().bundles, ..scene.signer.snapshot() };
    scene.identity.publish(|_| foreign);
    scene.open().unwrap().close();
    assert_eq!(scene.kinds(), ["opened", "closed"]);
    scene.identity.publish(|_| scene.signer.snapshot());
    scene.open().unwrap().close();
    assert_eq!(scene.kinds()[2..], ["resumed", "closed", "seal"]);
}

#[test]
fn a_bundle_beside_the_log_is_what_its_name_says() {
    let scene = Scene::new();
    scene.open().unwrap().close();
    let path = || {
        let entries = fs::read_dir(scene.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.to_string_lossy().ends_with(".pem")).unwrap()
    };
    let (bundle, content) = (path(), fs::read(path()).unwrap());
    let elsewhere = scene.folder.path().join("elsewhere");
    for spoil in [&(|| fs::write(&bundle, vec![b'x'; content.len()]).unwrap()) as &dyn Fn(), &|| {
        fs::remove_file(&bundle).unwrap();
        fs::write(&elsewhere, "untouched").unwrap();
        symlink(&elsewhere, &bundle).unwrap();
        symlink(&elsewhere, bundle.with_extension("unfinished")).unwrap();
    }] {
        spoil();
        scene.open().unwrap().close();
        assert!(bundle.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(&bundle).unwrap(), content);
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), b"untouched");
}

#[test]
fn what_waits_at_the_end_and_comes_after_it_is_counted_as_lost() {
    let scene = Scene::new();
    symlink("/dev/full", scene.path()).unwrap();
    let log = scene.open().unwrap();
    decide(&log, Outcome::Refused, 0..3000);
    log.close();
    decide(&log, Outcome::Refused, 0..5);
    // The first record of the log was not written either.
    assert_eq!(scene.metrics.audit.lost_so_far(), 3006);
}

/// A defect in the writer is as a disk that takes nothing: nobody hangs, and what it had in hand is counted.
#[tokio::test]
async fn a_writer_that_dies_is_replaced_and_what_it_had_is_counted() {
    let metrics = Arc::new(Metrics::new());
    let queue = Arc::new(super::queue::Queue::new(OnFull::Block, &metrics));
    for _ in 0..RECORDS_MAX {
        queue.push(queue.place().await, b"\"kind\":\"request\"");
    }
    let its = queue.clone();
    let (end, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut batch = super::queue::Batch::default();
        let (die, live) = (0, 1);
        let run = |life: u8| {
            its.take(None, &mut super::queue::Batch::default());
            assert_ne!(life, die, "a defect");
            ended.recv().unwrap();
        };
        super::keep_alive(&its, die, run, || Ok::<_, std::io::Error>(live));
        its.take(Some(Instant::now()), &mut batch);
    });
    let waiting = tokio::time::timeout(Duration::from_secs(20), queue.place()).await;
    assert!(waiting.is_ok(), "nobody hangs");
    end.send(()).unwrap();
    assert_eq!(metrics.audit.lost_so_far(), RECORDS_MAX as u64);
    thread.join().unwrap();
}

/// What it was sent: heads in lower case, and bodies. `answers`: status and body.
type Requests = Vec<(String, String)>;

fn serve(answers: &'static [(&'static str, &'static str)]) -> (SocketAddr, JoinHandle<Requests>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let request = |(answer, text): &(&str, &str)| {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut head, mut read) = (Vec::new(), [0; 1]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut read).unwrap();
                head.push(read[0]);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            let length = text.len();
            let head_of_answer =
                format!("HTTP/1.1 {answer}\r\nlocation: /elsewhere\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(format!("{head_of_answer}{text}").as_bytes()).unwrap();
            (head, String::from_utf8(body).unwrap())
        };
        answers.iter().map(request).collect()
    });
    (address, server)
}

/// Records until the server has given all its answers.
fn decide_until_served(scene: &Scene, log: &AuditLog, server: JoinHandle<Requests>) -> Requests {
    let end = Instant::now() + Duration::from_secs(20);
    while !server.is_finished() {
        assert!(Instant::now() < end, "{:?}", scene.kinds());
        decide(log, Outcome::Refused, 0..2);
        log.flush();
        std::thread::sleep(Duration::from_millis(20));
    }
    server.join().unwrap()
}

/// A server that fails at first, and keeps what comes then.
#[test]
fn seals_are_posted_until_they_are_kept() {
    let (address, server) = serve(&[
        ("500 Internal Server Error", ""),
        ("307 Temporary Redirect", ""),
        ("204 No Content", ""),
        ("200 OK", ""),
    ]);
    let mut scene = Scene::new();
    let url = PostUrl::parse(&format!("http://{address}/seals?of=orders")).unwrap();
    scene.config.second_place = Some(SecondPlace::Post { url, form: PostAs::Line, roots: None });
    scene.config.seal.records = 2;
    let log = scene.open().unwrap();
    let requests = decide_until_served(&scene, &log, server);
    for (head, _) in &requests {
        assert!(head.starts_with("post /seals?of=orders http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {address}\r\n")) && head.contains("application/json"), "{head}");
    }
    let seals: Vec<String> = requests.into_iter().map(|(_, body)| body).collect();
    assert!(seals.iter().all(|seal| Record::read(seal.trim_end().as_bytes()).unwrap().kind == "seal"));
    assert_eq!((&seals[0], &seals[1]), (&seals[2], &seals[2]), "until it is kept, the same");
    assert_ne!(seals[2], seals[3]);
    // Nobody is there any more: the end does not wait for long, and says what is missing.
    let started = Instant::now();
    log.close();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(!scene.metrics.render().contains("postern_audit_seals_unsent_total 0\n"));
}

/// A collector that fails, keeps one, rejects the next and keeps what comes then.
#[test]
fn seals_go_to_a_collector_as_log_records() {
    let (address, server) = serve(&[
        ("503 Service Unavailable", ""),
        ("200 OK", "{}"),
        ("200 OK", r#"{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"too old"}}"#),
        ("200 OK", r#"{"partialSuccess":{}}"#),
    ]);
    let mut scene = Scene::new();
    let url = PostUrl::parse(&format!("http://{address}/v1/logs")).unwrap();
    scene.config.second_place = Some(SecondPlace::Post { url, form: PostAs::Otlp, roots: None });
    scene.config.seal.records = 2;
    let log = scene.open().unwrap();
    let requests = decide_until_served(&scene, &log, server);
    assert!(requests.iter().all(|(head, _)| head.starts_with("post /v1/logs http/1.1\r\n")));
    let seals: Vec<String> = requests
        .iter()
        .map(|(_, body)| serde_json::from_str::<serde_json::Value>(body).unwrap())
        .map(|body| {
            body["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["body"]["stringValue"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(seals.iter().all(|seal| Record::read(seal.as_bytes()).unwrap().kind == "seal"));
    assert_eq!(seals[0], seals[1], "until it is kept, the same");
    assert_ne!(seals[2], seals[3], "what is rejected is not sent again");
    assert!(fs::read_to_string(scene.path()).unwrap().contains(&seals[3]), "the line as it stands in the log");
    decide(&log, Outcome::Refused, 0..2);
    log.flush();
    assert!(scene.kinds().contains(&"unsent".to_owned()), "{:?}", scene.kinds());
}

/// The last process lived in what is the future now.
#[test]
fn a_clock_that_was_set_back_is_recorded_and_no_finding() {
    let scene = Scene::new();
    let mut body = Vec::new();
    let (mut chain, mut lines) = (super::chain::Chain::begin(super::chain::LogId([5; 16])), Vec::new());
    let later = std::time::SystemTime::now() + Duration::from_secs(200);
    super::record::write_missing("gap", 1, later, &mut body, later);
    chain.append(&body, &mut lines);
    scene.signer.seal_at(&mut chain, &mut lines, later);
    fs::write(scene.path(), lines).unwrap();
    let log = scene.open().unwrap();
    decide(&log, Outcome::Refused, 0..1);
    log.close();
    assert_eq!(scene.kinds(), ["gap", "seal", "resumed", "clock", "connection", "clock", "closed", "seal"]);
    let report = scene.verified();
    assert_eq!((report.findings.as_slice(), report.clock_set_back.len()), (&[][..], 2));
}
