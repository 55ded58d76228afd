//! One authorizer written out.

use super::put;
use crate::authorizer::{Authorizer, CheckForm, OnError, OverBody};
use crate::units::print_duration;
use serde_json::{Map, Value, json};

pub(super) fn authorizer(authorizer: &Authorizer) -> Value {
    let mut section = Map::new();
    section.insert("name".into(), json!(authorizer.name));
    let reach = json!(authorizer.reach.to_string());
    match &authorizer.form {
        CheckForm::Grpc => {
            section.insert("grpc".into(), reach);
            put(&mut section, "context", (!authorizer.context.is_empty()).then(|| json!(authorizer.context)));
            section.insert("certificate".into(), json!(authorizer.certificate));
        }
        CheckForm::Http(http) => {
            section.insert("http".into(), reach);
            put(&mut section, "path_prefix", (!http.path_prefix.is_empty()).then(|| json!(http.path_prefix)));
            section.insert("request_headers".into(), json!(http.request_headers));
            section.insert("upstream_headers".into(), json!(http.upstream_headers));
            put(&mut section, "client_headers", http.client_headers.as_ref().map(|names| json!(names)));
        }
    }
    section.insert("timeout".into(), json!(print_duration(authorizer.timeout)));
    let on_error = match authorizer.on_error {
        OnError::Refuse => "refuse",
        OnError::Allow => "allow",
    };
    section.insert("on_error".into(), json!(on_error));
    let body = authorizer.body.map(|body| {
        let over = match body.over {
            OverBody::Refuse => "refuse",
            OverBody::Truncate => "truncate",
        };
        json!({ "max": body.max, "over": over })
    });
    put(&mut section, "body", body);
    Value::Object(section)
}
