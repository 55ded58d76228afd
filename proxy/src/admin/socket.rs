//! The admin socket: who may use it, and how it comes to stand where an operator expects it.

use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use tokio::net::UnixListener;

/// The users whose processes may use the socket, by the kernel's word (`SO_PEERCRED`).
#[derive(Clone, Debug)]
pub struct AllowedUids(Vec<u32>);

impl AllowedUids {
    /// Root, ourselves, and those that the configuration lists.
    pub fn new(listed: &[u32]) -> Self {
        let mut uids = vec![0, own_uid()];
        uids.extend_from_slice(listed);
        Self(uids)
    }

    pub fn permits(&self, uid: u32) -> bool {
        self.0.contains(&uid)
    }

    #[cfg(test)]
    pub(super) fn only(uids: &[u32]) -> Self {
        Self(uids.to_vec())
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

/// Binds `path`. A socket that a killed process left is replaced, a live one never, and anything else is left alone.
///
/// # Errors
/// Somebody listens there already (`AddrInUse`), something that is no socket stands there (`AlreadyExists`), or the
/// directory is missing or not ours to write.
pub fn bind_unix_socket(path: &Path) -> io::Result<UnixListener> {
    remove_if_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before `listen`, nobody can connect, so nobody gets in while the mode is still the umask's.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

fn remove_if_stale(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        let what = format!("{} exists and is not a socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            let what = format!("another process listens on {}", path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, what))
        }
        // Nobody listens: a process that was killed could not remove it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{AllowedUids, bind_unix_socket, own_uid};
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn root_ourselves_and_the_listed_may_use_the_socket() {
        let own = own_uid();
        let allowed = AllowedUids::new(&[1000, 2000]);
        for uid in [0, own, 1000, 2000] {
            assert!(allowed.permits(uid), "{uid}");
        }
        for uid in [1, 1001, u32::MAX] {
            assert!(!allowed.permits(uid), "{uid}");
        }
    }

    #[tokio::test]
    async fn replaces_a_socket_that_nobody_listens_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        // Closing a listener leaves its file, as SIGKILL does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = bind_unix_socket(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let (connected, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        connected.unwrap();
        accepted.unwrap();
    }

    #[tokio::test]
    async fn never_steals_a_live_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let _live = bind_unix_socket(&path).unwrap();
        assert_eq!(bind_unix_socket(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn never_removes_what_is_no_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind_unix_socket(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
