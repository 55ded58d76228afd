//! Conditions, labels, names and ports: what they are asked about, and what counts when something is not known.

use super::{HERE, WEB, id, readings};
use crate::authz::explain::{ConditionFault, nearest};
use crate::authz::{Asked, ConnectionFacts, Decision, Labels, Principal, RequestFacts, RuleSet, Site, TlsFacts};
use http::{HeaderMap, HeaderName, Method, Version};
use postern_config::authz::{ConditionError, Rules};
use postern_config::{Config, SpiffeId};
use std::path::Path;
use std::sync::Arc;

/// The rules of a port that the lines say.
fn rules(lines: &str) -> Rules {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!("inbound:\n  - port: 80\n    app: 127.0.0.1:81\n    protocol: http\n{lines}");
    let config = Config::from_str(Path::new("f"), &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    config.inbound[0].rules.clone()
}

fn compile(lines: &str) -> RuleSet {
    let mut labels = Labels::default();
    labels.add("environment".to_owned(), "prod".to_owned());
    labels.add("purpose".to_owned(), "billing-eu".to_owned());
    RuleSet::compile_at(&Site { labels: Arc::new(labels) }, &Rules::default(), &rules(lines))
}

#[derive(Clone)]
struct Request {
    caller: SpiffeId,
    path: &'static str,
    query: Option<&'static str>,
    headers: Option<HeaderMap>,
    server_name: Option<&'static str>,
    port: Option<u16>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            caller: id(WEB),
            path: "/orders/7",
            query: Some("a=b"),
            headers: Some(headers(&[("x-env", "prod"), ("x-many", "a"), ("x-many", "b"), ("authorization", "secret")])),
            server_name: Some("orders.shop.example"),
            port: Some(80),
        }
    }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

impl Request {
    fn ask<T>(&self, ask: impl FnOnce(&Asked<'_>) -> T) -> T {
        let readings = readings(self.path);
        let own = id("spiffe://shop.example/ns/orders/sa/api");
        let facts = RequestFacts {
            method: &Method::GET,
            host: "orders.shop",
            readings: &readings,
            headers: self.headers.as_ref(),
            query: self.query,
            token: None,
            caller: None,
        };
        let tls = TlsFacts { server_name: self.server_name, own: Some(&own), fingerprint: Some(&[0xAB; 32]) };
        let connection = ConnectionFacts { source_port: Some(40_000), tls: Some(tls), version: Some(Version::HTTP_2) };
        ask(&Asked {
            principal: Principal::Spiffe(&self.caller),
            source: Some(HERE),
            port: self.port,
            connection,
            now: 1_795_515_630,
            request: Some(facts),
        })
    }

    fn decide(&self, rules: &RuleSet) -> Decision {
        self.ask(|asked| rules.decide(asked))
    }

    fn is_allowed(&self, lines: &str) -> bool {
        self.decide(&compile(lines)).is_allowed()
    }
}

fn allow(when: &str) -> String {
    format!("allow: [{{ spiffe: \"spiffe://shop.example/ns/{{ns}}/sa/*\", when: {when:?} }}]")
}

/// Everybody is allowed, and the condition denies.
fn deny(when: &str) -> String {
    format!("deny: [{{ when: {when:?} }}]\nallow: [{{ trust_domain: shop.example }}]")
}

#[test]
fn every_name_has_its_value() {
    for when in [
        "request.method == 'GET' && request.host == 'orders.shop' && request.scheme == 'https'",
        "request.path == '/orders/7?a=b' && request.url_path == '/orders/7' && request.query == 'a=b'",
        "request.protocol == 'HTTP/2' && request.headers['x-many'] == 'a,b' && request.headers.size() == 2",
        "!has(request.id) && !has(request.useragent) && !has(request.referer) && !has(token.subject)",
        "request.time.getFullYear() == 2026",
        "source.port == 40000 && source.address.endsWith(':40000') && destination.port == 80",
        "connection.mtls && connection.tls_version == 'TLSv1.3'",
        "connection.requested_server_name.startsWith('orders.')",
        "connection.sha256_peer_certificate_digest.startsWith('abab')",
        "connection.uri_san_local_certificate == 'spiffe://shop.example/ns/orders/sa/api'",
        "source.principal == peer.spiffe_id && connection.uri_san_peer_certificate == peer.spiffe_id",
        "peer.trust_domain == 'shop.example' && peer.path.startsWith('/ns/')",
        "peer.path.startsWith('/ns/' + captures.ns + '/')",
        "workload.labels.environment == 'prod' && !('tenant' in workload.labels)",
    ] {
        let when = format!("{when} && captures.ns != ''");
        assert!(Request::default().is_allowed(&allow(&when)), "{when}");
    }
}

#[test]
fn what_is_not_known_counts_against_the_request() {
    let nothing = Request { headers: None, server_name: None, ..Request::default() };
    for unknown in [
        "request.headers['x-env'] == 'prod'",
        "connection.requested_server_name != 'a'",
        "token.subject != 'a'",
        "request.headers['x-none'] != 'a'",
        "!('x-env' in request.headers)",
    ] {
        assert!(!nothing.is_allowed(&allow(&format!("{unknown} && captures.ns != ''"))), "{unknown}");
        assert!(!nothing.is_allowed(&deny(unknown)), "{unknown}");
    }
    // And it is said, where it was why.
    let rules = compile(&deny("connection.requested_server_name != 'a'"));
    let fault = nothing.ask(|asked| rules.condition_fault(asked, &rules.decide(asked)));
    let error = ConditionError::Unknown("connection.requested_server_name");
    assert_eq!(fault, Some(ConditionFault { rule: Arc::from("port-deny-1"), error }));
    let known = Request::default();
    let fault = known.ask(|asked| rules.condition_fault(asked, &rules.decide(asked)));
    assert_eq!(fault, None);
    let rules = compile("allow: [{ name: a, trust_domain: shop.example, when: \"token.subject == 'a'\" }]");
    let fault = known.ask(|asked| rules.condition_fault(asked, &rules.decide(asked)));
    assert_eq!(fault.map(|fault| fault.error), Some(ConditionError::Unknown("token.subject")));
}

#[test]
fn pn_02_a_condition_is_asked_about_every_reading_of_the_path() {
    let encoded = Request { path: "/public/%2e%2e/admin", ..Request::default() };
    assert!(!encoded.is_allowed(&allow("request.url_path.startsWith('/public/') && captures.ns != ''")));
    assert!(!encoded.is_allowed(&deny("request.path.startsWith('/admin')")));
    let plain = Request { path: "/public/a", ..Request::default() };
    assert!(plain.is_allowed(&allow("request.url_path.startsWith('/public/') && captures.ns != ''")));
    assert!(plain.is_allowed(&deny("request.url_path.startsWith('/admin')")));
}

#[test]
fn a_header_that_does_not_go_on_is_there_and_is_not() {
    let mut request = Request::default();
    let fields = headers(&[("x-env", "prod"), ("connection", "x-env")]);
    request.headers = Some(fields);
    assert!(!request.is_allowed(&allow("'x-env' in request.headers && captures.ns != ''")));
    assert!(!request.is_allowed(&allow("!('x-env' in request.headers) && captures.ns != ''")));
    assert!(!request.is_allowed(&deny("'x-env' in request.headers")));
    // Claims and credentials are never shown, however they are asked for.
    let hidden = "['authorization', 'x-forwarded-client-cert'].exists(x, x in request.headers)";
    assert!(Request::default().is_allowed(&deny(hidden)));
}

#[test]
fn a_name_that_was_not_asked_for_fits_what_denies() {
    let named = Request::default();
    let (other, none) = (
        Request { server_name: Some("admin.shop.example"), ..named.clone() },
        Request { server_name: None, ..named.clone() },
    );
    let allowing = "allow: [{ trust_domain: shop.example, sni: \"orders.shop.example\" }]";
    let denying = "deny: [{ sni: admin.shop.example }]\nallow: [{ trust_domain: shop.example }]";
    assert_eq!([&named, &other, &none].map(|request| request.is_allowed(allowing)), [true, false, false]);
    assert_eq!([&named, &other, &none].map(|request| request.is_allowed(denying)), [true, false, false]);
}

#[test]
fn a_rule_for_other_ports_or_workloads_never_fits() {
    let here = Request::default();
    let (elsewhere, unknown) = (Request { port: Some(81), ..here.clone() }, Request { port: None, ..here.clone() });
    let allowing = "allow: [{ trust_domain: shop.example, ports: [80, 443] }]";
    let denying = "deny: [{ ports: 81 }]\nallow: [{ trust_domain: shop.example }]";
    assert_eq!([&here, &elsewhere, &unknown].map(|request| request.is_allowed(allowing)), [true, false, false]);
    assert_eq!([&here, &elsewhere, &unknown].map(|request| request.is_allowed(denying)), [true, false, false]);
    for (labels, fits) in [
        ("environment: prod", true),
        ("environment: [stage, prod], purpose: billing-*", true),
        ("environment: stage", false),
        ("tenant: \"*\"", false),
    ] {
        let allowing = format!("allow: [{{ trust_domain: shop.example, labels: {{ {labels} }} }}]");
        assert_eq!(here.is_allowed(&allowing), fits, "{labels}");
        let requiring = format!("require: [{{ labels: {{ {labels} }} }}]\nallow: [{{ trust_domain: shop.example }}]");
        assert_eq!(here.is_allowed(&requiring), fits, "{labels}");
        let denying = format!("deny: [{{ labels: {{ {labels} }} }}]\nallow: [{{ trust_domain: shop.example }}]");
        assert_eq!(here.is_allowed(&denying), !fits, "{labels}");
    }
}

#[test]
fn what_a_condition_saw_is_explained() {
    let rules = compile(&allow("request.headers['x-env'] == 'stage' && captures.ns != ''"));
    Request::default().ask(|asked| {
        let explained = rules.explain(asked);
        let nearest = nearest(&explained, &rules.decide(asked)).unwrap();
        assert_eq!(nearest.lacks[0].key, "when");
        let wants = &nearest.lacks[0].wants;
        assert!(wants.contains("where request.headers = {x-env: prod, x-many: a,b}"), "{wants}");
        assert!(wants.contains("captures = {ns: "), "{wants}");
        assert!(!wants.contains("secret"));
    });
    let none = Request { headers: Some(HeaderMap::new()), ..Request::default() };
    none.ask(|asked| {
        let wants = rules.explain(asked)[0].lacks[0].wants.clone();
        assert!(wants.contains("there is no `x-env`"), "{wants}");
    });
}

#[test]
fn conditions_say_what_has_to_be_kept() {
    assert!(compile(&allow("request.headers.a == 'b' && captures.ns != ''")).needs_headers());
    assert!(!compile(&allow("request.method == 'GET' && captures.ns != ''")).needs_headers());
    assert!(
        rules("deny: [{ when: \"request.method == 'GET'\" }]\nallow: [{ trust_domain: a }]").deny[0]
            .is_about_requests()
    );
    assert!(
        !rules("deny: [{ when: \"source.port < 1024\" }]\nallow: [{ trust_domain: a }]").deny[0].is_about_requests()
    );
}
