//! What we are built from: versions without known holes, one TLS library, one crypto provider.
//!
//! `deny.toml` says the same to `cargo deny`, which needs a network for its advisories; this needs nothing. Versions are
//! read from `Cargo.lock`. What is *built* is not: the lock also lists what a feature that nobody turns on would add
//! (`ring` stands there for `rustls-webpki` and `hickory-proto`). So `cargo tree` is asked for that.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The least version that is free of the named defect.
#[rustfmt::skip]
const MINIMUM: &[(&str, &str, &str)] = &[
    ("rustls",        "0.23.46",  "RUSTSEC-2026-0285, -0346, -0348, -0349; RUSTSEC-2024-0336, -0399"),
    ("rustls-webpki", "0.103.13", "RUSTSEC-2026-0049, -0098, -0099, -0104"),
    ("h2",            "0.4.18",   "RUSTSEC-2026-0258; oversized header lists; CONTINUATION floods; error-reset limit"),
    ("hyper",         "1.11.0",   "panic on a non-UTF-8 Connection header; busy loop on half-close; Content-Length before Transfer-Encoding"),
    ("jsonwebtoken",  "10.3.0",   "CVE-2026-25537"),
    ("spiffe-rustls", "0.8.0",    "NotValidForName was swallowed; CA leaves accepted; resumption on"),
];

/// Another TLS or crypto library, under any name: never even in the lock.
const NEVER_LOCKED: &[&str] = &[
    "native-tls",
    "openssl",
    "openssl-sys",
    "boring",
    "boring-sys",
    "mbedtls",
    "s2n-tls",
    "wolfssl",
    "schannel-ssl",
    "rustls-openssl",
    "rustls-rustcrypto",
    "rustls-graviola",
    "protobuf",
];

/// May stand in the lock behind a feature that is off, but is never built, not even for our tests.
const NEVER_BUILT: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls", "boring", "aws-lc-fips-sys"];

/// Two versions of one of these would be two implementations of the same promise.
const ONLY_ONE: &[&str] =
    &["rustls", "rustls-webpki", "aws-lc-rs", "aws-lc-sys", "hyper", "h2", "http", "tokio", "tonic"];

/// Name to every version of it in `Cargo.lock`.
fn locked() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(crate::tidy::root().join("Cargo.lock")).unwrap();
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let start = format!("{name} = \"");
            let line = package.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
            line.trim_end_matches('"').to_owned()
        };
        packages.entry(field("name")).or_default().push(field("version"));
    }
    packages
}

fn numbers(version: &str) -> Vec<u64> {
    let core = version.split(['-', '+']).next().unwrap();
    core.split('.').map(|number| number.parse().unwrap()).collect()
}

/// Names of everything that is compiled for `package` on this platform.
fn built(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}"])
        .args(arguments)
        .current_dir(crate::tidy::root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn versions_are_at_least_the_ones_without_known_holes() {
    let locked = locked();
    for (name, minimum, why) in MINIMUM {
        for version in locked.get(*name).into_iter().flatten() {
            assert!(numbers(version) >= numbers(minimum), "{name} {version} is older than {minimum}: {why}");
        }
    }
    for needed in ["rustls", "rustls-webpki", "h2", "hyper"] {
        assert!(locked.contains_key(needed), "{needed} is not in Cargo.lock: is this reading it right?");
    }
}

#[test]
fn there_is_one_tls_library_and_one_crypto_provider() {
    let locked = locked();
    for name in NEVER_LOCKED {
        assert!(!locked.contains_key(*name), "{name} is in Cargo.lock");
    }
    for name in ONLY_ONE {
        assert_eq!(locked.get(*name).map_or(0, Vec::len), 1, "{name}: {:?}", locked.get(*name));
    }
    for arguments in [&["-p", "postern", "-e", "normal,build"][..], &["--workspace", "-e", "normal,build,dev"]] {
        let built = built(arguments);
        assert!(built.contains("rustls") && built.contains("aws-lc-rs"), "{arguments:?}");
        for name in NEVER_BUILT {
            assert!(!built.contains(*name), "{name} is built by {arguments:?}");
        }
    }
}

/// Checking a configuration provably needs no network.
#[test]
fn configuration_is_built_without_network_or_tls() {
    let built = built(&["-p", "postern-config", "-e", "normal,build"]);
    assert!(built.contains("postern-config"));
    for name in ["tokio", "hyper", "h2", "rustls", "aws-lc-rs", "mio", "socket2"] {
        assert!(!built.contains(name), "config/ depends on {name}");
    }
}

#[test]
fn everything_comes_from_crates_io() {
    let text = std::fs::read_to_string(crate::tidy::root().join("Cargo.lock")).unwrap();
    for source in text.lines().filter_map(|line| line.strip_prefix("source = ")) {
        assert_eq!(source, "\"registry+https://github.com/rust-lang/crates.io-index\"");
    }
}
