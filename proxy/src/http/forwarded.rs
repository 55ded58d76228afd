//! For whom a trusted forwarder speaks: its `x-forwarded-client-cert`, read strictly, and the walk to the original caller.
//!
//! Each element was written by the proxy that the next element, or for the last one the peer, stands for. It is believed as far as
//! each who said so is a forwarder and may speak for whom it names; what is left of that was said by nobody who is trusted, and
//! does not go on. Pure.

use super::identity_headers::X_FORWARDED_CLIENT_CERT;
use crate::refusal::{Refusal, Refused};
use crate::revocation::Denials;
use http::HeaderMap;
use postern_config::{Forwarder, SpiffeId};
use std::time::SystemTime;

/// More proxies than this in a row are a circle.
const ELEMENTS_MAX: usize = 16;
/// Of all fields together.
const BYTES_MAX: usize = 16 * 1024;

/// A chain that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Whom the peer speaks for, then whom that one speaks for, and so on: the last is the original caller. Never empty.
    ids: Vec<SpiffeId>,
    /// The elements that say so, as they came, in the header's order.
    elements: String,
}

impl Forwarded {
    /// `None`: nobody is spoken for, for the peer is no forwarder or says nothing.
    ///
    /// # Errors
    /// `BadRequest`: the header cannot be read. `ForwardedCallerRefused`: somebody is named whom the one who names it may not speak
    /// for, or nobody is.
    pub fn read(forwarders: &[Forwarder], peer: &SpiffeId, headers: &HeaderMap) -> Result<Option<Self>, Refused> {
        if !forwarders.iter().any(|forwarder| forwarder.is(peer)) {
            return Ok(None);
        }
        let malformed = |problem: Malformed| Refused::new(Refusal::BadRequest, problem.to_string());
        let text = joined(headers).map_err(malformed)?;
        let Some(text) = text else { return Ok(None) };
        let chain = parse(&text).map_err(malformed)?;
        let mut ids: Vec<SpiffeId> = Vec::new();
        for element in chain.iter().rev() {
            let speaker = ids.last().unwrap_or(peer);
            if !forwarders.iter().any(|forwarder| forwarder.is(speaker)) {
                break;
            }
            let named = SpiffeId::parse(&element.uri).map_err(|error| refused(speaker, &element.uri, error))?;
            if !speaks_for(forwarders, speaker, &named) {
                return Err(refused(speaker, named.as_str(), "which no `may_speak_for` lets it"));
            }
            ids.push(named);
        }
        let kept = &chain[chain.len() - ids.len()..];
        let elements = kept.iter().map(|element| element.text).collect::<Vec<_>>().join(",");
        Ok(Some(Self { ids, elements }))
    }

    /// Who asked first.
    pub fn caller(&self) -> Option<&SpiffeId> {
        self.ids.last()
    }

    /// What goes on before our own element.
    pub fn elements(&self) -> &str {
        &self.elements
    }

    /// Whether each of them may still speak for the next.
    pub fn is_still_believed(&self, forwarders: &[Forwarder], peer: &SpiffeId) -> bool {
        let speakers = std::iter::once(peer).chain(&self.ids);
        speakers.zip(&self.ids).all(|(speaker, named)| speaks_for(forwarders, speaker, named))
    }

    /// # Errors
    /// `ForwardedCallerRefused`: one of them is on the deny list.
    pub fn check_denials(&self, denials: &Denials, now: SystemTime) -> Result<(), Refused> {
        let denied = |id: &SpiffeId| Some(format!("{id} is denied: {}", denials.of_id(id, now)?.words()));
        match self.ids.iter().find_map(denied) {
            Some(detail) => Err(Refused::new(Refusal::ForwardedCallerRefused, detail)),
            None => Ok(()),
        }
    }
}

fn speaks_for(forwarders: &[Forwarder], speaker: &SpiffeId, named: &SpiffeId) -> bool {
    forwarders.iter().any(|forwarder| forwarder.is(speaker) && forwarder.may_speak_for(named))
}

fn refused(speaker: &SpiffeId, named: &str, why: impl std::fmt::Display) -> Refused {
    let named: String = named.chars().take(NAME_CHARS_MAX).collect();
    Refused::new(Refusal::ForwardedCallerRefused, format!("{speaker} speaks for {named:?}: {why}"))
}

/// Of what a refusal quotes.
const NAME_CHARS_MAX: usize = 256;

/// Why a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("x-forwarded-client-cert has more than {BYTES_MAX} bytes")]
    TooLong,
    #[error("x-forwarded-client-cert has more than {ELEMENTS_MAX} elements")]
    TooManyElements,
    #[error("x-forwarded-client-cert has bytes that are not printable ASCII")]
    NotPrintable,
    #[error("x-forwarded-client-cert has something that is not `key=value`")]
    NotAPair,
    #[error("x-forwarded-client-cert has a quoted value that does not end well")]
    BadQuotes,
    #[error("x-forwarded-client-cert has an element with more than one URI")]
    SeveralUris,
}

/// Several fields are one list (RFC 9110 §5.3).
fn joined(headers: &HeaderMap) -> Result<Option<String>, Malformed> {
    let mut text: Option<String> = None;
    for value in headers.get_all(X_FORWARDED_CLIENT_CERT) {
        let value = value.to_str().or(Err(Malformed::NotPrintable))?;
        let length = text.as_ref().map_or(0, String::len) + 1 + value.len();
        if length > BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        text = Some(match text {
            Some(before) => format!("{before},{value}"),
            None => value.to_owned(),
        });
    }
    Ok(text)
}

/// What one proxy says of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// As it came, without the blanks around it.
    pub text: &'a str,
    /// Empty: it names none.
    pub uri: String,
}

/// Envoy's grammar (HTTP connection manager, "x-forwarded-client-cert"): elements by `,`, of pairs by `;`, of key `=` value; a value
/// that has one of these in it stands in double quotes, in which `\` takes the next character as it is.
///
/// # Errors
/// It is not that: nothing is guessed.
pub fn parse(text: &str) -> Result<Vec<Element<'_>>, Malformed> {
    let mut elements = Vec::new();
    let mut rest = text;
    loop {
        if elements.len() == ELEMENTS_MAX {
            return Err(Malformed::TooManyElements);
        }
        let start = rest.trim_start_matches(BLANKS);
        let (uri, after) = element(start)?;
        elements.push(Element { text: start[..start.len() - after.len()].trim_end_matches(BLANKS), uri });
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(elements),
        }
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

/// One element's URI, and what comes after it: nothing, or what begins with a comma.
fn element(mut rest: &str) -> Result<(String, &str), Malformed> {
    let mut uri: Option<String> = None;
    loop {
        let (key, after) = rest.split_once('=').ok_or(Malformed::NotAPair)?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(Malformed::NotAPair);
        }
        let (value, after) = value(after)?;
        if key.eq_ignore_ascii_case("URI") && uri.replace(value).is_some() {
            return Err(Malformed::SeveralUris);
        }
        let after_blanks = after.trim_start_matches(BLANKS);
        match after.strip_prefix(';') {
            Some(next) => rest = next,
            None if after_blanks.is_empty() || after_blanks.starts_with(',') => {
                return Ok((uri.unwrap_or_default(), after_blanks));
            }
            None => return Err(Malformed::NotAPair),
        }
    }
}

/// A value without its quotes, and what comes after it.
fn value(text: &str) -> Result<(String, &str), Malformed> {
    let Some(quoted) = text.strip_prefix('"') else {
        let is_end = |c: char| matches!(c, ',' | ';') || BLANKS.contains(&c);
        let (value, after) = text.split_at(text.find(is_end).unwrap_or(text.len()));
        let is_plain = value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'));
        return if is_plain { Ok((value.to_owned(), after)) } else { Err(Malformed::NotAPair) };
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        let taken = match character {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => characters.next().ok_or(Malformed::BadQuotes)?.1,
            other => other,
        };
        if !(taken.is_ascii_graphic() || taken == ' ') {
            return Err(Malformed::NotPrintable);
        }
        value.push(taken);
    }
    Err(Malformed::BadQuotes)
}

#[cfg(test)]
mod tests;
