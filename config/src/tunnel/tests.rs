use crate::{Config, Transport};
use std::path::Path;

const SERVICE: &str = "outbound:\n  services:\n    - { name: db, listen: \"127.0.0.1:9001\", endpoints: [\"10.0.0.7:5432\"], \
                       identity: \"spiffe://shop.example/db\"";

fn load(text: &str) -> Result<Config, Vec<String>> {
    Config::from_str(Path::new("test.yaml"), text)
        .map_err(|problems| problems.0.iter().map(|problem| problem.what.clone()).collect())
}

fn tunnel_of(keys: &str) -> Option<u16> {
    let config = load(&format!("{SERVICE}{keys} }}\n")).unwrap_or_else(|problems| panic!("{problems:?}"));
    match &config.outbound.services[0].transport {
        Transport::Mesh { tunnel, .. } => *tunnel,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_says_by_which_connections() {
    for (keys, expected) in [
        ("", None),
        (", via: direct", None),
        (", via: tunnel", Some(15008)),
        (", via: tunnel, tunnel_port: 15108", Some(15108)),
    ] {
        assert_eq!(tunnel_of(keys), expected, "{keys}");
    }
}

#[test]
fn what_has_no_effect_is_a_problem() {
    for (keys, expected) in [
        (", tunnel_port: 15108", "`tunnel_port` has no effect without `via: tunnel`"),
        (", via: direct, tunnel_port: 15108", "`tunnel_port` has no effect without `via: tunnel`"),
        (", via: tunnel, tunnel_port: 0", "`tunnel_port: 0` is not a whole number from 1 to 65535"),
    ] {
        assert_eq!(load(&format!("{SERVICE}{keys} }}\n")), Err(vec![expected.to_owned()]), "{keys}");
    }
    let plain = "outbound:\n  services:\n    - { name: db, listen: \"127.0.0.1:9001\", endpoints: [\"10.0.0.7:5432\"], tls: off, via: tunnel }\n";
    assert_eq!(load(plain), Err(vec!["`via` has no effect with `tls: off`".to_owned()]));
}

#[test]
fn a_tunnel_leads_to_declared_ports_on_addresses_of_its_own() {
    let inbound =
        "inbound:\n  - { port: 5432, listen: \"0.0.0.0:15006\", allow: [{ spiffe: \"spiffe://shop.example/web\" }] }\n";
    let config =
        load(&format!("{inbound}tunnel: {{ listen: [\"10.0.0.1:15008\", \"[::1]:15008\"] }}\n")).expect("a tunnel");
    assert_eq!(config.tunnel.expect("a tunnel").listen.len(), 2);
    for (text, expected) in [
        (
            "tunnel: { listen: \"0.0.0.0:15008\" }\n".to_owned(),
            "nothing can be reached through the tunnel: no port is declared",
        ),
        (format!("{inbound}tunnel: {{ listen: [] }}\n"), "`listen` names no address"),
        (
            format!("{inbound}tunnel: {{ listen: \"0.0.0.0:15006\" }}\n"),
            "tunnel.listen listens on 0.0.0.0:15006, which inbound `inbound-5432` takes already (0.0.0.0:15006, at test.yaml:2:27)",
        ),
    ] {
        assert_eq!(load(&text), Err(vec![expected.to_owned()]), "{text}");
    }
}
