//! One record per connection and per request, whatever happened (DESIGN, invariant 8).
//!
//! Names are OpenTelemetry's where it has one. Neither headers, nor bodies, nor the query is ever in a record: that is
//! where tokens travel. Every field is bounded, so a line is too.

use super::Direction;
use super::json::{Object, Rendered};
use crate::capture::Remote;
use crate::refusal::Refusal;
use crate::token::Verified;
use crate::token::claims::Claims;
use postern_config::SpiffeId;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What a peer may make us write of a path; a host name has at most 253 bytes, a method is never this long in earnest.
pub(crate) const PATH_BYTES_MAX: usize = 1024;
pub(crate) const HOST_BYTES_MAX: usize = 255;
pub(crate) const METHOD_BYTES_MAX: usize = 32;
/// SPIFFE-ID §2.3.
pub(crate) const ID_BYTES_MAX: usize = 2048;
/// Our own words, which may quote a peer's.
pub(crate) const DETAIL_BYTES_MAX: usize = 512;
/// Names from configuration, and codes.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// The end of a request: made when its body ended, also when the caller left.
#[derive(Clone, Debug, Default)]
pub struct RequestRecord<'a> {
    pub connection: ConnectionFacts<'a>,
    /// Unique in the mesh as far as chance allows; the application and the peer's sidecar see it too.
    pub decision: &'a str,
    /// Empty: the head could not be read.
    pub method: &'a str,
    /// Without query; empty as the method.
    pub path: &'a str,
    /// Host or authority, without port.
    pub host: Option<&'a str>,
    /// `1.0`, `1.1` or `2`.
    pub http_version: Option<&'a str>,
    pub status: Option<u16>,
    /// Number of gRPC's status, when the answer had one.
    pub grpc_status: Option<u32>,
    /// Inbound: the original caller, where the peer speaks for one.
    pub caller: Option<&'a SpiffeId>,
    /// Inbound, where the route wants one.
    pub token: Option<TokenFacts<'a>>,
    /// Where one was asked.
    pub authorizer: Option<AuthorizerFacts<'a>>,
    pub outcome: Outcome<'a>,
    pub upstream: Upstream<'a>,
}

/// The end of a connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectionRecord<'a> {
    pub connection: ConnectionFacts<'a>,
    /// As a request's; L4 connections are decided once.
    pub decision: Option<&'a str>,
    /// How many requests it carried; `None` for L4.
    pub requests: Option<u64>,
    /// HTTP/2 streams that were malformed or too many, and became no request; `None` for none.
    pub streams_refused: Option<u64>,
    pub outcome: Outcome<'a>,
    pub upstream: Upstream<'a>,
}

/// What both records say of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionFacts<'a> {
    /// Where what is fixed before its first request is kept as it is written; see [`write_fixed`](Self::write_fixed).
    pub rendered: Option<&'a Rendered>,
    /// When the request or connection ended; `None`: now.
    pub time: Option<SystemTime>,
    pub direction: Direction,
    /// The listener's name (inbound) or the service's (outbound).
    pub name: &'a str,
    /// Number of the connection in this process.
    pub connection: u64,
    pub remote: Option<Remote>,
    /// The unix socket of ours that it came to.
    pub socket: Option<&'a Path>,
    /// The local user whose socket that is, where the application is the caller.
    pub caller_uid: Option<u32>,
    /// Where a captured connection was meant to go.
    pub original: Option<SocketAddr>,
    /// Of a stream: the number of the connection that carries it.
    pub carrier: Option<u64>,
    /// `http` or `tcp`, as it was declared or detected; `hbone` is a connection that carries streams.
    pub protocol: Option<&'a str>,
    pub tls: Option<TlsFacts<'a>>,
    /// The caller if inbound; who answered if outbound.
    pub peer: Option<&'a SpiffeId>,
    /// SHA-256 of the peer's leaf.
    pub peer_fingerprint: Option<&'a [u8; 32]>,
    /// The SVID that we showed.
    pub own: Option<&'a SpiffeId>,
    /// Generation of the identity snapshot that the handshake saw.
    pub identity_generation: Option<u64>,
    /// Generation of the policy that decided.
    pub policy_generation: Option<u64>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub duration: Duration,
}

/// What was negotiated.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsFacts<'a> {
    /// `1.3` or `1.2`.
    pub version: Option<&'a str>,
    pub cipher: Option<&'a str>,
    /// The key exchange group.
    pub curve: Option<&'a str>,
}

/// What a verified token says, and never the token.
#[derive(Clone, Copy, Debug)]
pub struct TokenFacts<'a> {
    pub subject: &'a str,
    pub issuer: Option<&'a str>,
    pub audience: &'a [String],
    pub id_hash: &'a [u8; 32],
}

/// What came of the question to an authorizer.
#[derive(Clone, Copy, Debug)]
pub struct AuthorizerFacts<'a> {
    pub name: &'a str,
    /// `allowed`, `denied`, `error_refused` or `error_allowed`.
    pub verdict: &'a str,
    pub duration: Duration,
}

impl AuthorizerFacts<'_> {
    pub(crate) fn write(&self, object: &mut Object<'_>) {
        object.text("authorizer", self.name, NAME_BYTES_MAX);
        object.text("authorizer.verdict", self.verdict, NAME_BYTES_MAX);
        object.number("authorizer.duration_ms", milliseconds(self.duration));
    }
}

impl<'a> TokenFacts<'a> {
    pub fn of(token: &'a Verified) -> Self {
        let Claims { issuer, audience, .. } = &token.registered;
        Self { subject: token.subject.as_str(), issuer: issuer.as_deref(), audience, id_hash: &token.id_hash }
    }

    pub(crate) fn write(&self, object: &mut Object<'_>) {
        object.text("token.subject", self.subject, ID_BYTES_MAX);
        object.text_if("token.issuer", self.issuer, DETAIL_BYTES_MAX);
        object.text("token.audience", &self.audience.join(" "), DETAIL_BYTES_MAX);
        object.hash_if("token.hash.sha256", Some(self.id_hash));
    }
}

/// What was decided, and how it ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome<'a> {
    /// The rule that allowed it.
    pub rule: Option<&'a str>,
    pub route: Option<&'a str>,
    pub refusal: Option<Refusal>,
    /// Words for the inside: which rule of which standard, which value.
    pub refusal_detail: Option<&'a str>,
    /// What the rules would have refused it for, with `mode: observe`.
    pub observed: Option<Refusal>,
    pub observed_detail: Option<&'a str>,
    /// The code that the peer's sidecar reported for its refusal. From outside, therefore bounded and escaped.
    pub remote_refusal: Option<&'a str>,
    /// The decision id that the peer's sidecar reported with it.
    pub remote_decision: Option<&'a str>,
    /// Why it ended, where that is not plain: `caller_closed`, `idle`, `trust_ended`, `drained` …
    pub end: Option<&'a str>,
}

/// Where it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upstream<'a> {
    pub address: Option<&'a str>,
    pub identity: Option<&'a SpiffeId>,
}

impl RequestRecord<'_> {
    /// Appends the record as one line of JSON.
    pub fn write(&self, line: &mut Vec<u8>) {
        let mut object = Object::begin(line);
        self.connection.write_head(&mut object, "request");
        object.text("decision", self.decision, NAME_BYTES_MAX);
        object.text_if("http.request.method", Some(self.method).filter(|it| !it.is_empty()), METHOD_BYTES_MAX);
        object.text_if("url.path", Some(self.path).filter(|it| !it.is_empty()), PATH_BYTES_MAX);
        object.text_if("server.address", self.host, HOST_BYTES_MAX);
        object.text_if("network.protocol.version", self.http_version, NAME_BYTES_MAX);
        object.integer_if("http.response.status_code", self.status);
        object.integer_if("rpc.grpc.status_code", self.grpc_status);
        object.text_if("caller.spiffe_id", self.caller.map(SpiffeId::as_str), ID_BYTES_MAX);
        if let Some(token) = &self.token {
            token.write(&mut object);
        }
        if let Some(authorizer) = &self.authorizer {
            authorizer.write(&mut object);
        }
        self.outcome.write(&mut object);
        self.upstream.write(&mut object);
        object.integer("http.request.body.size", self.connection.bytes_received);
        object.integer("http.response.body.size", self.connection.bytes_sent);
        self.connection.write_tail(&mut object);
        object.end_line();
    }
}

impl ConnectionRecord<'_> {
    /// Appends the record as one line of JSON.
    pub fn write(&self, line: &mut Vec<u8>) {
        let mut object = Object::begin(line);
        self.connection.write_head(&mut object, "connection");
        object.text_if("decision", self.decision, NAME_BYTES_MAX);
        object.integer_if("requests", self.requests);
        object.integer_if("http2.streams_refused", self.streams_refused);
        self.outcome.write(&mut object);
        self.upstream.write(&mut object);
        object.integer("bytes.received", self.connection.bytes_received);
        object.integer("bytes.sent", self.connection.bytes_sent);
        self.connection.write_tail(&mut object);
        object.end_line();
    }
}

impl ConnectionFacts<'_> {
    fn write_head(&self, object: &mut Object<'_>, kind: &str) {
        let (name_key, fingerprint_key) = match self.direction {
            Direction::Inbound => ("listener", "tls.client.hash.sha256"),
            Direction::Outbound => ("service", "tls.server.hash.sha256"),
        };
        object.time("time", self.time.unwrap_or_else(SystemTime::now));
        object.text("kind", kind, NAME_BYTES_MAX);
        object.text("direction", self.direction.as_str(), NAME_BYTES_MAX);
        object.text(name_key, self.name, NAME_BYTES_MAX);
        self.write_fixed(object);
        object.integer_if("process.user.id", self.caller_uid);
        object.text_if("network.protocol.name", self.protocol, NAME_BYTES_MAX);
        object.text_if("peer.spiffe_id", self.peer.map(SpiffeId::as_str), ID_BYTES_MAX);
        object.hash_if(fingerprint_key, self.peer_fingerprint);
        object.text_if("own.spiffe_id", self.own.map(SpiffeId::as_str), ID_BYTES_MAX);
        object.integer_if("identity.generation", self.identity_generation);
        object.integer_if("policy.generation", self.policy_generation);
        if let Some(tls) = self.tls {
            object.text_if("tls.protocol.version", tls.version, NAME_BYTES_MAX);
            object.text_if("tls.cipher", tls.cipher, NAME_BYTES_MAX);
            object.text_if("tls.curve", tls.curve, NAME_BYTES_MAX);
        }
    }

    /// Which connection it is, and where it came from.
    pub(crate) fn write_fixed(&self, object: &mut Object<'_>) {
        match self.rendered {
            Some(rendered) => object.once(rendered, |object| self.write_origin(object)),
            None => self.write_origin(object),
        }
    }

    fn write_origin(&self, object: &mut Object<'_>) {
        object.integer("connection", self.connection);
        if let Some(socket) = self.socket {
            object.text("network.transport", "unix", NAME_BYTES_MAX);
            object.text("network.local.address", &socket.to_string_lossy(), NAME_BYTES_MAX);
        }
        if let Some(Remote::Ip(remote)) = self.remote {
            // `Display` of an address has no character that JSON would escape.
            object.number("network.peer.address", format_args!("\"{}\"", remote.ip()));
            object.integer("network.peer.port", remote.port());
        }
        if let Some(original) = self.original {
            object.number("capture.destination", format_args!("\"{original}\""));
        }
        object.integer_if("tunnel.connection", self.carrier);
    }

    fn write_tail(&self, object: &mut Object<'_>) {
        object.number("duration_ms", milliseconds(self.duration));
    }
}

fn milliseconds(duration: Duration) -> String {
    let microseconds = duration.as_micros();
    format!("{}.{:03}", microseconds / 1000, microseconds % 1000)
}

impl Outcome<'_> {
    fn write(&self, object: &mut Object<'_>) {
        object.text_if("rule", self.rule, NAME_BYTES_MAX);
        object.text_if("route", self.route, NAME_BYTES_MAX);
        object.text_if("refusal", self.refusal.map(Refusal::code), NAME_BYTES_MAX);
        object.text_if("refusal.detail", self.refusal_detail, DETAIL_BYTES_MAX);
        object.text_if("observed", self.observed.map(Refusal::code), NAME_BYTES_MAX);
        object.text_if("observed.detail", self.observed_detail, DETAIL_BYTES_MAX);
        object.text_if("refusal.remote", self.remote_refusal, NAME_BYTES_MAX);
        object.text_if("refusal.remote_decision", self.remote_decision, NAME_BYTES_MAX);
        object.text_if("end", self.end, NAME_BYTES_MAX);
    }
}

impl Upstream<'_> {
    fn write(&self, object: &mut Object<'_>) {
        object.text_if("upstream.address", self.address, HOST_BYTES_MAX);
        object.text_if("upstream.spiffe_id", self.identity.map(SpiffeId::as_str), ID_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests;
