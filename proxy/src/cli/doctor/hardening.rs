//! What of the process hardening this kernel has.

use super::Report;
use crate::hardening::{LandlockSupport, landlock_support};
use postern_config::{Config, Hardening};
use std::path::Path;

const SUBJECT: &str = "hardening";

pub(super) fn examine(report: &mut Report, config: Option<&Config>) {
    let wanted = config.map_or_else(Hardening::default, |config| config.hardening);
    let off: Vec<&str> = [
        ("no_new_privileges", wanted.no_new_privileges),
        ("no_core_dumps", wanted.no_core_dumps),
        ("landlock", wanted.landlock),
        ("seccomp", wanted.seccomp),
    ]
    .into_iter()
    .filter_map(|(name, is_on)| (!is_on).then_some(name))
    .collect();
    if !off.is_empty() {
        let fix = "remove it from `hardening:`, unless you debug the process";
        report.warn(SUBJECT, format!("turned off in the file: {}", off.join(", ")), fix);
    }
    if wanted.landlock {
        landlock(report);
    }
    if wanted.seccomp {
        // Linux, seccomp(2): the file is there when the kernel has filters.
        if Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
            report.ok(SUBJECT, "seccomp is there");
        } else {
            report.warn(
                SUBJECT,
                "this kernel has no seccomp filters, or hides /proc/sys",
                "use a kernel with CONFIG_SECCOMP_FILTER; without it the proxy runs, less confined",
            );
        }
    }
}

fn landlock(report: &mut Report) {
    match landlock_support() {
        LandlockSupport::Whole => report.ok(SUBJECT, "Landlock is there"),
        LandlockSupport::Partial => report.ok(SUBJECT, "Landlock is there, in an older version: it does what it can"),
        LandlockSupport::None => report.warn(
            SUBJECT,
            "this kernel has no Landlock, so files are guarded by their permissions alone",
            "use Linux 5.13 or newer with `landlock` in the boot parameter `lsm=`; without it the proxy runs, less confined",
        ),
    }
}
