//! Addresses that mean this host, this link, or the cloud that it runs in. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A name or address out of a request must not lead to ourselves or to a cloud's metadata service (THREATS NW-03, NW-07).
pub fn may_be_dialled(address: IpAddr) -> bool {
    let address = meant(address);
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let is_ours = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    !(is_ours || is_link_local || is_metadata(address))
}

/// Whether everybody means the same by it: neither this host, its link, a cloud's metadata service, nor a private network
/// (RFC 1918, RFC 6598, RFC 4193).
pub fn is_public(address: IpAddr) -> bool {
    let is_private = match meant(address) {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_private() || v4.is_broadcast() || first == 0 || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local(),
    };
    may_be_dialled(address) && !is_private
}

/// Where clouds give credentials to whoever can connect. A name that the file wrote may lead to loopback and to the link,
/// but its owner must not be able to turn it there; an address that the file wrote may be this one.
pub fn is_metadata(address: IpAddr) -> bool {
    match meant(address) {
        IpAddr::V4(v4) => METADATA_V4.contains(&v4.octets()),
        IpAddr::V6(v6) => METADATA_V6.contains(&v6),
    }
}

const METADATA_V4: [[u8; 4]; 6] = [
    // Nearly all of them.
    [169, 254, 169, 254],
    // Credentials of tasks (ECS) and pods (EKS).
    [169, 254, 170, 2],
    [169, 254, 170, 23],
    // Alibaba, Azure, Oracle.
    [100, 100, 100, 200],
    [168, 63, 129, 16],
    [192, 0, 0, 192],
];

const METADATA_V6: [Ipv6Addr; 4] = [
    // AWS, and its pods' credentials; Google; Scaleway.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

/// The IPv4 address that an address of IPv6 stands for, where a stack or a gateway would make one of it.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else { return address.to_canonical() };
    let embedded = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        // RFC 6052 §2.1.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // RFC 3056 §2.
        [0x2002, high, low, ..] => embedded(high, low),
        // RFC 4291 §2.5.5.1, without `::` and `::1`.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => embedded(high, low),
        _ => IpAddr::V6(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_metadata, is_public, may_be_dialled};

    #[test]
    fn nw_03_public_addresses_are_of_no_private_network() {
        for (text, public) in [
            ("192.0.2.1", true),
            ("100.128.0.1", true),
            ("172.32.0.1", true),
            ("2001:db8::1", true),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("192.168.0.1", false),
            ("100.64.0.1", false),
            ("0.1.2.3", false),
            ("255.255.255.255", false),
            ("fd12::1", false),
            ("::ffff:10.1.2.3", false),
            ("64:ff9b::a01:203", false),
            ("127.0.0.1", false),
            ("fe80::1", false),
            ("169.254.169.254", false),
            ("100.100.100.200", false),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }

    #[test]
    fn nw_03_metadata_and_own_addresses_of_requested_names_are_not_dialled() {
        for (text, dialled, metadata) in [
            ("10.1.2.3", true, false),
            ("2001:db8::1", true, false),
            ("64:ff9b::a01:203", true, false),
            ("127.0.0.1", false, false),
            ("127.8.9.10", false, false),
            ("::1", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("::127.0.0.1", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("224.0.0.1", false, false),
            ("ff02::1", false, false),
            ("169.254.171.1", false, false),
            ("fe80::1", false, false),
            ("169.254.169.254", false, true),
            ("::ffff:169.254.169.254", false, true),
            ("::169.254.169.254", false, true),
            ("64:ff9b::a9fe:a9fe", false, true),
            ("2002:a9fe:a9fe::1", false, true),
            ("169.254.170.2", false, true),
            ("169.254.170.23", false, true),
            ("100.100.100.200", false, true),
            ("168.63.129.16", false, true),
            ("192.0.0.192", false, true),
            ("fd00:ec2::254", false, true),
            ("fd00:ec2::23", false, true),
            ("fd20:ce::254", false, true),
        ] {
            let address = text.parse().unwrap();
            assert_eq!((may_be_dialled(address), is_metadata(address)), (dialled, metadata), "{text}");
        }
    }
}
