//! The reference page: every key with its type, default and effect.

use super::{SchemaOf, schema_value};
use serde_json::Value;
use std::fmt::Write;

const HEAD: &str = "\
# Configuration reference

<!-- Generated from the structs that read the file: change those, then `POSTERN_BLESS=1 cargo test -p postern-config`. -->

`postern check FILE` tells all problems of a file at once; `postern check FILE --print` prints what is in force, with
every default filled in. `postern schema` prints the JSON schema that editors complete and check with. Unknown keys,
keys written twice, anchors, aliases and tags are refused. Relative paths begin at the directory of the file that they
are written in.

- *duration*: whole numbers with units, largest first: `500ms`, `5s`, `10m`, `1h30m`. A bare number is refused.
- *size*: bytes, alone or as `KiB`, `MiB`, `GiB`.
- *SPIFFE ID pattern*: an ID whose path segments may be `*` (exactly one) and whose last may be `**` (one or more). The
  trust domain is always written out.
- *host pattern*: labels of which some may be `*` or `{name}` (exactly one each), and the first `**` (one or more).
- *path pattern*: segments of which some may be `*` or `{name}` (exactly one each), and `/**` as the end for the path
  itself and everything below it.
";

/// Shown at the end of the page, simplest first.
const EXAMPLES: [(&str, &str, &str); 14] = [
    ("pair/client.yaml", "The calling side of the smallest pair", include_str!("../../examples/pair/client.yaml")),
    ("pair/server.yaml", "The answering side of the smallest pair", include_str!("../../examples/pair/server.yaml")),
    ("http-and-tcp.yaml", "HTTP and TCP, both directions", include_str!("../../examples/http-and-tcp.yaml")),
    ("template.yaml", "One template for all services of a cluster", include_str!("../../examples/template.yaml")),
    ("no-privilege.yaml", "A container without any capability", include_str!("../../examples/no-privilege.yaml")),
    ("captured.yaml", "A pod whose connections are captured", include_str!("../../examples/captured.yaml")),
    ("tunnel/client.yaml", "The calling side of a tunnel", include_str!("../../examples/tunnel/client.yaml")),
    ("tunnel/server.yaml", "The answering side of a tunnel", include_str!("../../examples/tunnel/server.yaml")),
    ("vm.yaml", "A virtual machine", include_str!("../../examples/vm.yaml")),
    ("vm.conf.d/ledger.yaml", "What `vm.yaml` includes", include_str!("../../examples/vm.conf.d/ledger.yaml")),
    ("two-trust-domains.yaml", "A partner's workloads", include_str!("../../examples/two-trust-domains.yaml")),
    ("ci-token.yaml", "Tokens of a CI system and of a cluster", include_str!("../../examples/ci-token.yaml")),
    ("audit.yaml", "An audit log", include_str!("../../examples/audit.yaml")),
    ("federation.yaml", "Bundles from their endpoints", include_str!("../../examples/federation.yaml")),
];

/// The reference page, in Markdown.
pub fn reference() -> String {
    let schema = schema_value(SchemaOf::Configuration);
    let mut page = Page { schema: &schema, text: HEAD.to_owned() };
    page.section("", &schema);
    page.text.push_str("\n## Examples\n\nEach of these files, below `config/examples/`, is loaded by a test.\n");
    for (name, title, text) in EXAMPLES {
        let _ = write!(page.text, "\n### {title}: `{name}`\n\n```yaml\n{text}```\n");
    }
    page.text
}

struct Page<'a> {
    schema: &'a Value,
    text: String,
}

impl<'a> Page<'a> {
    /// A section's table, then the sections below it.
    fn section(&mut self, path: &str, section: &'a Value) {
        let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
        let _ = write!(self.text, "\n## {title}\n\n{}\n\n", words(section, "description"));
        self.text.push_str("| key | value | default | effect |\n|---|---|---|---|\n");
        let mut below = Vec::new();
        for (key, property) in section["properties"].as_object().into_iter().flatten() {
            let required = section["required"].as_array().is_some_and(|keys| keys.iter().any(|one| one == key));
            let default = match (required, &property["x-default"], &property["default"]) {
                (true, ..) => "*mandatory*".to_owned(),
                (_, Value::String(prose), _) => prose.clone(),
                (_, _, Value::Null) => "–".to_owned(),
                (_, _, Value::String(word)) => format!("`{word}`"),
                (_, _, value) => format!("`{value}`"),
            };
            let effect = words(property, "description").replace('|', "\\|");
            let _ = writeln!(self.text, "| `{key}` | {} | {default} | {effect} |", self.kind(property));
            if let Some((suffix, section)) = self.section_below(property) {
                let dot = if path.is_empty() { "" } else { "." };
                below.push((format!("{path}{dot}{key}{suffix}"), section));
            }
        }
        for (path, section) in below {
            // What several keys share (rules, the choice of an SVID) is described at each: a reader searches for one.
            self.section(&path, section);
        }
    }

    /// The section that a property holds, alone, in a list, or as one of its forms.
    fn section_below(&self, property: &'a Value) -> Option<(&'static str, &'a Value)> {
        let property = self.resolved(property);
        if property["properties"].is_object() {
            return Some(("", property));
        }
        if let Some((_, section)) = property.get("items").and_then(|items| self.section_below(items)) {
            return Some(("[]", section));
        }
        property["anyOf"].as_array()?.iter().find_map(|form| self.section_below(form))
    }

    /// What may be written, in a few words.
    fn kind(&self, property: &'a Value) -> String {
        let property = self.resolved(property);
        if let Some(forms) = property["anyOf"].as_array().or(property["oneOf"].as_array()) {
            return self.forms(forms);
        }
        if let Some(words) = property["enum"].as_array() {
            return words.iter().map(word).collect::<Vec<_>>().join(", ");
        }
        if !property["const"].is_null() {
            return word(&property["const"]);
        }
        if property["properties"].is_object() {
            return "section".to_owned();
        }
        if let Some(title) = property["title"].as_str() {
            return title.to_owned();
        }
        match property["type"].as_str() {
            Some("array") => match self.kind(&property["items"]).as_str() {
                "section" => "list of sections".to_owned(),
                kind => format!("list of {kind}"),
            },
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("integer") => match (property["minimum"].as_u64(), property["maximum"].as_u64()) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                _ => "whole number".to_owned(),
            },
            _ => "text".to_owned(),
        }
    }

    fn forms(&self, forms: &'a [Value]) -> String {
        let kinds: Vec<String> = forms.iter().map(|form| self.kind(form)).collect();
        match kinds.as_slice() {
            // One or a list of the same.
            [one, list] if *list == format!("list of {one}") => format!("{one}, or a list"),
            kinds => kinds.join(", "),
        }
    }

    /// Behind `$ref`, alone or in the `allOf` that draft 7 needs where something stands beside it.
    fn resolved(&self, property: &'a Value) -> &'a Value {
        let reference = property["$ref"].as_str().or(property["allOf"][0]["$ref"].as_str());
        let name = reference.and_then(|reference| reference.strip_prefix("#/definitions/"));
        name.map_or(property, |name| &self.schema["definitions"][name])
    }
}

fn words<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema[key].as_str().unwrap_or_default()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| format!("`{value}`"), |word| format!("`{word}`"))
}
