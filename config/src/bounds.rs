//! `timeouts:` that hold for every listener and service; `limits:` are in [`limits`].

mod limits;

pub use limits::Limits;
pub(crate) use limits::{Count, RawLimits};

use crate::read::{Field, Keys, Section};
use crate::values::Span;
use schemars::JsonSchema;
use std::time::Duration;

/// Deadlines that hold for every listener and service (PEERS D1, last column).
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Accept to the end of the TLS handshake, both directions. Default 5 s.
    pub handshake: Duration,
    /// Waiting for the first bytes of an undeclared protocol. Default 1 s.
    pub detect: Duration,
    /// TCP connect to a remote endpoint. Default 3 s.
    pub connect: Duration,
    /// TCP connect to the local application. Default 1 s.
    pub connect_app: Duration,
    /// A request's head, from its first byte (or the start of a new connection). Default 10 s.
    pub request_headers: Duration,
    /// An HTTP connection without a request. Default 10 min.
    pub http_idle: Duration,
    /// A pooled idle connection to the application. Default 3 s.
    pub pool_idle_app: Duration,
    /// A pooled idle connection to a peer. Default 30 s.
    pub pool_idle: Duration,
    /// An L4 tunnel without a byte in either direction. Default 1 h.
    pub tcp_idle: Duration,
    /// A tunnel of which one direction has ended. Default 50 s (below conntrack's 60 s).
    pub half_close_linger: Duration,
    /// A request of which nothing moves, neither its body nor its answer. Default 5 min.
    pub stream_idle: Duration,
    /// A request's body that is awaited, before there is an answer. Default 1 min.
    pub body_idle: Duration,
    /// A caller that takes nothing of what is there for it. Default 5 min.
    pub write_stall: Duration,
    /// A TCP connection without a byte, before it is probed. Default 60 s; then every 20 s.
    pub tcp_keepalive: Duration,
    pub tcp_keepalive_interval: Duration,
    /// How often the other side of an HTTP/2 connection or tunnel is pinged. Default 20 s; the answer has 10 s.
    pub h2_ping: Duration,
    pub h2_ping_answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            detect: Duration::from_secs(1),
            connect: Duration::from_secs(3),
            connect_app: Duration::from_secs(1),
            request_headers: Duration::from_secs(10),
            http_idle: Duration::from_secs(600),
            pool_idle_app: Duration::from_secs(3),
            pool_idle: Duration::from_secs(30),
            tcp_idle: Duration::from_secs(3600),
            half_close_linger: Duration::from_secs(50),
            stream_idle: Duration::from_secs(300),
            body_idle: Duration::from_secs(60),
            write_stall: Duration::from_secs(300),
            tcp_keepalive: Duration::from_secs(60),
            tcp_keepalive_interval: Duration::from_secs(20),
            h2_ping: Duration::from_secs(20),
            h2_ping_answer: Duration::from_secs(10),
        }
    }
}

/// Deadlines that hold for every listener and service.
#[derive(JsonSchema)]
#[schemars(rename = "Timeouts", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawTimeouts {
    /// From accept to the end of the TLS handshake, both directions.
    #[schemars(extend("default" = "5s"))]
    handshake: Field<Span>,
    /// Waiting for the first bytes of a protocol that is not declared.
    #[schemars(extend("default" = "1s"))]
    detect: Field<Span>,
    /// TCP connect to a remote endpoint.
    #[schemars(extend("default" = "3s"))]
    connect: Field<Span>,
    /// TCP connect to the local application.
    #[schemars(extend("default" = "1s"))]
    connect_app: Field<Span>,
    /// A request's head, from its first byte or the start of a new connection.
    #[schemars(extend("default" = "10s"))]
    request_headers: Field<Span>,
    /// An HTTP connection without a request.
    #[schemars(extend("default" = "10m"))]
    http_idle: Field<Span>,
    /// A pooled idle connection to the application. Keep it below the application's own keep-alive time.
    #[schemars(extend("default" = "3s"))]
    pool_idle_app: Field<Span>,
    /// A pooled idle connection to a peer.
    #[schemars(extend("default" = "30s"))]
    pool_idle: Field<Span>,
    /// An L4 tunnel without a byte in either direction.
    #[schemars(extend("default" = "1h"))]
    tcp_idle: Field<Span>,
    /// A tunnel of which one direction has ended. Below the 60 s after which conntrack forgets such connections.
    #[schemars(extend("default" = "50s"))]
    half_close_linger: Field<Span>,
    /// A request of which nothing moves, neither its body nor its answer. Not for gRPC and upgraded connections, which may
    /// be silent for hours.
    #[schemars(extend("default" = "5m"))]
    stream_idle: Field<Span>,
    /// A request's body of which nothing arrives while it is awaited, before there is an answer. Not for gRPC.
    #[schemars(extend("default" = "1m"))]
    body_idle: Field<Span>,
    /// A caller that takes no byte of an answer that is there. Raise it where callers pause on purpose.
    #[schemars(extend("default" = "5m"))]
    write_stall: Field<Span>,
    /// A TCP connection without a byte in either direction, before the kernel probes whether the other side lives.
    #[schemars(extend("default" = "1m"))]
    tcp_keepalive: Field<Span>,
    /// Between such probes; see `limits.tcp_keepalive_probes`.
    #[schemars(extend("default" = "20s"))]
    tcp_keepalive_interval: Field<Span>,
    /// How often a caller's HTTP/2 connection, one to another sidecar that has requests, and a tunnel's are pinged.
    #[schemars(extend("default" = "20s"))]
    h2_ping: Field<Span>,
    /// How long the answer to such a ping may take.
    #[schemars(extend("default" = "10s"))]
    h2_ping_answer: Field<Span>,
}

impl Section for RawTimeouts {
    const NAME: &'static str = "`timeouts`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            handshake: keys.optional("handshake"),
            detect: keys.optional("detect"),
            connect: keys.optional("connect"),
            connect_app: keys.optional("connect_app"),
            request_headers: keys.optional("request_headers"),
            http_idle: keys.optional("http_idle"),
            pool_idle_app: keys.optional("pool_idle_app"),
            pool_idle: keys.optional("pool_idle"),
            tcp_idle: keys.optional("tcp_idle"),
            half_close_linger: keys.optional("half_close_linger"),
            stream_idle: keys.optional("stream_idle"),
            body_idle: keys.optional("body_idle"),
            write_stall: keys.optional("write_stall"),
            tcp_keepalive: keys.optional("tcp_keepalive"),
            tcp_keepalive_interval: keys.optional("tcp_keepalive_interval"),
            h2_ping: keys.optional("h2_ping"),
            h2_ping_answer: keys.optional("h2_ping_answer"),
        }
    }
}

impl RawTimeouts {
    pub fn check(self) -> Timeouts {
        let defaults = Timeouts::default();
        let or = |field: Field<Span>, default| field.or(Span(default)).0;
        Timeouts {
            handshake: or(self.handshake, defaults.handshake),
            detect: or(self.detect, defaults.detect),
            connect: or(self.connect, defaults.connect),
            connect_app: or(self.connect_app, defaults.connect_app),
            request_headers: or(self.request_headers, defaults.request_headers),
            http_idle: or(self.http_idle, defaults.http_idle),
            pool_idle_app: or(self.pool_idle_app, defaults.pool_idle_app),
            pool_idle: or(self.pool_idle, defaults.pool_idle),
            tcp_idle: or(self.tcp_idle, defaults.tcp_idle),
            half_close_linger: or(self.half_close_linger, defaults.half_close_linger),
            stream_idle: or(self.stream_idle, defaults.stream_idle),
            body_idle: or(self.body_idle, defaults.body_idle),
            write_stall: or(self.write_stall, defaults.write_stall),
            tcp_keepalive: or(self.tcp_keepalive, defaults.tcp_keepalive),
            tcp_keepalive_interval: or(self.tcp_keepalive_interval, defaults.tcp_keepalive_interval),
            h2_ping: or(self.h2_ping, defaults.h2_ping),
            h2_ping_answer: or(self.h2_ping_answer, defaults.h2_ping_answer),
        }
    }
}
