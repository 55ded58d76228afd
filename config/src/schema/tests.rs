use super::*;
use crate::authz::RawAllow;
use crate::bounds::{RawLimits, RawTimeouts};
use crate::identity::{RawFiles, RawIdentity, RawSvid};
use crate::listener::{RawIdentityHeaders, RawInbound};
use crate::read::{Section, known_keys};
use crate::route::{RawMatch, RawRoute};
use crate::telemetry::{RawAccessLogFile, RawAdmin, RawTelemetry};
use crate::upstream::{RawEndpoints, RawOutbound, RawService};
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
    check::<RawSvid>();
    check::<RawInbound>();
    check::<RawIdentityHeaders>();
    check::<RawAllow>();
    check::<RawRoute>();
    check::<RawMatch>();
    check::<RawOutbound>();
    check::<RawService>();
    check::<RawEndpoints>();
    check::<RawTelemetry>();
    check::<RawAccessLogFile>();
    check::<RawAdmin>();
    check::<RawTimeouts>();
    check::<RawLimits>();
}

/// Every section of the schema has been checked above: a new one has to be added there.
#[test]
fn no_section_is_forgotten() {
    let schema = schema_value();
    let definitions = schema["definitions"].as_object().expect("definitions");
    let objects = definitions.values().filter(|definition| definition["properties"].is_object()).count();
    assert_eq!(objects + 1, 17);
}

/// `POSTERN_BLESS=1 cargo test -p postern-config` writes the two files anew.
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
    current("postern.schema.json", &json_schema());
}

#[test]
fn committed_reference_is_current() {
    current("../docs/configuration.md", &reference());
}
