//! Name capture: its port over TCP and UDP, the nameservers behind it, and a route to the addresses that it hands out.

use super::Report;
use crate::cli::admin_client::get;
use crate::dns::server::{Bound, reachable};
use crate::dns::wire::Query;
use crate::dns::{DnsPlan, resolv_conf};
use postern_config::{Config, Dns};
use std::io::ErrorKind;

/// Who serves the root: what every nameserver can say.
const ROOT_NAMESERVERS: [u8; 17] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

pub(super) async fn examine(report: &mut Report, config: &Config) {
    let Some(dns) = config.capture.as_ref().and_then(|capture| capture.dns.as_ref()) else { return };
    port(report, config, dns).await;
    match DnsPlan::compile(config, None) {
        Ok(Some(plan)) => {
            upstreams(report, &plan).await;
            routes(report, dns, &plan);
        }
        Ok(None) => {}
        Err(error) => {
            let fix = format!("name `capture.dns.upstreams`, or see {}", resolv_conf::PATH);
            report.fail("names", error.to_string(), fix);
        }
    }
}

async fn port(report: &mut Report, config: &Config, dns: &Dns) {
    let running = match &config.admin.socket {
        Some(socket) => get(socket, "/version").await.is_ok(),
        None => false,
    };
    let port = dns.listen;
    match Bound::new(port) {
        Ok(_) => report.ok("names", format!("port {port} is free over UDP and TCP (capture.dns)")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && running => {
            report.ok("names", format!("port {port} is in use, and Postern is running (capture.dns)"));
        }
        Err(error) => {
            let fix = format!("`ss -lntup sport = :{port}` shows who listens; stop it or choose another port");
            report.fail("names", error.to_string(), fix);
        }
    }
}

async fn upstreams(report: &mut Report, plan: &DnsPlan) {
    let Ok(query) = Query::read(&ROOT_NAMESERVERS) else { return };
    match plan.forwarder.resolve(&query).await {
        Ok(_) => report.ok("names", "a nameserver answers"),
        Err(error) => report.warn(
            "names",
            format!("{error}: names of nobody's service will not resolve"),
            "correct `capture.dns.upstreams` or /etc/resolv.conf, or see whether a firewall drops port 53",
        ),
    }
}

fn routes(report: &mut Report, dns: &Dns, plan: &DnsPlan) {
    let found = reachable(plan);
    if found.v4 || found.v6 {
        return report.ok("names", "there is a route to the addresses of services");
    }
    let commands = dns.virtual_networks.iter().map(|network| format!("`ip route add {network} dev lo`"));
    report.fail(
        "names",
        "there is no route to the addresses of services: connections to them fail before they are captured",
        format!("add a default route, or {}", commands.collect::<Vec<_>>().join(" and ")),
    );
}

#[cfg(test)]
mod tests {
    use super::{ROOT_NAMESERVERS, examine};
    use crate::cli::doctor::Report;
    use crate::dns::wire::Query;
    use postern_config::Config;
    use std::net::{TcpListener, UdpSocket};
    use std::path::Path;

    #[test]
    fn every_nameserver_is_asked_what_it_can_answer() {
        let query = Query::read(&ROOT_NAMESERVERS).expect("a query");
        assert_eq!((query.kind, query.class, query.host()), (2, 1, None));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_and_nameservers_that_are_not_there_are_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound").port();
        let _taken = UdpSocket::bind(("127.0.0.1", taken)).expect("bound");
        let nobody = UdpSocket::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound").port();
        let text = format!(
            "capture: {{ outbound: 15001, dns: {{ listen: {taken}, upstreams: \"127.0.0.1:{nobody}\", search: a }} }}"
        );
        let mut report = Report::default();
        examine(&mut report, &Config::from_str(Path::new("f"), &text).expect("right")).await;
        let shown = report.render();
        for expected in [
            format!("cannot listen on 127.0.0.1:{taken} (UDP)"),
            format!("`ss -lntup sport = :{taken}` shows who listens"),
            "no nameserver answered in time".to_owned(),
        ] {
            assert!(shown.contains(&expected), "{expected:?} is not in\n{shown}");
        }
    }
}
