//! Trusted forwarders: whose `x-forwarded-client-cert` goes on, how much of it, and what is refused.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use postern_tests::client_http::empty;
use postern_tests::mesh::{ORDERS, WEB};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H2Client, HttpApp, Mesh, Pair, RawClient, Sidecar, ports, within};
use std::net::SocketAddr;
use std::path::Path;

const BROWSER: &str = "spiffe://shop.example/browser";
const EDGE: &str = "spiffe://edge.example/edge";
const PARTNER: &str = "spiffe://partner.example/app";

/// `web` is the forwarder, as what it sends reaches the port as it is.
async fn pair(forwarders: &str, more: &str) -> (HttpApp, Pair) {
    let app = HttpApp::start().await;
    let port = format!("protocol: http\nforwarders: [{forwarders}]\nallow: [{{ spiffe: {WEB} }}]\n{more}");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    (app, pair)
}

fn web_speaks_for(whom: &str) -> String {
    format!("{{ spiffe: {WEB}, may_speak_for: [{whom}] }}")
}

/// The answer's status over HTTP/1.1 and over HTTP/2.
async fn ask(to: SocketAddr, chain: &[&str]) -> [u16; 2] {
    let lines: String = chain.iter().map(|value| format!("x-forwarded-client-cert: {value}\r\n")).collect();
    let mut client = RawClient::connect(to).await;
    client.send(format!("GET /1 HTTP/1.1\r\nhost: orders.shop.svc\r\n{lines}\r\n")).await;
    let first = client.response().await.status;
    let mut client = H2Client::connect(to).await;
    let mut request = client.request("GET", "/2");
    for value in chain {
        request = request.header("x-forwarded-client-cert", *value);
    }
    let request = request.body(empty()).unwrap();
    [first, client.send(request).await.unwrap().status.as_u16()]
}

/// What the application was told last, as one value.
fn told(app: &HttpApp) -> String {
    let seen = app.last();
    let values: Vec<_> = seen.headers.get_all("x-forwarded-client-cert").iter().collect();
    assert_eq!(values.len(), 1, "one field: {values:?}");
    values[0].to_str().unwrap().to_owned()
}

fn is_ours(element: &str) -> bool {
    element.starts_with(&format!("By={ORDERS};Hash=")) && element.ends_with(&format!(";URI={WEB}"))
}

#[tokio::test]
async fn hd_10_a_forwarders_chain_is_kept_as_far_as_it_is_believed() {
    let edge = format!("{{ spiffe: {EDGE}, may_speak_for: {PARTNER} }}");
    let (app, pair) = pair(&format!("{}, {edge}", web_speaks_for(&format!("{BROWSER}, {EDGE}"))), "").await;
    let (of_browser, of_edge, of_partner) =
        (format!("By={WEB};URI={BROWSER}"), format!("By={WEB};URI={EDGE}"), format!("By={EDGE};URI={PARTNER}"));
    let mut asked = 0;
    for (chain, kept, caller) in [
        (vec![of_browser.as_str()], of_browser.clone(), Some(BROWSER)),
        // Whatever the browser said before: nobody vouches for it.
        (vec!["URI=spiffe://shop.example/forged", &of_browser], of_browser.clone(), Some(BROWSER)),
        (vec![of_partner.as_str(), &of_edge], format!("{of_partner},{of_edge}"), Some(PARTNER)),
        (vec![], String::new(), None),
    ] {
        assert_eq!(ask(pair.outbound, &chain).await, [200, 200], "{chain:?}");
        let told = told(&app);
        let (elements, ours) = told.rsplit_once(',').unwrap_or(("", &told));
        assert!(elements == kept && is_ours(ours), "{chain:?}: {told}");
        assert_eq!(app.last().headers["x-spiffe-id"], WEB);
        asked += 2;
        for record in &pair.orders.records_of("request", asked).await[asked - 2..] {
            assert_eq!(record.get("caller.spiffe_id").and_then(|id| id.as_str()), caller, "{record:#}");
            assert_eq!(record["peer.spiffe_id"], WEB);
        }
    }
}

#[tokio::test]
async fn hd_10_a_forwarder_speaks_for_nobody_else() {
    let (app, pair) = pair(&web_speaks_for(BROWSER), "").await;
    for (chain, status, refusal) in [
        (format!("URI={PARTNER}"), 403, "forwarded_caller_refused"),
        (format!("URI={BROWSER},URI={PARTNER}"), 403, "forwarded_caller_refused"),
        ("Hash=00".to_owned(), 403, "forwarded_caller_refused"),
        (format!("URI={BROWSER},"), 400, "bad_request"),
        (format!("Subject=\"CN=x;URI={BROWSER}"), 400, "bad_request"),
        (format!("URI={BROWSER};URI={BROWSER}"), 400, "bad_request"),
    ] {
        assert_eq!(ask(pair.outbound, &[&chain]).await, [status, status], "{chain}");
        let refused = pair.orders.records().into_iter().rfind(|record| record["kind"] == "request").unwrap();
        assert_eq!(refused["refusal"], refusal, "{chain}: {refused:#}");
    }
    assert!(app.seen().is_empty(), "nothing of it arrived");
}

#[tokio::test]
async fn hd_10_the_chain_of_who_is_no_forwarder_is_replaced() {
    let other = format!("{{ spiffe: {EDGE}, may_speak_for: \"spiffe://shop.example/**\" }}");
    let (app, pair) = pair(&other, "").await;
    for chain in [format!("URI={BROWSER}"), "\"".to_owned()] {
        assert_eq!(ask(pair.outbound, &[&chain]).await, [200, 200]);
        assert!(is_ours(&told(&app)), "{}", told(&app));
    }
}

#[tokio::test]
async fn hd_10_who_is_denied_is_denied_behind_a_forwarder_too() {
    let (mesh, app, listen, calls) = (Mesh::start(), HttpApp::start().await, ports::free(), ports::free());
    let list = mesh.directory().join("deny.yaml");
    let denied = format!("{{ spiffe: {BROWSER}, reason: stolen, author: alice, expires: 2126-12-24T00:00:00Z }}");
    std::fs::write(&list, format!("deny: [{denied}]\n")).unwrap();
    let forwarders = web_speaks_for("\"spiffe://shop.example/**\"");
    let port = format!("protocol: http\nforwarders: [{forwarders}]\nallow: [{{ spiffe: {WEB} }}]");
    let port = inbound_section(listen, &app.address.to_string(), &port);
    let orders = mesh.sidecar("orders", &format!("{port}revocation: {{ deny_list: {} }}\n", list.display())).await;
    let _web = mesh.sidecar("web", &outbound_section(calls, listen, "protocol: tcp")).await;
    assert_eq!(ask(calls, &[&format!("URI={BROWSER}")]).await, [403, 403]);
    for record in orders.records_of("request", 2).await {
        assert_eq!(record["refusal"], "forwarded_caller_refused");
        assert!(record["refusal.detail"].as_str().unwrap_or_default().contains("stolen (alice)"), "{record:#}");
    }
    assert_eq!(ask(calls, &["URI=spiffe://shop.example/other"]).await, [200, 200]);
}

#[tokio::test]
async fn hd_10_rules_and_conditions_know_who_asked_first() {
    let app = HttpApp::start().await;
    let port = format!(
        "protocol: http\nforwarders: [{}]\ndeny: [{{ name: not-partners, caller: \"spiffe://partner.example/**\", paths: /1 }}]\n\
         allow:\n  - {{ name: browsers, spiffe: {WEB}, caller: {BROWSER} }}\n  \
         - {{ name: itself, spiffe: {WEB}, when: \"caller.spiffe_id == peer.spiffe_id\" }}\n  \
         - {{ name: partners, spiffe: {WEB}, when: \"caller.spiffe_id == '{PARTNER}'\" }}",
        web_speaks_for("\"spiffe://shop.example/**\", \"spiffe://partner.example/**\"")
    );
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    let mut asked = 0;
    for (chain, answers, rules) in [
        (vec![format!("URI={BROWSER}")], [200, 200], ["browsers", "browsers"]),
        (vec![], [200, 200], ["itself", "itself"]),
        (vec![format!("URI={PARTNER}")], [403, 200], ["not-partners", "partners"]),
        (vec!["URI=spiffe://shop.example/other".to_owned()], [403, 403], ["", ""]),
    ] {
        let words: Vec<&str> = chain.iter().map(String::as_str).collect();
        assert_eq!(ask(pair.outbound, &words).await, answers, "{chain:?}");
        asked += 2;
        let records = pair.orders.records_of("request", asked).await;
        let by = records[asked - 2..].iter().map(|record| record["rule"].as_str().unwrap_or_default());
        assert_eq!(by.collect::<Vec<_>>(), rules, "{records:#?}");
    }
}

/// One port that `web` reaches, and a deny list.
struct Streaming {
    orders: Sidecar,
    _web: Sidecar,
    _app: HttpApp,
    listen: SocketAddr,
    calls: SocketAddr,
    mesh: Mesh,
}

impl Streaming {
    fn sections(app: SocketAddr, listen: SocketAddr, list: &Path, callers: &str) -> String {
        let forwarders = web_speaks_for("\"spiffe://shop.example/**\"");
        let allow = format!("allow: [{{ spiffe: {WEB}, caller: [{callers}] }}]");
        let port = format!("protocol: http\nforwarders: [{forwarders}]\n{allow}");
        let port = inbound_section(listen, &app.to_string(), &port);
        format!("{port}revocation: {{ deny_list: {} }}\n", list.display())
    }

    async fn start() -> Self {
        let (mesh, app, listen, calls) = (Mesh::start(), HttpApp::start().await, ports::free(), ports::free());
        let list = mesh.directory().join("deny.yaml");
        std::fs::write(&list, "deny: []\n").unwrap();
        let sections = Self::sections(app.address, listen, &list, &format!("{BROWSER}, {EDGE_OF_OURS}"));
        let orders = mesh.sidecar("orders", &sections).await;
        let web = mesh.sidecar("web", &outbound_section(calls, listen, "protocol: tcp")).await;
        Self { orders, _web: web, _app: app, listen, calls, mesh }
    }

    /// The body of an answer that does not end by itself.
    async fn stream(&self, caller: &str) -> Incoming {
        let mut client = H2Client::connect(self.calls).await;
        let request = client.request("GET", "/stream").header("x-forwarded-client-cert", format!("URI={caller}"));
        let answer = within("a head", client.sender.send_request(request.body(empty()).unwrap())).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        assert!(within("a chunk", body.frame()).await.unwrap().is_ok());
        body
    }
}

const EDGE_OF_OURS: &str = "spiffe://shop.example/edge";

async fn is_quiet(body: &mut Incoming) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(50), body.frame()).await.is_err()
}

#[tokio::test]
async fn hd_10_a_new_file_cuts_requests_of_original_callers_that_it_allows_no_more() {
    let it = Streaming::start().await;
    let (of_browser, mut of_edge) = (it.stream(BROWSER).await, it.stream(EDGE_OF_OURS).await);
    let list = it.mesh.directory().join("deny.yaml");
    let sections = Streaming::sections(it._app.address, it.listen, &list, EDGE_OF_OURS);
    it.orders.apply(&sections).await.unwrap();
    assert!(within("the request ends", of_browser.collect()).await.is_err());
    assert!(is_quiet(&mut of_edge).await, "its neighbour goes on");
}

#[tokio::test]
async fn hd_10_the_deny_list_cuts_requests_of_the_original_caller_that_it_names() {
    let it = Streaming::start().await;
    let (of_browser, mut of_edge) = (it.stream(BROWSER).await, it.stream(EDGE_OF_OURS).await);
    let denied = format!("/deny?spiffe={BROWSER}&reason=stolen&for=1h&confirm=true");
    assert_eq!(it.orders.ask("POST", &denied).await.0, 200);
    assert!(within("the request ends", of_browser.collect()).await.is_err());
    assert!(is_quiet(&mut of_edge).await, "its neighbour goes on");
}
