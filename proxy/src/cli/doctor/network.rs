//! The network as the configuration wants it: ports of ours, the application, names and endpoints of others.

use super::Report;
use crate::capture::unix_socket;
use crate::cli::admin_client::get;
use postern_config::{AppAddress, Config, Endpoints, ListenAddress, Service};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream, lookup_host};

const LOOKUP_PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn examine(report: &mut Report, config: &Config) {
    ports(report, config).await;
    for inbound in &config.inbound {
        application(report, &inbound.name, &inbound.app, config.timeouts.connect_app).await;
    }
    for service in &config.outbound.services {
        endpoints(report, service, service.connect_timeout.unwrap_or(config.timeouts.connect)).await;
    }
}

async fn ports(report: &mut Report, config: &Config) {
    let running = match &config.admin.socket {
        Some(socket) => get(socket, "/version").await.is_ok(),
        None => false,
    };
    sockets(report, config, running);
    for (address, names) in listeners(config) {
        let names = names.join(", ");
        match TcpListener::bind(address) {
            Ok(_) => report.ok("ports", format!("{address} is free ({names})")),
            Err(error) if error.kind() == ErrorKind::AddrInUse && running => {
                report.ok("ports", format!("{address} is in use, and Postern is running ({names})"));
            }
            Err(error) => report.fail("ports", format!("{address} ({names}): {error}"), fix_of_port(&error, address)),
        }
    }
}

/// Unix sockets that we would make.
fn sockets(report: &mut Report, config: &Config, running: bool) {
    for (path, name) in of_application(config).filter_map(|(address, name)| Some((address.unix()?, name))) {
        let (shown, directory) = (path.display(), path.parent().unwrap_or(Path::new("/")));
        match unix_socket::is_taken(path) {
            Ok(true) if running => {
                report.ok("ports", format!("unix:{shown} is in use, and Postern is running ({name})"));
            }
            Ok(true) => {
                let fix = format!("`ss -lxp src {shown}` shows who listens; stop it or choose another path");
                report.fail("ports", format!("unix:{shown} ({name}): somebody listens there"), fix);
            }
            _ if !directory.is_dir() => {
                let fix = format!("make the directory {}, writable for Postern's user", directory.display());
                report.fail("ports", format!("unix:{shown} ({name}): its directory does not exist"), fix);
            }
            _ if is_no_socket(path) => {
                let what = format!("unix:{shown} ({name}): something that is no socket stands there");
                report.fail("ports", what, "remove it, or choose another path");
            }
            _ => report.ok("ports", format!("unix:{shown} is free ({name})")),
        }
    }
}

fn is_no_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket())
}

fn of_application(config: &Config) -> impl Iterator<Item = (&ListenAddress, &str)> {
    let shared = config.outbound.listen.iter().map(|address| (address, "outbound"));
    shared.chain(config.outbound.services.iter().filter_map(|service| Some((service.listen.as_ref()?, &*service.name))))
}

/// Every address that we would listen on, with who wants it.
fn listeners(config: &Config) -> BTreeMap<SocketAddr, Vec<String>> {
    let mut wanted: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
    let mut want = |address: Option<SocketAddr>, name: &str| {
        if let Some(address) = address {
            wanted.entry(address).or_default().push(name.to_owned());
        }
    };
    for inbound in &config.inbound {
        want(inbound.listen, &inbound.name);
    }
    for (address, name) in of_application(config) {
        want(address.tcp(), name);
    }
    want(config.telemetry.metrics, "metrics");
    want(config.telemetry.readiness, "readiness");
    want(config.admin.listen, "admin");
    wanted
}

fn fix_of_port(error: &Error, address: SocketAddr) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("`ss -ltnp sport = :{}` shows who listens; stop it or choose another port", address.port())
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege: use a higher one, and let the application's name or a redirect lead there"
                .to_owned()
        }
        ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this host: listen on 0.0.0.0 or on one that `ip addr` shows", address.ip())
        }
        _ => "choose another address".to_owned(),
    }
}

async fn application(report: &mut Report, name: &str, app: &AppAddress, patience: Duration) {
    let (shown, reached) = match app {
        AppAddress::Tcp(address) => {
            (address.to_string(), within(patience, TcpStream::connect(address)).await.map(drop))
        }
        AppAddress::Unix(path) => {
            (format!("unix:{}", path.display()), within(patience, UnixStream::connect(path)).await.map(drop))
        }
    };
    match reached {
        Ok(()) => report.ok("application", format!("{name} is reached at {shown}")),
        Err(error) => report.warn(
            "application",
            format!("{name} is not reached at {shown}: {error}"),
            "start it, or correct `app:`; until then its callers get 503 app_unreachable",
        ),
    }
}

async fn endpoints(report: &mut Report, service: &Service, patience: Duration) {
    let name = &service.name;
    let addresses = match &service.endpoints {
        Endpoints::Static(addresses) => addresses.clone(),
        Endpoints::Dns { host, port } => {
            let found = within(LOOKUP_PATIENCE, lookup_host((host.as_str(), *port))).await;
            match found.map(Iterator::collect::<Vec<_>>) {
                Ok(addresses) if !addresses.is_empty() => addresses,
                outcome => {
                    let why = outcome.err().map_or("no address".to_owned(), |error| error.to_string());
                    let what = format!("{name}: {host} does not resolve: {why}");
                    report.fail("endpoints", what, "correct the name, or see /etc/resolv.conf");
                    return;
                }
            }
        }
        // Known only when somebody asks.
        Endpoints::Host { .. } => return,
    };
    let mut reached = 0;
    let mut last_error = None;
    for address in &addresses {
        match within(patience, TcpStream::connect(address)).await {
            Ok(_) => reached += 1,
            Err(error) => last_error = Some(format!("{address}: {error}")),
        }
    }
    let all = addresses.len();
    match last_error {
        None => report.ok("endpoints", format!("{name}: {reached} of {all} reached")),
        Some(error) => report.warn(
            "endpoints",
            format!("{name}: {reached} of {all} reached ({error})"),
            "start it there, or see whether a firewall or a NetworkPolicy is in between",
        ),
    }
}

async fn within<T>(patience: Duration, attempt: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    match tokio::time::timeout(patience, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(ErrorKind::TimedOut, format!("no answer within {patience:?}"))),
    }
}
