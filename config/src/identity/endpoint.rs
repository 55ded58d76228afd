//! Where the Workload API is (SPIFFE Workload Endpoint §4).

use crate::listen::SOCKET_PATH_BYTES_MAX;
use crate::read::{FromNode, Reader};
use crate::yaml::Node;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A Workload API endpoint address (SPIFFE Workload Endpoint §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// The rule of Workload Endpoint §4 (or of the operating system) that an address breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("is empty")]
    Empty,
    #[error("has a scheme other than `unix:` and `tcp:` (Workload Endpoint §4)")]
    Scheme,
    #[error("has a host; `unix:` takes a path alone, with three slashes or one (Workload Endpoint §4)")]
    UnixAuthority,
    #[error("has no absolute path (Workload Endpoint §4)")]
    UnixPathNotAbsolute,
    #[error("names the root directory, which is no socket")]
    UnixPathIsRoot,
    #[error("has a `%` that is not followed by two hexadecimal digits (RFC 3986 §2.1)")]
    UnixPercentCode,
    #[error("has a character that must be percent-encoded in a URI (RFC 3986 §3.3)")]
    UnixCharacter,
    #[error("has a NUL byte in its path")]
    UnixNul,
    #[error("has a path of more than 107 bytes, which no unix socket can have")]
    UnixPathTooLong,
    #[error("has a query (Workload Endpoint §4)")]
    Query,
    #[error("has a fragment (Workload Endpoint §4)")]
    Fragment,
    #[error("has no host (Workload Endpoint §4)")]
    TcpAuthority,
    #[error("has a user (Workload Endpoint §4)")]
    TcpUser,
    #[error("has a path, and be it only `/` (Workload Endpoint §4)")]
    TcpPath,
    #[error("has a host that is not an IP address (Workload Endpoint §4)")]
    TcpHostNotAddress,
    #[error("has no port from 1 to 65535 (Workload Endpoint §4)")]
    TcpPort,
}

impl Endpoint {
    /// Reads `text` to the letter of Workload Endpoint §4.
    ///
    /// # Errors
    /// One variant a rule.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        let (is_unix, rest) = match (text.strip_prefix("unix:"), text.strip_prefix("tcp:")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(EndpointError::Scheme),
        };
        // RFC 3986 §3.5: everything behind the first `#` is the fragment, so it is looked for first.
        if rest.contains('#') {
            return Err(EndpointError::Fragment);
        }
        if rest.contains('?') {
            return Err(EndpointError::Query);
        }
        if is_unix { Self::unix(rest) } else { Self::tcp(rest) }
    }

    fn unix(rest: &str) -> Result<Self, EndpointError> {
        let path = match rest.strip_prefix("//") {
            None => rest,
            Some(behind) => match behind.find('/') {
                Some(0) => behind,
                None if behind.is_empty() => return Err(EndpointError::UnixPathNotAbsolute),
                _ => return Err(EndpointError::UnixAuthority),
            },
        };
        if !path.starts_with('/') {
            return Err(EndpointError::UnixPathNotAbsolute);
        }
        let path = percent_decoded(path)?;
        if path.contains(&0) {
            return Err(EndpointError::UnixNul);
        }
        if path.iter().all(|byte| *byte == b'/') {
            return Err(EndpointError::UnixPathIsRoot);
        }
        if path.len() > SOCKET_PATH_BYTES_MAX {
            return Err(EndpointError::UnixPathTooLong);
        }
        Ok(Self::Unix(PathBuf::from(OsString::from_vec(path))))
    }

    fn tcp(rest: &str) -> Result<Self, EndpointError> {
        let authority = rest.strip_prefix("//").ok_or(EndpointError::TcpAuthority)?;
        if authority.contains('/') {
            return Err(EndpointError::TcpPath);
        }
        if authority.contains('@') {
            return Err(EndpointError::TcpUser);
        }
        // The last colon ends the host, but not one within brackets.
        let host_end = authority.find(']').map_or_else(|| authority.find(':'), |bracket| Some(bracket + 1));
        let (host, port) = authority.split_at(host_end.unwrap_or(authority.len()));
        if host.is_empty() {
            return Err(EndpointError::TcpAuthority);
        }
        let address = match host.strip_prefix('[') {
            Some(inside) => inside.strip_suffix(']').and_then(|inside| inside.parse::<Ipv6Addr>().ok()).map(IpAddr::V6),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        let address = address.ok_or(EndpointError::TcpHostNotAddress)?;
        let port = port.strip_prefix(':').filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
        let port = port.and_then(|port| port.parse().ok()).filter(|port| *port != 0).ok_or(EndpointError::TcpPort)?;
        Ok(Self::Tcp(SocketAddr::new(address, port)))
    }
}

/// RFC 3986 §2.4: decoded once, before use.
fn percent_decoded(path: &str) -> Result<Vec<u8>, EndpointError> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(EndpointError::UnixPercentCode) };
                (high * 16 + low) as u8
            }
            b if may_stand_in_path(b) => b,
            _ => return Err(EndpointError::UnixCharacter),
        });
    }
    Ok(decoded)
}

/// RFC 3986 §3.3: pchar, and the slash between segments.
fn may_stand_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte)
}

/// As [`Endpoint::parse`] reads it again.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => {
                f.write_str("unix://")?;
                for byte in path.as_os_str().as_bytes() {
                    match may_stand_in_path(*byte) {
                        true => write!(f, "{}", char::from(*byte))?,
                        false => write!(f, "%{byte:02X}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl FromNode for Endpoint {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "`unix:///run/spire/agent/public/api.sock` or `tcp://127.0.0.1:8081`", Self::parse)
    }
}

impl schemars::JsonSchema for Endpoint {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "endpoint".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "title": "endpoint", "pattern": "^(unix:/|tcp://)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_forms_of_a_unix_path_and_addresses() {
        for (text, expected) in [
            ("unix:///run/api.sock", Endpoint::Unix("/run/api.sock".into())),
            ("unix:/run/api.sock", Endpoint::Unix("/run/api.sock".into())),
            ("unix:///run/a%20b%2Fc", Endpoint::Unix("/run/a b/c".into())),
            ("tcp://127.0.0.1:8000", Endpoint::Tcp("127.0.0.1:8000".parse().expect("valid"))),
            ("tcp://[::1]:65535", Endpoint::Tcp("[::1]:65535".parse().expect("valid"))),
        ] {
            assert_eq!(Endpoint::parse(text), Ok(expected), "{text}");
        }
    }

    /// SPIFFE E-03 and Workload Endpoint §4.
    #[test]
    fn names_the_rule_that_an_address_breaks() {
        for (text, error) in [
            ("", EndpointError::Empty),
            ("http://127.0.0.1:1", EndpointError::Scheme),
            ("/run/api.sock", EndpointError::Scheme),
            ("UNIX:///run/api.sock", EndpointError::Scheme),
            (" unix:///p", EndpointError::Scheme),
            ("unix://h/p", EndpointError::UnixAuthority),
            ("unix://h", EndpointError::UnixAuthority),
            ("unix://u@/p", EndpointError::UnixAuthority),
            ("unix:p", EndpointError::UnixPathNotAbsolute),
            ("unix:", EndpointError::UnixPathNotAbsolute),
            ("unix://", EndpointError::UnixPathNotAbsolute),
            ("unix:@abstract", EndpointError::UnixPathNotAbsolute),
            ("unix:///", EndpointError::UnixPathIsRoot),
            ("unix:/", EndpointError::UnixPathIsRoot),
            ("unix:///p?q", EndpointError::Query),
            ("unix:///p?", EndpointError::Query),
            ("unix:///p#f", EndpointError::Fragment),
            ("unix:///p?q#f", EndpointError::Fragment),
            ("unix:///a%2", EndpointError::UnixPercentCode),
            ("unix:///a%zz", EndpointError::UnixPercentCode),
            ("unix:///a%+1", EndpointError::UnixPercentCode),
            ("unix:///a%00b", EndpointError::UnixNul),
            ("unix:///a b", EndpointError::UnixCharacter),
            ("unix:///ä", EndpointError::UnixCharacter),
            ("tcp:127.0.0.1:1", EndpointError::TcpAuthority),
            ("tcp://", EndpointError::TcpAuthority),
            ("tcp://:1", EndpointError::TcpAuthority),
            ("tcp://localhost:1", EndpointError::TcpHostNotAddress),
            ("tcp://::1:1", EndpointError::TcpAuthority),
            ("tcp://[::1%25eth0]:1", EndpointError::TcpHostNotAddress),
            ("tcp://[127.0.0.1]:1", EndpointError::TcpHostNotAddress),
            ("tcp://1.2.3.4", EndpointError::TcpPort),
            ("tcp://1.2.3.4:", EndpointError::TcpPort),
            ("tcp://1.2.3.4:0", EndpointError::TcpPort),
            ("tcp://1.2.3.4:+1", EndpointError::TcpPort),
            ("tcp://1.2.3.4:65536", EndpointError::TcpPort),
            ("tcp://[::1]", EndpointError::TcpPort),
            ("tcp://[::1]1", EndpointError::TcpPort),
            ("tcp://1.2.3.4:1/", EndpointError::TcpPath),
            ("tcp://1.2.3.4:1/p", EndpointError::TcpPath),
            ("tcp://u@1.2.3.4:1", EndpointError::TcpUser),
            ("tcp://1.2.3.4:1?q", EndpointError::Query),
            ("tcp://1.2.3.4:1#f", EndpointError::Fragment),
        ] {
            assert_eq!(Endpoint::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_socket_path_has_at_most_107_bytes() {
        let path = |bytes: usize| format!("unix:///{}", "a".repeat(bytes - 1));
        assert!(Endpoint::parse(&path(107)).is_ok());
        assert_eq!(Endpoint::parse(&path(108)), Err(EndpointError::UnixPathTooLong));
        // What counts is what the kernel gets, not how it is written.
        assert!(Endpoint::parse(&format!("unix:///{}", "%61".repeat(106))).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_as_the_same(text in "(unix:|unix://|tcp://)[/a-c%0-9:.\\[\\]@?# ä]{0,30}") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }
    }
}
