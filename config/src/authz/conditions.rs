//! Headers and parameters of the query that a rule asks for.

use crate::problem::Place;
use crate::read::{FromNode, Reader, shown};
use crate::values::OneOrMany;
use crate::yaml::{Node, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::fmt;

/// A header or a parameter by its name, and what it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldMatch {
    /// A header's in lower case.
    pub name: String,
    /// Never empty.
    pub values: Vec<TextPattern>,
}

impl FieldMatch {
    pub fn matches(&self, value: &[u8]) -> bool {
        self.values.iter().any(|pattern| pattern.matches(value))
    }
}

/// Which texts. Compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextPattern {
    /// `*`: any, also the empty one.
    Any,
    Exact(Box<str>),
    /// `abc*`
    Prefix(Box<str>),
    /// `*abc`
    Suffix(Box<str>),
}

impl TextPattern {
    /// # Errors
    /// Words for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            _ if text == "*" => return Ok(Self::Any),
            (Some(_), Some(_)) => return Err("has `*` at both ends; one of them may be open".to_owned()),
            (Some(suffix), None) => Self::Suffix(suffix.into()),
            (None, Some(prefix)) => Self::Prefix(prefix.into()),
            (None, None) => Self::Exact(text.into()),
        };
        let literal = match &pattern {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
            Self::Any => "",
        };
        if literal.contains('*') {
            return Err("has a `*` inside, where it stands for nothing".to_owned());
        }
        if let Some(character) = literal.chars().find(|character| character.is_control()) {
            return Err(format!("has the character {character:?}, which no value has"));
        }
        Ok(pattern)
    }

    /// The only text that it fits, where it is one.
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(text) => Some(text),
            Self::Any | Self::Prefix(_) | Self::Suffix(_) => None,
        }
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
        }
    }
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

impl FromNode for TextPattern {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a value, `abc*`, `*abc` or `*`", Self::parse)
    }
}

impl JsonSchema for TextPattern {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TextPattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "value, `abc*`, `*abc` or `*`" })
    }
}

/// `name: value` or `name: [value, …]`, with free names.
#[derive(Debug, Default)]
pub(crate) struct Fields(pub Vec<(String, Place, Vec<TextPattern>)>);

impl FromNode for Fields {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            reader.wrong(node, "is not a mapping", "write `name: value` below it");
            return None;
        };
        let mut fields = Vec::new();
        let mut all_read = true;
        for entry in entries {
            match OneOrMany::<TextPattern>::from_node(&entry.value, reader) {
                Some(values) if values.0.is_empty() => {
                    let what = format!("`{}` has no value that could fit", shown(&entry.key));
                    reader.problem(&entry.value.place, what, "name some, or write `*` for any");
                    all_read = false;
                }
                Some(values) => fields.push((entry.key.clone(), entry.key_place.clone(), values.0)),
                None => all_read = false,
            }
        }
        all_read.then_some(Self(fields))
    }
}

impl JsonSchema for Fields {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Fields".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let values = generator.subschema_for::<OneOrMany<TextPattern>>();
        json_schema!({ "type": "object", "title": "name: value", "additionalProperties": values })
    }
}

/// Names that decide nothing here: callers' claims about who they are, which we strip (DESIGN, rulings), and what other keys
/// of a rule say.
const NOT_FOR_RULES: &[(&str, &str)] = &[
    ("host", "write `hosts`"),
    ("authorization", "credentials are not compared as text"),
    ("proxy-authorization", "credentials are not compared as text"),
    ("cookie", "credentials are not compared as text"),
    ("x-forwarded-client-cert", "write `spiffe`: what callers say there is not believed"),
    ("x-spiffe-id", "write `spiffe`: what callers say there is not believed"),
    ("client-cert", "write `spiffe`: what callers say there is not believed"),
    ("client-cert-chain", "write `spiffe`: what callers say there is not believed"),
];

/// Why no rule can ask for the header of this name, in lower case, and what to write instead.
pub(super) fn not_for_rules(name: &str) -> Option<&'static str> {
    let spelt = name.replace(['_', '.'], "-");
    NOT_FOR_RULES.iter().find(|(other, _)| *other == spelt).map(|(_, instead)| *instead)
}

/// Whether no rule may see the header of this name, in lower case: a caller's claim, a credential, or the host, which HTTP/2 says
/// elsewhere.
pub fn is_hidden_header(name: &str) -> bool {
    not_for_rules(name).is_some()
}

/// RFC 9110 §5.1; names are compared in lower case.
pub(super) fn check_headers(fields: Fields, reader: &mut Reader) -> Vec<FieldMatch> {
    let mut checked: Vec<FieldMatch> = Vec::new();
    for (written, place, values) in fields.0 {
        let name = written.to_ascii_lowercase();
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let instead = not_for_rules(&name);
        if name.is_empty() || !name.bytes().all(is_token) {
            reader.problem(&place, format!("`{}` is not a header's name", shown(&written)), "write such as `x-tenant`");
        } else if let Some(instead) = instead {
            reader.problem(&place, format!("a rule cannot ask for the header `{name}`"), instead);
        } else if checked.iter().any(|other| other.name == name) {
            reader.problem(&place, format!("the header `{name}` is asked for twice"), "write its values as one list");
        } else {
            checked.push(FieldMatch { name, values });
        }
    }
    checked
}

pub(super) fn check_query(fields: Fields, reader: &mut Reader) -> Vec<FieldMatch> {
    let mut checked = Vec::new();
    for (name, place, values) in fields.0 {
        match name.is_empty() {
            true => reader.problem(&place, "a parameter has no name", "write such as `tenant`"),
            false => checked.push(FieldMatch { name, values }),
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::TextPattern;

    #[test]
    fn texts_are_compared_whole_from_one_end_or_not_at_all() {
        for (pattern, fits, others) in [
            ("prod", &["prod"][..], &["Prod", "prod ", "production", ""][..]),
            ("pay*", &["pay", "payments"], &["Pay", "repay", ""]),
            ("*.eu", &["a.eu", ".eu"], &["eu", "a.eu2"]),
            ("*", &["", "anything"], &[]),
            ("", &[""], &["x"]),
        ] {
            let read = TextPattern::parse(pattern).unwrap();
            assert_eq!(read.to_string(), pattern);
            fits.iter().for_each(|text| assert!(read.matches(text.as_bytes()), "{pattern} {text}"));
            others.iter().for_each(|text| assert!(!read.matches(text.as_bytes()), "{pattern} {text}"));
        }
        for wrong in ["*a*", "a*b", "**", "a\u{7}", "*a*b"] {
            TextPattern::parse(wrong).unwrap_err();
        }
    }
}
