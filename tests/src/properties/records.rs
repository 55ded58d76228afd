//! A record is one line of JSON, whatever a peer sent, and says what was sent (THREATS HD-22).

use postern::refusal::Refusal;
use postern::telemetry::record::{ConnectionFacts, Outcome, Upstream};
use postern::telemetry::{ConnectionRecord, RequestRecord};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// Texts with a NUL between them.
pub(super) fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut texts = text.split('\0');
    let mut next = || texts.next().unwrap_or_default();
    let [method, path, host, detail, code, decision] = std::array::from_fn(|_| next());
    let seconds = bytes.iter().take(4).fold(0_u64, |seconds, byte| seconds << 8 | u64::from(*byte));
    let connection = ConnectionFacts {
        time: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        name: host,
        duration: Duration::from_micros(seconds),
        ..ConnectionFacts::default()
    };
    let outcome = Outcome {
        rule: Some(path),
        refusal: Some(Refusal::NotAllowed),
        refusal_detail: Some(detail),
        remote_refusal: Some(code),
        remote_decision: Some(decision),
        ..Outcome::default()
    };
    let upstream = Upstream { address: Some(host), identity: None };
    let mut lines = Vec::new();
    RequestRecord {
        connection,
        decision,
        method,
        path,
        host: Some(host),
        status: Some(403),
        outcome,
        upstream,
        ..RequestRecord::default()
    }
    .write(&mut lines);
    let first = lines.len();
    ConnectionRecord { connection, decision: Some(decision), outcome, upstream, ..ConnectionRecord::default() }
        .write(&mut lines);
    let request = one_line(&lines[..first]);
    one_line(&lines[first..]);
    for (field, written, bytes_max) in
        [("url.path", path, 1024), ("server.address", host, 255), ("http.request.method", method, 32)]
    {
        says(&request[field], written, bytes_max);
    }
    says(&request["refusal.detail"], detail, 512);
    assert_eq!((request["kind"].as_str(), request["refusal"].as_str()), (Some("request"), Some("not_allowed")));
}

fn one_line(bytes: &[u8]) -> Value {
    const LINE_BYTES_MAX: usize = 32 * 1024;
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    assert_eq!(text.find('\n'), Some(text.len() - 1), "one line");
    assert!(!text.trim_end_matches('\n').chars().any(char::is_control), "no control character: {text:?}");
    assert!(text.len() <= LINE_BYTES_MAX, "{} bytes", text.len());
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let members = value.as_object().expect("an object").len();
    assert!(members < 40, "a member of a peer's making: {text}");
    value
}

fn says(value: &Value, written: &str, bytes_max: usize) {
    let said = value.as_str().unwrap_or_default();
    match said.strip_suffix('…') {
        Some(kept) if said != written => assert!(written.starts_with(kept) && kept.len() + 4 > bytes_max, "{said:?}"),
        _ => assert_eq!(said, written),
    }
}
