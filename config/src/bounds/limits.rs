//! `limits:` that hold for every listener and service.

use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::values::Size;
use crate::yaml::Node;
use schemars::JsonSchema;

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
    /// TLS handshakes of callers under way on a worker. Default 1000.
    pub handshakes: usize,
    /// Requests in flight in the whole process. Default 10 000.
    pub requests: usize,
    /// Of those, one caller's. `None`: half.
    pub requests_per_caller: Option<usize>,
    /// Bytes of bodies that HTTP/2 connections may make us keep, in the whole process. Default 256 MiB.
    pub buffered_bytes: usize,
    /// Resident memory above which no new connection is taken. `None`: 90 % of the control group's limit.
    pub memory: Option<u64>,
    /// HTTP/2 frames a second that carry nothing, of one connection. Default 1000.
    pub h2_control_frames: u32,
    /// HTTP/2 streams that one connection may give up within a second of opening them. Default 500.
    pub h2_early_resets: u32,
    /// TCP keepalive probes without an answer. Default 4.
    pub tcp_keepalive_probes: u32,
}

impl Limits {
    pub fn requests_per_caller(&self) -> usize {
        self.requests_per_caller.unwrap_or(self.requests.div_ceil(2))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            headers: 100,
            h2_streams: 256,
            pool_idle_per_endpoint: 256,
            connections: None,
            handshakes: 1000,
            requests: 10_000,
            requests_per_caller: None,
            buffered_bytes: 256 * 1024 * 1024,
            memory: None,
            h2_control_frames: 1000,
            h2_early_resets: 500,
            tcp_keepalive_probes: 4,
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
    /// TLS handshakes of callers under way on one worker. Above it the oldest one is ended: it has had the most time.
    #[schemars(extend("default" = 1000))]
    handshakes: Field<Count>,
    /// Requests in flight in the whole process, of which each worker has its share. Those above it are refused with 503.
    #[schemars(extend("default" = 10000))]
    requests: Field<Count>,
    /// Of those, the requests of one caller (one SPIFFE ID), so that the others keep their share.
    #[schemars(extend("x-default" = "half of `requests`"))]
    requests_per_caller: Field<Count>,
    /// Bytes of bodies that HTTP/2 connections may send before we have passed them on, in the whole process: windows are
    /// smaller when it becomes scarce, down to HTTP/2's smallest of 64 KiB a connection.
    #[schemars(extend("default" = "256MiB"))]
    buffered_bytes: Field<Size>,
    /// Resident memory above which no new connection is taken; live ones go on.
    #[schemars(extend("x-default" = "90 % of the control group's limit; none without one"))]
    memory: Field<Size>,
    /// HTTP/2 frames a second that carry nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE that nothing was sent for, …);
    /// a connection with more is ended.
    #[schemars(extend("default" = 1000))]
    h2_control_frames: Field<Count>,
    /// HTTP/2 streams that end without an answer within a second, on one connection: with more, and when they are more
    /// than half of its requests, it is ended.
    #[schemars(extend("default" = 500))]
    h2_early_resets: Field<Count>,
    /// Probes without an answer before the kernel gives a TCP connection up; see `timeouts.tcp_keepalive`.
    #[schemars(extend("default" = 4))]
    tcp_keepalive_probes: Field<Count>,
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
            handshakes: keys.optional("handshakes"),
            requests: keys.optional("requests"),
            requests_per_caller: keys.optional("requests_per_caller"),
            buffered_bytes: keys.optional("buffered_bytes"),
            memory: keys.optional("memory"),
            h2_control_frames: keys.optional("h2_control_frames"),
            h2_early_resets: keys.optional("h2_early_resets"),
            tcp_keepalive_probes: keys.optional("tcp_keepalive_probes"),
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
        let or = |field: Field<Count>, default: usize| field.into_option().map_or(default, Count::as_usize);
        let small = |field: Field<Count>, default: u32| field.into_option().map_or(default, |count| count.0);
        let size = |field: Field<Size>, default: usize| field.into_option().map_or(default, |size| size.0 as usize);
        Limits {
            header_bytes: size(self.header_bytes, defaults.header_bytes),
            headers: or(self.headers, defaults.headers),
            h2_streams: small(self.h2_streams, defaults.h2_streams),
            pool_idle_per_endpoint: or(self.pool_idle_per_endpoint, defaults.pool_idle_per_endpoint),
            connections: self.connections.into_option().map(Count::as_usize),
            handshakes: or(self.handshakes, defaults.handshakes),
            requests: or(self.requests, defaults.requests),
            requests_per_caller: self.requests_per_caller.into_option().map(Count::as_usize),
            buffered_bytes: size(self.buffered_bytes, defaults.buffered_bytes),
            memory: self.memory.into_option().map(|size| size.0),
            h2_control_frames: small(self.h2_control_frames, defaults.h2_control_frames),
            h2_early_resets: small(self.h2_early_resets, defaults.h2_early_resets),
            tcp_keepalive_probes: small(self.tcp_keepalive_probes, defaults.tcp_keepalive_probes),
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
