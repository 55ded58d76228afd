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
    if let Some(root) = value.as_object_mut() {
        root.insert("title".to_owned(), json!("Postern configuration"));
    }
    value
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
