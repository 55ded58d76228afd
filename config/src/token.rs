//! `audience`, `binding` and `token` of a route: which tokens it takes, and who may present them.

use crate::issuer::{SPIFFE, TokenIssuer};
use crate::pattern::SpiffePattern;
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Reader, Section, shown};
use crate::spiffe_id::SpiffeId;
use crate::values::{At, OneOrMany, Span};
use crate::yaml::{Node, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// How far clocks may be apart (JWT-SVID Appendix A leaves "a small leeway" to us).
pub const LEEWAY_DEFAULT: Duration = Duration::from_secs(30);
/// More would let a token live a good part of its life again.
const LEEWAY_MAX: Duration = Duration::from_secs(300);

/// What a request has to bring besides its caller's certificate: a token for one of these audiences.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRule {
    /// Never empty. The token has to be for one of them, to the byte (JWT-SVID §3.2).
    pub audiences: Vec<String>,
    pub binding: Binding,
    /// JWT-SVIDs are taken.
    pub takes_svids: bool,
    /// And tokens of these. Where an issuer is named, `binding` is never `peer`.
    pub issuers: Vec<Arc<TokenIssuer>>,
    pub leeway: Duration,
    /// A token is taken one time only.
    pub once: bool,
    /// Verified claims that go on to the application.
    pub headers: Vec<ClaimHeader>,
}

/// Whose token a caller may present.
#[derive(Clone, Debug, PartialEq)]
pub enum Binding {
    /// Its own: `sub` is the SPIFFE ID of the mTLS peer.
    Peer,
    /// Its own, or, where the peer's SPIFFE ID fits one of these, anybody's.
    Forwarders(Vec<SpiffePattern>),
    /// Anybody's: who has the token may use it.
    Bearer,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClaimHeader {
    /// In lower case.
    pub header: String,
    pub claim: String,
}

/// How tokens are read, on routes with an `audience`.
#[derive(Default, JsonSchema)]
#[schemars(rename = "Token", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawToken {
    /// Whose tokens are taken: names of `issuers`, and `spiffe` for JWT-SVIDs of the mesh.
    #[schemars(extend("x-default" = "spiffe"))]
    issuers: Field<OneOrMany<At<String>>>,
    /// How far clocks may be apart when times in a token are compared with now; up to 5m.
    #[schemars(extend("default" = "30s"))]
    leeway: Field<Span>,
    /// Take each token one time only, told by its `jti`. Callers that show one token for several requests, as sidecars with
    /// `credential: jwt_svid` do, are refused from the second one on.
    #[schemars(extend("default" = false))]
    once: Field<bool>,
    /// Claims of the token that go on to the application, each as the header of this name: `x-tenant: tenant`. What the
    /// caller sends under that name is removed.
    #[schemars(extend("x-default" = "none"))]
    headers: Field<ClaimHeaders>,
}

impl Section for RawToken {
    const NAME: &'static str = "`token`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            issuers: keys.optional("issuers"),
            leeway: keys.optional("leeway"),
            once: keys.optional("once"),
            headers: keys.optional("headers"),
        }
    }
}

/// The three keys of a route that are about tokens.
pub(crate) struct RawTokenRule {
    pub audience: Field<OneOrMany<At<String>>>,
    pub binding: Field<RawBinding>,
    pub token: Field<RawToken>,
}

impl RawTokenRule {
    /// `None`: the route takes no token, or its problems have been told.
    pub fn check(self, route: &Place, reader: &mut Reader) -> Option<TokenRule> {
        let Some(place) = self.audience.place().cloned() else {
            for (key, place) in [("binding", self.binding.place()), ("token", self.token.place())] {
                if let Some(place) = place {
                    let hint = "add `audience:` with whom tokens have to be for, or remove the key";
                    reader.problem(place, format!("`{key}` says how tokens are taken, and the route takes none"), hint);
                }
            }
            return None;
        };
        if !self.binding.is_written() {
            let hint = "add `binding: peer` (its own token only), `binding: { forwarders: [spiffe://…] }` (these may present \
                        others' too) or `binding: bearer` (whoever has it)";
            reader.problem(route, "the route takes tokens and does not say from whom", hint);
        }
        let audiences = self.audience.into_option()?.0;
        if audiences.is_empty() {
            reader.problem(&place, "`audience` names nobody whom a token could be for", "name one, or remove the key");
        }
        for At { value, place } in &audiences {
            // JWT-SVID §3.2, §7.2: a token for everybody can be presented to everybody.
            if SpiffeId::parse(value).is_ok_and(|id| id.path().is_empty()) {
                let hint = "write the SPIFFE ID of the workload behind this sidecar, or another name that is its alone";
                reader.problem(place, format!("the audience `{value}` is a whole trust domain"), hint);
            }
        }
        let RawToken { issuers, leeway, once, headers } = match self.token.is_written() {
            true => self.token.into_option()?,
            false => RawToken::default(),
        };
        let (takes_svids, issuers) = check_issuers(issuers, reader)?;
        if let (false, Some(Binding::Peer), Some(place)) =
            (issuers.is_empty(), self.binding.get().map(|it| &it.0), self.binding.place())
        {
            let hint =
                "write `binding: bearer` (whoever has it), or `binding: { forwarders: [spiffe://…] }` (these alone)";
            reader.problem(
                place,
                "tokens of other issuers are about nobody in the mesh, and so never their caller's",
                hint,
            );
        }
        let leeway_place = leeway.place().cloned();
        let leeway = leeway.into_option().map_or(LEEWAY_DEFAULT, |span| span.0);
        if let (Some(place), true) = (leeway_place, leeway > LEEWAY_MAX) {
            reader.problem(&place, "`leeway` is longer than 5m", "set the clocks, and write some seconds");
        }
        let headers = check_headers(headers.into_option().unwrap_or_default(), reader);
        Some(TokenRule {
            audiences: audiences.into_iter().map(|audience| audience.value).collect(),
            binding: self.binding.into_option()?.0,
            takes_svids,
            issuers,
            leeway,
            once: once.or(false),
            headers,
        })
    }
}

/// Whether JWT-SVIDs are taken, and the other issuers.
fn check_issuers(written: Field<OneOrMany<At<String>>>, reader: &mut Reader) -> Option<(bool, Vec<Arc<TokenIssuer>>)> {
    let Some(place) = written.place().cloned() else { return Some((true, Vec::new())) };
    let (mut takes_svids, mut issuers, mut all_known) = (false, Vec::new(), true);
    let written = written.into_option()?.0;
    if written.is_empty() {
        reader.problem(&place, "the route takes nobody's tokens", "name some of `issuers`, or remove the key");
        return None;
    }
    for At { value, place } in written {
        if value == SPIFFE {
            takes_svids = true;
        } else if let Some(issuer) = reader.issuers.iter().find(|issuer| issuer.name == value).cloned() {
            issuers.push(issuer);
        } else {
            let hint = "add it to `issuers:` at the top of the file, or write `spiffe` for JWT-SVIDs";
            reader.problem(&place, format!("there is no issuer `{}`", shown(&value)), hint);
            all_known = false;
        }
    }
    all_known.then_some((takes_svids, issuers))
}

/// `peer`, `bearer`, or `forwarders:` with their IDs.
#[derive(Debug)]
pub(crate) struct RawBinding(Binding);

impl FromNode for RawBinding {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let binding = match &node.value {
            Value::Mapping(_) => {
                let RawForwarders { forwarders } = RawForwarders::from_node(node, reader)?;
                let place = forwarders.place().cloned();
                let forwarders = forwarders.into_option()?.0;
                if let (true, Some(place)) = (forwarders.is_empty(), &place) {
                    reader.problem(place, "`forwarders` names nobody", "name some, or write `binding: peer`");
                    return None;
                }
                if let (Some(pattern), Some(place)) = (forwarders.iter().find(|it| it.has_capture()), &place) {
                    let hint = "write `*` for any one segment";
                    reader.problem(place, format!("`{pattern}` has a capture, which nothing here could repeat"), hint);
                    return None;
                }
                Binding::Forwarders(forwarders)
            }
            _ => reader.word(node, &[("peer", Word::Peer), ("bearer", Word::Bearer)])?.into(),
        };
        Some(Self(binding))
    }
}

#[derive(Clone, Copy)]
enum Word {
    Peer,
    Bearer,
}

impl From<Word> for Binding {
    fn from(word: Word) -> Self {
        match word {
            Word::Peer => Self::Peer,
            Word::Bearer => Self::Bearer,
        }
    }
}

/// Who may present tokens of others.
#[derive(JsonSchema)]
#[schemars(rename = "Forwarders", deny_unknown_fields, extend("required" = ["forwarders"]))]
pub(crate) struct RawForwarders {
    /// Peers whose SPIFFE ID fits one of these may present any token; every other peer its own alone.
    forwarders: Field<OneOrMany<SpiffePattern>>,
}

impl Section for RawForwarders {
    const NAME: &'static str = "`binding`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { forwarders: keys.required("forwarders", "write `forwarders: [spiffe://…]`, `peer` or `bearer`") }
    }
}

impl JsonSchema for RawBinding {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Binding".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let forwarders = generator.subschema_for::<RawForwarders>();
        json_schema!({ "anyOf": [{ "type": "string", "enum": ["peer", "bearer"] }, forwarders] })
    }
}

/// `header: claim`, with free names.
#[derive(Debug, Default)]
pub(crate) struct ClaimHeaders(Vec<(String, Place, String)>);

impl FromNode for ClaimHeaders {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            reader.wrong(node, "is not a mapping", "write `header: claim` below it, such as `x-tenant: tenant`");
            return None;
        };
        let read = entries.iter().map(|entry| {
            let claim = String::from_node(&entry.value, reader)?;
            Some((entry.key.clone(), entry.key_place.clone(), claim))
        });
        read.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(Self)
    }
}

impl JsonSchema for ClaimHeaders {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ClaimHeaders".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "title": "header: claim", "additionalProperties": { "type": "string" } })
    }
}

/// What a header means to HTTP or to us is not a claim's to say.
const NOT_FOR_CLAIMS_BEGIN: &[&str] = &["x-postern-", "x-forwarded-", "x-envoy-", "content-", "proxy-", "sec-", "if-"];
const NOT_FOR_CLAIMS: &[&str] = &[
    "host",
    "authorization",
    "proxy-authorization",
    "cookie",
    "connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "http2-settings",
    "range",
    "forwarded",
    "via",
    "x-http-method-override",
    "x-original-url",
    "x-rewrite-url",
    "workload-spiffe-io",
    "x-spiffe-id",
    "client-cert",
    "client-cert-chain",
];

fn check_headers(written: ClaimHeaders, reader: &mut Reader) -> Vec<ClaimHeader> {
    let mut checked: Vec<ClaimHeader> = Vec::new();
    for (name, place, claim) in written.0 {
        let header = name.to_ascii_lowercase();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if header.is_empty() || !header.bytes().all(is_plain) {
            // Others than these are spelt in more than one way behind us (THREATS HD-10), and could be forged so.
            let hint = "write letters, digits and `-`, such as `x-tenant`";
            reader.problem(&place, format!("`{}` cannot carry a claim", shown(&name)), hint);
        } else if NOT_FOR_CLAIMS.contains(&header.as_str())
            || NOT_FOR_CLAIMS_BEGIN.iter().any(|beginning| header.starts_with(beginning))
        {
            let hint = "choose a name that means nothing else, such as `x-tenant`";
            reader.problem(&place, format!("the header `{header}` has a meaning of its own"), hint);
        } else if checked.iter().any(|other| other.header == header) {
            reader.problem(&place, format!("the header `{header}` is written twice"), "keep one of the two");
        } else {
            checked.push(ClaimHeader { header, claim });
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::{Binding, ClaimHeader};
    use crate::{Config, TokenRule};
    use std::path::Path;
    use std::time::Duration;

    /// `key: value` lines of a route.
    fn load(keys: &[&str]) -> Result<TokenRule, String> {
        let keys: String = keys.iter().map(|key| format!("\n        {key}")).collect();
        let text = format!(
            "inbound:
  - port: 80
    allow: [{{ spiffe: 'spiffe://td/a' }}]
    routes:
      - match: {{ path: /a }}{keys}\n"
        );
        match Config::from_str(Path::new("t.yaml"), &text) {
            Ok(mut config) => Ok(config.inbound.remove(0).routes.remove(0).token.expect("a token")),
            Err(problems) => Err(problems.to_string()),
        }
    }

    #[test]
    fn a_route_says_for_whom_and_from_whom() {
        let rule = load(&["audience: spiffe://td/a", "binding: peer"]).unwrap();
        assert_eq!(rule.audiences, ["spiffe://td/a"]);
        assert_eq!((rule.binding, rule.leeway, rule.once), (Binding::Peer, Duration::from_secs(30), false));
        let rule = load(&[
            "audience: [a, 'https://b']",
            "binding: { forwarders: 'spiffe://td/gw/*' }",
            "token: { leeway: 5s, once: true, headers: { X-Tenant: tenant } }",
        ])
        .unwrap();
        assert_eq!(rule.audiences, ["a", "https://b"]);
        assert!(matches!(&rule.binding, Binding::Forwarders(ids) if ids.len() == 1));
        assert_eq!((rule.leeway, rule.once), (Duration::from_secs(5), true));
        assert_eq!(rule.headers, [ClaimHeader { header: "x-tenant".to_owned(), claim: "tenant".to_owned() }]);
    }

    /// Problems of a file with these two sections' lines.
    fn problems(text: &str) -> String {
        Config::from_str(Path::new("t.yaml"), text).expect_err(text).to_string()
    }

    #[test]
    fn tokens_need_a_workload_api_and_a_mesh() {
        let files = "identity: { files: { certificate: /c, key: /k, bundle: /b } }\n";
        let route = "inbound: [{ port: 80, allow: [{ spiffe: 'spiffe://td/a' }], tls: TLS, routes: [{ match: {}, \
                     audience: a, binding: peer }] }]\n";
        assert!(problems(&format!("{files}{}", route.replace("TLS", "strict"))).contains("files bring no keys"));
        assert!(
            problems(&route.replace("TLS", "off").replace("{ spiffe: 'spiffe://td/a' }", "{ anonymous: true }"))
                .contains("nobody knows the caller")
        );
        let service =
            "outbound: { services: [{ name: a, listen: '127.0.0.1:1', endpoints: ['127.0.0.1:2'], SAYS }] }\n";
        let of = |says: &str| service.replace("SAYS", says);
        let mesh = "identity: spiffe://td/b, credential: ";
        assert!(problems(&format!("{files}{}", of(&format!("{mesh}jwt_svid")))).contains("files bring none"));
        let gateway = "protocol: http, credential: { jwt_svid: { audience: 'spiffe://td/c', passed_on: true } }";
        Config::from_str(Path::new("t.yaml"), &of(&format!("identity: spiffe://td/b, {gateway}")))
            .unwrap_or_else(|problems| panic!("{problems}"));
        for (says, told) in [
            ("tls: off, credential: jwt_svid", "no effect with `tls: off`"),
            ("identity: spiffe://td/b, protocol: tcp, credential: jwt_svid", "may carry what is no HTTP"),
            ("identity: spiffe://td/b, credential: jwt_svid", "may carry what is no HTTP"),
            (
                "identity: spiffe://td/*, protocol: http, credential: { jwt_svid: { audience: a } }",
                "more than one identity",
            ),
            (
                "identity: spiffe://td/b, protocol: http, credential: { jwt_svid: { audience: 'spiffe://td/c' } }",
                "`spiffe://td/b` would be shown it",
            ),
            ("identity: spiffe://td/b, credential: jwt_svd", "did you mean `jwt_svid`?"),
            ("identity: spiffe://td/b, credential: {}", "`jwt_svid` is missing"),
            ("identity: spiffe://td/b, credential: { jwt_svid: { audience: spiffe://td } }", "a whole trust domain"),
            ("identity: spiffe://td/b, credential: { jwt_svid: { app_token: drop } }", "write one of"),
        ] {
            let problems = problems(&of(says));
            assert!(problems.contains(told), "{says}: {problems}");
        }
    }

    #[test]
    fn rules_ask_of_tokens_only_where_tokens_are_taken() {
        let file = |port: &str, routes: &str| {
            format!("inbound: [{{ port: 80, allow: [{{ spiffe: 'spiffe://td/a' }}], {port} routes: [{routes}] }}]\n")
        };
        let taken = "{ name: t, match: { path: /t }, audience: a, binding: peer }";
        let asking =
            "{ match: { path: /r }, allow: [{ spiffe: 'spiffe://td/a', token: { claims: { tenant: acme } } }] }";
        let with = |says: &str| {
            let rule = format!("[{{ spiffe: 'spiffe://td/a', token: {says} }}]");
            file("", &format!("{{ match: {{}}, audience: a, binding: peer, allow: {rule} }}"))
        };
        assert!(problems(&file("", asking)).contains("no token is taken"));
        let deny = "deny: [{ token: { subject: 'spiffe://td/x' } }],";
        assert!(problems(&file(deny, &format!("{taken}, {{ match: {{}} }}"))).contains("no token is taken"));
        Config::from_str(Path::new("t.yaml"), &file(deny, taken)).unwrap_or_else(|problems| panic!("{problems}"));
        for (says, told) in [
            ("{}", "asks for nothing"),
            ("{ claims: {} }", "nothing that could fit"),
            ("{ scopes: [] }", "nothing that could fit"),
            ("{ scopes: 'read write' }", "has a space"),
            ("{ subjects: x }", "did you mean `subject`?"),
            ("{ subject: '*a*' }", "both ends"),
        ] {
            let problems = problems(&with(says));
            assert!(problems.contains(told), "{says}: {problems}");
        }
        let good = "{ subject: 'spiffe://td/*', issuer: i, scopes: [read], claims: { tenant: [a, b*] } }";
        Config::from_str(Path::new("t.yaml"), &with(good)).unwrap_or_else(|problems| panic!("{problems}"));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_what_to_write_instead() {
        for (keys, told) in [
            (&["audience: a"][..], "add `binding: peer`"),
            (&["binding: peer"], "add `audience:`"),
            (&["token: { leeway: 1s }"], "add `audience:`"),
            (&["audience: []", "binding: peer"], "names nobody"),
            (&["audience: ''", "binding: peer"], "is empty"),
            (&["audience: spiffe://td", "binding: peer"], "a whole trust domain"),
            (&["audience: a", "binding: pear"], "did you mean `peer`?"),
            (&["audience: a", "binding: { forwarders: [] }"], "names nobody"),
            (&["audience: a", "binding: { forwarders: 'spiffe://td/{a}' }"], "has a capture"),
            (&["audience: a", "binding: bearer", "token: { headers: { content-type: sub } }"], "a meaning of its own"),
            (
                &["audience: a", "binding: bearer", "token: { headers: { x-forwarded-client-cert: sub } }"],
                "a meaning of its own",
            ),
            (&["audience: a", "binding: { forwarder: [] }"], "did you mean `forwarders`?"),
            (&["audience: a", "binding: bearer", "token: { leeway: 6m }"], "longer than 5m"),
            (&["audience: a", "binding: bearer", "token: { headers: { host: sub } }"], "a meaning of its own"),
            (&["audience: a", "binding: bearer", "token: { headers: { x_a: sub } }"], "cannot carry a claim"),
            (&["audience: a", "binding: bearer", "token: { headers: { x-a: sub, X-A: iss } }"], "written twice"),
        ] {
            let problems = load(keys).expect_err(keys[0]);
            assert!(problems.contains(told), "{keys:?}: {problems}");
        }
    }
}
