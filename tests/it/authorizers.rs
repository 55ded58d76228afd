//! Authorizers beside a sidecar, on the wire: what they are asked, what becomes of their answers, and of none.

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern::authz::external::proto::{
    AddressKind, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpRequest, HttpResponse,
    HttpStatus, OkHttpResponse, QueryParameter, RpcStatus,
};
use postern_tests::app_http::Seen;
use postern_tests::client_http::{channel, empty, full, with_trailers};
use postern_tests::mesh::{ORDERS, WEB};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, eventually, ports, within};
use prost::Message;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// An authorizer of Envoy's gRPC form. What it was asked can be looked at.
struct Grpc {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<CheckRequest>>>,
    connections: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
}

/// Counts what is dropped before it is done.
struct Unfinished(Arc<AtomicUsize>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Grpc {
    /// `answer`: by the path that is asked about. `None`: it never answers.
    async fn start(answer: fn(&HttpRequest) -> Option<CheckResponse>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let found = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            connections: Arc::default(),
            given_up: Arc::default(),
        };
        let (asked, connections, given_up) = (found.asked.clone(), found.connections.clone(), found.given_up.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, SeqCst);
                let (asked, given_up) = (asked.clone(), given_up.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (asked, given_up) = (asked.clone(), given_up.clone());
                    async move {
                        assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
                        assert_eq!(request.headers()["content-type"], "application/grpc");
                        let frame = request.into_body().collect().await.unwrap().to_bytes();
                        let question = CheckRequest::decode(&frame[5..]).unwrap();
                        let answered = answer(http_of(&question));
                        asked.lock().unwrap().push(question);
                        let Some(answered) = answered else {
                            let _unfinished = Unfinished(given_up);
                            return std::future::pending().await;
                        };
                        let message = answered.encode_to_vec();
                        let mut frame = vec![0];
                        frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
                        frame.extend_from_slice(&message);
                        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from(0))]);
                        let response = Response::builder().header("content-type", "application/grpc");
                        Ok::<_, Infallible>(response.body(with_trailers(frame, trailers)).unwrap())
                    }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        found
    }

    fn asked(&self) -> Vec<CheckRequest> {
        self.asked.lock().unwrap().clone()
    }
}

fn http_of(question: &CheckRequest) -> &HttpRequest {
    let attributes = question.attributes.as_ref().unwrap();
    attributes.request.as_ref().unwrap().http.as_ref().unwrap()
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    let header = postern::authz::external::proto::HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        raw_value: Vec::new(),
    };
    HeaderValueOption { header: Some(header), append: None, append_action: 0 }
}

fn ok(response: OkHttpResponse) -> Option<CheckResponse> {
    Some(CheckResponse { status: Some(RpcStatus::default()), http_response: Some(HttpResponse::Ok(response)) })
}

fn denied(response: Option<DeniedHttpResponse>) -> Option<CheckResponse> {
    let status = RpcStatus { code: 7, message: String::new() };
    Some(CheckResponse { status: Some(status), http_response: response.map(HttpResponse::Denied) })
}

/// By the path.
fn by_path(request: &HttpRequest) -> Option<CheckResponse> {
    match request.path.split('?').next().unwrap() {
        "/changed" => ok(OkHttpResponse {
            headers: vec![option("x-tenant", "acme"), option("x-said", "by-authorizer")],
            headers_to_remove: vec!["x-secret".to_owned()],
            response_headers_to_add: vec![option("x-checked", "yes")],
            query_parameters_to_set: vec![QueryParameter { key: "page".to_owned(), value: "2".to_owned() }],
            query_parameters_to_remove: vec!["debug".to_owned()],
        }),
        "/forbidden" => denied(None),
        "/login" => denied(Some(DeniedHttpResponse {
            status: Some(HttpStatus { code: 401 }),
            headers: vec![
                option("www-authenticate", "Basic"),
                option("connection", "close"),
                option("x-spiffe-id", "a"),
            ],
            body: "who are you?".to_owned(),
        })),
        "/hang" => None,
        "/forges" => ok(OkHttpResponse {
            headers: vec![option("X_Spiffe_ID", "spiffe://shop.example/root")],
            ..Default::default()
        }),
        "/frames" => ok(OkHttpResponse { headers: vec![option("transfer-encoding", "chunked")], ..Default::default() }),
        "/reroutes" => ok(OkHttpResponse { headers: vec![option(":path", "/admin")], ..Default::default() }),
        "/unframes" => ok(OkHttpResponse { headers_to_remove: vec!["Host".to_owned()], ..Default::default() }),
        _ => ok(OkHttpResponse::default()),
    }
}

struct Scene {
    app: HttpApp,
    web: Sidecar,
    orders: Sidecar,
    outbound: SocketAddr,
    inbound: SocketAddr,
    _mesh: Mesh,
}

const ROUTES: &str = "protocol: http
allow: [{ name: mesh, trust_domain: shop.example }]
deny: [{ name: never, paths: \"/never/**\" }]
authorize: opa
routes:
  - { name: open, match: { path: /open }, authorize: none }
  - { name: rest, match: {} }
";

impl Scene {
    /// `orders` with an authorizer named `opa`, of these lines.
    async fn start(authorizer: &str) -> Self {
        let (app, mesh) = (HttpApp::start().await, Mesh::start());
        let (inbound, outbound) = (ports::free(), ports::free());
        let orders = mesh.sidecar("orders", &sections(authorizer, inbound, &app)).await;
        let web = mesh.sidecar("web", &outbound_section(outbound, inbound, "protocol: http")).await;
        Self { app, web, orders, outbound, inbound, _mesh: mesh }
    }

    async fn refused(&self, path: &str) -> serde_json::Value {
        self.orders.record("request", |record| record["url.path"] == path).await
    }
}

fn sections(authorizer: &str, inbound: SocketAddr, app: &HttpApp) -> String {
    let port = inbound_section(inbound, &app.address.to_string(), ROUTES);
    format!("authorizers:\n  - {{ name: opa, {authorizer} }}\n{port}")
}

fn verdicts(sidecar: &Sidecar, verdict: &str) -> f64 {
    sidecar.metric(&format!("postern_authorizer_verdicts_total{{authorizer=\"opa\",verdict=\"{verdict}\"}}"))
}

#[tokio::test]
async fn it_sees_what_goes_on_and_what_it_changes_arrives() {
    let opa = Grpc::start(by_path).await;
    let scene = Scene::start(&format!("grpc: \"{}\", context: {{ tenant: acme }}", opa.address)).await;
    let mut client = H2Client::connect(scene.outbound).await;
    let request = client
        .request("GET", "/changed?page=1&debug=1&page=7&x=%20y")
        .header("x-secret", "s")
        .header("x-tenant", "forged")
        .header("x-many", "a")
        .header("x-many", "b")
        .header("x-spiffe-id", "spiffe://shop.example/root");
    let reply = client.send(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!((reply.status, reply.header("x-checked")), (StatusCode::OK, "yes"));

    let question = &opa.asked()[0];
    let http = http_of(question);
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str(), http.scheme.as_str(), http.protocol.as_str()),
        ("GET", "/changed?page=1&debug=1&page=7&x=%20y", http.headers[":authority"].as_str(), "http", "HTTP/2")
    );
    assert_eq!((http.headers[":method"].as_str(), http.headers[":path"].as_str()), ("GET", http.path.as_str()));
    assert_eq!((http.headers["x-many"].as_str(), http.headers["x-tenant"].as_str()), ("a,b", "forged"));
    assert_eq!(http.headers["x-spiffe-id"], WEB, "ours, never the caller's");
    assert!(http.headers["x-forwarded-client-cert"].contains(WEB));
    assert!(!http.headers.keys().any(|name| name.starts_with("x-postern-") || name == "host"));
    let attributes = question.attributes.as_ref().unwrap();
    assert_eq!(attributes.context_extensions["tenant"], "acme");
    let (source, destination) = (attributes.source.as_ref().unwrap(), attributes.destination.as_ref().unwrap());
    assert_eq!((source.principal.as_str(), destination.principal.as_str()), (WEB, ORDERS));
    let address = |peer: &postern::authz::external::proto::Peer| match peer.address.clone().unwrap().kind.unwrap() {
        AddressKind::Socket(socket) => format!("{}:{}", socket.address, socket.port_value.unwrap()),
        AddressKind::Pipe(pipe) => pipe.path,
    };
    assert_eq!(address(destination), scene.inbound.to_string());
    assert!(address(source).starts_with("127.0.0.1:"));
    assert!(source.certificate.is_empty(), "it was not asked for");

    let seen: Seen = scene.app.last();
    assert_eq!(seen.target, "http://orders.shop.svc/changed?page=2&x=%20y");
    assert_eq!((seen.all("x-tenant"), seen.all("x-said")), (vec!["acme".to_owned()], vec!["by-authorizer".to_owned()]));
    assert!(seen.all("x-secret").is_empty());
    assert_eq!(seen.all("x-spiffe-id"), [WEB]);
    let record = scene.refused("/changed").await;
    assert_eq!((&record["authorizer"], &record["authorizer.verdict"]), (&"opa".into(), &"allowed".into()));
    assert_eq!(http.id, record["decision"].as_str().unwrap());
    assert!(record["authorizer.duration_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(verdicts(&scene.orders, "allowed"), 1.0);
}

#[tokio::test]
async fn its_no_reaches_the_caller_in_its_words_and_our_own_no_needs_no_question() {
    let opa = Grpc::start(by_path).await;
    let scene = Scene::start(&format!("grpc: \"{}\"", opa.address)).await;
    let mut http1 = H1Client::connect(scene.outbound).await;
    let reply = http1.get("/login").await.unwrap();
    assert_eq!((reply.status, reply.header("www-authenticate")), (StatusCode::UNAUTHORIZED, "Basic"));
    assert_eq!(reply.body, "who are you?");
    assert!(!reply.headers.contains_key("x-spiffe-id") && reply.headers.contains_key("x-postern-decision"));
    let record = scene.refused("/login").await;
    assert_eq!((&record["refusal"], &record["authorizer.verdict"]), (&"external_denied".into(), &"denied".into()));
    // The connection goes on.
    assert_eq!(http1.get("/forbidden").await.unwrap().status, 403);
    assert_eq!(http1.get("/else").await.unwrap().status, 200);
    let asked = opa.asked().len();
    assert_eq!(http1.get("/never/asked").await.unwrap().status, 403);
    assert_eq!(http1.get("/open").await.unwrap().status, 200);
    assert_eq!(opa.asked().len(), asked, "neither was a question");
    assert_eq!(opa.connections.load(SeqCst), 1, "one connection for all of them");
    assert_eq!(scene.web.records_of("request", 5).await[0]["refusal.remote"], "external_denied");

    let mut http2 = H2Client::connect(scene.outbound).await;
    let request = http2.request("POST", "/login").header("content-type", "application/grpc");
    let reply = http2.send(request.body(full("")).unwrap()).await.unwrap();
    assert_eq!((reply.status, reply.header("grpc-status")), (StatusCode::OK, "16"));
    let request = http2.request("POST", "/grpc").header("content-type", "application/grpc").header("te", "trailers");
    let reply = http2.send(request.body(full("message")).unwrap()).await.unwrap();
    assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b"message"[..]));
}

#[tokio::test]
async fn an_upgrade_is_asked_about_before_a_byte_of_it_goes_on() {
    let opa = Grpc::start(by_path).await;
    let scene = Scene::start(&format!("grpc: \"{}\"", opa.address)).await;
    let upgrade = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    };
    let mut refused = RawClient::connect(scene.outbound).await;
    refused.send(&upgrade("/forbidden")).await;
    assert_eq!(refused.response().await.status, 403);
    assert!(scene.app.seen().is_empty(), "nothing of it arrived");
    let mut allowed = RawClient::connect(scene.outbound).await;
    allowed.send(&upgrade("/upgrade")).await;
    assert_eq!(allowed.head().await.unwrap().status, 101);
    allowed.send("frames").await;
    assert_eq!(allowed.take(6).await.unwrap(), b"frames");
    let asked = opa.asked();
    assert_eq!(asked.iter().map(|it| http_of(it).path.as_str()).collect::<Vec<_>>(), ["/forbidden", "/upgrade"]);
    assert_eq!(http_of(&asked[1]).headers["upgrade"], "websocket");
}

#[tokio::test]
async fn a_yes_whose_condition_cannot_be_met_is_none() {
    let opa = Grpc::start(by_path).await;
    for on_error in ["refuse", "allow"] {
        let scene = Scene::start(&format!("grpc: \"{}\", on_error: {on_error}", opa.address)).await;
        let mut client = H1Client::connect(scene.outbound).await;
        for path in ["/forges", "/frames", "/reroutes", "/unframes"] {
            assert_eq!(client.get(path).await.unwrap().status, 503, "{path}");
            let record = scene.refused(path).await;
            assert_eq!(record["refusal"], "external_unavailable", "{record:#}");
            assert!(record["refusal.detail"].as_str().unwrap().contains("not an authorizer's to say"), "{record:#}");
        }
        assert!(scene.app.seen().is_empty(), "nothing of them arrived");
    }
}

#[tokio::test]
async fn without_an_answer_it_is_as_the_file_says() {
    let opa = Grpc::start(by_path).await;
    let nobody = ports::free();
    for (on_error, status, verdict) in [("refuse", 503, "error_refused"), ("allow", 200, "error_allowed")] {
        for (address, path) in [(opa.address, "/hang"), (nobody, "/nobody")] {
            let scene = Scene::start(&format!("grpc: \"{address}\", on_error: {on_error}, timeout: 100ms")).await;
            // `/hang` is the application's word for never, too.
            let target = if on_error == "allow" { "/status/200" } else { path };
            if target != path && address == opa.address {
                continue;
            }
            let reply = H1Client::connect(scene.outbound).await.get(target).await.unwrap();
            assert_eq!(reply.status, status, "{on_error} {path}");
            let record = scene.refused(target).await;
            assert_eq!(record["authorizer.verdict"], verdict, "{record:#}");
            assert_eq!(verdicts(&scene.orders, verdict), 1.0);
            if status == 503 {
                assert_eq!(record["refusal"], "external_unavailable");
                assert!(scene.app.seen().is_empty());
            }
        }
    }
    eventually("the question is given up", || (opa.given_up.load(SeqCst) == 1).then_some(())).await;
}

#[tokio::test]
async fn a_body_is_shown_and_goes_on_unchanged() {
    let opa = Grpc::start(by_path).await;
    let scene = Scene::start(&format!("grpc: \"{}\", body: {{ max: 8 }}", opa.address)).await;
    let mut client = H1Client::connect(scene.outbound).await;
    let post = |client: &H1Client, body: &'static [u8]| client.request("POST", "/body").body(full(body)).unwrap();
    for body in [&b""[..], b"12345678", &[0xFF, 0, 1]] {
        let request = post(&client, body);
        assert_eq!(client.send(request).await.unwrap().status, 200);
        assert_eq!(scene.app.last().body, body);
        let question = opa.asked().pop().unwrap();
        let http = http_of(&question);
        let shown = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
        assert_eq!((shown, http.size), (body, body.len() as i64));
        let partial = http.headers.get("x-envoy-auth-partial-body").map(String::as_str);
        assert_eq!(partial, (!body.is_empty()).then_some("false"));
    }
    let asked = opa.asked().len();
    let request = post(&client, b"123456789");
    assert_eq!(client.send(request).await.unwrap().status, 413);
    // Of unknown length, and over HTTP/2.
    let mut http2 = H2Client::connect(scene.outbound).await;
    let (sender, body) = channel();
    let request = http2.request("POST", "/chunks").body(body).unwrap();
    let sending = async {
        for _ in 0..3 {
            // The receiver may have been refused already.
            let _ = sender.send(Ok(http_body::Frame::data("1234".into()))).await;
        }
        drop(sender);
    };
    let (reply, ()) = tokio::join!(http2.send(request), sending);
    assert_eq!(reply.unwrap().status, 413);
    assert_eq!(scene.refused("/chunks").await["refusal"], "body_too_large");
    assert_eq!(opa.asked().len(), asked);

    let truncating = format!("grpc: \"{}\", body: {{ max: 8, over: truncate }}", opa.address);
    scene.orders.apply(&sections(&truncating, scene.inbound, &scene.app)).await.unwrap();
    let long = vec![b'x'; 300_000];
    let mut http2 = H2Client::connect(scene.outbound).await;
    let request = http2.request("POST", "/long").body(full(long.clone())).unwrap();
    assert_eq!(http2.send(request).await.unwrap().status, 200);
    assert_eq!(scene.app.last().body, long);
    let question = opa.asked().pop().unwrap();
    let http = http_of(&question);
    assert_eq!((http.body.as_str(), http.headers["x-envoy-auth-partial-body"].as_str()), ("xxxxxxxx", "true"));
}

#[tokio::test]
async fn who_leaves_or_is_cut_while_it_thinks_waits_no_longer() {
    let opa = Grpc::start(by_path).await;
    let scene = Scene::start(&format!("grpc: \"{}\", timeout: 10s", opa.address)).await;
    let mut client = H2Client::connect(scene.outbound).await;
    let request = client.request("GET", "/hang").body(empty()).unwrap();
    let leaving = tokio::spawn(client.sender.send_request(request));
    eventually("it is asked", || (opa.asked().len() == 1).then_some(())).await;
    leaving.abort();
    eventually("the question is given up", || (opa.given_up.load(SeqCst) == 1).then_some(())).await;

    let mut client = H2Client::connect(scene.outbound).await;
    let request = client.request("GET", "/hang").body(empty()).unwrap();
    let waiting = tokio::spawn(client.sender.send_request(request));
    eventually("it is asked again", || (opa.asked().len() == 2).then_some(())).await;
    let section = sections(&format!("grpc: \"{}\"", opa.address), scene.inbound, &scene.app);
    scene.orders.apply(&section.replace("/never/**", "/**")).await.unwrap();
    let reply = within("an answer", waiting).await.unwrap();
    assert!(reply.is_err() || reply.unwrap().status() == 503);
    eventually("that question too", || (opa.given_up.load(SeqCst) == 2).then_some(())).await;
    assert!(scene.app.seen().is_empty());
}

/// An authorizer of Envoy's HTTP form, by the path that it is asked.
async fn http_authorizer(seen: Arc<Mutex<Vec<(http::request::Parts, bytes::Bytes)>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let seen = seen.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let response = Response::builder().header("x-tenant", "acme").header("x-other", "o");
                    let response = match head.uri.path() {
                        "/check/login" => {
                            response.status(302).header("location", "/sign-in").header("set-cookie", "a=1")
                        }
                        "/check/broken" => response.status(500),
                        _ => response.status(200),
                    };
                    let body = body.collect().await.unwrap().to_bytes();
                    seen.lock().unwrap().push((head, body));
                    Ok::<_, Infallible>(response.body(Full::new(bytes::Bytes::from_static(b"words"))).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn the_http_form_has_the_requests_method_and_path_and_no_more_headers_than_are_named() {
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let address = http_authorizer(seen.clone()).await;
    let lines = "path_prefix: /check, request_headers: [cookie], upstream_headers: [x-tenant], client_headers: [set-cookie], \
                 body: { max: 1KiB }";
    let scene = Scene::start(&format!("http: \"{address}\", {lines}")).await;
    let mut client = H2Client::connect(scene.outbound).await;
    let request = client
        .request("PUT", "/orders?a=1")
        .header("cookie", "c=1")
        .header("authorization", "Basic YTpi")
        .header("x-tenant", "forged")
        .header("x-private", "p");
    let reply = client.send(request.body(full("body")).unwrap()).await.unwrap();
    assert_eq!(reply.status, 200);
    let (head, body) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(
        (head.method.as_str(), head.uri.to_string().as_str(), &body[..]),
        ("PUT", "/check/orders?a=1", &b"body"[..])
    );
    assert_eq!(
        (&head.headers["cookie"], &head.headers["authorization"]),
        (&"c=1".parse().unwrap(), &"Basic YTpi".parse().unwrap())
    );
    assert!(!head.headers.contains_key("x-private") && !head.headers.contains_key("x-tenant"));
    let arrived = scene.app.last();
    assert_eq!((arrived.all("x-tenant"), &arrived.body[..]), (vec!["acme".to_owned()], &b"body"[..]));
    assert!(arrived.all("x-other").is_empty());

    let reply = client.send(client.request("GET", "/login").body(empty()).unwrap()).await.unwrap();
    assert_eq!(
        (reply.status, reply.header("location"), &reply.body[..]),
        (StatusCode::FOUND, "/sign-in", &b"words"[..])
    );
    assert_eq!((reply.header("set-cookie"), reply.headers.contains_key("x-other")), ("a=1", false));
    let reply = client.send(client.request("GET", "/broken").body(empty()).unwrap()).await.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(scene.refused("/broken").await["refusal"], "external_unavailable");
}
