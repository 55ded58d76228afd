//! What listens in this process, however it is addressed: nothing that was received may come back to it.

use super::{Door, Policy, any, any_v6};
use crate::capture::original::is_own_address;
use crate::session::Direction;
use postern_config::{Config, ListenAddress};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Everything that listens, besides what [`Policy::door`] knows.
pub(super) struct OwnListeners {
    /// Of all listeners.
    ports: HashSet<u16>,
    /// Of telemetry and admin: for operators, and never for what the application sends.
    operators: Vec<SocketAddr>,
}

impl OwnListeners {
    pub(super) fn of(config: &Config) -> Self {
        let operators: Vec<SocketAddr> =
            [config.telemetry.metrics, config.telemetry.readiness, config.admin.listen].into_iter().flatten().collect();
        let of_services = config.outbound.services.iter().filter_map(|service| service.listen.as_ref());
        let of_application = of_services.chain(&config.outbound.listen).filter_map(ListenAddress::tcp);
        let addresses = config.inbound.iter().filter_map(|inbound| inbound.listen).chain(of_application);
        let addresses = addresses.chain(config.tunnel.iter().flat_map(|tunnel| tunnel.listen.iter().copied()));
        let addresses = addresses.chain(operators.iter().copied());
        let captured = config.capture.iter().flat_map(|capture| {
            [capture.inbound, capture.outbound, capture.dns.as_ref().map(|dns| dns.listen)].into_iter().flatten()
        });
        Self { ports: addresses.map(|address| address.port()).chain(captured).collect(), operators }
    }
}

impl Policy {
    pub fn listens_on_port(&self, port: u16) -> bool {
        self.own.ports.contains(&port)
    }

    /// Would bytes that were received be sent to where they came in? What the application is said to be must be no inbound
    /// port, and a service none of the others; the application may call its own service through the mesh.
    ///
    /// Asked before anybody is called: a connection that is closed at once has been accepted all the same, and a stream would
    /// make another one of it, without end.
    pub fn leads_back(&self, to_app: bool, to: SocketAddr) -> bool {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        // The kernel takes no address for this host.
        if !self.listens_on_port(to.port()) || !(to.ip().is_unspecified() || is_own_address(to.ip())) {
            return false;
        }
        let unspecified = to.ip().is_unspecified();
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let loopback = loopback.into_iter().filter(|_| unspecified).map(|ip| SocketAddr::new(ip, to.port()));
        let doors = [to, any(to.port()), any_v6(to.port())].into_iter().chain(loopback);
        let mut doors = doors.filter_map(|address| self.door(&Door::At(address)));
        let takes = |listener: &SocketAddr| {
            let ip_fits = listener.ip() == to.ip() || listener.ip().is_unspecified() || to.ip().is_unspecified();
            ip_fits && listener.port() == to.port()
        };
        doors.any(|door| (door.direction() == Direction::Inbound) == to_app)
            // A port of the file may lead peers to our metrics: somebody wrote that, with rules.
            || !to_app && self.own.operators.iter().any(takes)
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::Policy;
    use crate::telemetry::Metrics;
    use postern_config::Config;
    use std::net::UdpSocket;
    use std::path::Path;

    const FILE: &str = "
capture: { inbound: 15006, outbound: 15001 }
telemetry: { metrics: '0.0.0.0:15020', readiness: '[::]:15021' }
admin: { listen: '127.0.0.1:15000' }
inbound: [{ port: 8080, listen: '0.0.0.0:8443', allow: [{ anonymous: true }], tls: 'off' }]
outbound:
  open_listeners: true
  listen: ['0.0.0.0:4000', '[::1]:4001']
";

    /// This host's address towards others, if it has one.
    fn own() -> Option<String> {
        let socket = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").map(|()| socket));
        socket.and_then(|socket| socket.local_addr()).ok().map(|address| address.ip().to_string())
    }

    #[test]
    fn nw_01_tells_our_own_listeners_however_they_are_called() {
        let config = Config::from_str(Path::new("f"), FILE).expect("right");
        let policy = Policy::compile(&config, None, &Metrics::new()).expect("compiled");
        let own = own().unwrap_or_else(|| "127.0.0.3".to_owned());
        let own = |port: u16| format!("{own}:{port}");
        // Whether it is a loop for a service, and for the application.
        for (to, of_service, of_app) in [
            ("127.0.0.1:4000", true, false),
            ("0.0.0.0:4000", true, false),
            ("[::]:4001", true, false),
            ("127.0.0.2:4000", true, false),
            ("[::ffff:127.0.0.1]:4000", true, false),
            ("[::1]:4001", true, false),
            (&own(4000), true, false),
            ("127.0.0.1:15001", true, false),
            ("[::1]:15001", true, false),
            // Of operators, and no business of the application's.
            ("127.0.0.1:15000", true, false),
            (&own(15020), true, false),
            ("[::1]:15021", true, false),
            // Nobody of us listens there.
            ("127.0.0.1:4001", false, false),
            ("127.0.0.1:5432", false, false),
            (&own(15000), false, false),
            ("192.0.2.1:4000", false, false),
            // The application may call itself through the mesh, and a port must not lead to a port.
            ("127.0.0.2:8443", false, true),
            ("127.0.0.1:15006", false, true),
            ("[::1]:15006", false, true),
        ] {
            let target = to.parse().expect("an address");
            let found = [false, true].map(|to_app| policy.leads_back(to_app, target));
            assert_eq!(found, [of_service, of_app], "{to}");
        }
    }
}
