//! What an authorizer's answer means.

use super::changes::{Change, Changes, How, is_settable};
use super::plan::AuthorizerPlan;
use super::proto::{CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpResponse, OkHttpResponse};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// In each of an answer's lists.
const CHANGES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed(Changes),
    Denied(Denial),
}

/// What the caller gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Denial {
    /// gRPC's code for an HTTP status ("HTTP to gRPC Status Code Mapping"), with 429 as Envoy has it.
    pub fn grpc_status(&self) -> u8 {
        match self.status.as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        }
    }
}

/// A yes under a condition that cannot be met is none, and neither is an answer that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    #[error("the answer has more than {CHANGES_MAX} headers or parameters in one list")]
    TooMany,
    #[error("the answer wants to set or remove the header {0:?}, which is not an authorizer's to say")]
    NotSettable(String),
    #[error("the answer has {0:?}, which is no header")]
    NoHeader(String),
    #[error("with the answer's parameters the query is none any more")]
    Query,
    #[error("the answer has the status {0}, which is none for a response")]
    Status(i32),
    #[error("status {0}")]
    ServerError(StatusCode),
    #[error("the answer is an error response (status {0})")]
    Undecided(i32),
}

/// The gRPC form: `status` decides, and a denial without a response of its own is a bare 403.
///
/// # Errors
/// What it wants cannot be done.
pub fn read_grpc(answer: CheckResponse) -> Result<Verdict, AnswerFault> {
    let is_ok = answer.status.is_none_or(|status| status.code == 0);
    match (is_ok, answer.http_response) {
        (true, Some(HttpResponse::Ok(response))) => Ok(Verdict::Allowed(changes(response)?)),
        (true, None) => Ok(Verdict::Allowed(Changes::default())),
        // Two words against each other: the stricter one counts.
        (_, Some(HttpResponse::Error(response))) => {
            Err(AnswerFault::Undecided(response.status.map_or(0, |status| status.code)))
        }
        (_, Some(HttpResponse::Denied(response))) => denial(response).map(Verdict::Denied),
        (false, _) => denial(DeniedHttpResponse::default()).map(Verdict::Denied),
    }
}

/// The HTTP form: 2xx allows, 5xx is an error, all else goes to the caller.
///
/// # Errors
/// As [`read_grpc`].
pub fn read_http(
    plan: &AuthorizerPlan,
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Verdict, AnswerFault> {
    if status.is_server_error() || status.is_informational() {
        return Err(AnswerFault::ServerError(status));
    }
    if status.is_success() {
        let mut changes = Changes::default();
        for name in &plan.upstream_headers {
            for (index, value) in headers.get_all(name).iter().enumerate() {
                let how = if index == 0 { How::Overwrite } else { How::Append };
                changes.headers.push(Change { name: name.clone(), value: value.clone(), how });
            }
        }
        return Ok(Verdict::Allowed(changes));
    }
    // Envoy: these go along with whatever is named.
    let always = [WWW_AUTHENTICATE, LOCATION, CONTENT_TYPE];
    let is_wanted = |name: &HeaderName| match &plan.client_headers {
        None => true,
        Some(names) => names.contains(name) || always.contains(name),
    };
    let wanted = headers.iter().filter(|(name, _)| is_wanted(name) && is_settable(name));
    let headers = wanted.fold(HeaderMap::new(), |mut headers, (name, value)| {
        headers.append(name.clone(), value.clone());
        headers
    });
    Ok(Verdict::Denied(Denial { status, headers, body }))
}

fn changes(response: OkHttpResponse) -> Result<Changes, AnswerFault> {
    let counts = [
        response.headers.len(),
        response.headers_to_remove.len(),
        response.response_headers_to_add.len(),
        response.query_parameters_to_set.len(),
        response.query_parameters_to_remove.len(),
    ];
    if counts.iter().any(|count| *count > CHANGES_MAX) {
        return Err(AnswerFault::TooMany);
    }
    // In a request `append` of a header that is not there does nothing, and without a word a header is set (Envoy's
    // external_auth.proto, `OkHttpResponse.headers`); in a response it is appended.
    let of_request = |option: &HeaderValueOption| match (option.append, option.append_action) {
        (Some(true), _) => How::AppendIfExists,
        (Some(false), _) | (None, 0) => How::Overwrite,
        (None, action) => How::of(action),
    };
    let of_response = |option: &HeaderValueOption| match (option.append, option.append_action) {
        (Some(false), _) => How::Overwrite,
        (Some(true), _) => How::Append,
        (None, action) => How::of(action),
    };
    Ok(Changes {
        headers: settable(&response.headers, of_request)?,
        remove: response.headers_to_remove.iter().map(|name| settable_name(name)).collect::<Result<_, _>>()?,
        response: settable(&response.response_headers_to_add, of_response)?,
        query_set: response.query_parameters_to_set.into_iter().map(|it| (it.key, it.value)).collect(),
        query_remove: response.query_parameters_to_remove,
    })
}

fn settable(
    options: &[HeaderValueOption],
    how: impl Fn(&HeaderValueOption) -> How,
) -> Result<Vec<Change>, AnswerFault> {
    let read = options.iter().map(|option| {
        let (key, value) = read_option(option)?;
        Ok(Change { name: settable_name(key)?, value, how: how(option) })
    });
    read.collect()
}

fn settable_name(name: &str) -> Result<HeaderName, AnswerFault> {
    // Pseudo-header fields are no header names, but one would like to know that they were meant.
    if name.starts_with(':') {
        return Err(AnswerFault::NotSettable(name.to_owned()));
    }
    let parsed: HeaderName = name.parse().map_err(|_| AnswerFault::NoHeader(name.to_owned()))?;
    if is_settable(&parsed) { Ok(parsed) } else { Err(AnswerFault::NotSettable(name.to_owned())) }
}

fn read_option(option: &HeaderValueOption) -> Result<(&str, HeaderValue), AnswerFault> {
    let header = option.header.as_ref().ok_or_else(|| AnswerFault::NoHeader(String::new()))?;
    let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    let value = HeaderValue::from_bytes(value).map_err(|_| AnswerFault::NoHeader(header.key.clone()))?;
    Ok((&header.key, value))
}

fn denial(response: DeniedHttpResponse) -> Result<Denial, AnswerFault> {
    if response.headers.len() > CHANGES_MAX {
        return Err(AnswerFault::TooMany);
    }
    let status = match response.status.map_or(0, |status| status.code) {
        0 => StatusCode::FORBIDDEN,
        code => u16::try_from(code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            .filter(|status| (200..600).contains(&status.as_u16()))
            .ok_or(AnswerFault::Status(code))?,
    };
    let mut headers = HeaderMap::new();
    for option in &response.headers {
        let (name, value) = read_option(option)?;
        // It is a refusal whatever it says: what a response may not say is left out.
        let Some(name) = settable_name(name).ok() else { continue };
        let replaces = option.append == Some(false) || (option.append.is_none() && option.append_action > 1);
        if replaces && name != SET_COOKIE {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(Denial { status, headers, body: Bytes::from(response.body) })
}
