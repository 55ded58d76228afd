//! A head that the HTTP library does not take is a request all the same: one answer, one decision, one record, one count.

use postern_tests::mesh::WEB;
use postern_tests::pair::inbound_section;
use postern_tests::{H2Client, HttpApp, Mesh, Pair, RawApp, RawClient, Sidecar, ports};
use std::net::SocketAddr;

const PLAIN: &str = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";

async fn orders(mesh: &Mesh, app: SocketAddr, rest: &str) -> (Sidecar, SocketAddr) {
    let listen = ports::free();
    let section = format!("{}{rest}\n", inbound_section(listen, &app.to_string(), PLAIN));
    (mesh.sidecar("orders", &section).await, listen)
}

#[tokio::test]
async fn heads_that_are_not_taken_are_answered_decided_recorded_and_counted() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let (orders, listen) = orders(&mesh, app.address, "").await;
    let many: String = (0..101).map(|index| format!("x-{index}: y\r\n")).collect();
    let large = format!("GET /large?secret HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(70 << 10));
    let rows = [
        (
            format!("GET /many HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
            431,
            "headers_too_large",
            "100 header fields",
            "/many",
        ),
        (large, 431, "headers_too_large", "65536 bytes", "/large"),
        ("GET /name HTTP/1.1\r\nhost: a\r\nx(: y\r\n\r\n".to_owned(), 400, "bad_request", "", "/name"),
        ("GET /version HTTP/1.2\r\nhost: a\r\n\r\n".to_owned(), 400, "bad_request", "", "/version"),
        ("GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400, "bad_request", "", ""),
    ];
    for (index, (head, status, code, words, path)) in rows.iter().enumerate() {
        let mut client = RawClient::connect(listen).await;
        // Behind an honest one: an answer to the caller is on its way out first.
        assert_eq!(client.get("a", "/honest").await.status, 200);
        client.send(head).await;
        let response = client.response().await;
        assert_eq!((response.status, response.header("connection")), (*status, Some("close")), "{path}");
        assert!(response.header("date").is_some(), "{response:?}");
        let decision = response.header("x-postern-decision").expect("a decision").to_owned();
        assert!(response.text().contains(words) && response.text().contains(&decision), "{response:?}");
        assert!(client.until_ended().await.is_empty());
        let records = orders.records_of("request", 2 * (index + 1)).await;
        let record = records.last().unwrap();
        assert_eq!(record["decision"], decision.as_str());
        assert_eq!(record["refusal"], *code, "{record}");
        assert_eq!(record["http.response.status_code"], *status, "{record}");
        assert_eq!(record["url.path"].as_str().unwrap_or_default(), *path, "{record}");
    }
    assert!(!orders.records().iter().any(|record| record.to_string().contains("secret")));
    let port = "direction=\"inbound\",name=\"orders\"";
    assert_eq!(orders.metric(&format!("postern_refusals_total{{{port},code=\"headers_too_large\"}}")), 2.0);
    assert_eq!(orders.metric(&format!("postern_requests_total{{{port},status=\"4xx\"}}")), rows.len() as f64);
    assert_eq!(orders.metric(&format!("postern_requests_active{{{port}}}")), 0.0);
}

#[tokio::test]
async fn an_applications_own_plain_refusal_passes() {
    let bare = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let (mesh, app) = (Mesh::start(), RawApp::answering(|_| Some(bare.to_vec())).await);
    let (orders, listen) = orders(&mesh, app.address, "").await;
    let mut client = RawClient::connect(listen).await;
    for _ in 0..2 {
        let response = client.get("a", "/x").await;
        assert_eq!((response.status, response.header("x-postern-decision")), (400, None));
    }
    let records = orders.records_of("request", 2).await;
    assert!(records.iter().all(|record| record.get("refusal").is_none()), "{records:#?}");
}

#[tokio::test]
async fn heads_behind_one_another_are_answered_in_order() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let (orders, listen) = orders(&mesh, app.address, "").await;
    let mut client = RawClient::connect(listen).await;
    client.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\nx(: y\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(client.response().await.status, 400);
    let records = orders.records_of("request", 2).await;
    assert_eq!(records[1]["refusal"], "bad_request");
}

#[tokio::test]
async fn the_peers_sidecar_learns_the_code_of_a_refused_head() {
    let app = RawApp::ok().await;
    let allow = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]\n");
    let pair = Pair::with(Mesh::start(), app.address, &allow, "protocol: http").await;
    // `web` lets more through than `orders` takes.
    let more = format!(
        "{}limits: {{ headers: 200 }}\n",
        postern_tests::pair::outbound_section(pair.outbound, pair.inbound, "protocol: http")
    );
    pair.web.apply(&more).await.unwrap();
    let many: String = (0..150).map(|index| format!("x-{index}: y\r\n")).collect();
    let mut client = RawClient::connect(pair.outbound).await;
    client.send(format!("GET / HTTP/1.1\r\nhost: orders.shop.svc\r\n{many}\r\n")).await;
    let response = client.response().await;
    assert_eq!(response.status, 431);
    let record = pair.web.record("request", |record| record["refusal.remote"] == "headers_too_large").await;
    assert_eq!(record["refusal.remote_decision"], response.header("x-postern-decision").unwrap());
}

#[tokio::test]
async fn http2_lists_above_the_limits_are_answered_decided_and_recorded() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (orders, listen) = orders(&mesh, app.address, "").await;
    let mut client = H2Client::connect(listen).await;
    for (index, (fields, bytes, words)) in
        [(1, 70 << 10, "65536 bytes"), (101, 1, "100 header fields"), (80, 1000, "65536 bytes")].into_iter().enumerate()
    {
        let mut request = http::Request::get("http://a/evil").body(postern_tests::client_http::empty()).unwrap();
        for field in 0..fields {
            let name = http::HeaderName::try_from(format!("x-{field}")).unwrap();
            request.headers_mut().insert(name, http::HeaderValue::try_from("y".repeat(bytes)).unwrap());
        }
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status, 431);
        let text = String::from_utf8_lossy(&response.body);
        assert!(text.contains(words), "{text}");
        let records = orders.records_of("request", index + 1).await;
        assert_eq!(records[index]["refusal"], "headers_too_large");
    }
    assert_eq!(client.get("/honest").await.unwrap().status, 200, "the connection is as good as before");
    assert_eq!(app.take_seen().len(), 1);
}
