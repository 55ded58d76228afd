use super::{AccessLog, LINES_MAX};
use crate::telemetry::Metrics;
use crate::telemetry::log_file::LogFile;
use crate::telemetry::record::{ConnectionFacts, ConnectionRecord, RequestRecord};
use postern_config::telemetry::AccessLog as Target;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

fn log_connection(log: &AccessLog, number: u64) {
    let connection = ConnectionFacts { connection: number, ..ConnectionFacts::default() };
    log.connection(&ConnectionRecord { connection, ..ConnectionRecord::default() });
}

fn connections_in(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line");
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["connection"].as_u64().unwrap();
    text.lines().map(line).collect()
}

#[test]
fn records_of_a_thread_come_out_in_order_and_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let log = AccessLog::start(&Target::File(path.clone()), &Arc::new(Metrics::new())).unwrap();
    assert!(log.enabled());
    (0..1000).for_each(|number| log_connection(&log, number));
    log.flush();
    assert_eq!(connections_in(&path), (0..1000).collect::<Vec<_>>());
}

#[test]
fn when_off_nothing_is_made() {
    let log = AccessLog::start(&Target::Off, &Arc::new(Metrics::new())).unwrap();
    assert!(!log.enabled());
    log.request(&RequestRecord::default());
    log.flush();
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_start() {
    let target = Target::File("/nowhere/at/all/access.log".into());
    assert!(AccessLog::start(&target, &Arc::new(Metrics::new())).is_err());
}

/// A reader that does not read: what does not fit is dropped at once and counted to the record.
#[test]
fn f_13_drops_and_counts_exactly_what_does_not_fit() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let metrics = Arc::new(Metrics::new());
    let log = AccessLog::write_to(LogFile::from_file(File::from(OwnedFd::from(writer))), &metrics).unwrap();
    let total = 3 * LINES_MAX as u64;
    (0..total).for_each(|number| log_connection(&log, number));
    let dropped = metrics.access_log_dropped_so_far();
    // A pipe holds 64 KiB; everything else waits or was dropped.
    assert!(dropped > 0 && dropped < total - LINES_MAX as u64 + 1, "{dropped}");

    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    log.flush();
    drop(log);
    let written = reading.join().unwrap().lines().count() as u64;
    assert_eq!(written + dropped, total);
}

#[test]
fn f_13_a_reader_that_went_away_costs_records_not_the_process() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let metrics = Arc::new(Metrics::new());
    let log = AccessLog::write_to(LogFile::from_file(File::from(OwnedFd::from(writer))), &metrics).unwrap();
    (0..10).for_each(|number| log_connection(&log, number));
    log.flush();
    assert_eq!(metrics.access_log_dropped_so_far(), 10);
}

#[test]
fn follows_a_rename_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let log = AccessLog::start(&Target::File(path.clone()), &Arc::new(Metrics::new())).unwrap();
    log_connection(&log, 1);
    log.flush();
    fs::rename(&path, &old).unwrap();
    log.reopen();
    log_connection(&log, 2);
    log.flush();
    assert_eq!((connections_in(&old), connections_in(&path)), (vec![1], vec![2]));
}

#[test]
fn does_not_continue_a_line_that_a_killed_process_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    fs::write(&path, "{\"connection\":1}\n{\"connec").unwrap();
    let log = AccessLog::start(&Target::File(path.clone()), &Arc::new(Metrics::new())).unwrap();
    log_connection(&log, 2);
    log.flush();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().last().unwrap().contains("\"connection\":2"));
}
