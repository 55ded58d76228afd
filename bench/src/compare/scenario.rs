//! What is measured, in order of worth.

use super::setting::{PATH, Protocol, SERVER_NAME, Setting, service_host, service_path};

/// Which figure of a round stands for it, and is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figure {
    /// CPU-µs of both sidecars for a unit of work.
    CpuPerUnit,
    /// CPU seconds of both sidecars for 10⁹ bytes.
    CpuPerGigabyte,
    /// µs that 99 of 100 requests do not pass.
    P99,
    /// KiB of resident memory of both sidecars for a connection.
    Memory,
    /// MiB of resident memory of the server sidecar, with what it holds.
    ServerMemory,
}

impl Figure {
    pub fn unit(self, scenario: &Scenario) -> String {
        match self {
            Self::CpuPerUnit => format!("CPU-µs of the pair per {}", scenario.unit),
            Self::CpuPerGigabyte => "CPU-s of the pair per GB".to_owned(),
            Self::P99 => "p99, µs".to_owned(),
            Self::Memory => "KiB of the pair per idle connection".to_owned(),
            Self::ServerMemory => "MiB of the server sidecar".to_owned(),
        }
    }

    /// Is it of connections that are there while it is taken?
    pub fn is_memory(self) -> bool {
        matches!(self, Self::Memory | Self::ServerMemory)
    }
}

/// Where the load goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// To the client sidecar, as the caller does.
    Client,
    /// To the server sidecar, with mTLS and the client sidecar's certificate.
    Server,
}

#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub setting: Setting,
    pub door: Door,
    /// The subcommand of `load` and its flags.
    pub load: &'static [&'static str],
    pub unit: &'static str,
    pub figure: Figure,
    /// A measurement takes longer than others if its figure needs that.
    pub seconds_min: f64,
}

impl Scenario {
    pub const fn new(name: &'static str, title: &'static str, setting: Setting, load: &'static [&'static str]) -> Self {
        let (unit, figure) = ("request", Figure::CpuPerUnit);
        Self { name, title, setting, door: Door::Client, load, unit, figure, seconds_min: 0.0 }
    }

    const fn counting(self, unit: &'static str, figure: Figure) -> Self {
        Self { unit, figure, ..self }
    }

    /// What to ask for: with many routes, one of the middle, which no linear search finds first.
    pub fn target(&self) -> (String, String) {
        match self.setting.routes {
            1 => (SERVER_NAME.to_owned(), format!("{PATH}7/items")),
            many => (service_host(many / 2), format!("{}7/items", service_path(many / 2))),
        }
    }
}

const HTTP1: Setting = Setting::of(Protocol::Http1);
const HTTP2: Setting = Setting::of(Protocol::Http2);
const GRPC: Setting = Setting::of(Protocol::Grpc);
const TCP: Setting = Setting::of(Protocol::Tcp);
const LOAD_HTTP1: &[&str] = &["http1", "--connections", "64"];
const LOAD_HTTP2: &[&str] = &["http2", "--connections", "8", "--streams", "16"];

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("http1", "HTTP/1.1 keep-alive, 64 connections", HTTP1, LOAD_HTTP1),
    Scenario::new("http2", "HTTP/2, 8 connections × 16 streams", HTTP2, LOAD_HTTP2),
    Scenario::new("bulk", "L4 bulk, 4 connections", TCP, &["bulk", "--connections", "4"])
        .counting("GB", Figure::CpuPerGigabyte),
    Scenario::new(
        "connect",
        "L4, a connection each; resumption as each product has it",
        TCP,
        &["connect", "--at-once", "16"],
    )
    .counting("connection", Figure::CpuPerUnit),
    Scenario::new(
        "connect-fresh",
        "L4, a connection each; resumption off for all",
        Setting { resumption: false, ..TCP },
        &["connect", "--at-once", "16"],
    )
    .counting("connection", Figure::CpuPerUnit),
    Scenario::new(
        "connect-tunnel",
        "L4, a connection each; Postern's in tunnels, the others' with a handshake each as in `connect`",
        Setting { tunnel: true, ..TCP },
        &["connect", "--at-once", "16"],
    )
    .counting("connection", Figure::CpuPerUnit),
    Scenario::new(
        "http1-connect",
        "HTTP/1.1, a connection each at the caller's side",
        HTTP1,
        &["http1-connect", "--at-once", "16"],
    )
    .counting("connection", Figure::CpuPerUnit),
    Scenario::new(
        "rate",
        "1,000 HTTP/1.1 requests a second",
        HTTP1,
        &["rate", "--rate", "1000", "--connections", "32"],
    )
    .counting("request", Figure::P99),
    // What every product can carry with a tenth of a core; as many requests as the percentiles need.
    Scenario {
        seconds_min: 10.0,
        ..Scenario::new(
            "rate-quota",
            "100 HTTP/1.1 requests a second, each sidecar with a tenth of a core",
            Setting { cpu_percent_max: Some(10), ..HTTP1 },
            &["rate", "--rate", "100", "--connections", "16"],
        )
        .counting("request", Figure::P99)
    },
    // As many at once as use up the quota's 10 ms where a request takes 50 µs of a sidecar.
    Scenario {
        seconds_min: 10.0,
        ..Scenario::new(
            "bursts-quota",
            "200 HTTP/1.1 requests at once, every two seconds, each sidecar with a tenth of a core",
            Setting { cpu_percent_max: Some(10), ..HTTP1 },
            &["rate", "--rate", "100", "--connections", "200", "--bursts"],
        )
        .counting("request", Figure::P99)
    },
    Scenario::new(
        "grpc-unary",
        "gRPC unary, 8 connections × 16 calls",
        GRPC,
        &["http2", "--connections", "8", "--streams", "16", "--call", "grpc-unary"],
    )
    .counting("call", Figure::CpuPerUnit),
    Scenario::new(
        "grpc-stream",
        "gRPC streaming, 8 connections × 16 streams, a message each way",
        GRPC,
        &["http2", "--connections", "8", "--streams", "16", "--call", "grpc-stream"],
    )
    .counting("message each way", Figure::CpuPerUnit),
    Scenario::new(
        "post-64k",
        "HTTP/1.1 POST of 64 KiB, 16 connections",
        HTTP1,
        &["http1", "--connections", "16", "--body", "65536"],
    ),
    Scenario::new(
        "post-1m",
        "HTTP/1.1 POST of 1 MiB, 8 connections",
        HTTP1,
        &["http1", "--connections", "8", "--body", "1048576"],
    ),
    Scenario::new("idle-tcp", "idle L4 connections", TCP, &["idle"]).counting("connection", Figure::Memory),
    Scenario::new(
        "idle-tunnel",
        "idle L4 connections; Postern's in tunnels, the others' as in `idle-tcp`",
        Setting { tunnel: true, ..TCP },
        &["idle"],
    )
    .counting("connection", Figure::Memory),
    Scenario::new("idle-http1", "idle HTTP/1.1 connections", HTTP1, &["idle", "--http"])
        .counting("connection", Figure::Memory),
    // More than one process can hold in a pair, where each takes two descriptors: with HTTP, the sidecar in front of the
    // application holds one each, and few to the application.
    Scenario {
        door: Door::Server,
        ..Scenario::new(
            "idle-10000",
            "10,000 idle mTLS connections at the server sidecar, HTTP/1.1, one request each",
            HTTP1,
            &["idle", "--connections", "10000"],
        )
        .counting("connection", Figure::ServerMemory)
    },
    Scenario::new(
        "http1-1000-routes",
        "HTTP/1.1 keep-alive, 64 connections; 1,000 services at the client, 1,000 routes at the server",
        Setting { routes: 1000, ..HTTP1 },
        LOAD_HTTP1,
    ),
    Scenario::new("http1-10", "HTTP/1.1 keep-alive, 10 connections", HTTP1, &["http1", "--connections", "10"]),
    Scenario::new("http1-1000", "HTTP/1.1 keep-alive, 1,000 connections", HTTP1, &["http1", "--connections", "1000"]),
    Scenario::new(
        "http1-two-workers",
        "HTTP/1.1 keep-alive, 64 connections; two workers on both cores",
        Setting { workers: 2, ..HTTP1 },
        LOAD_HTTP1,
    ),
    Scenario::new(
        "http2-two-workers",
        "HTTP/2, 8 connections × 16 streams; two workers on both cores",
        Setting { workers: 2, ..HTTP2 },
        LOAD_HTTP2,
    ),
    Scenario::new(
        "http1-logs",
        "HTTP/1.1 keep-alive, 64 connections; access log on",
        Setting { logs: true, ..HTTP1 },
        LOAD_HTTP1,
    ),
    Scenario::new(
        "http2-logs",
        "HTTP/2, 8 connections × 16 streams; access log on",
        Setting { logs: true, ..HTTP2 },
        LOAD_HTTP2,
    ),
    Scenario::new(
        "connect-logs",
        "L4, a connection each; access log on",
        Setting { logs: true, ..TCP },
        &["connect", "--at-once", "16"],
    )
    .counting("connection", Figure::CpuPerUnit),
];
