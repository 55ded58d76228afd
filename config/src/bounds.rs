//! `timeouts:` and `limits:` that hold for every listener and service.

use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::values::{Size, Span};
use crate::yaml::Node;
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
        }
    }
}

/// Bounds that hold for every listener and service (PEERS D2, last column; DESIGN, rulings).
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request's or response's head. Default 64 KiB.
    pub header_bytes: usize,
    /// Header fields of a head. Default 100.
    pub headers: usize,
    /// Concurrent streams a caller may open on an HTTP/2 connection. Default 256.
    pub h2_streams: u32,
    /// Idle connections kept per endpoint and worker. Default 256.
    pub pool_idle_per_endpoint: usize,
    /// Live connections of the whole process. `None`: 80 % of the descriptor limit, divided by two sockets each.
    pub connections: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_bytes: 64 * 1024, headers: 100, h2_streams: 256, pool_idle_per_endpoint: 256, connections: None }
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
        }
    }
}

/// Bounds that hold for every listener and service.
#[derive(JsonSchema)]
#[schemars(rename = "Limits", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawLimits {
    /// Bytes of a request's or response's head, from 8KiB to 1MiB.
    #[schemars(extend("default" = "64KiB"))]
    header_bytes: Field<Size>,
    /// Header fields of a head, from 1 to 10000.
    #[schemars(extend("default" = 100))]
    headers: Field<Count>,
    /// Concurrent streams that a caller may open on an HTTP/2 connection.
    #[schemars(extend("default" = 256))]
    h2_streams: Field<Count>,
    /// Idle connections kept for each endpoint and worker.
    #[schemars(extend("default" = 256))]
    pool_idle_per_endpoint: Field<Count>,
    /// Live connections of the whole process.
    #[schemars(extend("x-default" = "80 % of the descriptor limit, at two sockets each"))]
    connections: Field<Count>,
}

impl Section for RawLimits {
    const NAME: &'static str = "`limits`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            header_bytes: keys.optional("header_bytes"),
            headers: keys.optional("headers"),
            h2_streams: keys.optional("h2_streams"),
            pool_idle_per_endpoint: keys.optional("pool_idle_per_endpoint"),
            connections: keys.optional("connections"),
        }
    }
}

/// Below 8 KiB hyper has no read buffer; above 1 MiB a few hundred callers fill a small container.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 8 * 1024..=1024 * 1024;
const HEADERS_MAX: u32 = 10_000;

impl RawLimits {
    pub fn check(self, reader: &mut Reader) -> Limits {
        let defaults = Limits::default();
        if let (Some(Size(bytes)), Some(place)) = (self.header_bytes.get(), self.header_bytes.place())
            && !HEADER_BYTES.contains(bytes)
        {
            let what = format!("`header_bytes` is {bytes} bytes, and not from 8KiB to 1MiB");
            reader.problem(place, what, "write a size within those bounds; the default is `64KiB`");
        }
        if let (Some(Count(headers)), Some(place)) = (self.headers.get(), self.headers.place())
            && *headers > HEADERS_MAX
        {
            let what = format!("`headers: {headers}` is more than {HEADERS_MAX}");
            reader.problem(place, what, "write fewer; the default is `100`");
        }
        Limits {
            header_bytes: self.header_bytes.into_option().map_or(defaults.header_bytes, |size| size.0 as usize),
            headers: self.headers.into_option().map_or(defaults.headers, Count::as_usize),
            h2_streams: self.h2_streams.into_option().map_or(defaults.h2_streams, |count| count.0),
            pool_idle_per_endpoint: self
                .pool_idle_per_endpoint
                .into_option()
                .map_or(defaults.pool_idle_per_endpoint, Count::as_usize),
            connections: self.connections.into_option().map(Count::as_usize),
        }
    }
}

/// A whole number from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count(pub u32);

impl Count {
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl FromNode for Count {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.number(node, 1, u64::from(u32::MAX)).and_then(|number| number.try_into().ok()).map(Self)
    }
}

impl JsonSchema for Count {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "count".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "title": "count", "minimum": 1, "maximum": u32::MAX })
    }
}
