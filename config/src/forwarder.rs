//! `forwarders:` of a port: the proxies that may speak for others, and for whom.

use crate::pattern::SpiffePattern;
use crate::read::{Field, Keys, Reader, Section};
use crate::spiffe_id::SpiffeId;
use crate::values::{At, OneOrMany};
use schemars::JsonSchema;

/// Whose word of whom it forwards for is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Forwarder {
    /// Neither this nor the next is empty or captures anything.
    pub spiffe: Vec<SpiffePattern>,
    pub may_speak_for: Vec<SpiffePattern>,
}

impl Forwarder {
    /// Whether it is meant.
    pub fn is(&self, id: &SpiffeId) -> bool {
        self.spiffe.iter().any(|pattern| pattern.matches(id))
    }

    pub fn may_speak_for(&self, id: &SpiffeId) -> bool {
        self.may_speak_for.iter().any(|pattern| pattern.matches(id))
    }
}

/// A proxy, such as a gateway, whose `x-forwarded-client-cert` is believed, as far as it may speak for whom that names.
#[derive(JsonSchema)]
#[schemars(rename = "Forwarder", deny_unknown_fields, extend("required" = ["spiffe", "may_speak_for"]))]
pub(crate) struct RawForwarder {
    /// The proxy's SPIFFE ID, as for rules; without `{name}`.
    spiffe: Field<OneOrMany<At<SpiffePattern>>>,
    /// The callers for whom it may speak; without `{name}`. A request that it forwards for another one is refused.
    may_speak_for: Field<OneOrMany<At<SpiffePattern>>>,
}

impl Section for RawForwarder {
    const NAME: &'static str = "a forwarder";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            spiffe: keys.required("spiffe", "write the proxy's ID, such as `spiffe: spiffe://example.org/gateway`"),
            may_speak_for: keys.required(
                "may_speak_for",
                "write the callers for whom it forwards, such as `may_speak_for: spiffe://example.org/**`",
            ),
        }
    }
}

impl RawForwarder {
    /// `None`: its problems have been told.
    pub fn check(self, reader: &mut Reader) -> Option<Forwarder> {
        let spiffe = patterns("spiffe", self.spiffe, reader);
        let may_speak_for = patterns("may_speak_for", self.may_speak_for, reader);
        Some(Forwarder { spiffe: spiffe?, may_speak_for: may_speak_for? })
    }
}

fn patterns(key: &str, field: Field<OneOrMany<At<SpiffePattern>>>, reader: &mut Reader) -> Option<Vec<SpiffePattern>> {
    let place = field.place()?.clone();
    let written = field.into_option()?.0;
    if written.is_empty() {
        reader.problem(&place, format!("`{key}` has nothing that could fit"), "name at least one SPIFFE ID or pattern");
        return None;
    }
    if let Some(At { value, place }) = written.iter().find(|pattern| pattern.value.has_capture()) {
        reader.problem(
            place,
            format!("`{value}` has a capture, which means nothing here"),
            "write `*` for any one segment",
        );
        return None;
    }
    Some(written.into_iter().map(|pattern| pattern.value).collect())
}
