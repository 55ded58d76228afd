//! The JSON schemas and the reference page, from the structs that the files are read into.

use crate::break_glass::RawOverrideFile;
use crate::deny_list::RawDenyList;
use crate::root::RawConfig;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

mod reference;

pub use reference::reference;

/// A kind of file that people write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOf {
    Configuration,
    DenyList,
    Override,
}

/// The JSON schema (draft 7, which editors' YAML servers know best) of such a file.
pub fn json_schema(of: SchemaOf) -> String {
    let mut text = serde_json::to_string_pretty(&schema_value(of)).unwrap_or_default();
    text.push('\n');
    text
}

fn schema_value(of: SchemaOf) -> Value {
    match of {
        SchemaOf::Configuration => root_schema::<RawConfig>("Postern configuration"),
        SchemaOf::DenyList => root_schema::<RawDenyList>("Postern deny list"),
        SchemaOf::Override => root_schema::<RawOverrideFile>("Postern break-glass override"),
    }
}

fn root_schema<T: JsonSchema>(title: &str) -> Value {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    let mut value = schema.to_value();
    tidy(&mut value);
    let mut root = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
        "description": value["description"],
    });
    // What is there already keeps its place, so the file begins with what it is.
    if let (Value::Object(root), Value::Object(rest)) = (&mut root, value) {
        for (key, value) in rest {
            root.entry(key).or_insert(value);
        }
    }
    root
}

/// An empty `required` says nothing; line ends in descriptions are those of this source.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            if entries.get("required") == Some(&json!([])) {
                entries.shift_remove("required");
            }
            if let Some(Value::String(description)) = entries.get_mut("description") {
                *description = description.replace('\n', " ");
            }
            entries.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
