//! Is our traffic really captured? Found out by a connection, not by reading rules that somebody else may undo.
//!
//! The packet filter sends what our own user opens to another address of this host than loopback to the port for captured
//! connections (so that a workload can call itself through the mesh). A probe is such a connection: where it arrives, the
//! rules are in force; where it ends elsewhere or nowhere, peers reach the application past us, or not at all.

use super::{Remote, is_available};
use crate::admin::{Condition, Readiness};
use crate::shared::Shared;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::Notify;

/// On this host: it arrives at once or never.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN_UNMET: Duration = Duration::from_secs(1);
const AGAIN_MET: Duration = Duration::from_secs(30);

/// Connections of ours that are under way to ourselves.
#[derive(Default)]
pub struct Probes {
    /// Looked at for each captured connection, so that the lock need not be.
    under_way: AtomicUsize,
    from: Mutex<HashSet<SocketAddr>>,
    arrived: Notify,
}

impl Probes {
    /// Is this captured connection a probe? It carries nothing then.
    pub fn recognises(&self, remote: Remote) -> bool {
        let Some(remote) = remote.address().filter(|_| self.under_way.load(Relaxed) != 0) else { return false };
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let known = self.from.lock().unwrap_or_else(PoisonError::into_inner).remove(&remote);
        if known {
            self.arrived.notify_one();
        }
        known
    }

    fn begin(&self, from: SocketAddr) {
        self.from.lock().unwrap_or_else(PoisonError::into_inner).insert(from);
        self.under_way.fetch_add(1, Relaxed);
    }

    fn end(&self, from: SocketAddr) {
        self.from.lock().unwrap_or_else(PoisonError::into_inner).remove(&from);
        self.under_way.fetch_sub(1, Relaxed);
    }

    /// One connection to `port` of `own`.
    async fn arrives(&self, own: IpAddr, port: u16) -> Result<(), String> {
        let target = SocketAddr::new(own, port);
        let failed = |error: std::io::Error| format!("a connection to our own {target} fails ({error})");
        let socket = if own.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
        socket.bind(SocketAddr::new(own, 0)).map_err(failed)?;
        let from = socket.local_addr().map_err(failed)?;
        self.begin(from);
        let arriving = async {
            let _stream = socket.connect(target).await.map_err(failed)?;
            self.arrived.notified().await;
            Ok(())
        };
        let outcome = tokio::time::timeout(PATIENCE, arriving).await;
        self.end(from);
        outcome.unwrap_or_else(|_elapsed| Err(format!("a connection to our own {target} does not arrive here")))
    }
}

/// Watches over capture for readiness, and never returns. Without `capture.inbound` there is nothing to see.
pub async fn watch(shared: Arc<Shared>, readiness: Arc<Readiness>) {
    let mut policy_changed = shared.subscribe_policy();
    let mut was_met = None;
    loop {
        let port = shared.policy().load().captured_port();
        let met = match port {
            None => Ok(()),
            Some(port) => check(&shared.probes, port).await,
        };
        if port.is_some() && was_met != Some(met.is_ok()) {
            match &met {
                Ok(()) => tracing::info!("inbound connections are captured"),
                Err(reason) => tracing::error!(%reason, "inbound connections are not captured: not ready"),
            }
        }
        was_met = port.map(|_| met.is_ok());
        let again = if met.is_ok() { AGAIN_MET } else { AGAIN_UNMET };
        readiness.set(Condition::Capture, met);
        tokio::select! {
            () = tokio::time::sleep(again) => {}
            changed = policy_changed.changed() => if changed.is_err() { return },
        }
    }
}

async fn check(probes: &Probes, port: u16) -> Result<(), String> {
    let own: Vec<IpAddr> = own_addresses().collect();
    if own.is_empty() {
        return Err("this host has no address but loopback, so nobody can call it".to_owned());
    }
    for address in own {
        let fix = |what| format!("{what}: run `postern redirect install`, or see `postern redirect check`");
        probes.arrives(address, port).await.map_err(fix)?;
    }
    Ok(())
}

/// The address of each family that this host would speak from. Nothing is sent: a datagram socket that is connected only
/// looks the route up. Documentation addresses (RFC 5737, RFC 3849).
fn own_addresses() -> impl Iterator<Item = IpAddr> {
    let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let towards =
        [(IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(v4)), (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(v6))];
    towards.into_iter().filter_map(|(any, towards)| {
        if !is_available(any) {
            return None;
        }
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((towards, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|own| !own.is_loopback() && !own.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use super::{Probes, Remote};
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::net::TcpListener;

    /// A listener that is no port for captured connections is the application, reached past us.
    #[tokio::test(start_paused = true)]
    async fn what_arrives_elsewhere_is_not_captured() {
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = elsewhere.local_addr().unwrap().port();
        let probes = Probes::default();
        let error = probes.arrives(IpAddr::V4(Ipv4Addr::LOCALHOST), port).await.unwrap_err();
        assert!(error.contains("does not arrive here"), "{error}");
        drop(elsewhere);
        let error = probes.arrives(IpAddr::V4(Ipv4Addr::LOCALHOST), port).await.unwrap_err();
        assert!(error.contains("fails"), "{error}");
        assert!(!probes.recognises(Remote::Ip("127.0.0.1:1".parse().unwrap())));
    }

    #[tokio::test]
    async fn recognises_its_own_and_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probes = Probes::default();
        let accepting = async {
            let (_stream, remote) = listener.accept().await.unwrap();
            assert!(!probes.recognises(Remote::Ip("127.0.0.1:1".parse().unwrap())), "somebody else");
            assert!(probes.recognises(Remote::Ip(remote)));
            assert!(!probes.recognises(Remote::Ip(remote)), "once");
        };
        let (arrived, ()) = tokio::join!(probes.arrives(IpAddr::V4(Ipv4Addr::LOCALHOST), port), accepting);
        assert_eq!(arrived, Ok(()));
    }
}
