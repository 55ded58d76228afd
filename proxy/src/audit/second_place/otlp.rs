//! A seal as a log record of the OpenTelemetry protocol, over HTTP in JSON (OTLP 1.x, "OTLP/HTTP", "JSON Protobuf Encoding"). Pure.

use serde_json::{Value, json};
use std::time::SystemTime;

/// Of `SeverityNumber`: INFO.
const INFO: u8 = 9;

/// An `ExportLogsServiceRequest` with one record, whose body is the seal's line as it stands in the log.
pub(super) fn request(line: &[u8], now: SystemTime) -> Vec<u8> {
    let line = String::from_utf8_lossy(line.trim_ascii_end());
    let nanoseconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let record = json!({
        "timeUnixNano": nanoseconds,
        "observedTimeUnixNano": nanoseconds,
        "severityNumber": INFO,
        "severityText": "INFO",
        "body": { "stringValue": line },
        "attributes": [text("event.name", "postern.audit.seal")],
    });
    let version = env!("CARGO_PKG_VERSION");
    let resource = json!({ "attributes": [text("service.name", "postern"), text("service.version", version)] });
    let scope = json!({ "name": "postern.audit", "version": version });
    let scopes = json!([{ "scope": scope, "logRecords": [record] }]);
    json!({ "resourceLogs": [{ "resource": resource, "scopeLogs": scopes }] }).to_string().into_bytes()
}

/// Why the record was not kept although the answer is 200 ("Partial Success"). What is no JSON says nothing.
pub(super) fn rejected(answer: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let partial = answer.get("partialSuccess")?;
    // A number of 64 bits: in JSON a text, and by some a number.
    let is_none = match partial.get("rejectedLogRecords")? {
        Value::String(count) => count == "0",
        Value::Number(count) => count.as_u64() == Some(0),
        _ => true,
    };
    let why = partial.get("errorMessage").and_then(Value::as_str).unwrap_or("no reason given");
    (!is_none).then(|| why.chars().filter(|character| !character.is_control()).take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::{rejected, request};
    use serde_json::Value;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_seal_is_the_body_of_one_record() {
        let line = "{\"seq\":7,\"kind\":\"seal\",\"x\":\"\\\"ä\"}";
        let now = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_309_323_000_000_001);
        let read: Value = serde_json::from_slice(&request(format!("{line}\n").as_bytes(), now)).unwrap();
        let record = &read["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["body"]["stringValue"], line);
        assert_eq!(record["timeUnixNano"], "1795309323000000001");
        let attributes = &read["resourceLogs"][0]["resource"]["attributes"];
        assert_eq!(
            (&attributes[0]["key"], &attributes[0]["value"]["stringValue"]),
            (&"service.name".into(), &"postern".into())
        );
    }

    #[test]
    fn a_partial_success_is_none() {
        for (answer, expected) in [
            ("", None),
            ("{}", None),
            (r#"{"partialSuccess":{}}"#, None),
            (r#"{"partialSuccess":{"errorMessage":"a hint"}}"#, None),
            (r#"{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"a hint"}}"#, None),
            (r#"{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"too\nlarge"}}"#, Some("toolarge")),
            (r#"{"partialSuccess":{"rejectedLogRecords":1}}"#, Some("no reason given")),
        ] {
            assert_eq!(rejected(answer.as_bytes()).as_deref(), expected, "{answer}");
        }
    }
}
