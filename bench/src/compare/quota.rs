//! A share of a core for a process: a control group of its own with the kernel's bandwidth control, which is what a CPU limit
//! of a container is.

use anyhow::{Context as _, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What container runtimes set.
const PERIOD_MICROS: u32 = 100_000;
const REMOVALS_MAX: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// The control group; dropping it removes it, so what ran in it has to have ended.
pub struct Quota {
    group: PathBuf,
}

/// Periods in which the group ran, and those of them at whose end it was held back, until now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Periods {
    pub run: u64,
    pub throttled: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

impl Quota {
    /// `percent` of one core for everything in the group `name`.
    ///
    /// # Errors
    ///
    /// No cpu controller is here that we may write to.
    pub fn new(name: &str, percent: u32) -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut problems = vec!["no control group with a cpu limit can be made here".to_owned()];
        for (version, folder) in hierarchies(&mounts) {
            match Self::below(&folder, version, name, percent) {
                Ok(quota) => return Ok(quota),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        bail!(problems.join("; "))
    }

    fn below(parent: &Path, version: Version, name: &str, percent: u32) -> anyhow::Result<Self> {
        let group = parent.join(name);
        // One that was left behind by a run that was killed, and whose process id is ours now.
        fs::remove_dir(&group).ok();
        fs::create_dir(&group).with_context(|| format!("making {}", group.display()))?;
        // From here on it is removed again, whatever fails.
        let quota = Self { group };
        let micros = PERIOD_MICROS / 100 * percent;
        match version {
            Version::One => {
                quota.write("cpu.cfs_period_us", &PERIOD_MICROS.to_string())?;
                quota.write("cpu.cfs_quota_us", &micros.to_string())?;
            }
            Version::Two => {
                if !quota.group.join("cpu.max").exists() {
                    let switch = parent.join("cgroup.subtree_control");
                    fs::write(&switch, "+cpu").with_context(|| format!("writing +cpu to {}", switch.display()))?;
                }
                quota.write("cpu.max", &format!("{micros} {PERIOD_MICROS}"))?;
            }
        }
        Ok(quota)
    }

    /// Words before a command that put it into the group, before it is started.
    pub fn prefix(&self) -> Vec<String> {
        let processes = self.group.join("cgroup.procs").display().to_string();
        ["sh".to_owned(), "-c".to_owned(), "echo $$ > \"$0\" && exec \"$@\"".to_owned(), processes].into()
    }

    /// # Errors
    ///
    /// The kernel does not say.
    pub fn periods(&self) -> anyhow::Result<Periods> {
        let path = self.group.join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        periods(&text).with_context(|| format!("{} says nothing of periods", path.display()))
    }

    fn write(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let path = self.group.join(file);
        fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A process that was just waited for may still be listed.
        for _ in 0..REMOVALS_MAX {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(REMOVAL_PAUSE);
        }
        eprintln!("WARNING: {} is left behind: something still runs in it", self.group.display());
    }
}

impl Periods {
    pub fn since(self, before: Self) -> Self {
        Self { run: self.run.saturating_sub(before.run), throttled: self.throttled.saturating_sub(before.throttled) }
    }

    /// Of a hundred periods, how many ended with the group held back.
    pub fn percent_throttled(self) -> f64 {
        if self.run == 0 { 0.0 } else { self.throttled as f64 * 100.0 / self.run as f64 }
    }
}

/// One that no other run has. There is one pair at a time with quotas.
pub fn group_name(of: &str) -> String {
    format!("postern-bench-{}-{of}", std::process::id())
}

/// Where a cpu controller may be: version 2 says so only when one tries.
fn hierarchies(mounts: &str) -> Vec<(Version, PathBuf)> {
    let one = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (folder, kind, options) = (words.next()?, words.next()?, words.next()?);
        let version = match kind {
            "cgroup2" => Version::Two,
            "cgroup" if options.split(',').any(|option| option == "cpu") => Version::One,
            _ => return None,
        };
        Some((version, PathBuf::from(folder)))
    };
    mounts.lines().filter_map(one).collect()
}

fn periods(stat: &str) -> anyhow::Result<Periods> {
    let value = |name: &str| -> anyhow::Result<u64> {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("no {name}"))?.trim().parse().with_context(|| name.to_owned())
    };
    Ok(Periods { run: value("nr_periods")?, throttled: value("nr_throttled")? })
}

#[cfg(test)]
mod tests {
    use super::{Periods, Version, hierarchies, periods};

    #[test]
    fn a_controller_may_be_of_either_version() {
        let mounts = "proc /proc proc rw 0 0\n\
            cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = hierarchies(mounts);
        let expected =
            [(Version::One, "/sys/fs/cgroup/cpu,cpuacct".into()), (Version::Two, "/sys/fs/cgroup/unified".into())];
        assert_eq!(found, expected);
    }

    #[test]
    fn periods_are_read_among_other_lines_and_need_a_limit() {
        let text = "usage_usec 12\nnr_periods 40\nnr_throttled 10\nthrottled_usec 9\n";
        let read = periods(text).unwrap();
        assert_eq!(read, Periods { run: 40, throttled: 10 });
        assert_eq!(read.since(Periods { run: 20, throttled: 5 }).percent_throttled(), 25.0);
        assert!(periods("usage_usec 12\n").is_err());
    }
}
