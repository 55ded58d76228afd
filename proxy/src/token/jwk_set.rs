//! A JWK Set as JSON (RFC 7517 §5), before anything in it is judged: members that are read, each at most once.
//!
//! Pure. Members that nobody reads are passed over without being understood: a number that no float can hold, in a place
//! that does not matter, is no reason to lose an authority.

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Members of a key whose values are kept.
const READ: &[&str] = &["kty", "use", "kid", "alg", "key_ops", "x5c", "crv", "x", "y", "n", "e"];

/// The document.
pub(crate) struct JwkSet {
    /// Absent when there is no such member.
    pub(crate) keys: Option<Vec<Jwk>>,
    /// The names of all members.
    pub(crate) members: BTreeSet<String>,
}

impl<'de> Deserialize<'de> for JwkSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(JwkSetVisitor)
    }
}

struct JwkSetVisitor;

impl<'de> Visitor<'de> for JwkSetVisitor {
    type Value = JwkSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWK Set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JwkSet, A::Error> {
        let mut set = JwkSet { keys: None, members: BTreeSet::new() };
        while let Some(member) = map.next_key::<String>()? {
            if member == "keys" {
                set.keys = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if let Some(twice) = set.members.replace(member) {
                return Err(A::Error::custom(format_args!("member {twice:?} occurs twice")));
            }
        }
        Ok(set)
    }
}

/// One key. Of members that are not read, that they are there is all that is known.
pub(crate) struct Jwk(BTreeMap<String, Value>);

impl Jwk {
    /// The member's value, when it is text.
    pub(crate) fn text(&self, member: &str) -> Option<&str> {
        self.0.get(member).and_then(Value::as_str)
    }

    /// The member's value, when it is a list.
    pub(crate) fn list(&self, member: &str) -> Option<&[Value]> {
        self.0.get(member).and_then(Value::as_array).map(Vec::as_slice)
    }

    /// Whether the member is there, whatever its value is.
    pub(crate) fn has(&self, member: &str) -> bool {
        self.0.contains_key(member)
    }
}

impl<'de> Deserialize<'de> for Jwk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(JwkVisitor)
    }
}

struct JwkVisitor;

impl<'de> Visitor<'de> for JwkVisitor {
    type Value = Jwk;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWK")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Jwk, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(member) = map.next_key::<String>()? {
            let value = if READ.contains(&member.as_str()) {
                map.next_value::<TextOrList>()?.0
            } else {
                map.next_value::<IgnoredAny>().map(|_ignored| Value::Null)?
            };
            if let Some(_twice) = members.insert(member, value) {
                return Err(A::Error::custom("a member of a key occurs twice"));
            }
        }
        Ok(Jwk(members))
    }
}

/// A text, a list of texts, or `Null` for everything else.
struct TextOrList(Value);

impl<'de> Deserialize<'de> for TextOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrListVisitor)
    }
}

struct TextOrListVisitor;

impl<'de> Visitor<'de> for TextOrListVisitor {
    type Value = TextOrList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::String(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TextOrList, A::Error> {
        let mut texts = Vec::new();
        while let Some(TextOrList(text)) = list.next_element()? {
            texts.push(text);
        }
        Ok(TextOrList(Value::Array(texts)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextOrList, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(TextOrList(Value::Null))
    }

    fn visit_bool<E>(self, _: bool) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }

    fn visit_u64<E>(self, _: u64) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }

    fn visit_i64<E>(self, _: i64) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }

    fn visit_f64<E>(self, _: f64) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }

    fn visit_unit<E>(self) -> Result<TextOrList, E> {
        Ok(TextOrList(Value::Null))
    }
}
