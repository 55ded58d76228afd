//! What an audit log recorded of requests and connections of peers, as far as rules decided it. Whether the log is whole,
//! `postern audit verify` says.

use anyhow::{Context as _, bail};
use http::Method;
use postern_config::SpiffeId;
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A line of ours is far shorter.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// One decision.
pub struct Recorded {
    /// Seconds since 1970.
    pub at: i64,
    /// The port, by its name.
    pub port: String,
    /// `None`: an anonymous caller.
    pub peer: Option<SpiffeId>,
    /// For whom the peer spoke.
    pub caller: Option<SpiffeId>,
    pub source: Option<IpAddr>,
    pub route: Option<String>,
    pub rule: Option<String>,
    /// `None`: an L4 connection.
    pub request: Option<RecordedRequest>,
    pub was: Was,
}

pub struct RecordedRequest {
    pub method: Method,
    /// Without its query, which is not recorded.
    pub path: String,
    pub host: String,
}

/// What rules said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Was {
    Allowed,
    /// Refused by rules and let through.
    Observed,
    Refused,
}

impl Was {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Observed => "observed",
            Self::Refused => "refused",
        }
    }
}

#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    outcome: String,
    #[serde(default)]
    direction: String,
    #[serde(default)]
    listener: String,
    #[serde(rename = "peer.spiffe_id")]
    peer: Option<String>,
    #[serde(rename = "caller.spiffe_id")]
    caller: Option<String>,
    #[serde(rename = "network.peer.address")]
    source: Option<String>,
    #[serde(rename = "http.request.method")]
    method: Option<String>,
    #[serde(rename = "url.path")]
    path: Option<String>,
    #[serde(rename = "server.address")]
    host: Option<String>,
    route: Option<String>,
    rule: Option<String>,
    refusal: Option<String>,
    observed: Option<String>,
}

/// Refusals that rules and routes decide. Others would be the same whatever the rules say.
const BY_RULES: [&str; 4] = ["not_allowed", "denied", "requirement_unmet", "no_route"];

/// What was read, and how many decisions were not rules'.
#[derive(Default)]
pub struct Tally {
    pub records: u64,
    pub not_by_rules: u64,
}

/// Tells every decision in `files` to `each`, in their order.
///
/// # Errors
/// A file cannot be read, or a line is no record.
pub fn read(files: &[PathBuf], mut each: impl FnMut(Recorded)) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for path in files {
        read_file(path, &mut tally, &mut each).with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(tally)
}

fn read_file(path: &Path, tally: &mut Tally, each: &mut impl FnMut(Recorded)) -> anyhow::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LINE_BYTES_MAX {
            bail!("line {number} is no record: it is longer than {LINE_BYTES_MAX} bytes");
        }
        let read: Line = match serde_json::from_slice(&line) {
            Ok(read) => read,
            // The last line of a log that is being written, or of a process that was killed.
            Err(_) if line.last() != Some(&b'\n') => return Ok(()),
            Err(error) => bail!("line {number} is no record: {error}"),
        };
        if !matches!(read.kind.as_str(), "request" | "connection") || read.direction != "inbound" {
            continue;
        }
        match read.recorded() {
            Some(recorded) => {
                tally.records += 1;
                each(recorded);
            }
            None => tally.not_by_rules += 1,
        }
    }
    Ok(())
}

impl Line {
    fn recorded(self) -> Option<Recorded> {
        let was = match (self.outcome.as_str(), self.refusal.as_deref()) {
            ("allowed", None) => Was::Allowed,
            ("observed", _) => Was::Observed,
            // What became of it afterwards is another matter.
            ("failed", _) if self.observed.is_some() => Was::Observed,
            ("failed", _) => Was::Allowed,
            ("refused", Some(refusal)) if BY_RULES.contains(&refusal) => Was::Refused,
            // What was cut had been decided before, and has a record of that.
            _ => return None,
        };
        let request = match self.kind.as_str() {
            "request" => Some(RecordedRequest {
                method: Method::from_bytes(self.method?.as_bytes()).ok()?,
                path: self.path?,
                host: self.host.unwrap_or_default(),
            }),
            _ => None,
        };
        let id = |text: Option<String>| text.map(|id| SpiffeId::parse(&id)).transpose();
        let (peer, caller) = (id(self.peer).ok()?, id(self.caller).ok()?);
        let at = OffsetDateTime::parse(&self.time, &Rfc3339).ok()?.unix_timestamp();
        let source = self.source.and_then(|source| source.parse().ok());
        let (port, route, rule) = (self.listener, self.route, self.rule);
        Some(Recorded { at, port, peer, caller, source, route, rule, request, was })
    }
}
