//! No forged identity reaches an application: on any listener, protocol or direction (issue 2, "Done when" 5).

use http::{HeaderMap, HeaderName, HeaderValue};
use postern_tests::client_http::with_trailers;
use postern_tests::mesh::{ORDERS, WEB};
use postern_tests::pair::{inbound_section, service_section};
use postern_tests::{H2Client, HttpApp, Mesh, Pair, RawApp, RawClient, Sidecar, ports};
use std::net::SocketAddr;

const NAMES: [&str; 4] = ["x-forwarded-client-cert", "x-spiffe-id", "client-cert", "client-cert-chain"];
const FORGED: &str = "URI=spiffe://shop.example/forged";

/// Every spelling that some application reads as the same name.
fn spellings(name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for separated in [name.to_owned(), name.replace('-', "_"), name.replace('-', "."), name.replacen('-', "_", 1)] {
        let title: String = separated
            .split_inclusive(['-', '_', '.'])
            .map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]))
            .collect();
        all.extend([separated.to_uppercase(), title, separated]);
    }
    all
}

fn all_spellings() -> Vec<String> {
    NAMES.iter().flat_map(|name| spellings(name)).collect()
}

/// A name as CGI and its heirs read it.
fn folded(name: &str) -> String {
    name.to_lowercase().replace(['_', '.'], "-")
}

/// Checks what an application was told: the values that Postern set, each once, or none.
fn check(fields: &[(String, String)], expected: Expected, from: &str) {
    for name in NAMES {
        let values: Vec<_> = fields.iter().filter(|(key, _)| folded(key) == name).collect();
        let wanted = match (name, expected) {
            ("x-forwarded-client-cert" | "x-spiffe-id", Expected::Web) => 1,
            _ => 0,
        };
        assert_eq!(values.len(), wanted, "{from}: {name}: {values:?}");
        for (key, value) in values {
            assert_eq!(key, name, "{from}");
            let exact = if name == "x-spiffe-id" { value == WEB } else { value.ends_with(&format!(";URI={WEB}")) };
            assert!(exact && !value.contains("forged"), "{from}: {key}: {value}");
        }
    }
    assert!(fields.iter().all(|(_, value)| !value.contains("forged")), "{from}: {fields:?}");
}

#[derive(Clone, Copy)]
enum Expected {
    Web,
    Nobody,
}

fn wire_fields(text: &str) -> Vec<(String, String)> {
    let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    text.split("\r\n").filter_map(field).collect()
}

fn map_fields(map: &HeaderMap) -> impl Iterator<Item = (String, String)> + '_ {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
}

/// One HTTP/1.1 request with every forgery as header, and again as trailer.
fn http1_request() -> String {
    // hyper writes those trailers to an HTTP/1 application that the request has announced.
    let announced = all_spellings().join(", ");
    let forged: String = all_spellings().iter().map(|name| format!("{name}: {FORGED}\r\n")).collect();
    format!(
        "POST /x HTTP/1.1\r\nhost: orders.shop.svc\r\n{forged}transfer-encoding: chunked\r\ntrailer: x-last, {announced}\r\n\r\n\
         4\r\nbody\r\n0\r\n{forged}x-last: yes\r\n\r\n"
    )
}

async fn through_http1(to: SocketAddr) {
    let mut client = RawClient::connect(to).await;
    client.send(http1_request()).await;
    let response = client.response().await;
    assert_eq!(response.status, 200, "{response:?}");
}

async fn through_http2(to: SocketAddr) {
    let mut client = H2Client::connect(to).await;
    let mut forged = HeaderMap::new();
    for name in all_spellings() {
        forged
            .append(HeaderName::from_bytes(name.to_lowercase().as_bytes()).unwrap(), HeaderValue::from_static(FORGED));
    }
    let mut trailers = forged.clone();
    trailers.insert("x-last", HeaderValue::from_static("yes"));
    let mut request = client.request("POST", "/x").body(with_trailers("body", trailers)).unwrap();
    let announced = format!("x-last, {}", all_spellings().join(", "));
    forged.insert("trailer", HeaderValue::from_str(&announced).unwrap());
    *request.headers_mut() = forged;
    let reply = client.send(request).await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// Both versions of HTTP through `to`, to an application of each version behind `app_http`.
async fn check_listener(to: SocketAddr, apps: &Apps, expected: Expected, from: &str) {
    for is_http2 in [false, true] {
        if is_http2 {
            through_http2(to).await
        } else {
            through_http1(to).await
        }
        apps.check(expected, &format!("{from}, from HTTP/{}", if is_http2 { 2 } else { 1 }));
    }
}

enum Apps {
    Http1(RawApp),
    Http2(HttpApp),
}

impl Apps {
    async fn both() -> [Self; 2] {
        [Self::Http1(RawApp::ok().await), Self::Http2(HttpApp::start().await)]
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Http1(app) => app.address,
            Self::Http2(app) => app.address,
        }
    }

    fn version(&self) -> &'static str {
        match self {
            Self::Http1(_) => "1",
            Self::Http2(_) => "2",
        }
    }

    fn check(&self, expected: Expected, from: &str) {
        match self {
            // Each request is checked by itself: the last `POST` on the wire.
            Self::Http1(app) => {
                let text = app.connections().into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let requests: Vec<String> =
                    text.flat_map(|text| text.split("POST ").skip(1).map(str::to_owned).collect::<Vec<_>>()).collect();
                assert!(!requests.is_empty(), "{from}: nothing arrived");
                for request in requests {
                    assert!(request.contains("x-last: yes"), "{from}: an honest trailer passes: {request}");
                    check(&wire_fields(&request), expected, from);
                }
            }
            Self::Http2(app) => {
                let seen = app.last();
                assert_eq!(seen.version, "2", "{from}");
                let fields: Vec<_> = map_fields(&seen.headers).chain(map_fields(&seen.trailers)).collect();
                assert!(fields.contains(&("x-last".to_owned(), "yes".to_owned())), "{from}: {fields:?}");
                check(&fields, expected, from);
            }
        }
    }
}

#[tokio::test]
async fn inbound_mtls_sets_the_callers_identity_once() {
    for app in Apps::both().await {
        let port = format!("protocol: http\napp_http: {}\nallow: [{{ spiffe: {WEB} }}]", app.version());
        // Bytes as the attacker wrote them reach the inbound side: its own sidecar does not help.
        let pair = Pair::with(Mesh::start(), app.address(), &port, "protocol: tcp").await;
        check_listener(pair.outbound, &app, Expected::Web, "strict").await;
    }
}

#[tokio::test]
async fn a_whole_pair_sets_the_callers_identity_once() {
    for app in Apps::both().await {
        let port = format!("protocol: http\napp_http: {}\nallow: [{{ spiffe: {WEB} }}]", app.version());
        let pair = Pair::with(Mesh::start(), app.address(), &port, "protocol: http").await;
        check_listener(pair.outbound, &app, Expected::Web, "pair").await;
    }
}

#[tokio::test]
async fn inbound_plaintext_says_nothing_of_the_caller() {
    for tls in ["permissive", "off"] {
        for app in Apps::both().await {
            let mesh = Mesh::start();
            let listen = ports::free();
            let lines =
                format!("protocol: http\ntls: {tls}\napp_http: {}\nallow: [{{ anonymous: true }}]", app.version());
            let section = inbound_section(listen, &app.address().to_string(), &lines);
            let _orders = mesh.sidecar("orders", &section).await;
            check_listener(listen, &app, Expected::Nobody, tls).await;
        }
    }
}

#[tokio::test]
async fn outbound_strips_and_sets_nothing() {
    for app in Apps::both().await {
        let mesh = Mesh::start();
        let listen = ports::free();
        let lines = format!("endpoints: [\"{}\"]\ntls: off\nprotocol: http", app.address());
        let _web: Sidecar = mesh.sidecar("web", &service_section(listen, &lines)).await;
        // Towards the service the caller's version is kept.
        match &app {
            Apps::Http1(_) => through_http1(listen).await,
            Apps::Http2(_) => through_http2(listen).await,
        }
        app.check(Expected::Nobody, "outbound");
    }
}

#[tokio::test]
async fn a_connection_option_cannot_delete_what_we_set() {
    let app = RawApp::ok().await;
    let pair = Pair::raw_to_http(app.address).await;
    for option in all_spellings().into_iter().chain(["x-postern-decision".to_owned(), "host".to_owned()]) {
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(format!("GET /x HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: close, {option}\r\n\r\n")).await;
        assert_eq!(client.response().await.status, 400, "connection: {option}");
    }
    app.assert_nothing_arrived();
    // An option that nobody relies on takes its field with it, and ours stay.
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("GET /x HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: x-hop\r\nx-hop: gone\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    let text = app.text();
    assert!(!text.contains("x-hop") && text.contains(&format!("By={ORDERS};")), "{text}");
}

#[tokio::test]
async fn hd_27_an_application_cannot_speak_for_a_caller_or_a_sidecar() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = postern_tests::H1Client::connect(pair.outbound).await;
    let reply = client.get("/forged").await.unwrap();
    assert_eq!(reply.header("x-harmless"), "stays");
    assert!(!reply.headers.contains_key("x-spiffe-id") && !reply.headers.contains_key("x-postern-refusal"));
    assert!(!reply.headers.contains_key("x-postern-decision"), "a forged refusal is no refusal");
    assert_eq!(pair.web.records_of("request", 1).await[0].get("refusal.remote"), None);
}

#[tokio::test]
async fn rfc_9440_client_cert_is_set_once_where_it_is_wanted() {
    let app = RawApp::ok().await;
    let lines = format!(
        "protocol: http\nidentity_headers: {{ xfcc: false, spiffe_id: false, client_cert: true }}\nallow: [{{ spiffe: {WEB} }}]"
    );
    let pair = Pair::with(Mesh::start(), app.address, &lines, "protocol: tcp").await;
    through_http1(pair.outbound).await;
    let fields = wire_fields(&app.text());
    let values =
        |name: &str| fields.iter().filter(|(key, _)| folded(key) == name).map(|(_, value)| value).collect::<Vec<_>>();
    for name in ["x-forwarded-client-cert", "x-spiffe-id", "client-cert-chain"] {
        assert!(values(name).is_empty(), "{name}: {fields:?}");
    }
    let [certificate] = values("client-cert")[..] else { panic!("one certificate: {fields:?}") };
    let is_bytes = certificate.len() > 200 && certificate.starts_with(":MII") && certificate.ends_with(':');
    assert!(is_bytes, "{certificate}");
}
