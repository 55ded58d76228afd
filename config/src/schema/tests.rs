use super::*;
use crate::audit::{RawAudit, RawAuditFile, RawDecisions, RawRotate, RawSeal, RawSecondPlace};
use crate::authorizer::{RawAuthorizer, RawCheckedBody};
use crate::authz::{RawRule, RawTimeWindow, RawTokenMatch};
use crate::bounds::{RawLimits, RawTimeouts};
use crate::break_glass::{RawBreakGlass, RawOverride, RawOverrideFile};
use crate::capture::{RawCapture, RawDns, RawRedirect};
use crate::deny_list::{RawDenyEntry, RawDenyList};
use crate::drift::RawDrift;
use crate::forwarder::RawForwarder;
use crate::hardening::RawHardening;
use crate::identity::{RawBundleEndpoint, RawFiles, RawIdentity, RawSvid};
use crate::issuer::RawIssuer;
use crate::listener::{RawIdentityHeaders, RawInbound};
use crate::rate_limit::RawRateLimit;
use crate::read::{Section, known_keys};
use crate::revocation::{RawGuard, RawRevocation};
use crate::route::{RawMatch, RawRoute};
use crate::telemetry::{RawAccessLogFile, RawAdmin, RawTelemetry};
use crate::token::{RawForwarders, RawToken};
use crate::tunnel::RawTunnel;
use crate::upstream::{
    RawCredentialKinds, RawEndpoints, RawJwtSvid, RawOutbound, RawOutliers, RawRetries, RawService, RawServiceLimits,
};
use crate::workload::RawWorkload;
use std::collections::BTreeSet;
use std::path::Path;

/// What the schema names is what the reader accepts, and what it requires is what the reader misses.
fn check<T: Section>() {
    let known = known_keys::<T>();
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>().to_value();
    let properties: BTreeSet<&str> =
        schema["properties"].as_object().expect(T::NAME).keys().map(String::as_str).collect();
    assert_eq!(known.all.iter().copied().collect::<BTreeSet<_>>(), properties, "{}", T::NAME);
    let listed: BTreeSet<&str> =
        schema["required"].as_array().expect(T::NAME).iter().filter_map(|key| key.as_str()).collect();
    assert_eq!(known.required.into_iter().collect::<BTreeSet<_>>(), listed, "{}", T::NAME);
    assert_eq!(schema["additionalProperties"], json!(false), "{}", T::NAME);
    for (key, property) in schema["properties"].as_object().expect(T::NAME) {
        assert!(property["description"].is_string(), "{}: `{key}` has no documentation", T::NAME);
    }
}

#[test]
fn schema_and_reader_know_the_same_keys() {
    check::<RawConfig>();
    check::<RawIdentity>();
    check::<RawFiles>();
    check::<RawCapture>();
    check::<RawRedirect>();
    check::<RawDns>();
    check::<RawBundleEndpoint>();
    check::<RawSvid>();
    check::<RawAuthorizer>();
    check::<RawCheckedBody>();
    check::<RawInbound>();
    check::<RawIdentityHeaders>();
    check::<RawRule>();
    check::<RawTimeWindow>();
    check::<RawTokenMatch>();
    check::<RawRoute>();
    check::<RawForwarder>();
    check::<RawRateLimit>();
    check::<RawToken>();
    check::<RawForwarders>();
    check::<RawIssuer>();
    check::<RawMatch>();
    check::<RawOutbound>();
    check::<RawTunnel>();
    check::<RawService>();
    check::<RawCredentialKinds>();
    check::<RawJwtSvid>();
    check::<RawEndpoints>();
    check::<RawRetries>();
    check::<RawOutliers>();
    check::<RawServiceLimits>();
    check::<RawTelemetry>();
    check::<RawAccessLogFile>();
    check::<RawAudit>();
    check::<RawAuditFile>();
    check::<RawRotate>();
    check::<RawDecisions>();
    check::<RawSeal>();
    check::<RawSecondPlace>();
    check::<RawRevocation>();
    check::<RawGuard>();
    check::<RawBreakGlass>();
    check::<RawDrift>();
    check::<RawAdmin>();
    check::<RawTimeouts>();
    check::<RawLimits>();
    check::<RawHardening>();
    check::<RawWorkload>();
    // Of a file of its own.
    check::<RawDenyList>();
    check::<RawDenyEntry>();
    check::<RawOverrideFile>();
    check::<RawOverride>();
}

/// Every section of the schema has been checked above: a new one has to be added there.
#[test]
fn no_section_is_forgotten() {
    let schema = schema_value(SchemaOf::Configuration);
    let definitions = schema["definitions"].as_object().expect("definitions");
    let objects = definitions.values().filter(|definition| definition["properties"].is_object()).count();
    assert_eq!(objects + 1, 48);
}

/// `POSTERN_BLESS=1 cargo test -p postern-config` writes the files anew.
fn current(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("POSTERN_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(&path, text).expect("written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{} is not current: run again with POSTERN_BLESS=1", path.display());
}

#[test]
fn committed_schema_is_current() {
    current("postern.schema.json", &json_schema(SchemaOf::Configuration));
    current("deny-list.schema.json", &json_schema(SchemaOf::DenyList));
    current("break-glass.schema.json", &json_schema(SchemaOf::Override));
}

#[test]
fn committed_reference_is_current() {
    current("../docs/configuration.md", &reference());
}

/// What the schema says a key is when nobody writes it, is what it is then.
#[test]
fn defaults_in_the_schema_are_those_in_force() {
    let text = "inbound: [{ port: 8080, allow: [{ spiffe: spiffe://td/a }] }]\n\
                outbound: { services: [{ name: a, hosts: a, identity: spiffe://td/a }] }\n\
                audit: { to: { file: a, rotate: {} } }\n";
    let config = crate::Config::from_str(Path::new("f"), text).unwrap_or_else(|problems| panic!("{problems}"));
    let effective = config.effective_json();
    let schema = schema_value(SchemaOf::Configuration);
    for (definition, pointer) in [
        ("Identity", "/identity"),
        ("Inbound", "/inbound/0"),
        ("IdentityHeaders", "/inbound/0/identity_headers"),
        ("Outbound", "/outbound"),
        ("Service", "/outbound/services/0"),
        ("Telemetry", "/telemetry"),
        ("AuditSeal", "/audit/seal"),
        ("AuditRotate", "/audit/to/rotate"),
        ("Timeouts", "/timeouts"),
        ("Limits", "/limits"),
        ("Drift", "/drift"),
    ] {
        let in_force = effective.pointer(pointer).expect(pointer);
        for (key, property) in schema["definitions"][definition]["properties"].as_object().expect(definition) {
            let default = &property["default"];
            // `log` has none of its own: `$RUST_LOG` comes between.
            if !default.is_null() && key != "log" {
                assert_eq!(in_force[key], *default, "{definition} {key}");
            }
        }
    }
}

/// As much of draft 7 as the schema uses.
fn validates(schema: &Value, part: &Value, value: &Value) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{value} {why}: {part}"));
    if let Some(name) = part["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/definitions/")) {
        return validates(schema, &schema["definitions"][name], value);
    }
    for part in part["allOf"].as_array().into_iter().flatten() {
        validates(schema, part, value)?;
    }
    for forms in [&part["anyOf"], &part["oneOf"]].into_iter().filter_map(Value::as_array) {
        if !forms.iter().any(|form| validates(schema, form, value).is_ok()) {
            return wrong("fits no form");
        }
    }
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::Null => "null",
    };
    let types: Vec<&str> = match &part["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    if !types.is_empty() && !types.contains(&kind) {
        return wrong("has another type");
    }
    if part["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return wrong("is none of the words");
    }
    if !part["const"].is_null() && part["const"] != *value {
        return wrong("is not the word");
    }
    for item in value.as_array().into_iter().flatten() {
        validates(schema, &part["items"], item)?;
    }
    if let (Value::Object(entries), Some(properties)) = (value, part["properties"].as_object()) {
        for (key, value) in entries {
            let Some(property) = properties.get(key) else { return wrong(&format!("has an unknown key {key}")) };
            validates(schema, property, value)?;
        }
        for key in part["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !entries.contains_key(key) {
                return wrong(&format!("lacks {key}"));
            }
        }
    }
    Ok(())
}

#[test]
fn lists_and_overrides_have_schemas_of_their_own() {
    let entry =
        json!({ "spiffe": "spiffe://td/a", "reason": "leaked", "author": "alice", "expires": "2026-12-24T00:00:00Z" });
    let moments =
        json!({ "reason": "INC", "author": "alice", "from": "2026-12-24T18:00:00Z", "until": "2026-12-24T20:00:00Z" });
    let mut opened = moments.clone();
    opened["workload"] = json!("spiffe://td/a");
    opened["allow"] = json!([{ "spiffe": "spiffe://td/b" }]);
    for (of, good, bad) in [
        (SchemaOf::DenyList, json!({ "deny": [entry] }), json!({ "deny": [{ "spiffe": "spiffe://td/a" }] })),
        (SchemaOf::Override, json!({ "break_glass": opened }), json!({ "break_glass": moments })),
    ] {
        let schema = schema_value(of);
        validates(&schema, &schema, &good).unwrap_or_else(|why| panic!("{of:?}: {why}"));
        assert!(validates(&schema, &schema, &bad).is_err(), "{of:?}");
    }
}

/// Editors must not underline what loads.
#[test]
fn what_is_in_force_fits_the_schema() {
    let schema = schema_value(SchemaOf::Configuration);
    for path in crate::tests::examples() {
        let config = crate::Config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        if let Err(why) = validates(&schema, &schema, &config.effective_json()) {
            panic!("{}: {why}", path.display());
        }
    }
    for text in
        ["{\"workres\": 1}", "{\"inbound\": [{}]}", "{\"workers\": \"x\"}", "{\"outbound\": {\"default\": \"allow\"}}"]
    {
        let value: Value = serde_json::from_str(text).expect("JSON");
        assert!(validates(&schema, &schema, &value).is_err(), "{text}");
    }
}
