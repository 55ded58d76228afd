//! IP networks in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A network such as `10.0.0.0/8` or `fd00::/8`; an address alone is the network of itself. Addresses are compared in their
/// canonical form, so `::ffff:10.0.0.1` is in `10.0.0.0/8` (THREATS NW-04).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The rule of the notation that a text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("is not an IP address or network")]
    Address,
    #[error("has no prefix length that fits its address")]
    Prefix,
    #[error("has bits set behind its prefix: which network is meant is not clear")]
    HostBits,
    #[error("is an IPv4 address written as IPv6")]
    Mapped,
    #[error("has no port from 1 to 65535")]
    Port,
}

impl Network {
    /// # Errors
    /// One variant a rule.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        if address.to_canonical() != address {
            return Err(NetworkError::Mapped);
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(NetworkError::Prefix);
            }
            Some(digits) => digits.parse().ok().filter(|prefix| *prefix <= most).ok_or(NetworkError::Prefix)?,
        };
        let network = Self { address, prefix };
        if network.masked(address) == address { Ok(network) } else { Err(NetworkError::HostBits) }
    }

    /// The network of `prefix` bits that `address` is in. A longer prefix than the address has bits means the address alone.
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        let address = address.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        let network = Self { address, prefix: prefix.min(most) };
        Self { address: network.masked(address), ..network }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == self.address
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many addresses it has; `::/0` has one less than it should.
    pub fn size(&self) -> u128 {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        1_u128.checked_shl(whole - u32::from(self.prefix)).unwrap_or(u128::MAX)
    }

    /// Whether each address of `other` is one of ours.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// Whether some address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// In bits; the longer, the more specific.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn masked(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
        }
    }
}

/// Where captured connections were meant to go: a network, and on which port. `10.96.0.12:5432`, `10.96.0.0/12`,
/// `[fd00::1]:5432`, `[fd00::/8]:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    pub network: Network,
    /// `None`: every port.
    pub port: Option<u16>,
}

impl Destination {
    /// # Errors
    /// As for [`Network::parse`].
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let bracketed = text.strip_prefix('[').map(|rest| rest.split_once(']').ok_or(NetworkError::Address));
        let (network, port) = match bracketed.transpose()? {
            Some((network, "")) => (network, None),
            Some((network, rest)) => (network, Some(rest.strip_prefix(':').ok_or(NetworkError::Address)?)),
            // More than one colon: IPv6 without a port.
            None if text.bytes().filter(|byte| *byte == b':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(network, port)| (network, Some(port))),
        };
        let port = match port {
            None => None,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port != 0).ok_or(NetworkError::Port)?)
            }
            Some(_) => return Err(NetworkError::Port),
        };
        Ok(Self { network: Network::parse(network)?, port })
    }

    pub fn contains(&self, address: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == address.port()) && self.network.contains(address.ip())
    }

    /// The one address and port that fits, if there is but one.
    pub fn exact(&self) -> Option<SocketAddr> {
        let whole = if self.network.is_ipv4() { 32 } else { 128 };
        let port = self.port.filter(|_| self.network.prefix == whole)?;
        Some(SocketAddr::new(self.network.address, port))
    }

    /// The more specific of two that fit wins: the longer prefix, then the one with a port.
    pub fn specificity(&self) -> (u8, bool) {
        (self.network.prefix(), self.port.is_some())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => self.network.fmt(f),
            Some(port) if self.network.is_ipv4() => write!(f, "{}:{port}", self.network),
            Some(port) => write!(f, "[{}]:{port}", self.network),
        }
    }
}

/// An address alone is written without its prefix.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == whole { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn reads_networks_and_names_what_is_wrong() {
        for (text, expected) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("10.1.2.3", Ok("10.1.2.3")),
            ("10.1.2.3/32", Ok("10.1.2.3")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("::/0", Ok("::/0")),
            ("fd00::/8", Ok("fd00::/8")),
            ("2001:db8::1", Ok("2001:db8::1")),
            ("10.0.0.1/8", Err(NetworkError::HostBits)),
            ("10.0.0.0/33", Err(NetworkError::Prefix)),
            ("10.0.0.0/", Err(NetworkError::Prefix)),
            ("10.0.0.0/+8", Err(NetworkError::Prefix)),
            ("10.0.0.0/-1", Err(NetworkError::Prefix)),
            ("fd00::/129", Err(NetworkError::Prefix)),
            ("10.0.0", Err(NetworkError::Address)),
            ("shop.example", Err(NetworkError::Address)),
            ("fe80::1%eth0", Err(NetworkError::Address)),
            ("::ffff:10.0.0.1", Err(NetworkError::Mapped)),
            ("", Err(NetworkError::Address)),
        ] {
            let read = Network::parse(text);
            assert_eq!(read.map(|network| network.to_string()).as_deref(), expected.as_deref(), "{text:?}");
        }
    }

    #[test]
    fn nw_04_contains_addresses_of_its_family_and_mapped_ones() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "10.0.0.1", false),
            ("::/0", "::ffff:10.0.0.1", false),
            ("fd00::/8", "fdff::1", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
        ] {
            let found = Network::parse(network).unwrap().contains(address.parse().unwrap());
            assert_eq!(found, expected, "{address} in {network}");
        }
    }

    #[test]
    fn an_address_is_in_the_network_around_it() {
        for (address, prefix, expected) in [
            ("10.1.2.3", 24, "10.1.2.0/24"),
            ("::ffff:10.1.2.3", 24, "10.1.2.0/24"),
            ("10.1.2.3", 0, "0.0.0.0/0"),
            ("10.1.2.3", 200, "10.1.2.3"),
            ("2001:db8:1:2:3::1", 64, "2001:db8:1:2::/64"),
        ] {
            assert_eq!(Network::around(address.parse().unwrap(), prefix).to_string(), expected, "{address}/{prefix}");
        }
    }

    #[test]
    fn reads_destinations() {
        for (text, expected) in [
            ("10.96.0.12:5432", Ok("10.96.0.12:5432")),
            ("10.96.0.12", Ok("10.96.0.12")),
            ("10.96.0.0/12", Ok("10.96.0.0/12")),
            ("10.96.0.0/12:443", Ok("10.96.0.0/12:443")),
            ("[fd00::1]:5432", Ok("[fd00::1]:5432")),
            ("[fd00::/8]:443", Ok("[fd00::/8]:443")),
            ("[fd00::1]", Ok("fd00::1")),
            ("fd00::/8", Ok("fd00::/8")),
            ("10.0.0.1:0", Err(NetworkError::Port)),
            ("10.0.0.1:", Err(NetworkError::Port)),
            ("10.0.0.1:+1", Err(NetworkError::Port)),
            ("10.0.0.1:99999", Err(NetworkError::Port)),
            ("[fd00::1", Err(NetworkError::Address)),
            ("[fd00::1]5432", Err(NetworkError::Address)),
            ("shop.svc:80", Err(NetworkError::Address)),
        ] {
            let read = Destination::parse(text);
            assert_eq!(read.map(|it| it.to_string()).as_deref(), expected.as_deref(), "{text:?}");
        }
        let destination = Destination::parse("10.0.0.0/8:443").unwrap();
        for (address, expected) in [("10.1.1.1:443", true), ("10.1.1.1:80", false), ("[::ffff:10.1.1.1]:443", true)] {
            assert_eq!(destination.contains(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn networks_cover_overlap_and_have_sizes() {
        for (one, other, covers, overlaps) in [
            ("10.0.0.0/8", "10.1.0.0/16", true, true),
            ("10.1.0.0/16", "10.0.0.0/8", false, true),
            ("10.0.0.0/8", "10.0.0.0/8", true, true),
            ("10.0.0.0/8", "11.0.0.0/8", false, false),
            ("0.0.0.0/0", "::/0", false, false),
        ] {
            let [first, second] = [one, other].map(|text| Network::parse(text).unwrap());
            assert_eq!((first.covers(&second), first.overlaps(&second)), (covers, overlaps), "{one} {other}");
        }
        for (network, size) in [("10.0.0.0/8", 1 << 24), ("10.1.2.3", 1), ("fd00::/64", 1 << 64), ("::/0", u128::MAX)] {
            assert_eq!(Network::parse(network).unwrap().size(), size, "{network}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_alike(bits in any::<u128>(), v4 in any::<bool>(), prefix in 0_u8..=128) {
            let text = match v4 {
                true => format!("{}/{}", Ipv4Addr::from(bits as u32), prefix.min(32)),
                false => format!("{}/{prefix}", Ipv6Addr::from(bits)),
            };
            if let Ok(network) = Network::parse(&text) {
                prop_assert_eq!(Network::parse(&network.to_string()), Ok(network));
                prop_assert!(network.contains(network.address));
            }
        }
    }
}
