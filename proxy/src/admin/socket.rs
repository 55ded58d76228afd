//! The admin socket: who may use it.

use crate::capture::unix_socket::{self, SocketFile};
use std::io;
use std::path::Path;
use tokio::net::UnixListener;

/// The users whose processes may use the socket, by the kernel's word (`SO_PEERCRED`).
#[derive(Clone, Debug)]
pub struct AllowedUids(Vec<u32>);

impl AllowedUids {
    /// Root, ourselves, and those that the configuration lists.
    ///
    /// # Errors
    /// The kernel does not tell us who we are.
    pub fn new(listed: &[u32]) -> io::Result<Self> {
        let mut uids = vec![0, own_uid()?];
        uids.extend_from_slice(listed);
        Ok(Self(uids))
    }

    pub fn permits(&self, uid: u32) -> bool {
        self.0.contains(&uid)
    }

    #[cfg(test)]
    pub(super) fn only(uids: &[u32]) -> Self {
        Self(uids.to_vec())
    }
}

/// Our effective user: the owner of what `/proc` shows as us.
pub fn own_uid() -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self")?.uid())
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
    use super::{AllowedUids, bind_unix_socket, own_uid};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn root_ourselves_and_the_listed_may_use_the_socket() {
        let own = own_uid().unwrap();
        let allowed = AllowedUids::new(&[1000, 2000]).unwrap();
        for uid in [0, own, 1000, 2000] {
            assert!(allowed.permits(uid), "{uid}");
        }
        for uid in [1, 1001, u32::MAX] {
            assert!(!allowed.permits(uid), "{uid}");
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
