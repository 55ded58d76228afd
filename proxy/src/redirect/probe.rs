//! Does a connection really arrive? Asked by making one, as another user, in a child process.

use super::plan::{DNS, Family, RedirectPlan, loopback};
use postern_config::capture::Ports;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A connection within a host takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
/// What our own listener says to whoever arrives, so that nobody else's connection is taken for the probe.
const TOKEN: &[u8] = b"postern-probe";
/// `nobody`, and its neighbours should that one be left alone: some systems run their nameserver as nobody.
const STRANGERS: [u32; 4] = [65534, 65533, 65532, 65531];

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// At a listener that we opened for it.
    Here,
    /// At whoever listens at the port; there is no other host that could have answered.
    AtTheListener,
    /// There is no route to anywhere in this family: nothing can leave by it.
    NoRoute,
    /// We may not become the user as whom it would have to be made.
    NotAsThatUser,
    /// With what the child saw.
    Not(String),
}

/// A user whom the rules leave alone in nothing, as whom we may make a probe.
fn stranger(plan: &RedirectPlan, own_uid: u32, may_change: bool) -> Option<u32> {
    let resolvers = plan.names.iter().flat_map(|names| &names.resolvers);
    let left_alone: Vec<u32> = plan.exempt_uids.iter().chain(resolvers).copied().collect();
    if own_uid != 0 && !left_alone.contains(&own_uid) {
        return Some(own_uid);
    }
    STRANGERS.into_iter().find(|uid| !left_alone.contains(uid)).filter(|_| may_change)
}

/// An address that no host has (RFC 5737 §3, RFC 3849 §2).
fn nobody(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    }
}

/// Nobody's address at a port that the plan captures; or one of the networks that alone are captured.
pub fn target(plan: &RedirectPlan, family: Family) -> Option<SocketAddr> {
    let ports: Vec<u16> = match &plan.outbound_ports {
        Ports::All => (0..=1000).map(|less| 64999 - less).collect(),
        Ports::Only(ports) => ports.clone(),
    };
    let networks = RedirectPlan::networks_of(&plan.only_networks, family);
    let addresses = std::iter::once(nobody(family)).chain(networks.iter().map(|network| network.address()));
    let mut candidates = addresses.flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port)));
    candidates.find(|candidate| plan.captures_outbound(*candidate))
}

/// A connection of a user who is not exempt to somewhere else.
pub fn outbound(plan: &RedirectPlan, family: Family, own_uid: u32, may_change: bool) -> Arrival {
    let (Some(port), Some(to)) = (plan.outbound, target(plan, family)) else { return Arrival::NoRoute };
    match stranger(plan, own_uid, may_change) {
        Some(uid) => attempt(SocketAddr::new(loopback(family), port), to, uid, own_uid),
        None => Arrival::NotAsThatUser,
    }
}

/// A name query of a user who is not exempt, over TCP, to a nameserver that is none.
pub fn names(plan: &RedirectPlan, family: Family, own_uid: u32, may_change: bool) -> Arrival {
    let Some(names) = &plan.names else { return Arrival::NoRoute };
    let to = SocketAddr::new(nobody(family), DNS);
    match stranger(plan, own_uid, may_change) {
        Some(uid) => attempt(SocketAddr::new(loopback(family), names.port), to, uid, own_uid),
        None => Arrival::NotAsThatUser,
    }
}

/// A connection of Postern's own user to this host's own address: it goes the way of a peer's.
pub fn ourselves(plan: &RedirectPlan, family: Family, own_uid: u32, may_change: bool) -> Arrival {
    let port = match &plan.inbound_ports {
        Ports::All => (1..=1000).map(|less| 64999 - less).find(|port| plan.captures_inbound(*port)),
        Ports::Only(ports) => ports.iter().copied().find(|port| plan.captures_inbound(*port)),
    };
    let (Some(inbound), Some(port), Some(ip)) = (plan.inbound, port, own_address(family)) else {
        return Arrival::NoRoute;
    };
    let uid = plan.exempt_uids.iter().copied().find(|uid| *uid == own_uid || may_change);
    let any = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    match uid {
        Some(uid) => attempt(SocketAddr::new(any, inbound), SocketAddr::new(ip, port), uid, own_uid),
        None => Arrival::NotAsThatUser,
    }
}

/// The address from which this host would call others. Connecting a UDP socket sends nothing.
fn own_address(family: Family) -> Option<IpAddr> {
    let (from, to): (SocketAddr, SocketAddr) = match family {
        Family::V4 => ((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into()),
        Family::V6 => ((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into()),
    };
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn attempt(at: SocketAddr, to: SocketAddr, uid: u32, own_uid: u32) -> Arrival {
    let listener = match listen(at) {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => return Arrival::Not(format!("{at} cannot be listened on: {error}")),
    };
    // The program by the kernel's link: another user may not be allowed into its folder.
    let mut command = Command::new("/proc/self/exe");
    command.args(["redirect", "probe", "--to", &to.to_string()]);
    if listener.is_some() {
        command.arg("--greeted");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if uid != own_uid {
        command.uid(uid).gid(uid);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Arrival::NotAsThatUser,
        Err(error) => return Arrival::Not(format!("no probe can be started: {error}")),
    };
    if let Some(listener) = &listener {
        greet(listener, &mut child);
    }
    let said = child.wait_with_output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match (said.as_deref(), listener.is_some()) {
        (Ok("arrived"), true) => Arrival::Here,
        (Ok("connected"), false) => Arrival::AtTheListener,
        (Ok("no route"), _) => Arrival::NoRoute,
        (Ok(word), _) => Arrival::Not(format!("a connection to {to} as uid {uid}: {word}")),
        (Err(error), _) => Arrival::Not(format!("the probe: {error}")),
    }
}

/// Of this family alone: Postern may hold the port in the other.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // Where TPROXY leads; without the capability there is none.
    let _ = if at.is_ipv4() { socket.set_ip_transparent_v4(true) } else { Ok(()) };
    socket.bind(&at.into())?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Says [`TOKEN`] to everybody until the child has ended.
fn greet(listener: &TcpListener, child: &mut std::process::Child) {
    let deadline = Instant::now() + PATIENCE + PATIENCE;
    let mut greeted = Vec::new();
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                // A stranger who left early is no concern of ours.
                let _ = stream.write_all(TOKEN);
                greeted.push(stream);
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// The child's part: connects, and says in a word what came of it. `is_greeted`: only who says [`TOKEN`] is its parent.
pub fn connect(to: SocketAddr, is_greeted: bool) -> String {
    let mut stream = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable) => {
            return "no route".to_owned();
        }
        Err(error) => return error.to_string(),
    };
    if !is_greeted {
        return "connected".to_owned();
    }
    let mut token = [0; TOKEN.len()];
    // Whoever listens instead of our parent may say nothing for long.
    let read = stream.set_read_timeout(Some(PATIENCE / 4)).and_then(|()| stream.read_exact(&mut token));
    match read {
        Ok(()) if token == TOKEN => "arrived".to_owned(),
        _ => "connected".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{stranger, target};
    use crate::redirect::plan::tests::plan;
    use crate::redirect::{Family, Names, RedirectPlan};

    #[test]
    fn probes_as_somebody_who_is_not_exempt() {
        let plan = plan("exempt_users: [65534, 1337]");
        assert_eq!(stranger(&plan, 0, true), Some(65533));
        assert_eq!(stranger(&plan, 1337, false), None);
        assert_eq!(stranger(&plan, 1000, false), Some(1000));
        assert_eq!(stranger(&plan, 0, false), None);
        let names = Names { port: 15053, loopback: Vec::new(), resolvers: vec![65533, 1000] };
        let plan = RedirectPlan { names: Some(names), ..plan };
        assert_eq!(stranger(&plan, 0, true), Some(65532));
        assert_eq!(stranger(&plan, 1000, true), Some(65532));
    }

    #[test]
    fn probes_what_is_captured() {
        for (redirect, expected) in [
            ("exempt_users: 7", Some("192.0.2.1:64999")),
            ("exempt_users: 7\n    exclude_outbound_ports: 64999", Some("192.0.2.1:64998")),
            ("exempt_users: 7\n    outbound_ports: [80, 443]", Some("192.0.2.1:80")),
            ("exempt_users: 7\n    only_networks: 10.96.0.0/12", Some("10.96.0.0:64999")),
            ("exempt_users: 7\n    only_networks: fd00::/8", None),
            ("exempt_users: 7\n    exclude_networks: 0.0.0.0/0", None),
        ] {
            let found = target(&plan(redirect), Family::V4).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{redirect}");
        }
    }
}
