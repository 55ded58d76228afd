//! One meaning for the host: what a request's target, `:authority` and `Host` say together.
//!
//! Hyper checks next to nothing of them (THREATS, "Traps in our own stack"): it takes two `Host` lines, a `Host` that
//! contradicts the target, a `Host` of any bytes. Here they have to agree, or the request is refused. Pure.

use super::normalize::{PathProblem, Readings, read_path};
use crate::refusal::Refusal;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Uri, Version};
use std::borrow::Cow;
use std::net::Ipv6Addr;

/// RFC 9112 §3.2: the four forms of a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/orders`, and every HTTP/2 request with a path.
    Origin,
    /// `http://shop/orders`: to be forwarded in origin form.
    Absolute,
    /// `shop:443`: CONNECT only.
    Authority,
    /// `*`: OPTIONS only.
    Asterisk,
}

/// Where a request is addressed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Lower-case, without port and trailing dot. An IPv6 address is in brackets, in the form of RFC 5952.
    pub host: Cow<'a, str>,
    /// `None`: not named, or the scheme's default.
    pub port: Option<u16>,
    /// Without query. Empty for [`Form::Authority`], `*` for [`Form::Asterisk`].
    pub path: &'a str,
    pub form: Form,
}

impl<'a> Target<'a> {
    /// `host[:port]`: what a `Host` written anew has to say.
    pub fn authority(&self) -> Cow<'_, str> {
        match self.port {
            None => Cow::Borrowed(&self.host),
            Some(port) => Cow::Owned(format!("{}:{port}", self.host)),
        }
    }

    /// The readings of the path. `lax`: see [`read_path`].
    ///
    /// # Errors
    /// [`PathProblem`]: the path has no honest reading.
    pub fn readings(&self, lax: bool) -> Result<Readings<'a>, PathProblem> {
        match self.form {
            Form::Origin | Form::Absolute => read_path(self.path, lax),
            Form::Authority | Form::Asterisk => Ok(Readings::of_no_path(self.path)),
        }
    }
}

/// The readings of a target that [`read_target`] has taken before: for a request in flight that is decided again.
///
/// # Errors
/// As [`read_path`].
pub fn read_again<'a>(method: &Method, uri: &'a Uri, lax: bool) -> Result<Readings<'a>, PathProblem> {
    match uri.path() {
        path @ "" if method == Method::CONNECT => Ok(Readings::of_no_path(path)),
        path @ "*" if method == Method::OPTIONS => Ok(Readings::of_no_path(path)),
        path => read_path(path, lax),
    }
}

/// Reads where `request` is addressed to. `scheme_default_port` is 80 or 443 where the scheme is known: a port equal to it
/// is as good as none (HD-04). `orig` (`host[:port]`) stands in for the `Host` that an HTTP/1.0 request may lack (HD-02).
///
/// # Errors
/// `BadHost`, `BadPath` or `BadRequest`: the request has no one meaning, or none at all.
pub fn read_target<'a>(
    request: &'a Parts,
    scheme_default_port: Option<u16>,
    orig: Option<&'a str>,
) -> Result<Target<'a>, Refusal> {
    let (form, path) = read_form(request)?;
    let written = one_host(request)?;
    let named = read_authority(request, written, orig)?;
    let (host, port) = split_authority(named).ok_or(Refusal::BadHost)?;
    let port = match port {
        // RFC 9110 §9.3.6: a CONNECT without a port is refused.
        None if form == Form::Authority => return Err(Refusal::BadHost),
        Some(port) if form != Form::Authority && Some(port) == scheme_default_port => None,
        port => port,
    };
    if let Some(second) = written.filter(|second| *second != named) {
        let (other_host, other_port) = split_authority(second).ok_or(Refusal::BadHost)?;
        let agrees = match other_port {
            // The Host of a CONNECT need not repeat the port: old clients leave it out.
            None if form == Form::Authority => true,
            other_port => other_port.filter(|port| Some(*port) != scheme_default_port) == port,
        };
        if other_host != host || !agrees {
            return Err(Refusal::BadHost);
        }
    }
    Ok(Target { host, port, path, form })
}

fn read_form(request: &Parts) -> Result<(Form, &str), Refusal> {
    let uri = &request.uri;
    // h2 takes any scheme (THREATS SM-19).
    if uri.scheme().is_some_and(|scheme| !matches!(scheme.as_str(), "http" | "https")) {
        return Err(Refusal::BadRequest);
    }
    // RFC 9113 §3.4 and §11.6: a method that no request has, reserved so that none looks like HTTP/2's preface (PN-15).
    if request.method.as_str() == "PRI" {
        return Err(Refusal::BadRequest);
    }
    let path = uri.path();
    if request.method == Method::CONNECT {
        // RFC 8441's extended CONNECT has scheme and path; the plain one has neither, and no implicit `/` (PN-28).
        return match (uri.scheme(), uri.authority()) {
            (_, None) => Err(Refusal::BadHost),
            // `http::Uri` has no path without a scheme here (a test watches that).
            (None, Some(_)) => Ok((Form::Authority, "")),
            (Some(_), Some(_)) => Ok((Form::Origin, path)),
        };
    }
    match path {
        "*" if request.method == Method::OPTIONS => Ok((Form::Asterisk, "*")),
        _ if !path.starts_with('/') => Err(Refusal::BadPath),
        _ if request.version >= Version::HTTP_2 || uri.authority().is_none() => Ok((Form::Origin, path)),
        _ => Ok((Form::Absolute, path)),
    }
}

/// The text that names the host: the target's authority (RFC 9112 §3.2.2, RFC 9113 §8.3.1), else the one `Host`.
fn read_authority<'a>(request: &'a Parts, host: Option<&'a str>, orig: Option<&'a str>) -> Result<&'a str, Refusal> {
    let stand_in = match request.version {
        // RFC 9112 §3.2: an HTTP/1.1 request without Host gets 400, also in absolute form.
        Version::HTTP_11 if host.is_none() => return Err(Refusal::BadHost),
        Version::HTTP_10 => orig,
        _ => None,
    };
    request.uri.authority().map(Authority::as_str).or(host).or(stand_in).ok_or(Refusal::BadHost)
}

fn one_host(request: &Parts) -> Result<Option<&str>, Refusal> {
    let mut values = request.headers.get_all(HOST).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::BadHost);
    }
    value.to_str().map(Some).or(Err(Refusal::BadHost))
}

/// Host (lower-case, without trailing dot) and port of `authority`, or `None` where it is malformed.
///
/// Narrower than RFC 3986's `reg-name`: no user information, percent codes, sub-delimiters or IPv6 zone. None of them
/// occurs in an honest name, and each is read differently by someone (HD-03, NW-04).
fn split_authority(authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, rest) = rest.split_once(']')?;
        let address: Ipv6Addr = literal.parse().ok()?;
        let port = if rest.is_empty() { None } else { read_port(rest.strip_prefix(':')?)? };
        return Some((Cow::Owned(format!("[{address}]")), port));
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, read_port(port)?),
        None => (authority, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let has_capitals = read_name(name)?;
    Some((if has_capitals { Cow::Owned(name.to_ascii_lowercase()) } else { name.into() }, port))
}

/// Labels of letters, digits, `-` and `_`, none of them empty; in one pass, for every request comes by here. Are there
/// capitals? `None`: it is no name.
fn read_name(name: &str) -> Option<bool> {
    let (mut has_capitals, mut previous) = (false, b'.');
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => has_capitals = true,
            b'.' if previous != b'.' => {}
            _ => return None,
        }
        previous = byte;
    }
    (previous != b'.' && name.len() <= HOST_BYTES_MAX).then_some(has_capitals)
}

/// The outer `None`: malformed. An empty port is none (RFC 3986 §6.2.3).
fn read_port(text: &str) -> Option<Option<u16>> {
    if text.is_empty() {
        return Some(None);
    }
    let is_number = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = if is_number { text.parse().ok()? } else { return None };
    (port != 0).then_some(Some(port))
}

/// RFC 1035 §2.3.4, without the trailing dot.
const HOST_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests;
