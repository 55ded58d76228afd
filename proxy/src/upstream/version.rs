//! HTTP's version on one hop.

use crate::tls::mesh::ClientAlpn;
use http::Version;

/// HTTP's version on one hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    Http1,
    Http2,
}

impl HttpVersion {
    pub fn of(version: Version) -> Self {
        if version == Version::HTTP_2 { Self::Http2 } else { Self::Http1 }
    }

    pub(super) fn alpn(self) -> ClientAlpn {
        match self {
            Self::Http1 => ClientAlpn::Http1,
            Self::Http2 => ClientAlpn::H2,
        }
    }
}
