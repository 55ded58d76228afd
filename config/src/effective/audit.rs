//! `audit:` as it is in force.

use super::{path, put};
use crate::audit::{Audit, AuditTarget, OnFull, PostAs, SecondPlace};
use crate::units::{print_duration, print_size};
use serde_json::{Map, Value, json};

pub(super) fn audit(audit: &Audit) -> Value {
    let mut section = Map::new();
    let to = match &audit.to {
        AuditTarget::Stdout => json!("stdout"),
        AuditTarget::File { path: file, rotate } => {
            let mut to = Map::new();
            to.insert("file".into(), path(file));
            let rotate = rotate.map(|rotate| json!({ "size": print_size(rotate.size), "keep": rotate.keep }));
            put(&mut to, "rotate", rotate);
            Value::Object(to)
        }
    };
    section.insert("to".into(), to);
    let decisions = &audit.decisions;
    let decisions = json!({ "denials": decisions.denials, "allows": format!("{}%", decisions.allows_percent) });
    section.insert("decisions".into(), decisions);
    let on_full = match audit.on_full {
        OnFull::Gap => "gap",
        OnFull::Block => "block",
    };
    section.insert("on_full".into(), json!(on_full));
    let seal = json!({ "every": print_duration(audit.seal.every), "records": audit.seal.records });
    section.insert("seal".into(), seal);
    let second_place = audit.second_place.as_ref().map(|place| match place {
        SecondPlace::File(file) => json!({ "file": path(file) }),
        SecondPlace::Post { url, form, roots } => {
            let key = match form {
                PostAs::Line => "url",
                PostAs::Otlp => "otlp",
            };
            let mut place = Map::new();
            place.insert(key.into(), json!(url.to_string()));
            put(&mut place, "roots", roots.as_deref().map(path));
            Value::Object(place)
        }
    });
    put(&mut section, "second_place", second_place);
    Value::Object(section)
}
