//! What the kernel says of this process. `None` where there is no `/proc`.

use std::fs;

/// Ticks a second in `/proc`: part of Linux' interface to user space, whatever the kernel's own rate.
const USER_HZ: f64 = 100.0;

pub fn resident_memory_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    Some(kibibytes.trim().parse::<f64>().ok()? * 1024.0)
}

/// The limit of the control group that this process is in, as its container sees it (cgroup v2, then v1).
pub fn memory_limit_bytes() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .and_then(|text| read_memory_limit(&text))
}

fn read_memory_limit(text: &str) -> Option<u64> {
    // Version 1 has no word for none: it says the largest number of whole pages.
    const NONE: u64 = 1 << 62;
    text.trim().parse().ok().filter(|limit| *limit < NONE)
}

pub(super) fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // proc(5): the second field is the name in parentheses and may hold anything; utime and stime are 14 and 15.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / USER_HZ)
}

pub(super) fn open_descriptors() -> Option<f64> {
    // Linux 6.2 and later: the directory's size is the number of descriptors, so that 10,000 need not be listed.
    let directory = fs::metadata("/proc/self/fd").ok()?;
    if directory.len() > 0 {
        return Some(directory.len() as f64);
    }
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

pub(super) fn descriptors_max() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_ascii_whitespace().next()?;
    soft.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn reads_the_limit_of_a_control_group() {
        for (text, limit) in
            [("max\n", None), ("134217728\n", Some(128 << 20)), ("9223372036854771712\n", None), ("", None)]
        {
            assert_eq!(super::read_memory_limit(text), limit, "{text:?}");
        }
    }

    #[test]
    fn the_kernel_answers() {
        assert!(super::resident_memory_bytes().is_some_and(|bytes| bytes > 1e6));
        assert!(super::cpu_seconds().is_some_and(|seconds| seconds >= 0.0));
        assert!(super::open_descriptors().is_some_and(|count| count >= 3.0));
        assert!(super::descriptors_max().is_some_and(|count| count >= 3.0));
    }
}
