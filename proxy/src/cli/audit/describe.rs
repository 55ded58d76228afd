//! What `postern audit verify` prints.

use super::{Examined, Vouched};
use crate::audit::verify::finding::At;
use crate::telemetry::json::rfc3339;
use crate::tls::certificate::hex;
use std::fmt::Write;

impl Examined {
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        let report = &self.report;
        // Writing into a String cannot fail.
        for finding in &report.findings {
            let place = finding.at().map_or_else(|| "at the end".to_owned(), |at| self.place(at));
            let _ = writeln!(text, "{place}: {finding}");
        }
        let unknown = self.unknown();
        let verdict = match (report.findings.len(), &unknown) {
            (0, None) if self.is_partly_proven() => {
                "unbroken, and proven in part: see what nobody vouches for".to_owned()
            }
            (0, None) => "intact".to_owned(),
            (0, Some(why)) => format!("unbroken, but not proven: {why}"),
            (1, _) => "not intact: 1 finding".to_owned(),
            (count, _) => format!("not intact: {count} findings"),
        };
        let _ = writeln!(text, "{verdict}");
        let log = report.log.map(|log| log.to_string()).unwrap_or_default();
        let _ = writeln!(text, "  log: {log}");
        let _ = writeln!(text, "  records: {} to {}, {} in place", report.first, report.last, report.records);
        if report.first > 1 {
            let _ = writeln!(text, "  records before {} are in no file given", report.first);
        }
        let _ = writeln!(text, "  head: {}", report.head.map(|head| hex(&head)).unwrap_or_default());
        if let Some(after) = report.after_head {
            let _ = writeln!(text, "  the expected head is there, with {after} records behind it");
        }
        self.describe_seals(&mut text);
        for (number, lost) in &report.gaps {
            let _ = writeln!(text, "  gap: {} lost before record {number}, which says so", counted(*lost, "record"));
        }
        for at in &report.torn {
            let _ = writeln!(text, "  half a line at {}, which the record behind it accounts for", self.place(*at));
        }
        if let Some(at) = report.unfinished {
            let _ =
                writeln!(text, "  half a line at {}: it is being written, or its writer was killed", self.place(at));
        }
        for number in &report.clock_set_back {
            let _ = writeln!(text, "  the clock was set back before record {number}, which says so");
        }
        for number in &report.broken {
            let _ =
                writeln!(text, "  another log before this one was found changed: record {number} says where it lies");
        }
        self.describe_second_place(&mut text);
        for path in &self.passed_over {
            let _ = writeln!(text, "  passed over: {}, which was found changed at a start", path.display());
        }
        if report.resumed > 0 {
            let _ = writeln!(text, "  processes that went on with it: {}", report.resumed);
        }
        text
    }

    fn describe_seals(&self, text: &mut String) {
        let sealed = &self.report.sealed;
        let by = match sealed.last_vouched {
            None => "nothing is sealed".to_owned(),
            Some(vouched) => {
                let signers: Vec<_> = sealed.signers.iter().map(String::as_str).collect();
                let by = match vouched {
                    Vouched::ByTrusted => "vouched for by the bundle given",
                    Vouched::ByArchive => {
                        "vouched for by the bundle archived beside the log, as good as whoever could write it"
                    }
                    Vouched::ByNobody => "vouched for by nobody whose bundle is here",
                };
                format!("{} by {}, {by}", counted(sealed.seals, "seal"), signers.join(", "))
            }
        };
        let _ = writeln!(text, "  {by}");
        if let Some(time) = sealed.last_time {
            let age = self.now.duration_since(time).unwrap_or_default().as_secs();
            let _ = writeln!(text, "  the last seal is of {}, {} ago", rfc3339(time), aged(age));
        }
        for span in self.weak_spans() {
            let why = match span.by {
                Some(Vouched::ByTrusted) => continue,
                Some(Vouched::ByArchive) => "vouched for by an archived bundle alone",
                Some(Vouched::ByNobody) => "vouched for by nobody whose bundle is here",
                None => "not sealed by the process that wrote them: what lay in the file then, no later seal proves",
            };
            let _ = writeln!(text, "  records {} to {} are {why}", span.first, span.last);
        }
        let _ = match self.report.unsealed() {
            0 => Ok(()),
            1 => writeln!(text, "  the last record is not sealed: it could be changed without a trace"),
            count => {
                writeln!(text, "  the last {count} records are not sealed: they could be changed without a trace")
            }
        };
    }

    fn describe_second_place(&self, text: &mut String) {
        let lines = &self.bad_seals;
        if let Some(first) = lines.first() {
            let _ = writeln!(
                text,
                "  lines of the second place that are no seals, passed over: {}, the first is line {first}",
                lines.len()
            );
        }
    }

    fn place(&self, at: At) -> String {
        let file = self.files.get(at.file).map(|path| path.display().to_string()).unwrap_or_default();
        format!("{file}:{}", at.line)
    }
}

/// `1 seal`, `2 seals`.
fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Of seconds, the greatest unit of which there are at least two.
fn aged(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
