//! How the program is linked.
//!
//! Its tables of pointers take thirty thousand relocations, which are read when it starts and stay in memory: seven hundred
//! kilobytes of every sidecar. Packed (DT_RELR) they are thirty. A loader before glibc 2.36 does not know that form, so it is used
//! where the building host has that version, and left out with `POSTERN_PORTABLE=1`, for programs that are copied to older hosts.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=POSTERN_PORTABLE");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    let is_glibc = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    let is_native = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
    if is_glibc && is_native && !is("POSTERN_PORTABLE", "1") && glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Of this host. `None`: it does not say.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
