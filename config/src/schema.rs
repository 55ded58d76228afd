//! The JSON schema and the reference page, from the structs that the file is read into.

use crate::root::RawConfig;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

mod reference;

pub use reference::reference;

/// The JSON schema (draft 7, which editors' YAML servers know best) of a configuration file.
pub fn json_schema() -> String {
    let mut text = serde_json::to_string_pretty(&schema_value()).unwrap_or_default();
    text.push('\n');
    text
}

fn schema_value() -> Value {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<RawConfig>();
    let mut value = schema.to_value();
    tidy(&mut value);
    let mut root = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Postern configuration",
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
