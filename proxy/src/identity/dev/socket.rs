//! Directories and sockets of the provider on the file system.

use super::DevError;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A directory for keys: nobody but its owner looks in.
pub(super) fn private_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}

/// A socket left by a process that died is replaced; one that somebody answers at is not.
pub(super) fn bind(socket: &Path) -> Result<UnixListener, DevError> {
    let at = |source| DevError::Bind { socket: socket.to_owned(), source };
    if let Ok(metadata) = std::fs::symlink_metadata(socket)
        && metadata.file_type().is_socket()
    {
        if UnixStream::connect(socket).is_ok() {
            return Err(DevError::AlreadyServed(socket.to_owned()));
        }
        std::fs::remove_file(socket).map_err(at)?;
    }
    let listener = UnixListener::bind(socket).map_err(at)?;
    listener.set_nonblocking(true).map_err(at)?;
    Ok(listener)
}
