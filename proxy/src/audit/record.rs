//! What stands in a record between the chain's fields: decisions, what became of our credentials, and what the log says of
//! itself. One place writes all of them.
//!
//! Names are the access log's where both say the same. No header, body, query or key is ever in a record, every field is
//! bounded, and what came from a peer is escaped (THREATS HD-19, HD-22).

use super::chain::LogId;
use crate::identity::Svid;
use crate::refusal::Refusal;
use crate::telemetry::Direction;
use crate::telemetry::json::Object;
use crate::telemetry::record::{
    ConnectionFacts, ConnectionRecord, DETAIL_BYTES_MAX, HOST_BYTES_MAX, ID_BYTES_MAX, METHOD_BYTES_MAX,
    NAME_BYTES_MAX, Outcome as Ended, PATH_BYTES_MAX, RequestRecord,
};
use crate::tls::Peer;
use postern_config::{Mode, SpiffeId};
use std::time::SystemTime;

pub use super::event::Event;

/// The first record of a log.
pub const OPENED: &str = "opened";
/// The first record of a process that goes on with a log.
pub const RESUMED: &str = "resumed";
/// So many records before this one were lost.
pub const GAP: &str = "gap";
/// So many refusals of callers whom nobody knows have no records of their own.
pub const LEFT_OUT: &str = "left_out";
/// The clock was set back: records behind this one say times before those of records in front of it.
pub const CLOCK: &str = "clock";
/// What a process found where it was to go on was not what had been written: it lies beside, and this log is another one.
pub const BROKEN: &str = "broken";
/// So many seals did not come to the second place.
pub const UNSENT: &str = "unsent";
/// The last record of a process but for the seal.
pub const CLOSED: &str = "closed";

pub(super) const SERIAL_BYTES_MAX: usize = 64;

/// What was decided of a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Allowed,
    Refused,
    /// The rules refuse it, and it is let through: `mode: observe`.
    Observed,
    /// It was allowed, and could not be done: `refusal` says why.
    Failed,
    /// It had been allowed; then trust or permission ended.
    Cut,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Observed => "observed",
            Self::Failed => "failed",
            Self::Cut => "cut",
        }
    }
}

/// What a record of a decision says besides what the access log does.
#[derive(Clone, Copy)]
pub struct Decision<'a> {
    pub outcome: Outcome,
    /// In which the rules were asked.
    pub mode: Mode,
    /// Digest of the policy that decided.
    pub policy: &'a str,
    /// The other side in the mesh: the caller if inbound, who answered if outbound.
    pub peer: Option<&'a Peer>,
    /// The SVID that we showed it.
    pub own: Option<&'a Svid>,
}

impl Decision<'_> {
    pub fn write_request(&self, record: &RequestRecord<'_>, buffer: &mut Vec<u8>) {
        write(buffer, "request", |object| {
            self.write_head(object, &record.connection, Some(record.decision));
            object.text_if("http.request.method", some(record.method), METHOD_BYTES_MAX);
            object.text_if("url.path", some(record.path), PATH_BYTES_MAX);
            object.text_if("server.address", record.host, HOST_BYTES_MAX);
            object.integer_if("http.response.status_code", record.status);
            object.text_if("caller.spiffe_id", record.caller.map(SpiffeId::as_str), ID_BYTES_MAX);
            if let Some(token) = &record.token {
                token.write(object);
            }
            if let Some(authorizer) = &record.authorizer {
                authorizer.write(object);
            }
            write_ended(object, &record.outcome);
            write_upstream(object, record.upstream.address, record.upstream.identity);
        });
    }

    pub fn write_connection(&self, record: &ConnectionRecord<'_>, buffer: &mut Vec<u8>) {
        write(buffer, "connection", |object| {
            self.write_head(object, &record.connection, record.decision);
            write_ended(object, &record.outcome);
            write_upstream(object, record.upstream.address, record.upstream.identity);
        });
    }

    fn write_head(&self, object: &mut Object<'_>, facts: &ConnectionFacts<'_>, decision: Option<&str>) {
        object.time("time", facts.time.unwrap_or_else(SystemTime::now));
        object.text("outcome", self.outcome.as_str(), NAME_BYTES_MAX);
        object.text("mode", self.mode.as_str(), NAME_BYTES_MAX);
        object.text_if("decision", decision, NAME_BYTES_MAX);
        object.text("direction", facts.direction.as_str(), NAME_BYTES_MAX);
        let name_key = match facts.direction {
            Direction::Inbound => "listener",
            Direction::Outbound => "service",
        };
        object.text(name_key, facts.name, NAME_BYTES_MAX);
        facts.write_fixed(object);
        object.integer_if("process.user.id", facts.caller_uid);
        object.text_if("network.protocol.name", facts.protocol, NAME_BYTES_MAX);
        if let Some(peer) = self.peer {
            object.once(&peer.rendered, |object| write_peer(object, peer));
        }
        if let Some(own) = self.own {
            object.once(&own.rendered, |object| write_own(object, own));
        }
        object.text("policy.digest", self.policy, NAME_BYTES_MAX);
    }
}

fn write_peer(object: &mut Object<'_>, peer: &Peer) {
    object.text("peer.spiffe_id", peer.id.as_str(), ID_BYTES_MAX);
    object.text("peer.trust_domain", peer.id.trust_domain_name(), NAME_BYTES_MAX * 2);
    object.hex("peer.chain.sha256", &peer.chain_fingerprint);
    object.text("peer.serial", &peer.serial, SERIAL_BYTES_MAX);
    object.time("peer.not_after", peer.not_after);
    object.hex("peer.authority", &peer.authority.0);
    object.integer("bundle.generation", peer.generation);
}

pub(super) fn write_own(object: &mut Object<'_>, own: &Svid) {
    object.text("own.spiffe_id", own.id.as_str(), ID_BYTES_MAX);
    object.text("own.serial", &own.serial, SERIAL_BYTES_MAX);
    object.time("own.not_after", own.not_after);
}

fn write_ended(object: &mut Object<'_>, ended: &Ended<'_>) {
    object.text_if("route", ended.route, NAME_BYTES_MAX);
    object.text_if("rule", ended.rule, NAME_BYTES_MAX);
    object.text_if("refusal", ended.refusal.map(Refusal::code), NAME_BYTES_MAX);
    object.text_if("refusal.detail", ended.refusal_detail, DETAIL_BYTES_MAX);
    object.text_if("observed", ended.observed.map(Refusal::code), NAME_BYTES_MAX);
    object.text_if("observed.detail", ended.observed_detail, DETAIL_BYTES_MAX);
    object.text_if("refusal.remote", ended.remote_refusal, NAME_BYTES_MAX);
    object.text_if("refusal.remote_decision", ended.remote_decision, NAME_BYTES_MAX);
    object.text_if("end", ended.end, NAME_BYTES_MAX);
}

fn write_upstream(object: &mut Object<'_>, address: Option<&str>, identity: Option<&SpiffeId>) {
    object.text_if("upstream.address", address, HOST_BYTES_MAX);
    object.text_if("upstream.spiffe_id", identity.map(SpiffeId::as_str), ID_BYTES_MAX);
}

pub(super) fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// What a process says of itself when it begins to write.
pub struct Process<'a> {
    /// What its decision ids begin with.
    pub boot: u32,
    pub policy: &'a str,
    pub denials: bool,
    pub allows_percent: u8,
}

/// How a process found the log that it goes on with.
pub struct Resumed<'a> {
    /// Whether the process before had closed it.
    pub was_closed: bool,
    /// SHA-256 and length of half a line that it left.
    pub torn: Option<(&'a [u8; 32], usize)>,
    /// First and last number of the records before it that were verified.
    pub verified: Option<(u64, u64)>,
}

/// A history that could not be gone on with.
pub struct Broken<'a> {
    /// Where it lies now.
    pub file: &'a str,
    /// What is wrong with it, and how often something is.
    pub found: &'a str,
    pub findings: usize,
    pub log: Option<LogId>,
    pub last: u64,
}

pub fn write_broken(broken: &Broken<'_>, buffer: &mut Vec<u8>, now: SystemTime) {
    write(buffer, BROKEN, |object| {
        object.time("time", now);
        object.text("file", broken.file, DETAIL_BYTES_MAX);
        object.text("found", broken.found, DETAIL_BYTES_MAX);
        object.number("findings", broken.findings);
        if let Some(log) = broken.log {
            object.text("broken.log", &log.to_string(), NAME_BYTES_MAX);
        }
        object.number("broken.last", broken.last);
    });
}

/// `before`: the time to which the log had come.
pub fn write_clock(before: SystemTime, buffer: &mut Vec<u8>, now: SystemTime) {
    write(buffer, CLOCK, |object| {
        object.time("time", now);
        object.time("before", before);
    });
}

impl Process<'_> {
    pub fn write_opened(&self, buffer: &mut Vec<u8>, now: SystemTime) {
        write(buffer, OPENED, |object| self.write(object, now));
    }

    pub fn write_resumed(&self, found: &Resumed<'_>, buffer: &mut Vec<u8>, now: SystemTime) {
        write(buffer, RESUMED, |object| {
            self.write(object, now);
            object.number("was_closed", found.was_closed);
            if let Some((digest, bytes)) = found.torn {
                object.hex("torn.sha256", digest);
                object.number("torn.bytes", bytes);
            }
            if let Some((first, last)) = found.verified {
                object.number("verified.first", first);
                object.number("verified.last", last);
            }
        });
    }

    fn write(&self, object: &mut Object<'_>, now: SystemTime) {
        object.time("time", now);
        object.text("version", env!("CARGO_PKG_VERSION"), NAME_BYTES_MAX);
        object.number("boot", format_args!("\"{:08x}\"", self.boot));
        object.text("policy.digest", self.policy, NAME_BYTES_MAX);
        // Without them nobody could tell what was left out from what was lost.
        object.number("decisions.denials", self.denials);
        object.number("decisions.allows_percent", self.allows_percent);
    }
}

/// [`GAP`] or [`LEFT_OUT`]. `since`: when the first of them came.
pub fn write_missing(kind: &str, count: u64, since: SystemTime, buffer: &mut Vec<u8>, now: SystemTime) {
    write(buffer, kind, |object| {
        object.time("time", now);
        object.number("count", count);
        object.time("since", since);
    });
}

pub fn write_closed(buffer: &mut Vec<u8>, now: SystemTime) {
    write(buffer, CLOSED, |object| object.time("time", now));
}

/// A record of the kind `kind`: the members of an object, without its braces. Nothing in them is a line break.
pub fn write(buffer: &mut Vec<u8>, kind: &str, members: impl FnOnce(&mut Object<'_>)) {
    buffer.clear();
    let mut object = Object::members(buffer);
    object.text("kind", kind, NAME_BYTES_MAX);
    members(&mut object);
}

#[cfg(test)]
mod tests;
