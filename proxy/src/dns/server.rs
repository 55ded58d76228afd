//! The application's side: queries over UDP and TCP on loopback, answered with the policy of the moment.

use super::DnsPlan;
use super::answer;
use super::decide::{Decision, Reachable, decide, of_declared};
use super::forward::{Source, with_length};
use super::names::{Existence, Named};
use super::virtual_addresses::Addresses;
use super::wire::{Code, Query, UDP_BYTES_MAX, kind};
use crate::capture;
use crate::shared::Shared;
use crate::telemetry::DnsResult;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Queries over UDP that wait for an upstream at one time.
const WAITING_MAX: usize = 1024;
/// RFC 7766 §6.2.2 leaves the number open; a resolver needs one.
const TCP_CONNECTIONS_MAX: usize = 64;
/// RFC 7766 §6.2.3: of the order of a few seconds.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Routes are looked up again after this long.
const ROUTES_KNOWN: Duration = Duration::from_secs(1);
/// RFC 863. Any port would do.
const DISCARD_PORT: u16 = 9;
/// After an error of a socket as a whole.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Sockets of which nobody knows yet.
pub struct Bound {
    port: u16,
    sockets: Vec<(std::net::UdpSocket, std::net::TcpListener)>,
}

impl Bound {
    /// On loopback of both families; one that this host does not have is left out.
    ///
    /// # Errors
    /// The port is taken, or no family is there.
    pub fn new(port: u16) -> io::Result<Self> {
        let mut sockets = Vec::new();
        let mut absent = None;
        for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let address = SocketAddr::new(ip, port);
            match bind(address) {
                Ok(bound) => sockets.push(bound),
                Err(error) if is_absent(&error) => absent = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (sockets.is_empty(), absent) {
            (true, Some(error)) => Err(error),
            _ => Ok(Self { port, sockets }),
        }
    }

    /// Answers until what it returns is dropped.
    ///
    /// # Errors
    /// The runtime does not take a socket.
    pub fn open(self, shared: &Arc<Shared>) -> io::Result<Open> {
        let server = Arc::new(Server::new(shared.clone()));
        let mut tasks = JoinSet::new();
        for (udp, tcp) in self.sockets {
            let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
            tracing::info!(address = %udp.local_addr()?, "answering name queries");
            tasks.spawn(serve_udp(server.clone(), Arc::new(udp)));
            tasks.spawn(serve_tcp(server.clone(), tcp));
        }
        warn_without_route(shared);
        Ok(Open { port: self.port, _tasks: tasks })
    }
}

fn bind(address: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let tcp = capture::bind(address)?;
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address} (UDP): {error}"));
    // With port 0 both have to have the same one.
    let udp = std::net::UdpSocket::bind(tcp.local_addr()?).map_err(failed)?;
    udp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

/// EADDRNOTAVAIL, EAFNOSUPPORT: this host has no such family, or no loopback in it.
fn is_absent(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Answers as long as it lives.
pub struct Open {
    port: u16,
    _tasks: JoinSet<()>,
}

impl Open {
    pub fn port(&self) -> u16 {
        self.port
    }
}

struct Server {
    shared: Arc<Shared>,
    waiting: Arc<Semaphore>,
    routes: Mutex<Option<(Instant, Reachable)>>,
}

/// What is known of a query without waiting.
enum Step {
    /// `None`: nothing is answered.
    Done(Option<Vec<u8>>),
    Wait(Query, Waiting),
}

enum Waiting {
    Forward,
    Assign(Named, Existence),
}

impl Server {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, waiting: Arc::new(Semaphore::new(WAITING_MAX)), routes: Mutex::default() }
    }

    fn reachable(&self, plan: &DnsPlan) -> Reachable {
        let mut known = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((at, reachable)) if at.elapsed() < ROUTES_KNOWN => reachable,
            _ => {
                let found = reachable(plan);
                *known = Some((Instant::now(), found));
                found
            }
        }
    }

    fn begin(&self, bytes: &[u8]) -> Step {
        let count = |result| self.shared.metrics.dns_query(result);
        let query = match Query::read(bytes) {
            Ok(query) => query,
            Err(error) => {
                count(DnsResult::Malformed);
                tracing::debug!(%error, "a message that is no query");
                return Step::Done(error.code().and_then(|code| answer::unreadable(bytes, code)));
            }
        };
        let Some(plan) = self.plan() else { return Step::Done(Some(answer::failure(&query, Code::ServerFailure))) };
        match decide(&plan, &query, self.reachable(&plan)) {
            Decision::Answer(answer, result) => {
                count(result);
                Step::Done(Some(answer))
            }
            Decision::Forward => Step::Wait(query, Waiting::Forward),
            Decision::Assign(named, existence) => Step::Wait(query, Waiting::Assign(named, existence)),
        }
    }

    /// `None`: the configuration captures no names any more, and this listener is about to be closed.
    fn plan(&self) -> Option<Arc<DnsPlan>> {
        self.shared.policy().load().dns.clone()
    }

    async fn finish(&self, query: &Query, waiting: Waiting) -> Vec<u8> {
        let Some(plan) = self.plan() else { return answer::failure(query, Code::ServerFailure) };
        let (answer, result) = match waiting {
            Waiting::Forward => forward(&plan, query).await,
            Waiting::Assign(named, Existence::ByItself) => self.assign(&plan, query, &named).await,
            Waiting::Assign(named, Existence::Upstream) => match exists(&plan, query).await {
                true => self.assign(&plan, query, &named).await,
                false => forward(&plan, query).await,
            },
        };
        self.shared.metrics.dns_query(result);
        answer
    }

    async fn assign(&self, plan: &DnsPlan, query: &Query, named: &Named) -> (Vec<u8>, DnsResult) {
        if let Some(addresses) = plan.addresses.assign(&named.host) {
            return (of_declared(query, addresses, self.reachable(plan), plan.ttl), DnsResult::Declared);
        }
        tracing::warn!(service = %named.service, "no virtual address is free for another host of this service");
        // Its true address, if it has one: requests are still known by their host.
        forward(plan, query).await
    }
}

async fn forward(plan: &DnsPlan, query: &Query) -> (Vec<u8>, DnsResult) {
    match plan.forwarder.resolve(query).await {
        Ok((reply, age, from)) => {
            let result = if from == Source::Cache { DnsResult::Cached } else { DnsResult::Forwarded };
            (answer::passed_on(&reply, query, age), result)
        }
        Err(error) => {
            tracing::debug!(%error, "a query was not answered");
            (answer::failure(query, Code::ServerFailure), DnsResult::Failed)
        }
    }
}

/// Have the nameservers an address of either family for the name?
async fn exists(plan: &DnsPlan, query: &Query) -> bool {
    for kind in [kind::A, kind::AAAA] {
        if let Ok((reply, ..)) = plan.forwarder.resolve(&query.with_kind(kind)).await
            && reply.has_address
        {
            return true;
        }
    }
    false
}

/// Is there a route to virtual addresses? No packet is sent.
pub fn reachable(plan: &DnsPlan) -> Reachable {
    let sample: Addresses = plan.addresses.sample();
    let routed = |address: IpAddr| {
        let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        std::net::UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, DISCARD_PORT))).is_ok()
    };
    Reachable {
        v4: sample.v4.is_some_and(|address| routed(IpAddr::V4(address))),
        v6: sample.v6.is_some_and(|address| routed(IpAddr::V6(address))),
    }
}

fn warn_without_route(shared: &Shared) {
    let policy = shared.policy().load();
    let Some(plan) = &policy.dns else { return };
    let reachable = reachable(plan);
    if !reachable.v4 && !reachable.v6 {
        tracing::warn!(
            "this host has no route to any virtual network: applications cannot connect to the addresses that they are \
             given; add a default route, or `ip route add 240.240.0.0/12 dev lo`"
        );
    }
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    // One byte more than we take would show that a message was longer; queries are not.
    let mut buffer = vec![0; UDP_BYTES_MAX];
    let mut waiting = JoinSet::new();
    loop {
        while waiting.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a name query could not be received");
                sleep(BACK_OFF).await;
                continue;
            }
        };
        match server.begin(&buffer[..length]) {
            // A client that cannot be answered asks again.
            Step::Done(Some(answer)) => drop(socket.send_to(&answer, client).await),
            Step::Done(None) => {}
            Step::Wait(query, step) => {
                let Ok(place) = server.waiting.clone().try_acquire_owned() else {
                    server.shared.metrics.dns_query(DnsResult::OverLimit);
                    drop(socket.send_to(&answer::failure(&query, Code::ServerFailure), client).await);
                    continue;
                };
                let (server, socket) = (server.clone(), socket.clone());
                waiting.spawn(async move {
                    let answer = server.finish(&query, step).await;
                    drop(socket.send_to(&answer::for_udp(answer, &query), client).await);
                    drop(place);
                });
            }
        }
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if connections.len() < TCP_CONNECTIONS_MAX => {
                connections.spawn(serve_connection(server.clone(), stream));
            }
            // Closing is the answer: the client tries again, or another nameserver.
            Ok(_) => server.shared.metrics.dns_query(DnsResult::OverLimit),
            Err(error) => {
                tracing::debug!(%error, "a connection for name queries could not be accepted");
                sleep(BACK_OFF).await;
            }
        }
    }
}

/// One query after the other (RFC 7766 §6.2.1.1 lets clients send several at once; they are answered in order).
async fn serve_connection(server: Arc<Server>, mut stream: TcpStream) {
    capture::tune(&stream, &server.shared.policy().load());
    let mut message = Vec::new();
    loop {
        match timeout(TCP_IDLE, read_message(&mut stream, &mut message)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
        let answer = match server.begin(&message) {
            Step::Done(answer) => answer,
            Step::Wait(query, step) => Some(server.finish(&query, step).await),
        };
        // Nothing is answered to what is no query, and the next message may be one.
        let Some(answer) = answer else { continue };
        match timeout(TCP_IDLE, stream.write_all(&with_length(&answer))).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

async fn read_message(stream: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u16().await?;
    message.resize(usize::from(length), 0);
    stream.read_exact(message).await.map(drop)
}

#[cfg(test)]
mod tests;
