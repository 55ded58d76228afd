//! Two network namespaces and a cable between them, gone with the processes that hold them.
//!
//! Nothing has a name and nothing of the machine's own namespace is touched, so nothing can be left behind.

use crate::compare::process::Running;
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Unknown to the system's user database; the user that sidecars run as, and that rules exempt.
pub const USER: u32 = 61337;

pub struct Pod {
    holder: Running,
}

impl Pod {
    fn new() -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "100000"]);
        let mut holder = Running::start(command, Path::new("/dev/null"))?;
        let ours = fs::read_link("/proc/self/ns/net")?;
        let theirs = format!("/proc/{}/ns/net", holder.pid());
        holder.wait_until("a network namespace (root is needed)", || {
            fs::read_link(&theirs).is_ok_and(|theirs| theirs != ours)
        })?;
        let pod = Self { holder };
        pod.ip("link set lo up")?;
        Ok(pod)
    }

    /// nsenter's flag.
    pub fn net(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.holder.pid())
    }

    /// What enters the pod, as a user if one is given.
    pub fn prefix(&self, user: Option<u32>) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), self.net(), "--".to_owned()];
        if let Some(user) = user {
            words.extend(["setpriv".to_owned(), format!("--reuid={user}"), format!("--regid={user}")]);
            words.push("--clear-groups".to_owned());
        }
        words
    }

    fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(self.net()).args(["--", "ip"]).args(arguments.split(' '));
        let output = command.output().context("nsenter")?;
        ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// Two pods that reach each other at these addresses.
pub fn connected(first: &str, second: &str) -> anyhow::Result<(Pod, Pod)> {
    let (one, other) = (Pod::new()?, Pod::new()?);
    one.ip(&format!("link add eth0 type veth peer name eth0 netns {}", other.holder.pid()))?;
    for (pod, address) in [(&one, first), (&other, second)] {
        pod.ip(&format!("addr add {address}/24 dev eth0"))?;
        pod.ip("link set eth0 up")?;
    }
    Ok((one, other))
}
