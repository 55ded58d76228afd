//! What the kernel says about this host, read from /proc.

use super::plan::{Families, Family};
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

/// A listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    pub uid: u32,
    pub inode: u64,
}

impl Listener {
    /// Whether a connection to `address` ends at it.
    pub fn takes(&self, address: SocketAddr) -> bool {
        let dual = self.address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let all = self.address.ip().is_unspecified() && (self.address.is_ipv4() == address.is_ipv4() || dual);
        self.address.port() == address.port() && (all || self.address.ip() == address.ip())
    }

    /// The name of the process, where we may look.
    pub fn process(&self) -> Option<String> {
        let wanted = format!("socket:[{}]", self.inode);
        let holds = |process: &std::path::Path| {
            let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            descriptors
                .flat_map(|entry| std::fs::read_link(entry.path()))
                .any(|link| link.as_os_str() == wanted.as_str())
        };
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let mut paths = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
        let holder = paths.find(|entry| holds(&entry.path()))?;
        let name = read(&holder.path().join("comm").to_string_lossy());
        Some(format!("{} (pid {})", name.trim(), holder.file_name().to_string_lossy()))
    }
}

/// Everything that listens in this network namespace.
pub fn listeners() -> Vec<Listener> {
    let mut found = parse_listeners(&read("/proc/net/tcp"), Family::V4);
    found.extend(parse_listeners(&read("/proc/net/tcp6"), Family::V6));
    found
}

fn parse_listeners(table: &str, family: Family) -> Vec<Listener> {
    table.lines().skip(1).filter_map(|line| parse_listener(line, family)).collect()
}

/// `sl local_address rem_address st queues timer retrnsmt uid timeout inode …` (`ipv4/tcp_ipv4.c`, get_tcp4_sock).
fn parse_listener(line: &str, family: Family) -> Option<Listener> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if fields.get(3) != Some(&LISTEN) {
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
    Some(Listener {
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
    use super::{CAP_NET_ADMIN, Listener, effective_capabilities, parse_listeners};
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
        let found = parse_listeners(v4, Family::V4);
        let expected = Listener { address: "127.0.0.1:15001".parse().unwrap(), uid: 1337, inode: 4711 };
        assert_eq!(found, [expected]);
        let v6 = "head\n 0: 00000000000000000000000001000000:3A9E 0:0 0A 0:0 00:0 0 7 0 12 1\n";
        assert_eq!(parse_listeners(v6, Family::V6)[0].address, "[::1]:15006".parse().unwrap());
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
            let listener = Listener { address: at.parse().unwrap(), uid: 0, inode: 0 };
            assert_eq!(listener.takes(to.parse().unwrap()), expected, "{at} {to}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_table_panics(table in ".{0,200}", address in "[0-9A-Fa-f:]{0,40}") {
            parse_listeners(&table, Family::V4);
            let line = format!("head\n 0: {address} 0:0 0A 0 0 0 0 0 0");
            prop_assert!(parse_listeners(&line, Family::V6).len() <= 1);
        }
    }
}
