//! A JSON object that every reader understands alike: no member twice, at any depth, and no deeper than anybody needs.
//!
//! RFC 7515 §4 and RFC 7519 §4 leave a member that occurs twice to the parser: refused, or the last one counts. Two parsers
//! that decide differently are how a token means one thing to us and another to the application, so ours refuses.

use super::shown::Shown;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// Levels of lists and objects in headers and claims, the object itself included.
pub const DEPTH_MAX: usize = 16;

/// Why bytes are no object that has one meaning.
#[derive(Debug, thiserror::Error)]
pub enum JsonFault {
    #[error("it is not JSON in UTF-8")]
    Syntax(#[source] serde_json::Error),
    #[error("it is JSON, and no object")]
    NotAnObject,
    #[error("the member `{member}` occurs twice in one object")]
    MemberTwice { member: Shown },
    #[error("it is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// # Errors
/// [`JsonFault`].
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonFault> {
    let broken = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let strict = Strict { broken: &broken, depth: 0 };
    let read = strict.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match (broken.into_inner(), read) {
        (Some(fault), _) => Err(fault),
        (None, Err(syntax)) => Err(JsonFault::Syntax(syntax)),
        (None, Ok(Value::Object(members))) => Ok(members),
        (None, Ok(_)) => Err(JsonFault::NotAnObject),
    }
}

/// Reads one value. serde_json's errors are text alone, so a rule of ours that is broken is noted beside.
#[derive(Clone, Copy)]
struct Strict<'a> {
    broken: &'a RefCell<Option<JsonFault>>,
    /// Levels around this value.
    depth: usize,
}

impl Strict<'_> {
    fn refuse<E: de::Error>(self, fault: JsonFault) -> E {
        *self.broken.borrow_mut() = Some(fault);
        E::custom("refused")
    }

    /// For what is within this value.
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > DEPTH_MAX { Err(self.refuse(JsonFault::TooDeep)) } else { Ok(Self { depth, ..self }) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let within = self.deeper()?;
        let mut members = Map::new();
        while let Some(member) = map.next_key::<String>()? {
            if members.contains_key(&member) {
                return Err(self.refuse(JsonFault::MemberTwice { member: Shown::of(&member) }));
            }
            let value = map.next_value_seed(within)?;
            members.insert(member, value);
        }
        Ok(Value::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let within = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(within)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> &'static str {
        match object(text.as_bytes()) {
            Ok(_) => "none",
            Err(JsonFault::Syntax(_)) => "syntax",
            Err(JsonFault::NotAnObject) => "not an object",
            Err(JsonFault::MemberTwice { .. }) => "twice",
            Err(JsonFault::TooDeep) => "deep",
        }
    }

    #[test]
    fn reads_objects_with_one_meaning_alone() {
        let table = [
            ("{}", "none"),
            (r#" {"a": [1, -1, 0.5, true, null, "b", {"a": {"a": 1}}]} "#, "none"),
            ("", "syntax"),
            ("{", "syntax"),
            ("{} x", "syntax"),
            ("{}{}", "syntax"),
            ("\u{feff}{}", "syntax"),
            (r#"{"a": 1e400}"#, "syntax"),
            (r#"{"a": "\ud800"}"#, "syntax"),
            (r#"{"a": NaN}"#, "syntax"),
            ("{a: 1}", "syntax"),
            ("{\"a\": 1,}", "syntax"),
            ("[]", "not an object"),
            ("\"a\"", "not an object"),
            ("1", "not an object"),
            (r#"{"a": 1, "a": 1}"#, "twice"),
            (r#"{"a": 1, "\u0061": 2}"#, "twice"),
            (r#"{"a": {"b": 1, "b": 1}}"#, "twice"),
            (r#"{"a": [{"b": 1, "b": 1}]}"#, "twice"),
        ];
        for (text, expected) in table {
            assert_eq!(fault(text), expected, "{text}");
        }
        assert!(matches!(object(b"{\"a\": \"\xff\"}"), Err(JsonFault::Syntax(_))), "not UTF-8");
    }

    #[test]
    fn means_what_serde_json_means() {
        let text = r#"{"b": [1, -1, 0.5, 18446744073709551615, 1e9, true, null, "\u00e4\n"], "a": {"x": []}}"#;
        assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn has_a_bound_on_depth() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert_eq!(fault(&nested(DEPTH_MAX)), "none");
        assert_eq!(fault(&nested(DEPTH_MAX + 1)), "deep");
        assert_eq!(fault(&nested(10_000)), "deep");
        assert_eq!(fault(&"{\"a\":".repeat(10_000)), "deep");
        assert_eq!(fault(&"[".repeat(10_000)), "deep");
    }
}
