//! What has to hold for whatever bytes come from outside: one property a parser.
//!
//! Each takes bytes and panics where the property does not hold. They are run three ways: over the committed corpora
//! (`tests/fuzz/corpora/NAME`) and with some seconds of random bytes in every test run (`tests/it/properties.rs`), and guided
//! by coverage for as long as one likes (`tests/fuzz`).

mod answers;
mod audit;
mod authorizer;
mod bundle;
mod condition;
mod configuration;
mod crl;
mod detection;
mod files;
mod fixtures;
mod framing;
mod head_strict;
mod identity;
mod identity_headers;
mod jwks;
mod jwt;
mod names;
mod path;
mod records;
mod server_name;
#[allow(dead_code, reason = "shared with the proxy's own tests, which use all of it")]
#[path = "../../../proxy/src/token/tests/signers.rs"]
pub mod signers;
mod svid;
mod tokens;
mod workload_message;
mod xfcc;

/// A property, by the name of its corpus and fuzz target.
pub struct Property {
    pub name: &'static str,
    pub check: fn(&[u8]),
}

pub const ALL: &[Property] = &[
    Property { name: "path", check: path::check },
    Property { name: "requests", check: framing::requests },
    Property { name: "chunks", check: framing::chunks },
    Property { name: "answers", check: answers::check },
    Property { name: "spiffe_id", check: identity::check },
    Property { name: "svid", check: svid::check },
    Property { name: "crl", check: crl::check },
    Property { name: "workload_message", check: workload_message::check },
    Property { name: "bundle", check: bundle::check },
    Property { name: "jwt", check: jwt::check },
    Property { name: "jwks", check: jwks::check },
    Property { name: "client_hello", check: server_name::check },
    Property { name: "names", check: names::check },
    Property { name: "identity_headers", check: identity_headers::check },
    Property { name: "xfcc", check: xfcc::check },
    Property { name: "authorizer", check: authorizer::check },
    Property { name: "record", check: records::check },
    Property { name: "audit_log", check: audit::check },
    Property { name: "condition", check: condition::check },
    Property { name: "configuration", check: configuration::check },
    Property { name: "detection", check: detection::check },
    Property { name: "pem_files", check: files::check },
];

/// Checks `bytes` by the property of this name.
///
/// # Panics
/// The property does not hold, or there is none of that name.
pub fn check(name: &str, bytes: &[u8]) {
    let property = ALL.iter().find(|property| property.name == name).expect("a property's name");
    (property.check)(bytes);
}
