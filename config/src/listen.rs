//! Where connections of the application are listened for: an address and port, or a unix socket.

use crate::read::{FromNode, Reader};
use crate::values::{Address, scalar_schema};
use crate::yaml::Node;
use schemars::JsonSchema;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `sun_path` is 108 bytes with its final NUL (unix(7)).
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// On unix sockets the kernel vouches for the caller's user; their callers are processes of this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(Arc<Path>),
}

impl ListenAddress {
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    pub fn unix(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// As it is written in the file.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The rule that a socket's path breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketPathError {
    #[error("is not an absolute path")]
    NotAbsolute,
    #[error("names a directory")]
    Directory,
    #[error("is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a unix socket's path can have")]
    TooLong,
}

impl SocketPathError {
    fn hint(self, example: &str) -> String {
        match self {
            Self::NotAbsolute | Self::Directory => format!("write `unix:{example}`"),
            Self::TooLong => "move the socket to a shorter path".to_owned(),
        }
    }
}

/// What stands behind `unix:`. `///run/app.sock` is accepted as well: that is how the Workload API's is written.
///
/// # Errors
/// One variant a rule.
pub fn socket_path(text: &str) -> Result<PathBuf, SocketPathError> {
    let path = text.strip_prefix("//").unwrap_or(text);
    if !Path::new(path).is_absolute() || path.contains('\0') {
        return Err(SocketPathError::NotAbsolute);
    }
    if path.ends_with('/') {
        return Err(SocketPathError::Directory);
    }
    if path.len() > SOCKET_PATH_BYTES_MAX { Err(SocketPathError::TooLong) } else { Ok(path.into()) }
}

/// # Errors
/// `path` is longer than a socket's can be, in words.
pub(crate) fn refuse_long(path: &Path) -> Result<(), String> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(());
    }
    Err(format!("`{}` {}", path.display(), SocketPathError::TooLong))
}

/// [`socket_path`] of a node; `example` is shown to whoever wrote another thing.
pub(crate) fn read_socket_path(node: &Node, text: &str, example: &str, reader: &mut Reader) -> Option<PathBuf> {
    match socket_path(text) {
        Ok(path) => Some(path),
        Err(error) => {
            reader.wrong(node, error.to_string(), error.hint(example));
            None
        }
    }
}

impl FromNode for ListenAddress {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "`IP:PORT` or `unix:/PATH`")?;
        match text.strip_prefix("unix:") {
            Some(path) => {
                let path = read_socket_path(node, path, "/run/postern/outbound.sock", reader)?;
                Some(Self::Unix(path.into()))
            }
            None => Address::from_node(node, reader).map(|address| Self::Tcp(address.0)),
        }
    }
}

scalar_schema!(ListenAddress, "IP:port or unix:/path", { "type": "string", "title": "IP:port or unix:/path" });

/// Why a word of the command line is no address to listen on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ListenAddressError {
    #[error("it is neither an address such as 127.0.0.1:9001 nor unix:/PATH")]
    Neither(#[source] std::net::AddrParseError),
    #[error("behind `unix:` it {0}")]
    Path(SocketPathError),
}

impl std::str::FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => socket_path(path).map(|path| Self::Unix(path.into())).map_err(ListenAddressError::Path),
            None => text.parse().map(Self::Tcp).map_err(ListenAddressError::Neither),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ListenAddress;

    #[test]
    fn reads_addresses_and_paths_and_names_what_is_wrong() {
        let long = format!("unix:/{}", "a".repeat(107));
        for (text, expected) in [
            ("127.0.0.1:9001", Ok("127.0.0.1:9001")),
            ("[::1]:9001", Ok("[::1]:9001")),
            ("unix:/run/a.sock", Ok("unix:/run/a.sock")),
            ("unix:///run/a.sock", Ok("unix:/run/a.sock")),
            ("unix:run/a.sock", Err("behind `unix:` it is not an absolute path")),
            ("unix:", Err("behind `unix:` it is not an absolute path")),
            ("unix:/run/", Err("behind `unix:` it names a directory")),
            ("unix:/run/\0", Err("behind `unix:` it is not an absolute path")),
            (&*long, Err("behind `unix:` it is longer than the 107 bytes that a unix socket's path can have")),
            (&long[..long.len() - 1], Ok(&long[..long.len() - 1])),
            ("/run/a.sock", Err("it is neither an address such as 127.0.0.1:9001 nor unix:/PATH")),
        ] {
            let read = text.parse::<ListenAddress>().map(|it| it.to_string()).map_err(|error| error.to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), expected, "{text:?}");
        }
    }
}
