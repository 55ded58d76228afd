//! A deny list: whose trust has ended although it is still vouched for. A file of its own, because it is written in a hurry,
//! by others than the policy, and has to load when the policy does not.

use crate::authz::{Moment, print_moment};
use crate::include;
use crate::pattern::SpiffePattern;
use crate::problem::{Place, Problems};
use crate::read::{Field, FromNode as _, Keys, Reader, Section};
use crate::spiffe_id::TrustDomain;
use crate::values::At;
use schemars::JsonSchema;
use std::fmt;
use std::path::Path;

/// More than this is no list of exceptions; a bundle or a CRL says it better.
pub const ENTRIES_MAX: usize = 10_000;
/// What it said would be in force until the list itself is written again.
const ALONE: &str = "write the entries here: this file is watched, and another would not be";
/// Of a reason and an author, each.
pub const TEXT_BYTES_MAX: usize = 200;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct DenyList {
    pub entries: Vec<DenyEntry>,
}

/// One exception from trust.
#[derive(Clone, Debug, PartialEq)]
pub struct DenyEntry {
    pub what: Denied,
    pub reason: String,
    pub author: String,
    /// Seconds since 1970. It acts until then.
    pub expires: i64,
    pub place: Place,
}

/// Who or what is denied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// As a peer, and as the subject of a JWT-SVID.
    Spiffe(SpiffePattern),
    /// SHA-256 of a leaf certificate's DER.
    Certificate([u8; 32]),
    /// A leaf's serial number in lower-case hex without leading zeros; of one trust domain, or of any.
    Serial { serial: String, trust_domain: Option<TrustDomain> },
    /// A token's `jti`.
    TokenId(String),
}

impl Denied {
    /// A serial number as people copy it: hex in either case, with or without colons. `None`: it is none.
    pub fn serial(text: &str) -> Option<String> {
        let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        let is_hex =
            !digits.is_empty() && digits.len() <= SERIAL_DIGITS_MAX && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let significant = digits.trim_start_matches('0');
        is_hex.then(|| if significant.is_empty() { "0".to_owned() } else { significant.to_owned() })
    }

    /// A SHA-256 as people copy it: 64 digits, with or without colons. `None`: it is none.
    pub fn fingerprint(text: &str) -> Option<[u8; 32]> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let mut fingerprint = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in fingerprint.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(fingerprint)
    }
}

/// RFC 5280 §4.1.2.2: "Certificate users MUST be able to handle serialNumber values up to 20 octets." Twice that is read.
const SERIAL_DIGITS_MAX: usize = 80;

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(pattern) => write!(f, "{pattern}"),
            Self::Certificate(fingerprint) => {
                f.write_str("certificate ")?;
                fingerprint.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Serial { serial, trust_domain: None } => write!(f, "serial {serial}"),
            Self::Serial { serial, trust_domain: Some(name) } => write!(f, "serial {serial} of {name}"),
            Self::TokenId(id) => write!(f, "token {id}"),
        }
    }
}

impl DenyList {
    /// # Errors
    /// All problems of the file.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::from_sources(include::read_file_alone(path, ALONE))
    }

    /// Reads `text` as if it stood in the file `name`.
    ///
    /// # Errors
    /// As [`DenyList::load`].
    pub fn from_str(name: &Path, text: &str) -> Result<Self, Problems> {
        Self::from_sources(include::read_text_alone(name, text, ALONE))
    }

    fn from_sources(sources: include::Sources) -> Result<Self, Problems> {
        let mut reader = Reader::with(sources.problems, sources.texts);
        let raw = sources.root.and_then(|root| RawDenyList::from_node(&root, &mut reader));
        let entries = raw.map(|raw| raw.check(&mut reader));
        match entries {
            Some(entries) if reader.problems.is_empty() => Ok(Self { entries }),
            _ => Err(Problems::in_order(reader.problems)),
        }
    }
}

/// Who and what is refused, whatever vouches for it.
#[derive(JsonSchema)]
#[schemars(rename = "DenyList", deny_unknown_fields, extend("required" = ["deny"]))]
pub(crate) struct RawDenyList {
    /// The entries; `[]` denies nobody.
    deny: Field<Vec<RawDenyEntry>>,
}

impl Section for RawDenyList {
    const NAME: &'static str = "a deny list";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { deny: keys.required("deny", "write the entries below `deny:`, or `deny: []`") }
    }
}

impl RawDenyList {
    fn check(self, reader: &mut Reader) -> Vec<DenyEntry> {
        let place = self.deny.place().cloned();
        let raw = self.deny.or_default();
        if let (true, Some(place)) = (raw.len() > ENTRIES_MAX, place) {
            let what = format!("{} entries are more than the {ENTRIES_MAX} that a deny list holds", raw.len());
            reader.problem(&place, what, "use patterns, or take the authority out of the bundle");
        }
        raw.into_iter().filter_map(|entry| entry.check(reader)).collect()
    }
}

/// One exception from trust: exactly one of `spiffe`, `certificate`, `serial` and `token`.
#[derive(JsonSchema)]
#[schemars(rename = "DenyEntry", deny_unknown_fields, extend("required" = ["reason", "author", "expires"]))]
pub(crate) struct RawDenyEntry {
    /// Peers whose SPIFFE ID fits, and tokens about them.
    spiffe: Field<SpiffePattern>,
    /// SHA-256 of a leaf certificate, in hex.
    certificate: Field<At<String>>,
    /// A leaf certificate's serial number, in hex.
    serial: Field<At<String>>,
    /// With `serial`: only of this trust domain.
    trust_domain: Field<TrustDomain>,
    /// A token's `jti`.
    token: Field<At<String>>,
    /// Why; it stands in records.
    reason: Field<At<String>>,
    /// Who wrote this; it stands in records.
    author: Field<At<String>>,
    /// Until when it acts: `2026-12-24T00:00:00Z`. What expires by itself by then needs no entry any more.
    expires: Field<Moment>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawDenyEntry {
    const NAME: &'static str = "an entry of a deny list";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            spiffe: keys.optional("spiffe"),
            certificate: keys.optional("certificate"),
            serial: keys.optional("serial"),
            trust_domain: keys.optional("trust_domain"),
            token: keys.optional("token"),
            reason: keys.required("reason", "say why: `reason: \"key seen in a core dump\"`"),
            author: keys.required("author", "say who: `author: alice@shop.example`"),
            expires: keys.required("expires", "say until when: `expires: 2026-12-24T00:00:00Z`"),
            place: keys.place(),
        }
    }
}

impl RawDenyEntry {
    fn check(self, reader: &mut Reader) -> Option<DenyEntry> {
        let written = [
            self.spiffe.is_written(),
            self.certificate.is_written(),
            self.serial.is_written(),
            self.token.is_written(),
        ];
        if written.iter().filter(|it| **it).count() != 1 {
            let hint = "write one of `spiffe`, `certificate`, `serial` and `token`; several are several entries";
            reader.problem(&self.place, "an entry denies exactly one thing", hint);
        }
        if let (Some(place), false) = (self.trust_domain.place(), self.serial.is_written()) {
            let hint = "remove it, or write `spiffe: spiffe://TRUST-DOMAIN/**`";
            reader.problem(place, "`trust_domain` says whose `serial` is meant, and there is none", hint);
        }
        if let (Some(place), Some(pattern)) = (self.spiffe.place(), self.spiffe.get())
            && pattern.has_capture()
        {
            reader.problem(place, "`{…}` captures what nothing here asks for", "write `*` for any segment");
        }
        for text in [self.reason.get(), self.author.get(), self.token.get()].into_iter().flatten() {
            if text.value.len() > TEXT_BYTES_MAX {
                let what = format!("{} bytes are more than the {TEXT_BYTES_MAX} that records hold", text.value.len());
                reader.problem(&text.place, what, "write less");
            }
        }
        let trust_domain = self.trust_domain.into_option();
        let mut told = |field: Option<At<String>>, what: &str, read: &dyn Fn(&str) -> Option<Denied>| {
            let At { value, place } = field?;
            let denied = read(&value);
            if denied.is_none() {
                reader.problem(&place, format!("`{value}` is not {what}"), format!("write {what}"));
            }
            denied
        };
        let certificate = told(self.certificate.into_option(), "a SHA-256 of 64 hex digits", &|text| {
            Denied::fingerprint(text).map(Denied::Certificate)
        });
        let serial = told(self.serial.into_option(), "a serial number in hex", &|text| {
            Denied::serial(text).map(|serial| Denied::Serial { serial, trust_domain: trust_domain.clone() })
        });
        let token = self.token.into_option().map(|id| Denied::TokenId(id.value));
        let what = self.spiffe.into_option().map(Denied::Spiffe).or(certificate).or(serial).or(token)?;
        Some(DenyEntry {
            what,
            reason: self.reason.into_option()?.value,
            author: self.author.into_option()?.value,
            expires: self.expires.into_option()?.0,
            place: self.place,
        })
    }
}

impl DenyEntry {
    /// RFC 3339.
    pub fn expires_text(&self) -> String {
        print_moment(self.expires)
    }
}

#[cfg(test)]
mod tests;
