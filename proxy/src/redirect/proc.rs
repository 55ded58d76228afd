//! What the kernel says about this host, read from /proc.

use super::plan::{DNS, Families, Family};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Numbers of capabilities(7).
pub const CAP_SETUID: u32 = 7;
pub const CAP_NET_ADMIN: u32 = 12;

/// Whether the effective set of this process has a capability. Without /proc: no.
pub fn has_capability(number: u32) -> bool {
    effective_capabilities(&read("/proc/self/status")).is_some_and(|set| set >> number & 1 == 1)
}

/// `CapEff:\t0000000000001000`
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// A setting below /proc/sys, such as `net/ipv4/ip_forward`; `None` where the kernel has none such.
pub fn setting(name: &str) -> Option<i64> {
    read(&format!("/proc/sys/{name}")).trim().parse().ok()
}

pub fn passwd() -> String {
    read("/etc/passwd")
}

/// The families that this kernel has. It always has IPv4.
pub fn families() -> Families {
    if std::path::Path::new("/proc/net/if_inet6").exists() { Families::Both } else { Families::V4 }
}

/// Whether interfaces get addresses of IPv6 at all.
pub fn ipv6_is_off() -> bool {
    families() == Families::V4 || setting("net/ipv6/conf/all/disable_ipv6") == Some(1)
}

/// Whether `lo` has ::1, to which connections by IPv6 are redirected.
pub fn has_loopback_ipv6() -> bool {
    // address, index, prefix length, scope, flags, name (`ipv6/addrconf.c`)
    let loopback = format!("{:032x}", Ipv6Addr::LOCALHOST.to_bits());
    read("/proc/net/if_inet6").lines().any(|line| line.starts_with(&loopback))
}

/// The names of this network namespace's interfaces.
pub fn interfaces() -> Vec<String> {
    let lines = read("/proc/net/dev");
    lines.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// A socket that takes what anybody sends: TCP that listens, or UDP without a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    pub address: SocketAddr,
    /// Of who made it.
    pub uid: u32,
    pub inode: u64,
}

impl Socket {
    /// Whether what is sent to `address` ends at it.
    pub fn takes(&self, address: SocketAddr) -> bool {
        let dual = self.address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let all = self.address.ip().is_unspecified() && (self.address.is_ipv4() == address.is_ipv4() || dual);
        self.address.port() == address.port() && (all || self.address.ip() == address.ip())
    }

    /// The name of the process, where we may look.
    pub fn process(&self) -> Option<String> {
        let holder = self.holder()?;
        let name = read(&holder.join("comm").to_string_lossy());
        Some(format!("{} (pid {})", name.trim(), holder.file_name()?.to_string_lossy()))
    }

    /// As whom the process that holds it makes other sockets now. Many a server binds as root and then becomes somebody
    /// else. Where we may not look, as whom this one was made.
    fn user_now(&self) -> u32 {
        let status = self.holder().map(|holder| read(&holder.join("status").to_string_lossy()));
        status.and_then(|status| filesystem_uid(&status)).unwrap_or(self.uid)
    }

    fn holder(&self) -> Option<std::path::PathBuf> {
        let wanted = format!("socket:[{}]", self.inode);
        let holds = |process: &std::path::Path| {
            let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            descriptors
                .flat_map(|entry| std::fs::read_link(entry.path()))
                .any(|link| link.as_os_str() == wanted.as_str())
        };
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let mut paths = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
        paths.find(|entry| holds(&entry.path())).map(|entry| entry.path())
    }
}

/// `Uid:\treal\teffective\tsaved\tfilesystem` (proc(5)); the last is what new sockets get.
fn filesystem_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Everything that listens in this network namespace.
pub fn listeners() -> Vec<Socket> {
    let mut found = parse_sockets(&read("/proc/net/tcp"), Family::V4, LISTEN);
    found.extend(parse_sockets(&read("/proc/net/tcp6"), Family::V6, LISTEN));
    found
}

/// UDP sockets at which a nameserver of this network namespace may answer, each with the user as whom it asks others:
/// those of its port, and those of one address of loopback, whose port Docker rewrites.
pub fn nameservers() -> Vec<Socket> {
    let mut found = parse_sockets(&read("/proc/net/udp"), Family::V4, UNCONNECTED);
    found.extend(parse_sockets(&read("/proc/net/udp6"), Family::V6, UNCONNECTED));
    found.retain(|socket| socket.address.port() == DNS || socket.address.ip().is_loopback());
    found.into_iter().map(|socket| Socket { uid: socket.user_now(), ..socket }).collect()
}

pub fn resolv_conf() -> String {
    read(crate::dns::resolv_conf::PATH)
}

/// Of nsswitch.conf(5).
pub fn name_services() -> String {
    read("/etc/nsswitch.conf")
}

/// States of sockets (Linux, `net/tcp_states.h`); UDP borrows them.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

fn parse_sockets(table: &str, family: Family, state: &str) -> Vec<Socket> {
    table.lines().skip(1).filter_map(|line| parse_socket(line, family, state)).collect()
}

/// `sl local_address rem_address st queues timer retrnsmt uid timeout inode …` (`ipv4/tcp_ipv4.c`, get_tcp4_sock; `ipv4/udp.c`).
fn parse_socket(line: &str, family: Family, state: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if fields.get(3) != Some(&state) {
        return None;
    }
    let (address, port) = fields[1].split_once(':')?;
    // Words of 32 bits in the machine's own order.
    let mut bytes = Vec::with_capacity(16);
    for start in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(Socket {
        address: SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?),
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{CAP_NET_ADMIN, LISTEN, Socket, UNCONNECTED, effective_capabilities, filesystem_uid, parse_sockets};
    use crate::redirect::Family;
    use proptest::prelude::{ProptestConfig, prop_assert, proptest};

    #[test]
    fn reads_capabilities() {
        let set = effective_capabilities("Name:\tpostern\nCapEff:\t0000000000001000\n").unwrap();
        assert_eq!(set >> CAP_NET_ADMIN & 1, 1);
        assert_eq!(effective_capabilities("CapEff:\tnonsense\n"), None);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn reads_who_listens() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                  \x20  0: 0100007F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 4711 1 0 100\n\
                  \x20  1: 0100007F:3A99 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1337        0 4712 1 0 100\n";
        let found = parse_sockets(v4, Family::V4, LISTEN);
        let expected = Socket { address: "127.0.0.1:15001".parse().unwrap(), uid: 1337, inode: 4711 };
        assert_eq!(found, [expected]);
        let v6 = "head\n 0: 00000000000000000000000001000000:3A9E 0:0 0A 0:0 00:0 0 7 0 12 1\n";
        assert_eq!(parse_sockets(v6, Family::V6, LISTEN)[0].address, "[::1]:15006".parse().unwrap());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn reads_who_answers_over_udp() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     \x20 171: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 4242 2 0 0\n\
                     \x20 172: 0100007F:D431 3500007F:0035 01 00000000:00000000 00:00000000 00000000  1000        0 4243 2 0 0\n";
        let found = parse_sockets(table, Family::V4, UNCONNECTED);
        assert_eq!(found, [Socket { address: "127.0.0.53:53".parse().unwrap(), uid: 101, inode: 4242 }]);
    }

    #[test]
    fn a_process_makes_sockets_as_who_it_became() {
        assert_eq!(filesystem_uid("Name:\tdnsmasq\nUid:\t0\t0\t0\t105\nGid:\t1\t1\t1\t1\n"), Some(105));
        assert_eq!(filesystem_uid("Name:\tdnsmasq\n"), None);
    }

    #[test]
    fn knows_what_a_listener_takes() {
        for (at, to, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("0.0.0.0:1", "127.0.0.1:2", false),
            ("10.0.0.1:1", "127.0.0.1:1", false),
        ] {
            let listener = Socket { address: at.parse().unwrap(), uid: 0, inode: 0 };
            assert_eq!(listener.takes(to.parse().unwrap()), expected, "{at} {to}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_table_panics(table in ".{0,200}", address in "[0-9A-Fa-f:]{0,40}") {
            parse_sockets(&table, Family::V4, LISTEN);
            let line = format!("head\n 0: {address} 0:0 0A 0 0 0 0 0 0");
            prop_assert!(parse_sockets(&line, Family::V6, LISTEN).len() <= 1);
        }
    }
}
