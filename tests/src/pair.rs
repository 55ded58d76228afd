//! Two sidecars and the mTLS hop between them: `web` calls, `orders` answers for its application.

use crate::mesh::{Mesh, ORDERS, WEB};
use crate::ports;
use crate::sidecar::Sidecar;
use std::net::SocketAddr;

pub struct Pair {
    pub web: Sidecar,
    pub orders: Sidecar,
    /// Where `web`'s application reaches the service.
    pub outbound: SocketAddr,
    /// Where peers reach `orders`.
    pub inbound: SocketAddr,
    pub mesh: Mesh,
}

impl Pair {
    /// HTTP, and `web` may do everything.
    pub async fn http(app: SocketAddr) -> Self {
        Self::with(Mesh::start(), app, &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"), "protocol: http").await
    }

    /// L4, and `web` may connect.
    pub async fn tcp(app: SocketAddr) -> Self {
        Self::with(Mesh::start(), app, &format!("protocol: tcp\nallow: [{{ spiffe: {WEB} }}]"), "protocol: tcp").await
    }

    /// Bytes as they are on one side, HTTP on the other: whatever the test sends reaches `orders` inside mTLS.
    pub async fn raw_to_http(app: SocketAddr) -> Self {
        Self::with(Mesh::start(), app, &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"), "protocol: tcp").await
    }

    /// With lines for `orders`'s port and for `web`'s service.
    pub async fn with(mesh: Mesh, app: SocketAddr, port: &str, service: &str) -> Self {
        let (inbound, outbound) = (ports::free(), ports::free());
        let orders = mesh.sidecar("orders", &inbound_section(inbound, &app.to_string(), port)).await;
        let web = mesh.sidecar("web", &outbound_section(outbound, inbound, service)).await;
        Self { web, orders, outbound, inbound, mesh }
    }
}

/// One port with an application, and `lines` for it.
pub fn inbound_section(listen: SocketAddr, app: &str, lines: &str) -> String {
    let lines = indented(lines);
    format!("inbound:\n  - name: orders\n    port: 8080\n    listen: {listen}\n    app: {app}\n{lines}")
}

/// One service with a listener of its own, at one endpoint that has to be `orders`, and `lines` for it.
pub fn outbound_section(listen: SocketAddr, endpoint: SocketAddr, lines: &str) -> String {
    let lines = format!("endpoints: [\"{endpoint}\"]\nidentity: {ORDERS}\n{lines}");
    service_section(listen, &lines)
}

/// One service with a listener of its own, and `lines` for it.
pub fn service_section(listen: SocketAddr, lines: &str) -> String {
    let lines = indented(lines);
    format!("outbound:\n  services:\n  - name: orders\n    hosts: [orders.shop.svc]\n    listen: {listen}\n{lines}")
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("    {line}\n")).collect()
}
