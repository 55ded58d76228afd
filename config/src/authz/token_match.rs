//! `token:` of a rule: what the caller's token has to say.

use super::FieldMatch;
use super::conditions::{Fields, TextPattern};
use crate::problem::Place;
use crate::read::{Field, Keys, Reader, Section};
use crate::values::{At, OneOrMany};
use schemars::JsonSchema;

/// What the caller's token says. Empty, each: anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenMatch {
    pub subjects: Vec<TextPattern>,
    pub issuers: Vec<TextPattern>,
    /// All of them (RFC 8693 §4.2).
    pub scopes: Vec<String>,
    pub claims: Vec<FieldMatch>,
}

/// What the caller's token has to say, besides being good. Only on routes with an `audience`.
#[derive(JsonSchema)]
#[schemars(rename = "TokenMatch", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawTokenMatch {
    /// Whose it is: exact, `abc*`, `*abc`, or a list of these.
    #[schemars(extend("x-default" = "anybody's"))]
    subject: Field<OneOrMany<TextPattern>>,
    /// Who issued it: its `iss`.
    #[schemars(extend("x-default" = "any"))]
    issuer: Field<OneOrMany<TextPattern>>,
    /// Scopes that it has to have, all of them.
    #[schemars(extend("x-default" = "none"))]
    scopes: Field<OneOrMany<At<String>>>,
    /// Other claims: `name: value`, or a list of values of which one fits. Of a claim that is a list, one entry has to fit;
    /// numbers and truth values are compared as they are written.
    #[schemars(extend("x-default" = "any"))]
    claims: Field<Fields>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawTokenMatch {
    const NAME: &'static str = "`token` of a rule";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            subject: keys.optional("subject"),
            issuer: keys.optional("issuer"),
            scopes: keys.optional("scopes"),
            claims: keys.optional("claims"),
            place: keys.place(),
        }
    }
}

impl RawTokenMatch {
    /// `None`: what is wrong with it has been told.
    pub fn check(self, reader: &mut Reader) -> Option<TokenMatch> {
        let mut is_right = true;
        // THREATS CF-03: an empty matcher must not come to mean everything.
        for (key, is_empty, place) in [
            ("subject", self.subject.get().is_some_and(|it| it.0.is_empty()), self.subject.place()),
            ("issuer", self.issuer.get().is_some_and(|it| it.0.is_empty()), self.issuer.place()),
            ("scopes", self.scopes.get().is_some_and(|it| it.0.is_empty()), self.scopes.place()),
            ("claims", self.claims.get().is_some_and(|it| it.0.is_empty()), self.claims.place()),
        ] {
            if let (true, Some(place)) = (is_empty, place) {
                reader.problem(place, format!("`{key}` has nothing that could fit"), "name some, or remove the key");
                is_right = false;
            }
        }
        let is_written =
            [self.subject.is_written(), self.issuer.is_written(), self.scopes.is_written(), self.claims.is_written()];
        if is_written == [false; 4] {
            let hint = "say which: `subject`, `issuer`, `scopes`, `claims`; without `token` any good one will do";
            reader.problem(&self.place, "`token` asks for nothing", hint);
            is_right = false;
        }
        let scopes = super::raw::read_or_nothing(self.scopes)?.0;
        for At { value, place } in &scopes {
            if value.contains(' ') {
                // RFC 6749 §3.3.
                reader.problem(
                    place,
                    format!("the scope `{value}` has a space, which no scope has"),
                    "write a list of scopes",
                );
                is_right = false;
            }
        }
        let claims = super::raw::read_or_nothing(self.claims)?.0;
        let matched = TokenMatch {
            subjects: super::raw::read_or_nothing(self.subject)?.0,
            issuers: super::raw::read_or_nothing(self.issuer)?.0,
            scopes: scopes.into_iter().map(|scope| scope.value).collect(),
            claims: claims.into_iter().map(|(name, _, values)| FieldMatch { name, values }).collect(),
        };
        is_right.then_some(matched)
    }
}
