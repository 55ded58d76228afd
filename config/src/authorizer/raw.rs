//! An authorizer as it is written, and its checks.

use super::{Authorizer, CheckForm, CheckedBody, HttpCheck, OnError, OverBody, Reach, TIMEOUT_DEFAULT};
use crate::listener::AppAddress;
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Reader, Section, shown};
use crate::values::{At, Name, OneOrMany, Size, Span, scalar_schema};
use crate::yaml::{Node, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// A caller waits for it, with everything that its request holds.
const TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// Each request in flight may hold so much.
const BODY_MAX: u64 = 1 << 20;
const CONTEXT_MAX: usize = 64;

/// A service that speaks Envoy's ext_authz, such as OPA. It is asked about requests that our own rules allow, on the ports
/// and routes that name it in `authorize`.
#[derive(JsonSchema)]
#[schemars(rename = "Authorizer", deny_unknown_fields, extend("required" = ["name"]))]
pub(crate) struct RawAuthorizer {
    /// Unique; `authorize` names it, and it appears in logs and metrics.
    name: Field<Name>,
    /// Where it listens for `envoy.service.auth.v3.Authorization/Check`: `IP:PORT` of this host, `unix:/PATH`, or
    /// `service:NAME` for a service of `outbound.services`.
    grpc: Field<RawReach>,
    /// Where it listens for Envoy's HTTP form, written alike: it gets the request's method, path, `host`, `authorization` and
    /// `request_headers`. 2xx allows, 5xx is an error, anything else is the answer that the caller gets.
    http: Field<RawReach>,
    /// With `http`: what stands before the request's path, such as `/check`.
    #[schemars(extend("x-default" = "none"))]
    path_prefix: Field<PathPrefix>,
    /// With `http`: further headers of the request that it gets.
    #[schemars(extend("x-default" = "none"))]
    request_headers: Field<OneOrMany<At<HeaderName>>>,
    /// With `http`: headers of its answer that go on to the application, instead of what the caller wrote under these names.
    #[schemars(extend("x-default" = "none"))]
    upstream_headers: Field<OneOrMany<At<HeaderName>>>,
    /// With `http`: headers of a refusal that go to the caller.
    #[schemars(extend("x-default" = "all but those of the connection"))]
    client_headers: Field<OneOrMany<At<HeaderName>>>,
    /// From the question to the whole answer; up to 10s.
    #[schemars(extend("default" = "200ms"))]
    timeout: Field<Span>,
    /// When it does not answer in time, or not as it should: `refuse` answers 503; `allow` lets the request through, as if it
    /// had said yes.
    #[schemars(extend("default" = "refuse"))]
    on_error: Field<OnError>,
    /// Show it the request's body.
    #[schemars(extend("x-default" = "it is not shown"))]
    body: Field<RawCheckedBody>,
    /// With `grpc`: told with every question, as `context_extensions`.
    #[schemars(extend("x-default" = "none"))]
    context: Field<Context>,
    /// With `grpc`: show it the caller's certificate, as `source.certificate`.
    #[schemars(extend("default" = false))]
    certificate: Field<bool>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawAuthorizer {
    const NAME: &'static str = "an authorizer";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            name: keys.required("name", "write a name for `authorize`, such as `name: opa`"),
            grpc: keys.optional("grpc"),
            http: keys.optional("http"),
            path_prefix: keys.optional("path_prefix"),
            request_headers: keys.optional("request_headers"),
            upstream_headers: keys.optional("upstream_headers"),
            client_headers: keys.optional("client_headers"),
            timeout: keys.optional("timeout"),
            on_error: keys.optional("on_error"),
            body: keys.optional("body"),
            context: keys.optional("context"),
            certificate: keys.optional("certificate"),
            place: keys.place(),
        }
    }
}

impl RawAuthorizer {
    pub fn name(&self) -> Option<&str> {
        self.name.get().map(|name| name.0.as_str())
    }

    /// `None`: its problems have been told.
    pub fn check(self, reader: &mut Reader) -> Option<Authorizer> {
        self.refuse_what_has_no_effect(reader);
        let place = self.place;
        let is_grpc = self.grpc.is_written();
        if is_grpc == self.http.is_written() {
            let hint = "write one of the two: `grpc: 127.0.0.1:9191`, or `http: 127.0.0.1:8181`";
            let what = if is_grpc {
                "`grpc` and `http` are two forms, and it speaks one"
            } else {
                "it is nowhere to be asked"
            };
            reader.problem(&place, what, hint);
            return None;
        }
        let timeout_place = self.timeout.place().cloned();
        let timeout = self.timeout.into_option().map_or(TIMEOUT_DEFAULT, |span| span.0);
        if let (Some(place), true) = (timeout_place, timeout > TIMEOUT_MAX) {
            reader.problem(&place, "`timeout` is longer than 10s", "write what a caller may wait, such as `500ms`");
        }
        if let (Some(Context(context)), Some(place)) = (self.context.get(), self.context.place())
            && context.len() > CONTEXT_MAX
        {
            reader.problem(place, format!("`context` has more than {CONTEXT_MAX} entries"), "remove some");
        }
        let names = |written: Field<OneOrMany<At<HeaderName>>>| -> Vec<String> {
            let written = written.into_option().unwrap_or_default().0;
            written.into_iter().map(|name| name.value.0).collect()
        };
        let form = match is_grpc {
            true => CheckForm::Grpc,
            false => CheckForm::Http(HttpCheck {
                path_prefix: self.path_prefix.into_option().map(|prefix| prefix.0).unwrap_or_default(),
                request_headers: names(self.request_headers),
                upstream_headers: settable(self.upstream_headers, reader),
                client_headers: self.client_headers.is_written().then(|| names(self.client_headers)),
            }),
        };
        let body = match self.body.is_written() {
            true => Some(self.body.into_option()?.check(reader)?),
            false => None,
        };
        Some(Authorizer {
            name: self.name.into_option()?.0,
            reach: if is_grpc { self.grpc.into_option()?.0 } else { self.http.into_option()?.0 },
            form,
            timeout,
            on_error: self.on_error.or_default(),
            body,
            context: self.context.into_option().map(|context| context.0).unwrap_or_default(),
            certificate: self.certificate.or(false),
            place,
        })
    }

    fn refuse_what_has_no_effect(&self, reader: &mut Reader) {
        let of_http = [
            ("path_prefix", self.path_prefix.place()),
            ("request_headers", self.request_headers.place()),
            ("upstream_headers", self.upstream_headers.place()),
            ("client_headers", self.client_headers.place()),
        ];
        let of_grpc = [("context", self.context.place()), ("certificate", self.certificate.place())];
        let (keys, form, other): (&[_], _, _) =
            if self.grpc.is_written() { (&of_http, "`http`", "`grpc`") } else { (&of_grpc, "`grpc`", "`http`") };
        for (key, place) in keys {
            if let Some(place) = place {
                let hint = format!("remove `{key}`");
                reader.problem(place, format!("`{key}` is for {form}, and this authorizer speaks {other}"), hint);
            }
        }
    }
}

/// Headers that an answer may set: none that means something to the connection, or that only we may say.
fn settable(written: Field<OneOrMany<At<HeaderName>>>, reader: &mut Reader) -> Vec<String> {
    let mut checked = Vec::new();
    for At { value: HeaderName(name), place } in written.into_option().unwrap_or_default().0 {
        let folded = name.replace(['_', '.'], "-");
        if NOT_SETTABLE.contains(&folded.as_str()) || folded.starts_with("x-postern-") {
            let hint = "remove it; who called is told by `identity_headers`";
            reader.problem(&place, format!("the header `{name}` is not an authorizer's to say"), hint);
        } else {
            checked.push(name);
        }
    }
    checked
}

const NOT_SETTABLE: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "http2-settings",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "x-forwarded-client-cert",
    "x-spiffe-id",
    "client-cert",
    "client-cert-chain",
    "workload-spiffe-io",
];

/// How much of a request's body an authorizer is shown.
#[derive(JsonSchema)]
#[schemars(rename = "AuthorizerBody", deny_unknown_fields, extend("required" = ["max"]))]
pub(crate) struct RawCheckedBody {
    /// At most; up to 1MiB. So much of each request that waits for the answer is kept in memory.
    max: Field<Size>,
    /// A longer body: `refuse` it with 413, or `truncate` what the authorizer sees; the application gets all of it.
    #[schemars(extend("default" = "refuse"))]
    over: Field<OverBody>,
}

impl Section for RawCheckedBody {
    const NAME: &'static str = "`body`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { max: keys.required("max", "write how much of it: `max: 8KiB`"), over: keys.optional("over") }
    }
}

impl RawCheckedBody {
    fn check(self, reader: &mut Reader) -> Option<CheckedBody> {
        let place = self.max.place().cloned();
        let Size(max) = self.max.into_option()?;
        if !(1..=BODY_MAX).contains(&max) {
            if let Some(place) = place {
                reader.problem(&place, "`max` is not from 1 to 1MiB", "write some KiB, or remove `body`");
            }
            return None;
        }
        Some(CheckedBody { max: usize::try_from(max).ok()?, over: self.over.or_default() })
    }
}

/// `IP:PORT` of this host, `unix:/PATH` or `service:NAME`.
#[derive(Clone, Debug)]
pub(crate) struct RawReach(Reach);

impl FromNode for RawReach {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "`IP:PORT`, `unix:/PATH` or `service:NAME`")?;
        if let Some(name) = text.strip_prefix("service:") {
            return Some(Self(Reach::Service(name.trim_start().to_owned())));
        }
        let address = AppAddress::from_node(node, reader)?;
        if let AppAddress::Tcp(address) = &address
            && !address.ip().is_loopback()
        {
            let hint = "declare it in `outbound.services` with its `identity`, and write `service:NAME`";
            reader.wrong(node, "is another host, and what it is asked would go there in plaintext", hint);
            return None;
        }
        Some(Self(Reach::Local(address)))
    }
}

/// A field name of RFC 9110 §5.1, in lower case.
#[derive(Clone, Debug)]
pub(crate) struct HeaderName(String);

const HEADER_NAME_BYTES_MAX: usize = 256;

impl FromNode for HeaderName {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a header's name")?;
        // RFC 9110 §5.6.2.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || text.len() > HEADER_NAME_BYTES_MAX || !text.bytes().all(is_token) || text.contains('*') {
            reader.wrong(node, "is not a header's name", "write a name such as `x-tenant`, without patterns");
            return None;
        }
        Some(Self(text.to_ascii_lowercase()))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PathPrefix(String);

impl FromNode for PathPrefix {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a path such as `/check`")?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        if !text.starts_with('/') || !text.bytes().all(is_plain) || text.split('/').any(|it| it == "." || it == "..") {
            reader.wrong(node, "is not a path", "write a path such as `/check`");
            return None;
        }
        Some(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// `key: value`, with free names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context(BTreeMap<String, String>);

impl FromNode for Context {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            reader.wrong(node, "is not a mapping", "write `key: value` below it, such as `tenant: acme`");
            return None;
        };
        let read = entries.iter().map(|entry| Some((entry.key.clone(), String::from_node(&entry.value, reader)?)));
        read.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(Self)
    }
}

impl JsonSchema for Context {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Context".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "title": "key: value", "additionalProperties": { "type": "string" } })
    }
}

/// The authorizer that a port or route names.
#[derive(Clone, Debug)]
pub(crate) struct Authorize(Option<String>);

impl Authorize {
    /// `None`: nobody is asked.
    pub fn into_name(self) -> Option<String> {
        self.0
    }
}

impl FromNode for Authorize {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Name(name) = Name::from_node(node, reader)?;
        if name == "none" {
            return Some(Self(None));
        }
        if !reader.authorizers.contains(&name) {
            let known = reader.authorizers.join("`, `");
            let hint = match known.is_empty() {
                true => "declare it: `authorizers: [{ name: …, grpc: 127.0.0.1:9191 }]`".to_owned(),
                false => format!("declared are `{known}`; `none` asks nobody"),
            };
            reader.wrong(node, format!("is no authorizer of the file: `{}` is not declared", shown(&name)), hint);
            return None;
        }
        Some(Self(Some(name)))
    }
}

impl FromNode for OnError {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("refuse", Self::Refuse), ("allow", Self::Allow)])
    }
}

impl FromNode for OverBody {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("refuse", Self::Refuse), ("truncate", Self::Truncate)])
    }
}

scalar_schema!(RawReach, "address or service", { "type": "string", "title": "IP:port, unix:/path or service:name" });
scalar_schema!(HeaderName, "header", { "type": "string", "title": "header" });
scalar_schema!(PathPrefix, "path", { "type": "string", "title": "path", "pattern": "^/" });
scalar_schema!(Authorize, "authorizer", { "type": "string", "title": "an authorizer's name, or none" });
