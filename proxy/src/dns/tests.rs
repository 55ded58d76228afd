use super::{DnsError, DnsPlan, surroundings};
use postern_config::{Config, Dns};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

fn config(dns: &str) -> Config {
    let text = format!("capture: {{ outbound: 15001, dns: {dns} }}\n");
    Config::from_str(Path::new("f"), &text).expect("right")
}

fn dns(text: &str) -> Dns {
    config(text).capture.and_then(|capture| capture.dns).expect("a section")
}

#[test]
fn what_the_file_leaves_out_is_the_systems() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"nameserver 10.0.0.2\nsearch shop.svc\n").expect("written");
    for (written, upstreams, search) in [
        ("{ listen: 15053 }", "10.0.0.2:53", "shop.svc"),
        ("{ listen: 15053, upstreams: 9.9.9.9 }", "9.9.9.9:53", "shop.svc"),
        ("{ listen: 15053, search: a.b }", "10.0.0.2:53", "a.b"),
        ("{ listen: 15053, upstreams: 9.9.9.9, search: a.b }", "9.9.9.9:53", "a.b"),
    ] {
        let (found, domains) = surroundings(&dns(written), file.path()).expect("readable");
        assert_eq!(
            (found, domains),
            (vec![upstreams.parse().expect("an address")], vec![search.to_owned()]),
            "{written}"
        );
    }
}

#[test]
fn a_nameserver_that_is_ourselves_is_refused() {
    let nowhere = Path::new("/nonexistent/resolv.conf");
    assert!(matches!(surroundings(&dns("{ listen: 15053 }"), nowhere), Err(DnsError::ResolvConf { .. })));
    assert!(surroundings(&dns("{ listen: 15053, upstreams: 9.9.9.9 }"), nowhere).is_ok());
    let with = |text: &[u8], written: &str| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text).expect("written");
        surroundings(&dns(written), file.path())
    };
    assert!(matches!(with(b"nameserver 127.0.0.1\n", "{ listen: 53 }"), Err(DnsError::AsksItself(_))));
    assert!(with(b"nameserver 127.0.0.53\n", "{ listen: 53 }").is_ok());
    assert!(matches!(with(b"nameserver 240.240.0.1\n", "{ listen: 1 }"), Err(DnsError::VirtualNameserver(_))));
}

#[test]
fn what_was_cached_stays_while_the_same_are_asked() {
    let compile = |text: &str, previous: Option<&DnsPlan>| {
        DnsPlan::compile(&config(text), previous).expect("compiled").expect("captured")
    };
    let first = compile("{ listen: 1, upstreams: 9.9.9.9, search: a }", None);
    let same = compile("{ listen: 2, upstreams: 9.9.9.9, search: b, ttl: 5s }", Some(&first));
    let other = compile("{ listen: 1, upstreams: 9.9.9.8, search: a }", Some(&first));
    assert!(Arc::ptr_eq(&first.forwarder, &same.forwarder));
    assert!(!Arc::ptr_eq(&first.forwarder, &other.forwarder));
    let nothing = Config::from_str(Path::new("f"), "workers: 1").expect("right");
    assert!(DnsPlan::compile(&nothing, None).expect("compiled").is_none());
}

#[test]
fn what_the_system_says_now_is_told_from_what_it_said() {
    let written = "{ listen: 1, search: a }";
    let plan = DnsPlan::compile(&config("{ listen: 1, upstreams: 10.0.0.2, search: a }"), None).expect("compiled");
    let plan = plan.expect("captured");
    for (text, dns_keys, expected) in [
        ("nameserver 10.0.0.2\nsearch b\n", written, true),
        ("nameserver 10.0.0.3\n", written, false),
        ("nameserver 10.0.0.2\nnameserver 10.0.0.3\n", written, false),
        ("nameserver 10.0.0.2\nsearch b\n", "{ listen: 1 }", false),
        ("nameserver 10.0.0.2\nsearch a\n", "{ listen: 1 }", true),
        ("nameserver 10.0.0.3\n", "{ listen: 1, upstreams: 10.0.0.2, search: a }", true),
    ] {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        assert_eq!(plan.is_current_at(&dns(dns_keys), file.path()), expected, "{text:?} {dns_keys}");
    }
    assert!(!plan.is_current_at(&dns(written), Path::new("/nonexistent/resolv.conf")));
}
