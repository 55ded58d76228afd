//! System calls by seccomp: those that a proxy never makes fail with EPERM.
//!
//! A list of what is refused, not of what is allowed: what the runtime, the allocator and the C library call changes with
//! their versions, and a proxy that is killed by an upgrade of libc is worse than a call that is let through. What is here
//! starts other programs, reads other processes, changes mounts, namespaces, clocks or the kernel, or is a large and old
//! piece of it. The kernel knows of each filter which calls it always allows and does not run it for those (since 5.11), so
//! reading and writing cost nothing more.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    #[error("no filter is written for processors of type {}", std::env::consts::ARCH)]
    Processor(#[source] BackendError),
    #[error("the filter cannot be made")]
    Filter(#[source] BackendError),
    #[error("the kernel does not take it: {0}")]
    Kernel(#[source] seccompiler::Error),
}

/// Restricts every thread of the process.
pub(super) fn restrict() -> Result<(), Unsupported> {
    let target = TargetArch::try_from(std::env::consts::ARCH).map_err(Unsupported::Processor)?;
    for (rules, errno) in [(refused().map_err(Unsupported::Filter)?, libc::EPERM), (absent(), libc::ENOSYS)] {
        let filter = program(rules, errno, target).map_err(Unsupported::Filter)?;
        seccompiler::apply_filter_all_threads(&filter).map_err(Unsupported::Kernel)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn program(rules: Rules, errno: i32, target: TargetArch) -> Result<BpfProgram, BackendError> {
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, target)?.try_into()
}

/// `clone3` passes its flags by reference, where a filter cannot look; "not there" has the C library use `clone`.
fn absent() -> Rules {
    in_every_interface([(libc::SYS_clone3, Vec::new())].into())
}

fn refused() -> Result<Rules, BackendError> {
    let mut rules: Rules = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    // Threads are made, processes and namespaces are not.
    rules.insert(
        libc::SYS_clone,
        vec![SeccompRule::new(vec![is_without(0, libc::CLONE_THREAD.unsigned_abs().into())?])?],
    );
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let other = families.iter().map(|family| is_not(0, family.unsigned_abs().into())).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other)?]);
    let mut rules = in_every_interface(rules);
    #[cfg(target_arch = "x86_64")]
    rules.extend(X32_ONLY.map(|call| (X32_BIT | call, Vec::new())));
    Ok(rules)
}

fn is_without(argument: u8, flag: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), 0)
}

fn is_not(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

/// On x86-64 the kernel may also take the numbers of x32 (seccomp(2), "Caveats"): the same with a bit set.
#[cfg(target_arch = "x86_64")]
fn in_every_interface(rules: Rules) -> Rules {
    let x32: Vec<_> = rules.iter().map(|(call, rules)| (X32_BIT | call, rules.clone())).collect();
    rules.into_iter().chain(x32).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn in_every_interface(rules: Rules) -> Rules {
    rules
}

#[cfg(target_arch = "x86_64")]
const X32_BIT: i64 = 0x4000_0000;
/// Calls that x32 has numbers of its own for, `execve` and `ptrace` among them (Linux, syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
const X32_ONLY: std::ops::RangeInclusive<i64> = 512..=547;

const NEVER: &[i64] = &[
    // Other programs, and other processes' memory and descriptors.
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    // Files that are no files, and files by handle instead of path.
    libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Code and state of the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    libc::SYS_kexec_file_load,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_vhangup,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    // The machine's clock and name, and who we are.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // Pages of other processes, and messages between processes that nobody here sends.
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
];

#[cfg(test)]
mod tests {
    use super::{absent, program, refused};
    use seccompiler::TargetArch;

    /// Whether the filter is right is seen in the end-to-end scenario: a test here would restrict every other test.
    #[test]
    fn there_is_a_filter_for_every_processor_that_we_ship_for() {
        for processor in ["x86_64", "aarch64"] {
            let target = TargetArch::try_from(processor).unwrap();
            for rules in [refused().unwrap(), absent()] {
                assert!(program(rules, libc::EPERM, target).unwrap().len() > 5, "{processor}");
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn x32_has_no_way_around_it() {
        let rules = refused().unwrap();
        for call in [libc::SYS_execve, libc::SYS_ptrace, libc::SYS_socket, libc::SYS_clone] {
            assert!(rules.contains_key(&call) && rules.contains_key(&(0x4000_0000 | call)), "{call}");
        }
        // execve, ptrace and execveat of x32.
        assert!([520, 521, 545].iter().all(|call| rules.contains_key(&(0x4000_0000 | call))));
    }
}
