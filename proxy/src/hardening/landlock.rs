//! Files by Landlock: written only in some directories, executed nowhere. Landlock holds for root as well.

use super::Outcome;
use ::landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::fmt;
use std::path::{Path, PathBuf};

/// The newest interface that this was written for. An older kernel gives what it has.
const NEWEST: ABI = ABI::V6;

/// Directories below which files may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writable(Vec<PathBuf>);

impl Writable {
    /// The directories of `files`, by the names that the kernel knows them by. One that is not there is left out: who
    /// wants to write in it fails at the start already.
    pub(super) fn of<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let mut directories: Vec<PathBuf> = files.flat_map(directories_of).collect();
        directories.sort_unstable();
        directories.dedup();
        Self(directories)
    }

    /// Whether `file` lies in one of them, and so does what it links to. A directory that does not exist is in none.
    pub fn contains(&self, file: &Path) -> bool {
        let directories = directories_of(file);
        let is_granted = |directory: &PathBuf| self.0.iter().any(|granted| directory.starts_with(granted));
        !directories.is_empty() && directories.iter().all(is_granted)
    }
}

impl fmt::Display for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no directory");
        }
        let names: Vec<_> = self.0.iter().map(|directory| directory.display().to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

/// As many links as the kernel follows are more than anybody makes on purpose.
const LINKS_MAX: usize = 8;

/// The directory of `file`, and that of each file that it leads to where it is a symbolic link, `/dev/stdout` for one. The
/// last of them need not exist yet.
fn directories_of(file: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut file = file.to_owned();
    for _ in 0..LINKS_MAX {
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) => PathBuf::from("."),
            // The root itself is no file.
            None => break,
        };
        let Ok(directory) = parent.canonicalize() else { break };
        let target = std::fs::read_link(&file).map(|target| directory.join(target));
        directories.push(directory);
        match target {
            Ok(target) => file = target,
            Err(_no_link) => return directories,
        }
    }
    // It leads nowhere: what cannot be followed is granted nothing.
    Vec::new()
}

/// What is refused everywhere but where it is granted: every kind of writing, and execution.
fn handled() -> BitFlags<AccessFs> {
    AccessFs::from_write(NEWEST) | AccessFs::Execute
}

/// What the program does in the directories of the files that it writes: appends to logs and makes them anew, replaces
/// kept bundles by rename, makes and removes its socket.
fn granted() -> BitFlags<AccessFs> {
    AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile
}

/// Restricts this thread, and those that it will start. `None`: nothing is restricted.
pub(super) fn restrict<'a>(files: impl Iterator<Item = &'a Path>) -> (Outcome, Option<Writable>) {
    let writable = Writable::of(files);
    match enforce(&writable) {
        Ok(RestrictionStatus { landlock: LandlockStatus::NotImplemented | LandlockStatus::NotEnabled, .. }) => {
            (Outcome::Unavailable("this kernel has no Landlock, or it is not among its `lsm=`".to_owned()), None)
        }
        Ok(RestrictionStatus { ruleset: RulesetStatus::NotEnforced, .. }) => {
            (Outcome::Unavailable("this kernel enforces none of it".to_owned()), None)
        }
        Ok(RestrictionStatus { ruleset: RulesetStatus::PartiallyEnforced, landlock, .. }) => {
            (Outcome::Partly(format!("as far as its interface {} goes", version(&landlock))), Some(writable))
        }
        Ok(_) => (Outcome::On, Some(writable)),
        Err(error) => (Outcome::Unavailable(error.to_string()), None),
    }
}

fn enforce(writable: &Writable) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled())?
        // No signal to a process that is not ours.
        .scope(Scope::Signal)?
        .create()?;
    for directory in &writable.0 {
        if let Ok(opened) = PathFd::new(directory) {
            rules = rules.add_rule(PathBeneath::new(opened, granted()))?;
        }
    }
    rules.restrict_self()
}

fn version(status: &LandlockStatus) -> String {
    match status {
        LandlockStatus::Available { effective_abi, .. } => format!("{effective_abi:?}"),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => "none".to_owned(),
    }
}

/// What the kernel has of it; nothing is restricted by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Whole,
    Partial,
    None,
}

/// Asks the kernel whether it has what [`restrict`] wants.
pub fn support() -> Support {
    let old = || {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        rules.handle_access(AccessFs::from_write(ABI::V1)).and_then(Ruleset::create).is_ok()
    };
    let whole = || {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        rules.handle_access(handled()).and_then(|rules| rules.scope(Scope::Signal)).and_then(Ruleset::create).is_ok()
    };
    if whole() {
        Support::Whole
    } else if old() {
        Support::Partial
    } else {
        Support::None
    }
}
