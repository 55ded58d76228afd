//! What the kernel charged to a process and its children.
//!
//! `/proc/PID/task/TID/schedstat` counts nanoseconds on a CPU, user and kernel, as the scheduler saw them; `/proc/PID/stat`
//! has the same in ticks of 10 ms. Work of the network stack in softirqs is charged to whoever was running: over loopback
//! that is mostly the sender, for every product alike.

use anyhow::Context as _;
use std::fs;
use std::time::Duration;

/// `USER_HZ` is 100 on every Linux that there is.
const TICK_MILLIS: u64 = 10;
const SETTLING_STEP: Duration = Duration::from_millis(15);
const SETTLING_MAX: u32 = 30;
/// More than idle timers take in a step, less than a request or two.
const SETTLED: Duration = Duration::from_micros(150);

/// The process and all that descend from it; nginx's workers are children of its master.
pub fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        for thread in threads(parent) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{thread}/children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

fn threads(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// CPU time of a whole family until now.
pub fn time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for process in family(pid) {
        for thread in threads(process) {
            let path = format!("/proc/{process}/task/{thread}/schedstat");
            // A thread that ended in between takes its time with it; traffic threads do not end.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let first = text.split_whitespace().next().context("an empty schedstat")?;
            nanos += first.parse::<u64>().with_context(|| format!("{path}: {text}"))?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// What of [`time`] was spent in user code. In ticks: of seconds of load, good to a per cent.
pub fn user_time(pid: u32) -> Duration {
    let of = |process: u32| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name, in brackets, may hold anything (proc(5)); the 14th field is the twelfth behind it.
        stat.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse().ok()
    };
    Duration::from_millis(TICK_MILLIS * family(pid).into_iter().filter_map(of).sum::<u64>())
}

/// Waits until what `read` sums up grows no more: a stopped load's last requests have come to their end. Returns the sum.
///
/// # Errors
///
/// Those of `read`.
pub fn settled(mut read: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<Duration> {
    let mut last = read()?;
    for _ in 0..SETTLING_MAX {
        std::thread::sleep(SETTLING_STEP);
        let now = read()?;
        if now.saturating_sub(last) < SETTLED {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// CPU time of the kernel's threads that process packets when softirqs pile up.
pub fn ksoftirqd() -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            sum += time(pid)?;
        }
    }
    Ok(sum)
}

/// Resident memory of a whole family in KiB. What parent and child share is counted twice; it is small.
pub fn resident_kib(pid: u32) -> u64 {
    let of = |process: u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches("kB").trim().parse().ok()
    };
    family(pid).into_iter().filter_map(of).sum()
}

pub fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = text.lines().filter(|line| line.starts_with("processor")).count();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    format!("{}, {cores} cores", name.trim_start_matches([' ', '\t', ':']))
}

pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
