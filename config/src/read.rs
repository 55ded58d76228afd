//! From the tree to values: every reader here goes on after a problem, so that all of a file's are told at once.
//!
//! A section of the file is a raw struct that implements [`Section`]: its fields are read by key, what no field asked
//! for is an unknown key, and the JSON schema is derived from the same struct. Its own `check` then makes the checked
//! type. A value that was written but could not be read is an empty [`Field`] that says it was written, so that nobody
//! is told that it is missing.

use crate::authz::environment;
use crate::identity::SvidSelector;
use crate::issuer::TokenIssuer;
use crate::listen::ListenAddress;
use crate::problem::{Place, Problem};
use crate::yaml::{Entry, Node, Value};
use schemars::JsonSchema;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// Problems beyond this many are not listed: nobody reads them, and a broken 1 MiB file could make them endless.
const PROBLEMS_MAX: usize = 500;

/// Where problems go, and what the rules between sections need to know of places.
#[derive(Default)]
pub(crate) struct Reader {
    pub problems: Vec<Problem>,
    /// Every address that a socket will be bound to.
    pub listeners: Vec<Listener>,
    /// What `authorize` may name.
    pub authorizers: Vec<String>,
    /// What `identity.svid` says, for whoever names none of their own.
    pub svid: SvidSelector,
    /// What `issuers` says, for routes that take their tokens.
    pub issuers: Vec<Arc<TokenIssuer>>,
    /// Is there a `capture.dns`, so that a connection's address tells which host was asked for?
    pub names_have_addresses: bool,
    /// The text of each file, to say where in a value something is wrong.
    pub sources: Vec<(Arc<PathBuf>, String)>,
    conditions: Option<Arc<cel::Env>>,
    key: &'static str,
}

/// An address that was written down to be listened on.
pub(crate) struct Listener {
    pub address: ListenAddress,
    /// `inbound orders`, `telemetry.metrics`.
    pub whose: String,
    /// `None`: a default that nobody wrote.
    pub place: Option<Place>,
}

/// How a value is read from its node. `None`: a problem has been told.
pub(crate) trait FromNode: Sized {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self>;
}

/// A mapping with known keys: reads its fields, each key once and whatever stands in the file.
pub(crate) trait Section: JsonSchema + Sized {
    /// As in "unknown key in …".
    const NAME: &'static str;

    fn read(keys: &mut Keys<'_>) -> Self;
}

impl<T: Section> FromNode for T {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Mapping(entries) => {
                let known = known_keys::<T>();
                let misspelt = refuse_unknown(entries, &known.all, T::NAME, reader);
                Some(T::read(&mut Keys { node, reader, misspelt, asked: KnownKeys::default() }))
            }
            _ => {
                reader.wrong(node, format!("is not a mapping, and {} is one", T::NAME), "write `key: value` below it");
                None
            }
        }
    }
}

/// The keys of one mapping, while they are being read.
pub(crate) struct Keys<'a> {
    node: &'a Node,
    pub reader: &'a mut Reader,
    /// What unknown keys were probably meant to be, and where their values are.
    misspelt: Vec<(&'static str, Place)>,
    asked: KnownKeys,
}

/// Which keys a section has.
#[derive(Default)]
pub(crate) struct KnownKeys {
    pub all: Vec<&'static str>,
    pub required: Vec<&'static str>,
}

/// What a section asks for, found by letting it read an empty mapping.
pub(crate) fn known_keys<T: Section>() -> KnownKeys {
    let node = Node { place: Place::command_line(), value: Value::Mapping(Vec::new()) };
    let mut nobody = Reader::default();
    let mut keys = Keys { node: &node, reader: &mut nobody, misspelt: Vec::new(), asked: KnownKeys::default() };
    T::read(&mut keys);
    keys.asked
}

/// Tells each key that is not among `known`; returns those that were probably meant to be one that is.
fn refuse_unknown(
    entries: &[Entry],
    known: &[&'static str],
    section: &str,
    reader: &mut Reader,
) -> Vec<(&'static str, Place)> {
    let mut misspelt = Vec::new();
    for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
        let hint = match nearest(&entry.key, known) {
            Some(key) => {
                misspelt.push((key, entry.value.place.clone()));
                format!("did you mean `{key}`?")
            }
            None => format!("known keys are {}", list_of(known)),
        };
        reader.problem(&entry.key_place, format!("unknown key `{}` in {section}", shown(&entry.key)), hint);
    }
    misspelt
}

impl Keys<'_> {
    /// Where the mapping begins.
    pub fn place(&self) -> Place {
        self.node.place.clone()
    }

    pub fn optional<T: FromNode>(&mut self, key: &'static str) -> Field<T> {
        self.asked.all.push(key);
        let Value::Mapping(entries) = &self.node.value else { return Field::default() };
        let Some(entry) = entries.iter().find(|entry| entry.key == key) else {
            // One mistake is one problem: a misspelt key is not missing as well.
            let meant = self.misspelt.iter().find(|(meant, _)| *meant == key);
            return Field { written: meant.map(|(_, place)| place.clone()), value: None };
        };
        let outer = std::mem::replace(&mut self.reader.key, key);
        let value = match entry.value.is_null() {
            false => T::from_node(&entry.value, self.reader),
            true => {
                let hint = format!("write a value behind `{key}:`, or remove the key");
                self.reader.problem(&entry.key_place, format!("`{key}` has no value"), hint);
                None
            }
        };
        self.reader.key = outer;
        Field { written: Some(entry.value.place.clone()), value }
    }

    /// As [`Keys::optional`]; tells a problem with `hint` where the key is missing.
    pub fn required<T: FromNode>(&mut self, key: &'static str, hint: &str) -> Field<T> {
        self.asked.required.push(key);
        let field = self.optional(key);
        if field.written.is_none() {
            self.reader.problem(&self.node.place, format!("`{key}` is missing"), hint);
        }
        field
    }
}

/// What stood behind a key.
#[derive(Clone, Debug)]
pub(crate) struct Field<T> {
    written: Option<Place>,
    value: Option<T>,
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self { written: None, value: None }
    }
}

impl<T> Field<T> {
    /// Where it was written, also when it could not be read.
    pub fn place(&self) -> Option<&Place> {
        self.written.as_ref()
    }

    pub fn is_written(&self) -> bool {
        self.written.is_some()
    }

    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    pub fn into_option(self) -> Option<T> {
        self.value
    }

    pub fn or(self, default: T) -> T {
        self.value.unwrap_or(default)
    }
}

impl<T: Default> Field<T> {
    pub fn or_default(self) -> T {
        self.value.unwrap_or_default()
    }
}

/// The schema of a field is that of its value; whether it must be there is said by its struct.
impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

impl Reader {
    /// Goes on after `problems` that have been met already.
    pub fn with(problems: Vec<Problem>, sources: Vec<(Arc<PathBuf>, String)>) -> Self {
        Self { problems, sources, ..Self::default() }
    }

    /// What conditions can call: made where there is one.
    pub fn environment(&mut self) -> Arc<cel::Env> {
        self.conditions.get_or_insert_with(|| Arc::new(environment())).clone()
    }

    pub fn problem(&mut self, place: &Place, what: impl Into<String>, hint: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem::new(place, what, hint));
        }
    }

    /// A problem of the value at `node`: its key and what was written come before `is_wrong`.
    pub fn wrong(&mut self, node: &Node, is_wrong: impl AsRef<str>, hint: impl Into<String>) {
        let written = match &node.value {
            Value::Scalar { text, plain: true } => shown(text),
            Value::Scalar { text, plain: false } => format!("\"{}\"", shown(text)),
            Value::Sequence(_) => "[…]".to_owned(),
            Value::Mapping(_) => "{…}".to_owned(),
            Value::Refused => return,
        };
        let what = match self.key {
            "" => format!("`{written}` {}", is_wrong.as_ref()),
            key => format!("`{key}: {written}` {}", is_wrong.as_ref()),
        };
        self.problem(&node.place, what, hint);
    }

    /// The text of a scalar, whatever its style. `expected` finishes the sentence "is not …".
    pub fn scalar<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } if !node.is_null() => Some(text),
            _ => {
                self.wrong(node, format!("is not {expected}"), format!("write {expected}"));
                None
            }
        }
    }

    /// One of a few words. Without a fitting one the nearest is named.
    pub fn word<T: Copy>(&mut self, node: &Node, words: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<&'static str> = words.iter().map(|(name, _)| *name).collect();
        let text = self.scalar(node, &format!("one of {}", list_of(&names)))?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let hint = match nearest(text, &names) {
            Some(name) => format!("did you mean `{name}`? Known are {}", list_of(&names)),
            None => format!("write one of {}", list_of(&names)),
        };
        self.wrong(node, "is not known", hint);
        None
    }

    /// A scalar read by `parse`, whose error finishes the sentence that begins with the value.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        node: &Node,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.scalar(node, expected)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(node, error.to_string(), format!("write {expected}"));
                None
            }
        }
    }

    /// A whole number between two bounds.
    pub fn number(&mut self, node: &Node, least: u64, most: u64) -> Option<u64> {
        let expected = format!("a whole number from {least} to {most}");
        let text = self.scalar(node, &expected)?;
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                self.wrong(node, format!("is not {expected}"), format!("write {expected}"));
                None
            }
        }
    }
}

/// The name that a misspelt one was probably meant to be.
pub(crate) fn nearest(text: &str, names: &[&'static str]) -> Option<&'static str> {
    let text = text.to_ascii_lowercase().replace('-', "_");
    let near = names.iter().map(|name| (strsim::normalized_damerau_levenshtein(&text, name), *name));
    let (likeness, name) = near.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (likeness >= 0.6).then_some(name)
}

fn list_of(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// What was written, short and on one line.
pub(crate) fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut short: String = text.chars().take(CHARACTERS_MAX).flat_map(escaped).collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// `char::escape_debug` alone would also escape quotes, which stand in many messages.
fn escaped(character: char) -> Vec<char> {
    match character {
        '"' | '\'' | '\\' => vec![character],
        other => other.escape_debug().collect(),
    }
}

#[cfg(test)]
mod tests;
