//! A log in which nothing is found is one chain: whatever bytes it is made of, it cannot say so of anything else.

use postern::audit::chain::Record;
use postern::audit::verify::seals::Judge;
use postern::audit::verify::{Expected, verify};
use postern::tls::Strictness;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

pub(super) fn check(bytes: &[u8]) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    let judge = Judge { trusted: None, archived: HashMap::new(), id: None, strictness: Strictness::Strict, now };
    let report = verify(vec![bytes], &judge, &Expected::default()).expect("memory can be read");
    let lines = bytes.split(|byte| *byte == b'\n');
    let records: Vec<Record<'_>> = lines.filter_map(|line| Record::read(line).ok()).collect();
    assert!(report.records <= records.len() as u64, "{report:?}");
    if !report.findings.is_empty() {
        return;
    }
    assert_eq!(report.records, records.len() as u64, "{report:?}");
    for pair in records.windows(2) {
        assert_eq!((pair[1].number, pair[1].before), (pair[0].number + 1, pair[0].hash));
        assert_eq!(pair[1].log, pair[0].log);
    }
    let lines = bytes.split(|byte| *byte == b'\n').count() - usize::from(bytes.is_empty() || bytes.ends_with(b"\n"));
    assert_eq!(
        lines,
        records.len() + report.torn.len() + usize::from(report.unfinished.is_some()),
        "every line is accounted for: {report:?}"
    );
}
