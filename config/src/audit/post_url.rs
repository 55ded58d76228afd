//! Where seals are sent by POST.

use crate::read::{FromNode, Reader};
use crate::yaml::Node;
use std::fmt;
use url::{Host, Url};

/// An address that seals may be sent to: over HTTPS, or on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostUrl(Url);

/// The rule that an address breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostUrlError {
    #[error("is not a URL")]
    Malformed,
    #[error("has a scheme other than `https` and `http`")]
    Scheme,
    #[error("has `http` and a host other than 127.0.0.0/8 and [::1]: anybody on the way could change what arrives")]
    Plaintext,
    #[error("has a user: credentials do not belong in this file")]
    User,
    #[error("has a fragment, which is never sent")]
    Fragment,
}

impl PostUrl {
    /// # Errors
    /// One variant a rule.
    pub fn parse(text: &str) -> Result<Self, PostUrlError> {
        if !text.chars().all(|character| character.is_ascii_graphic()) {
            return Err(PostUrlError::Malformed);
        }
        let url = Url::parse(text).map_err(|_reason| PostUrlError::Malformed)?;
        let is_loopback = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(_)) => false,
            None => return Err(PostUrlError::Malformed),
        };
        match url.scheme() {
            "https" => {}
            "http" if is_loopback => {}
            "http" => return Err(PostUrlError::Plaintext),
            _ => return Err(PostUrlError::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(PostUrlError::User);
        }
        if url.fragment().is_some() {
            return Err(PostUrlError::Fragment);
        }
        Ok(Self(url))
    }

    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// A name or an address, as a certificate has to carry it: without brackets.
    pub fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        }
    }

    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(443)
    }

    /// As in a Host header (RFC 9110 §7.2).
    pub fn authority(&self) -> &str {
        self.0.authority()
    }

    pub fn path_and_query(&self) -> &str {
        &self.0[url::Position::BeforePath..url::Position::AfterQuery]
    }
}

impl fmt::Display for PostUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl FromNode for PostUrl {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "an address such as `https://seals.example/append`", Self::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::{PostUrl, PostUrlError};

    #[test]
    fn only_https_or_this_host() {
        for (text, expected) in [
            ("https://seals.example/append?log=orders", Ok(("seals.example", 443, "/append?log=orders"))),
            ("https://[2001:db8::1]:8443", Ok(("2001:db8::1", 8443, "/"))),
            ("http://127.0.0.1:8080/seals", Ok(("127.0.0.1", 8080, "/seals"))),
            ("http://[::1]/", Ok(("::1", 80, "/"))),
            ("http://localhost/", Err(PostUrlError::Plaintext)),
            ("http://10.0.0.1/", Err(PostUrlError::Plaintext)),
            ("ftp://seals.example/", Err(PostUrlError::Scheme)),
            ("https://me:secret@seals.example/", Err(PostUrlError::User)),
            ("https://seals.example/#a", Err(PostUrlError::Fragment)),
            ("seals.example", Err(PostUrlError::Malformed)),
            ("https://seals.example/a b", Err(PostUrlError::Malformed)),
        ] {
            let parsed = PostUrl::parse(text);
            let found = parsed.as_ref().map(|url| (url.host(), url.port(), url.path_and_query().to_owned()));
            let expected =
                expected.map(|(host, port, path): (&str, u16, &str)| (host.to_owned(), port, path.to_owned()));
            assert_eq!(found.map_err(|error| *error), expected, "{text}");
        }
    }
}
