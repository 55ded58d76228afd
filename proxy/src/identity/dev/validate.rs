//! `ValidateJWTSVID` (Workload API §6.2.3): the data plane's own verdict about a token, for clients that leave that to the provider.

use super::workload::Workload;
use crate::identity::proto::{ValidateJwtsvidRequest, ValidateJwtsvidResponse};
use crate::token::{Expectation, KeySet, LEEWAY_DEFAULT, Origin, Presenter, Trust, Verified, judge};
use postern_config::TrustDomain;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;
use tonic::Status;

/// By the keys that `workload` is told of.
///
/// # Errors
/// `InvalidArgument`: the token is not believed, and why; or there is no audience. `PermissionDenied`: the workload has no
/// identity.
pub(super) fn validate(
    workload: &Workload,
    request: &ValidateJwtsvidRequest,
    now: SystemTime,
) -> Result<ValidateJwtsvidResponse, Status> {
    if request.audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    let mut keys = HashMap::new();
    for (name, document) in workload.token_keys()?.bundles {
        let trust_domain = TrustDomain::parse(name.trim_start_matches("spiffe://"));
        let set = KeySet::parse(&document, Origin::WorkloadApi);
        if let (Ok(trust_domain), Ok(set)) = (trust_domain, set) {
            keys.insert(trust_domain, Arc::new(set));
        }
    }
    let audiences = [request.audience.clone()];
    let expected = Expectation { audiences: &audiences, leeway: LEEWAY_DEFAULT, presenter: Presenter::Unknown };
    let verdict = judge(request.svid.as_bytes(), &Trust::TrustDomains(&keys), &expected, now);
    let Verified { subject, claims, .. } = verdict.map_err(|problem| {
        Status::invalid_argument(format!("the token is not valid: {problem} ({})", problem.code()))
    })?;
    Ok(ValidateJwtsvidResponse { spiffe_id: subject.as_str().to_owned(), claims: Some(fields(claims)) })
}

fn fields(claims: Map<String, Value>) -> Struct {
    Struct { fields: claims.into_iter().map(|(name, value)| (name, protobuf(value))).collect() }
}

/// `google.protobuf.Value`, whose numbers are doubles.
fn protobuf(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(truth),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(protobuf).collect() }),
        Value::Object(entries) => Kind::StructValue(fields(entries)),
    };
    prost_types::Value { kind: Some(kind) }
}
