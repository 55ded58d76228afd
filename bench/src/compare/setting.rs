//! What a pair has to do, said once for every product.

use super::certificates::Certificates;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

pub const CLIENT_ID: &str = "spiffe://shop.example/ns/shop/sa/web";
pub const SERVER_ID: &str = "spiffe://shop.example/ns/shop/sa/orders";
/// The same workloads as DNS names: HAProxy and nginx cannot compare a server's URI names.
pub const CLIENT_NAME: &str = "web.shop.svc";
pub const SERVER_NAME: &str = "orders.shop.svc";
/// The allowed path of the small setting: everything below.
pub const PATH: &str = "/orders/";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http1,
    /// From the caller to the application.
    Http2,
    /// HTTP/2 with trailers, for products that have another way for it.
    Grpc,
    Tcp,
}

impl Protocol {
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }

    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub protocol: Protocol,
    /// Access log on, in JSON, one line a request or connection, at both sidecars.
    pub logs: bool,
    /// As each product has it by default, or off for all.
    pub resumption: bool,
    pub workers: usize,
    /// Routes at the server, services at the client. With more than one, hosts are `service-N.shop.svc`, paths `/service-N/`.
    pub routes: usize,
    /// L4 connections as streams of few mTLS connections, where the product can; else one of its own for each.
    pub tunnel: bool,
    /// Of one core, for each sidecar; `None` is what the core gives.
    pub cpu_percent_max: Option<u32>,
}

impl Setting {
    pub const fn of(protocol: Protocol) -> Self {
        Self { protocol, logs: false, resumption: true, workers: 1, routes: 1, tunnel: false, cpu_percent_max: None }
    }

    /// `(host, path prefix)` of every service.
    pub fn services(&self) -> Vec<(String, String)> {
        match self.routes {
            1 => vec![(SERVER_NAME.to_owned(), PATH.to_owned())],
            many => (0..many).map(|number| (service_host(number), service_path(number))).collect(),
        }
    }
}

pub fn service_host(number: usize) -> String {
    format!("service-{number}.shop.svc")
}

pub fn service_path(number: usize) -> String {
    format!("/service-{number}/")
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Beside the caller: plaintext in, mTLS out.
    Client,
    /// Beside the application: mTLS in, plaintext out.
    Server,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Where a pair is and what it may use.
pub struct Place<'a> {
    /// A folder of this sidecar's own, for its files and its log.
    pub folder: &'a Path,
    pub certificates: &'a Certificates,
    /// Where the client sidecar listens.
    pub entry: SocketAddr,
    /// Where the server sidecar listens.
    pub mesh: SocketAddr,
    /// Where the application listens for this protocol.
    pub app: SocketAddr,
    /// For what a product serves beside traffic, such as metrics.
    pub extra: SocketAddr,
}

impl Place<'_> {
    pub fn listen(&self, side: Side) -> SocketAddr {
        match side {
            Side::Client => self.entry,
            Side::Server => self.mesh,
        }
    }
}

/// Ports that were free a moment ago, no two the same.
pub fn free_ports<const COUNT: usize>() -> anyhow::Result<[SocketAddr; COUNT]> {
    let mut held = Vec::with_capacity(COUNT);
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind(*port)?;
        *port = listener.local_addr()?;
        held.push(listener);
    }
    Ok(ports)
}
