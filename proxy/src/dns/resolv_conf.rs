//! What `/etc/resolv.conf` says (resolv.conf(5)). Pure: the text is an argument.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the application's resolver and ours are configured.
pub const PATH: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// `MAXNS` of glibc and musl: a fourth one is ignored.
const NAMESERVERS_MAX: usize = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// None is the one on this host.
    pub nameservers: Vec<SocketAddr>,
    /// In lower case, without final dots.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// What is not understood is skipped, as the C libraries do.
    pub fn read(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match (words.next(), words) {
                (Some("nameserver"), mut words) => {
                    // The zone of `fe80::1%eth0` has no place in our configuration; such a nameserver is skipped.
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    if let Some(address) = address.filter(|_| found.nameservers.len() < NAMESERVERS_MAX) {
                        found.nameservers.push(SocketAddr::new(address, DNS_PORT));
                    }
                }
                // The last one of either counts alone.
                (Some("search" | "domain"), words) => found.search = words.filter_map(domain).collect(),
                _ => {}
            }
        }
        if found.nameservers.is_empty() {
            found.nameservers.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DNS_PORT));
        }
        found
    }
}

fn domain(word: &str) -> Option<String> {
    let word = word.strip_suffix('.').unwrap_or(word);
    (!word.is_empty()).then(|| word.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::ResolvConf;

    #[test]
    fn reads_nameservers_and_the_search_list() {
        for (text, nameservers, search) in [
            ("", &["127.0.0.1:53"][..], &[][..]),
            ("nameserver 10.0.0.2\nnameserver fd00::2\n", &["10.0.0.2:53", "[fd00::2]:53"], &[]),
            ("nameserver fe80::1%eth0\n", &["127.0.0.1:53"], &[]),
            (
                "nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\nnameserver 4.4.4.4",
                &["1.1.1.1:53", "2.2.2.2:53", "3.3.3.3:53"],
                &[],
            ),
            ("# nameserver 1.1.1.1\n;search a\nnameserver\t9.9.9.9 # no comment\n", &["9.9.9.9:53"], &[]),
            ("domain shop.svc.\noptions ndots:5", &["127.0.0.1:53"], &["shop.svc"]),
            (
                "search default.svc.cluster.local SVC.cluster.local.\n",
                &["127.0.0.1:53"],
                &["default.svc.cluster.local", "svc.cluster.local"],
            ),
            ("search a b\ndomain c\n", &["127.0.0.1:53"], &["c"]),
            ("domain c\nsearch .\n", &["127.0.0.1:53"], &[]),
        ] {
            let found = ResolvConf::read(text);
            let addresses: Vec<String> = found.nameservers.iter().map(ToString::to_string).collect();
            assert_eq!(addresses, nameservers, "{text:?}");
            assert_eq!(found.search, search, "{text:?}");
        }
    }
}
