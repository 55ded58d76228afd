//! The admin socket: who may use it.

use crate::capture::unix_socket::{self, SocketFile};
use postern_config::Admin;
use std::io;
use std::path::Path;
use tokio::net::UnixListener;

/// What an endpoint asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Read,
    /// To drain, and to change what is logged.
    Operate,
    /// To take trust back, and to let a held change act.
    Revoke,
}

impl Right {
    /// As the key that lists users who have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Revoke => "revoke",
        }
    }
}

/// The users whose processes may use the socket, by the kernel's word (`SO_PEERCRED`), and for what.
#[derive(Clone, Debug)]
pub struct AllowedUids {
    all: Vec<u32>,
    read: Vec<u32>,
    operate: Vec<u32>,
    revoke: Vec<u32>,
}

impl AllowedUids {
    /// Root and ourselves for everything, and those that the configuration lists.
    pub fn new(config: &Admin) -> Self {
        let mut all = vec![0, own_uid()];
        all.extend_from_slice(&config.uids);
        Self { all, read: config.read.clone(), operate: config.operate.clone(), revoke: config.revoke.clone() }
    }

    pub fn permits(&self, uid: u32, right: Right) -> bool {
        let is_in = |uids: &[u32]| uids.contains(&uid);
        is_in(&self.all)
            || match right {
                // Who may change something may look.
                Right::Read => is_in(&self.read) || is_in(&self.operate) || is_in(&self.revoke),
                Right::Operate => is_in(&self.operate),
                Right::Revoke => is_in(&self.revoke),
            }
    }

    #[cfg(test)]
    pub(super) fn only(uids: &[u32]) -> Self {
        Self { all: uids.to_vec(), read: Vec::new(), operate: Vec::new(), revoke: Vec::new() }
    }
}

/// Our effective user. Not the owner of `/proc/self`: that is root for a process that is not dumpable (proc(5)).
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Pending connections of the socket.
const BACKLOG: i32 = 128;
/// Owner and group may connect; whether they may ask is decided by [`AllowedUids`].
const MODE: u32 = 0o660;

/// Binds `path`, as [`unix_socket::bind`].
///
/// # Errors
/// As there.
pub fn bind_unix_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let (listener, file) = unix_socket::bind(path, MODE, BACKLOG)?;
    Ok((UnixListener::from_std(listener)?, file))
}

#[cfg(test)]
mod tests {
    use super::{AllowedUids, Right, bind_unix_socket, own_uid};
    use postern_config::Admin;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn root_ourselves_and_the_listed_may_use_the_socket() {
        let own = own_uid();
        let uids = vec![1000, 2000];
        let config = Admin { uids, read: vec![3000], operate: vec![4000], revoke: vec![5000], ..Admin::default() };
        let allowed = AllowedUids::new(&config);
        let rights = |uid| [Right::Read, Right::Operate, Right::Revoke].map(|right| allowed.permits(uid, right));
        for uid in [0, own, 1000, 2000] {
            assert_eq!(rights(uid), [true; 3], "{uid}");
        }
        assert_eq!(rights(3000), [true, false, false]);
        assert_eq!(rights(4000), [true, true, false]);
        assert_eq!(rights(5000), [true, false, true]);
        for uid in [1, 1001, u32::MAX] {
            assert_eq!(rights(uid), [false; 3], "{uid}");
        }
    }

    #[tokio::test]
    async fn owner_and_group_may_connect() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let (listener, _file) = bind_unix_socket(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let (connected, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        connected.unwrap();
        accepted.unwrap();
    }
}
