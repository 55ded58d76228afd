use super::{Names, WantedNames, holders};
use crate::redirect::plan::tests::facts;
use crate::redirect::proc::Socket;
use crate::redirect::{Families, HostFacts, PlanError};
use std::net::IpAddr;

fn socket(address: &str, uid: u32) -> Socket {
    Socket { address: address.parse().unwrap(), uid, inode: 0 }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn names(wanted: &WantedNames, resolv_conf: &str, nameservers: &[Socket]) -> Result<Names, PlanError> {
    Names::new(wanted, &[1337], HostFacts { resolv_conf, nameservers, ..facts(Families::Both) })
}

fn at(port: u16) -> WantedNames {
    WantedNames { port, ..WantedNames::default() }
}

#[test]
fn nameservers_on_loopback_are_those_of_the_system() {
    for (resolv_conf, port, expected) in [
        ("nameserver 127.0.0.53\noptions edns0", 15053, &["127.0.0.53"][..]),
        ("nameserver 10.96.0.10\n", 15053, &[]),
        ("nameserver 10.96.0.10\nnameserver ::1\nnameserver 127.0.0.11\n", 15053, &["127.0.0.11", "::1"]),
        ("nameserver ::ffff:127.0.0.1\n", 15053, &["127.0.0.1"]),
        // Nobody named is the one on this host (resolv.conf(5)).
        ("", 15053, &["127.0.0.1"]),
        // Postern itself.
        ("nameserver 127.0.0.1\nnameserver 127.0.0.2", 53, &["127.0.0.2"]),
    ] {
        let expected: Vec<IpAddr> = expected.iter().map(|text| ip(text)).collect();
        assert_eq!(names(&at(port), resolv_conf, &[]).unwrap().loopback, expected, "{resolv_conf:?}");
    }
}

#[test]
fn who_forwards_for_this_host_is_found_by_the_socket() {
    for (what, nameserver, sockets, expected) in [
        (
            "systemd-resolved",
            "127.0.0.53",
            &[socket("127.0.0.53:53", 101), socket("127.0.0.54:53", 102)][..],
            &[101][..],
        ),
        ("dnsmasq, everywhere", "127.0.0.1", &[socket("0.0.0.0:53", 105)], &[105]),
        ("of both families", "127.0.0.1", &[socket("[::]:53", 105)], &[105]),
        ("Docker", "127.0.0.11", &[socket("127.0.0.11:40961", 0)], &[0]),
        ("nobody", "127.0.0.53", &[], &[]),
        ("somebody else's", "127.0.0.1", &[socket("127.0.0.1:323", 7), socket("[::1]:53", 8)], &[]),
        ("another port", "127.0.0.53", &[socket("0.0.0.0:5353", 7)], &[]),
        ("Postern's own", "127.0.0.53", &[socket("127.0.0.53:53", 1337)], &[]),
    ] {
        let found = names(&at(15053), &format!("nameserver {nameserver}"), sockets).unwrap();
        assert_eq!(found.resolvers, expected, "{what}");
    }
    assert_eq!(holders(ip("::1"), &[socket("[::1]:53", 9), socket("[::1]:54", 8)]), [9]);
}

#[test]
fn what_is_written_counts_alone() {
    let wanted = WantedNames {
        port: 15053,
        loopback_nameservers: Some(vec![ip("127.0.0.2")]),
        resolver_users: Some(vec!["77".to_owned(), "root".to_owned()]),
    };
    let found = names(&wanted, "nameserver 127.0.0.53", &[socket("127.0.0.2:53", 5)]).unwrap();
    assert_eq!((&*found.loopback, &*found.resolvers), (&[ip("127.0.0.2")][..], &[0, 77][..]));
    // Applications in a container run as root, too.
    assert_eq!(found.asking_each_other(), [77]);
    let nobody = WantedNames { loopback_nameservers: Some(Vec::new()), ..at(15053) };
    let found = names(&nobody, "nameserver 127.0.0.53", &[socket("127.0.0.53:53", 5)]).unwrap();
    assert_eq!((found.loopback, found.resolvers), (Vec::new(), Vec::new()));
    let unknown = WantedNames { resolver_users: Some(vec!["dnsmsaq".to_owned()]), ..at(15053) };
    assert_eq!(names(&unknown, "", &[]), Err(PlanError::UnknownUser("dnsmsaq".to_owned())));
}
