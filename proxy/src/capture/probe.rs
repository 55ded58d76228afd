//! Is our traffic really captured? Found out by a connection, not by reading rules that somebody else may undo.
//!
//! Inbound, the packet filter sends what our own user opens to another address of this host than loopback to the port for
//! captured connections (so that a workload can call itself through the mesh). Outbound, our user is exempt, so the rules
//! hold one destination that nobody is exempt from ([`probe_address`]). A probe is such a connection: where it arrives, the
//! rules are in force; where it ends elsewhere or nowhere, peers reach the application past us, or it calls past us, or
//! nobody reaches anybody.

use super::{Remote, is_available};
use crate::admin::{Condition, Readiness};
use crate::redirect::{Family, probe_address};
use crate::shared::Shared;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

/// On this host: it arrives at once or never.
const PATIENCE: Duration = Duration::from_secs(2);
/// Without rules, an outbound probe is a SYN on the wire: soon after the start, when rules may be on their way, and then
/// ever more seldom.
const AGAIN_UNMET_MIN: Duration = Duration::from_secs(1);
const AGAIN_UNMET_MAX: Duration = Duration::from_secs(10);
const AGAIN_MET: Duration = Duration::from_secs(10);
/// An outbound probe that is not captured ends at the first router.
const HOPS: u32 = 1;

/// Connections of ours that are under way to ourselves.
#[derive(Default)]
pub struct Probes {
    /// Looked at for each captured connection, so that the lock need not be.
    under_way: AtomicUsize,
    from: Mutex<HashMap<SocketAddr, oneshot::Sender<()>>>,
}

impl Probes {
    /// Is this captured connection a probe? It carries nothing then.
    pub fn recognises(&self, remote: Remote) -> bool {
        let Some(remote) = remote.address().filter(|_| self.under_way.load(Relaxed) != 0) else { return false };
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let known = self.from.lock().unwrap_or_else(PoisonError::into_inner).remove(&remote);
        // Whoever waited may have given up meanwhile.
        known.map(|arrived| arrived.send(())).is_some()
    }

    fn begin(&self, from: SocketAddr) -> oneshot::Receiver<()> {
        let (arrived, arriving) = oneshot::channel();
        self.from.lock().unwrap_or_else(PoisonError::into_inner).insert(from, arrived);
        self.under_way.fetch_add(1, Relaxed);
        arriving
    }

    fn end(&self, from: SocketAddr) {
        self.from.lock().unwrap_or_else(PoisonError::into_inner).remove(&from);
        self.under_way.fetch_sub(1, Relaxed);
    }

    /// One connection of `own` to `target`, which is called `what` in an error.
    async fn arrives(&self, own: IpAddr, target: SocketAddr, what: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("a connection to {what} {target} fails ({error})");
        let socket = if own.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
        let options = socket2::SockRef::from(&socket);
        if own.is_ipv4() { options.set_ttl_v4(HOPS) } else { options.set_unicast_hops_v6(HOPS) }.map_err(failed)?;
        socket.bind(SocketAddr::new(own, 0)).map_err(failed)?;
        let from = socket.local_addr().map_err(failed)?;
        let arrived = self.begin(from);
        let arriving = async {
            let _stream = socket.connect(target).await.map_err(failed)?;
            // It lives as long as this probe does.
            let _ = arrived.await;
            Ok(())
        };
        let outcome = tokio::time::timeout(PATIENCE, arriving).await;
        self.end(from);
        outcome.unwrap_or_else(|_elapsed| Err(format!("a connection to {what} {target} does not arrive here")))
    }
}

/// Watches over capture for readiness, and never returns. Without `capture` there is nothing to see.
pub async fn watch(shared: Arc<Shared>, readiness: Arc<Readiness>) {
    let mut policy_changed = shared.subscribe_policy();
    let (mut inbound, mut outbound) = (Watched::new("inbound"), Watched::new("outbound"));
    let mut unmet = AGAIN_UNMET_MIN;
    loop {
        let policy = shared.policy().load_full();
        let inbound_met = match policy.captured_port() {
            None => None,
            Some(port) => Some(check_inbound(&shared.probes, port).await),
        };
        let outbound_met = match policy.expects_outbound() {
            false => None,
            true => Some(check_outbound(&shared.probes).await),
        };
        let unseen = [inbound.found(inbound_met), outbound.found(outbound_met)];
        let reasons: Vec<String> = unseen.into_iter().flatten().collect();
        let again = if reasons.is_empty() { AGAIN_MET } else { unmet };
        unmet = if reasons.is_empty() { AGAIN_UNMET_MIN } else { (unmet * 2).min(AGAIN_UNMET_MAX) };
        readiness.set(Condition::Capture, if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) });
        tokio::select! {
            () = tokio::time::sleep(again) => {}
            changed = policy_changed.changed() => {
                if changed.is_err() { return }
                unmet = AGAIN_UNMET_MIN;
            }
        }
    }
}

/// A direction, and what was last seen of it.
struct Watched {
    direction: &'static str,
    was_met: Option<bool>,
}

impl Watched {
    fn new(direction: &'static str) -> Self {
        Self { direction, was_met: None }
    }

    /// Tells a change; returns the reason why it is not ready. `None`: nobody expects this direction to be captured.
    fn found(&mut self, met: Option<Result<(), String>>) -> Option<String> {
        let is_met = met.as_ref().map(Result::is_ok);
        let (changed, direction) = (self.was_met != is_met, self.direction);
        self.was_met = is_met;
        match met? {
            Ok(()) if changed => tracing::info!("{direction} connections are captured"),
            Ok(()) => {}
            Err(reason) => {
                if changed {
                    tracing::error!(%reason, "{direction} connections are not captured: not ready");
                }
                return Some(reason);
            }
        }
        None
    }
}

fn with_fix(what: String) -> String {
    format!("{what}: run `postern redirect install`, or see `postern redirect check`")
}

async fn check_inbound(probes: &Probes, port: u16) -> Result<(), String> {
    let own: Vec<IpAddr> = own_addresses().collect();
    if own.is_empty() {
        return Err("this host has no address but loopback, so nobody can call it".to_owned());
    }
    for address in own {
        probes.arrives(address, SocketAddr::new(address, port), "our own").await.map_err(with_fix)?;
    }
    Ok(())
}

/// Of each family with a route to elsewhere: what has none cannot leave, captured or not.
async fn check_outbound(probes: &Probes) -> Result<(), String> {
    for address in own_addresses() {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let target = probe_address(family);
        probes.arrives(address, target, "the captured").await.map_err(with_fix)?;
    }
    Ok(())
}

/// The address of each family that this host would speak from. Nothing is sent: a datagram socket that is connected only
/// looks the route up.
fn own_addresses() -> impl Iterator<Item = IpAddr> {
    let towards = [(IpAddr::V4(Ipv4Addr::UNSPECIFIED), Family::V4), (IpAddr::V6(Ipv6Addr::UNSPECIFIED), Family::V6)];
    towards.into_iter().filter_map(|(any, family)| {
        if !is_available(any) {
            return None;
        }
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(probe_address(family)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|own| !own.is_loopback() && !own.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use super::{Probes, Remote};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use tokio::net::TcpListener;

    async fn arrives(probes: &Probes, port: u16) -> Result<(), String> {
        let own = IpAddr::V4(Ipv4Addr::LOCALHOST);
        probes.arrives(own, SocketAddr::new(own, port), "our own").await
    }

    /// A listener that is no port for captured connections is the application, reached past us.
    #[tokio::test(start_paused = true)]
    async fn what_arrives_elsewhere_is_not_captured() {
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = elsewhere.local_addr().unwrap().port();
        let probes = Probes::default();
        let error = arrives(&probes, port).await.unwrap_err();
        assert!(error.contains("does not arrive here"), "{error}");
        drop(elsewhere);
        let error = arrives(&probes, port).await.unwrap_err();
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
        let (arrived, ()) = tokio::join!(arrives(&probes, port), accepting);
        assert_eq!(arrived, Ok(()));
    }
}
