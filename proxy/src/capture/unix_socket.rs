//! Unix sockets that we listen on: how one comes to stand where an operator expects it, and how its file goes again.

use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Of listeners for the application, which mostly runs as another user than we do: to connect is to write to the socket.
/// Who gets that far is the directory's to say, and whose connections are served is said by `users`, by the kernel's word.
/// A listener on loopback is open to as many.
pub const MODE_OF_LISTENERS: u32 = 0o666;

/// The file of a socket that we made; its drop removes it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: what stands there later may be somebody else's.
    made: (u64, u64),
}

impl SocketFile {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity_of(&self.path).is_ok_and(|found| found == self.made) {
            // Whoever removed it before us did what we wanted.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Binds `path`, with `mode`. A socket that a killed process left is replaced, a live one never, and anything else is left
/// alone.
///
/// # Errors
/// Somebody listens there already (`AddrInUse`), something that is no socket stands there (`AlreadyExists`), or the
/// directory is missing or not ours to write.
pub fn bind(path: &Path, mode: u32, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    remove_if_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?).map_err(|error| with_directory(path, error))?;
    let file = SocketFile { path: path.to_owned(), made: identity_of(path)? };
    // Before `listen`, nobody can connect, so nobody gets in while the mode is still the umask's.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from(std::os::fd::OwnedFd::from(socket)), file))
}

/// "No such file or directory" about a file that is to be made is no help.
fn with_directory(path: &Path, error: io::Error) -> io::Error {
    let directory = path.parent().unwrap_or(Path::new("/")).display();
    let what = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no directory {directory}; make it, writable for Postern's user"),
        io::ErrorKind::PermissionDenied => format!("Postern's user may not write in {directory}"),
        _ => return error,
    };
    io::Error::new(error.kind(), what)
}

/// # Errors
/// As of [`bind`].
fn remove_if_stale(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(with_directory(path, error)),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket stands there"));
    }
    if is_taken(path)? {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
    }
    // A process that was killed could not remove it.
    std::fs::remove_file(path).map_err(|error| with_directory(path, error))
}

/// Does a process hold the socket at `path`? Asked so that nobody gets a connection by it: with a socket of another kind, at
/// which the kernel looks only when the one at `path` lives (Linux, `unix_find_bsd`).
///
/// # Errors
/// It is not to be told, such as without permission.
pub fn is_taken(path: &Path) -> io::Result<bool> {
    const EPROTOTYPE: i32 = 91;
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        // It is a datagram socket, and has not noticed.
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(EPROTOTYPE) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{MODE_OF_LISTENERS, bind};
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn replaces_a_socket_that_nobody_listens_on_and_removes_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.sock");
        // Closing a listener leaves its file, as SIGKILL does.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (listener, file) = bind(&path, MODE_OF_LISTENERS, 1).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn never_steals_a_live_socket_and_its_owner_does_not_notice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.sock");
        let (live, _file) = bind(&path, MODE_OF_LISTENERS, 1).unwrap();
        assert_eq!(bind(&path, MODE_OF_LISTENERS, 1).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(live.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody called");
        let of_datagrams = directory.path().join("log.sock");
        let _log = std::os::unix::net::UnixDatagram::bind(&of_datagrams).unwrap();
        assert_eq!(bind(&of_datagrams, MODE_OF_LISTENERS, 1).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(path.exists() && of_datagrams.exists());
    }

    #[test]
    fn never_removes_what_is_no_socket_or_not_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 0o600, 1).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        let (_listener, file) = bind(&path, 0o600, 1).unwrap();
        std::fs::rename(&path, directory.path().join("moved")).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = bind(&missing.join("out.sock"), 0o600, 1).unwrap_err();
        assert!(error.to_string().contains(&format!("there is no directory {}", missing.display())), "{error}");
    }
}
