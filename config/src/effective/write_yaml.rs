//! JSON as YAML that people read.

use serde_json::Value;
use std::fmt::Write;

/// Block style, two spaces a level. Strings of more than letters, digits and a few harmless marks stand in quotes: a
/// JSON string is a YAML string (YAML 1.2 §1.3).
pub fn write_value(text: &mut String, value: &Value, indent: usize) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let _ = write!(text, "{pad}{}:", scalar(&Value::String(key.clone())));
                write_behind(text, value, indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut block = String::new();
                match item {
                    Value::Object(entries) if !entries.is_empty() => write_value(&mut block, item, indent + 1),
                    _ => {
                        let _ = writeln!(block, "{pad}  {}", scalar(item));
                    }
                }
                // The dash stands where the first two spaces of the item's own indent are.
                let _ = write!(text, "{pad}- {}", &block[pad.len() + 2..]);
            }
        }
        scalar_value => {
            let _ = writeln!(text, "{pad}{}", scalar(scalar_value));
        }
    }
}

fn write_behind(text: &mut String, value: &Value, indent: usize) {
    let is_block = match value {
        Value::Object(entries) => !entries.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if is_block {
        text.push('\n');
        write_value(text, value, indent + 1);
    } else {
        let _ = writeln!(text, " {}", scalar(value));
    }
}

/// Empty mappings and lists are `{}` and `[]` in both languages.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(word) if is_plain(word) => word.clone(),
        other => other.to_string(),
    }
}

fn is_plain(word: &str) -> bool {
    let starts_well = word.starts_with(|c: char| c.is_ascii_alphabetic());
    let goes_on_well = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "inf", "infinity", "nan", "y", "n"];
    // Read as text by us in any case; in quotes for readers of YAML 1.1, where `off` is a boolean.
    starts_well && goes_on_well && !reserved.contains(&word.to_ascii_lowercase().as_str())
}
