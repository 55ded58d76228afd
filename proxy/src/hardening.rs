//! What the process gives up before it serves anybody, so that whoever takes it over gets less than a process.
//!
//! It is applied while the process has one thread: `PR_SET_NO_NEW_PRIVS`, Landlock and seccomp hold for the calling thread
//! and those that it starts afterwards, which are all of them. A mechanism that the kernel does not have is left out and
//! named; nothing here keeps the proxy from starting.
//!
//! Files are restricted in writing, not in reading. Identities, CA stores and `resolv.conf` are renewed by swapping
//! directories and symbolic links, and Landlock's rules stay with the directory that was there at the start: with reads
//! restricted, the first rotation of that kind would be refused, weeks later.

mod landlock;
mod seccomp;

pub use self::landlock::{Support as LandlockSupport, Writable, support as landlock_support};
pub use self::seccomp::Unsupported as SeccompUnsupported;

use postern_config::Hardening;
use postern_config::audit::SecondPlace;
use postern_config::telemetry::AccessLog;
use postern_config::{Audit, Config, Outbound, identity::Identity};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use std::fmt;
use std::path::{Path, PathBuf};

/// One mechanism, as it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    On,
    /// With what of it the kernel does not have.
    Partly(String),
    /// By the file.
    Off,
    /// Wanted, and not to be had here.
    Unavailable(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => f.write_str("on"),
            Self::Partly(what) => write!(f, "on, {what}"),
            Self::Off => f.write_str("off"),
            Self::Unavailable(why) => write!(f, "unavailable: {why}"),
        }
    }
}

/// What this process gave up.
#[derive(Clone, Debug)]
pub struct Hardened {
    pub no_new_privileges: Outcome,
    pub no_core_dumps: Outcome,
    pub landlock: Outcome,
    pub seccomp: Outcome,
    /// Where files may be written. `None`: wherever the user may.
    pub writable: Option<Writable>,
}

/// Gives up what `config.hardening` says. To be called before the first thread is started.
pub fn apply(config: &Config) -> Hardened {
    let Hardening { no_new_privileges, no_core_dumps, landlock, seccomp } = config.hardening;
    let no_new_privileges =
        when(no_new_privileges, || rustix::thread::set_no_new_privs(true).map_or_else(unavailable, |()| Outcome::On));
    let no_core_dumps = when(no_core_dumps, || forbid_core_dumps().map_or_else(unavailable, |()| Outcome::On));
    let mut writable = None;
    let landlock = when(landlock, || {
        let (outcome, granted) = self::landlock::restrict(written_paths(config).map(|(_, path)| path));
        writable = granted;
        outcome
    });
    let seccomp = when(seccomp, || seccomp::restrict().map_or_else(unavailable, |()| Outcome::On));
    Hardened { no_new_privileges, no_core_dumps, landlock, seccomp, writable }
}

fn when(wanted: bool, apply: impl FnOnce() -> Outcome) -> Outcome {
    if wanted { apply() } else { Outcome::Off }
}

fn unavailable(error: impl fmt::Display) -> Outcome {
    Outcome::Unavailable(error.to_string())
}

/// Both, because a core pattern that is a pipe gets the memory whatever `RLIMIT_CORE` says (core(5)), and because a process
/// that is not dumpable can be neither traced nor read through `/proc` by others of its user.
fn forbid_core_dumps() -> rustix::io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

impl Hardened {
    /// One line that says what is in force; a warning for each thing that was wanted and is not.
    pub fn report(&self) {
        tracing::info!(
            no_new_privileges = %self.no_new_privileges,
            no_core_dumps = %self.no_core_dumps,
            landlock = %self.landlock,
            seccomp = %self.seccomp,
            "process hardening"
        );
        for (mechanism, outcome) in [
            ("no_new_privileges", &self.no_new_privileges),
            ("no_core_dumps", &self.no_core_dumps),
            ("landlock", &self.landlock),
            ("seccomp", &self.seccomp),
        ] {
            if let Outcome::Unavailable(why) = outcome {
                tracing::warn!(mechanism, why, "this hardening is not to be had here");
            }
        }
        if rustix::process::geteuid().is_root() {
            tracing::warn!(
                "running as root: a defect would be root's. Run as a user of its own; capabilities for capture can be given \
                 to it alone"
            );
        }
    }

    /// Whether a configuration that was read later can be applied: what it wants written has to lie where this process
    /// may write since its start.
    ///
    /// # Errors
    /// [`OutsideOfWritable`]: a restart would do.
    pub fn permits(&self, config: &Config) -> Result<(), OutsideOfWritable> {
        let Some(writable) = &self.writable else { return Ok(()) };
        match written_paths(config).find(|(_, path)| !writable.contains(path)) {
            None => Ok(()),
            Some((setting, path)) => {
                Err(OutsideOfWritable { setting, path: path.to_owned(), writable: writable.to_string() })
            }
        }
    }
}

/// A reload wants to write where the process gave up to write.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{setting}` is {path} now, and since its start this process may write only below {writable} (`hardening.landlock`): \
     restart it, or keep the file there",
    path = path.display()
)]
pub struct OutsideOfWritable {
    setting: &'static str,
    path: PathBuf,
    writable: String,
}

/// Every file that `config` has us write, and the setting that names it.
fn written_paths(config: &Config) -> impl Iterator<Item = (&'static str, &Path)> {
    let access_log = match &config.telemetry.access_log {
        AccessLog::File(path) => Some(path.as_path()),
        AccessLog::Off | AccessLog::Stdout => None,
    };
    let access_log = access_log.map(|path| ("telemetry.access_log.file", path));
    let socket = config.admin.socket.as_deref().map(|path| ("admin.socket", path));
    let kept = kept_bundles(&config.identity);
    let audit = config.audit.iter().flat_map(audit_files);
    access_log.into_iter().chain(audit).chain(socket).chain(kept).chain(listening_sockets(&config.outbound))
}

/// What is kept beside the log lies in its directory.
fn audit_files(audit: &Audit) -> impl Iterator<Item = (&'static str, &Path)> {
    let log = audit.to.file().map(|path| ("audit.to.file", path));
    let second = audit.second_place.as_ref().and_then(SecondPlace::file).map(|path| ("audit.second_place.file", path));
    log.into_iter().chain(second)
}

fn listening_sockets(outbound: &Outbound) -> impl Iterator<Item = (&'static str, &Path)> {
    let shared = outbound.listen.iter().map(|listen| ("outbound.listen", listen));
    let own = outbound.services.iter().filter_map(|service| service.listen.as_ref());
    let own = own.map(|listen| ("outbound.services.listen", listen));
    shared.chain(own).filter_map(|(setting, listen)| listen.unix().map(|path| (setting, path)))
}

fn kept_bundles(identity: &Identity) -> impl Iterator<Item = (&'static str, &Path)> {
    let kept = identity.federation.iter().filter_map(|endpoint| endpoint.keep.as_deref());
    kept.map(|path| ("identity.federation.keep", path))
}

#[cfg(test)]
mod tests;
