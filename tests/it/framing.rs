//! What has no one reading is refused before a byte of it reaches the application (THREATS, SM and HD rows).

use postern_tests::mesh::WEB;
use postern_tests::{Mesh, Pair, RawApp, RawClient};
use std::net::SocketAddr;
use std::time::Duration;

/// Requests whose framing two parsers could read differently, by their row. Every one is for `/evil`.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "SM-01 CL.TE",
        "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    ),
    (
        "SM-02 TE.CL",
        "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX",
    ),
    (
        "SM-02 CL twice and TE",
        "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    ),
    ("SM-03 two lengths", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    ("SM-03 a list", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc"),
    ("SM-03 plus", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"),
    ("SM-03 minus", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc"),
    ("SM-03 hex", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc"),
    ("SM-03 space", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc"),
    ("SM-03 empty", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc"),
    ("SM-03 too large", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\nabc"),
    ("SM-05 gzip", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nabc"),
    ("SM-05 chunked, gzip", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("SM-05 gzip, chunked", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("SM-05 xchunked", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("SM-05 VT", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("SM-05 quoted", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("SM-05 parameter", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ("SM-05 NUL", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n"),
    ("SM-06 space before colon", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("SM-06 tab before colon", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    ("SM-06 space first", "POST /evil HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: a\r\n\r\n0\r\n\r\n"),
    ("SM-06 folded", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    (
        "SM-06 folded behind another",
        "POST /evil HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("SM-06 underscore", "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("SM-06 underscore length", "POST /evil HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n0\r\n\r\n"),
    ("SM-06 bare CR", "POST /evil HTTP/1.1\r\nHost: a\r\nX: x\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("SM-07 TE in HTTP/1.0", "POST /evil HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("SM-08 bare LF everywhere", "GET /evil HTTP/1.1\nHost: a\n\n"),
    ("SM-08 one bare LF", "GET /evil HTTP/1.1\r\nHost: a\r\nX: 1\n\r\n"),
    ("SM-09 bare CR", "GET /evil HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
    ("SM-09 NUL in value", "GET /evil HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    ("SM-09 NUL in name", "GET /evil HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n"),
    ("SM-09 folding", "GET /evil HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
    ("SM-09 parenthesis in name", "GET /evil HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n"),
    ("SM-09 space in name", "GET /evil HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n"),
    ("SM-09 no colon", "GET /evil HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n"),
    ("SM-09 no name", "GET /evil HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
    ("SM-26 version twice", "GET /evil HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("SM-26 tab", "GET\t/evil\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    ("SM-26 HTTP/1.2", "GET /evil HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("HD-01 two hosts", "GET /evil HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("HD-01 the same twice", "GET /evil HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("HD-01 a list", "GET /evil HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("HD-02 none", "GET /evil HTTP/1.1\r\nX: y\r\n\r\n"),
    ("HD-02 empty", "GET /evil HTTP/1.1\r\nHost:\r\n\r\n"),
    ("HD-03 path", "GET /evil HTTP/1.1\r\nHost: a/b@c#d\r\n\r\n"),
    ("HD-03 user", "GET /evil HTTP/1.1\r\nHost: u@good\r\n\r\n"),
    ("HD-03 NUL", "GET /evil HTTP/1.1\r\nHost: good\0.evil\r\n\r\n"),
    ("HD-03 bracket", "GET /evil HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    ("HD-03 large port", "GET /evil HTTP/1.1\r\nHost: good:98777\r\n\r\n"),
    ("HD-03 two ports", "GET /evil HTTP/1.1\r\nHost: good:9000:80\r\n\r\n"),
    ("HD-03 fraction", "GET /evil HTTP/1.1\r\nHost: good.:1.2\r\n\r\n"),
    ("HD-03 dot", "GET /evil HTTP/1.1\r\nHost: .\r\n\r\n"),
    ("HD-06 target against Host", "GET http://good/evil HTTP/1.1\r\nHost: other\r\n\r\n"),
    ("SM-22 CONNECT", "CONNECT evil:80 HTTP/1.1\r\nHost: evil:80\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n"),
];

/// Sends every request on a connection of its own, with an honest one after each.
async fn check_all(to: SocketAddr, app: &RawApp) {
    let mut wrong = Vec::new();
    for (row, request) in AMBIGUOUS {
        let mut client = RawClient::connect(to).await;
        // A second request right behind: whatever the first is read as, nothing of this connection may get through.
        client.send(format!("{request}GET /evil-second HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n")).await;
        let Ok(answer) = tokio::time::timeout(Duration::from_secs(10), client.until_ended()).await else {
            wrong.push(format!("{row}: neither answered nor closed"));
            continue;
        };
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let expected: &[&str] = match *row {
            "SM-22 CONNECT" => &["405"],
            // Not even seen as HTTP: closed without a word.
            "SM-26 tab" => &["", "400"],
            _ => &["400", "431", "505"],
        };
        if answer.is_empty() && expected.contains(&"") {
            continue;
        }
        if !expected.contains(&status) || answer.matches("HTTP/1.").count() != 1 {
            wrong.push(format!("{row}: {answer:?}"));
        }
        if app.text().contains("evil") {
            wrong.push(format!("{row}: reached the application"));
            break;
        }
        let mut honest = RawClient::connect(to).await;
        let response = honest.get("orders.shop.svc", "/honest").await;
        assert_eq!(response.status, 200, "after {row}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", app.text());
}

#[tokio::test]
async fn ambiguous_requests_of_a_peer_are_refused_with_zero_bytes_at_the_application() {
    let app = RawApp::ok().await;
    let pair = Pair::raw_to_http(app.address).await;
    check_all(pair.outbound, &app).await;
}

#[tokio::test]
async fn ambiguous_requests_of_the_application_do_not_leave() {
    let app = RawApp::ok().await;
    let pair = Pair::http(app.address).await;
    check_all(pair.outbound, &app).await;
}

#[tokio::test]
async fn sm_24_pipelined_requests_are_decided_one_by_one_and_answered_in_order() {
    let app = RawApp::answering(|request| {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).into_bytes())
    })
    .await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB}, paths: [\"/ok/**\"] }}]");
    for service in ["protocol: tcp", "protocol: http"] {
        let pair = Pair::with(Mesh::start(), app.address, &port, service).await;
        let mut client = RawClient::connect(pair.outbound).await;
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n");
        client.send([request("/ok/1"), request("/denied/2"), request("/ok/3")].concat()).await;
        for (status, body) in [(200, "/ok/1"), (403, ""), (200, "/ok/3")] {
            let response = client.response().await;
            assert_eq!(response.status, status);
            assert!(body.is_empty() || response.text() == body, "{response:?}");
        }
        assert!(!app.text().contains("denied"));
        let records = pair.orders.records_of("request", 3).await;
        let refusals: Vec<_> = records.iter().map(|record| record.get("refusal").and_then(|it| it.as_str())).collect();
        assert_eq!(refusals, [None, Some("not_allowed"), None]);
    }
}

#[tokio::test]
async fn sm_07_bytes_after_an_http_1_0_request_without_length_are_no_body() {
    let app = RawApp::ok().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB}, paths: [\"/ok/**\"] }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    let mut client = RawClient::connect(pair.outbound).await;
    client
        .send("POST /ok/1 HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\nGET /admin HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let first = client.response().await;
    assert_eq!(first.status, 200);
    let rest = String::from_utf8_lossy(&client.until_ended_or_response().await).into_owned();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 403"), "{rest:?}");
    assert!(!app.text().contains("admin"), "{}", app.text());
}

#[tokio::test]
async fn sm_10_13_broken_chunks_never_end_cleanly_at_the_application() {
    let app = RawApp::ok().await;
    let pair = Pair::raw_to_http(app.address).await;
    let chunks = [
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-0\r\n\r\n",
        "3_0\r\nabc\r\n0\r\n\r\n",
        "3g\r\nabc\r\n0\r\n\r\n",
        "11111111111111111\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3;a\nxx\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcde\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
    ];
    for chunk in chunks {
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(format!("POST /broken HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")).await;
        let answer = String::from_utf8_lossy(&client.until_ended().await).into_owned();
        assert!(!answer.starts_with("HTTP/1.1 2"), "{chunk:?}: {answer:?}");
    }
    assert!(!app.text().contains("\r\n0\r\n\r\n"), "no clean end: {}", app.text());
    let mut honest = RawClient::connect(pair.outbound).await;
    assert_eq!(honest.get("a", "/honest").await.status, 200);
}

#[tokio::test]
async fn sm_11_a_quoted_line_break_in_a_chunk_extension_hides_no_request() {
    let app = RawApp::ok().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB}, paths: [\"/ok/**\"] }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    let mut client = RawClient::connect(pair.outbound).await;
    client
        .send(
            "POST /ok/1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;a=\"\r\nX\r\n0\r\n\r\n\
             GET /admin HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(client.response().await.status, 403);
    assert!(!app.text().contains("admin") && !app.text().contains("a=\""), "{}", app.text());
}

#[tokio::test]
async fn hd_23_heads_above_the_limits_are_refused() {
    let app = RawApp::ok().await;
    let pair = Pair::raw_to_http(app.address).await;
    let many: String = (0..101).map(|index| format!("x-{index}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(70 << 10));
    let long_name = format!("{}: y\r\n", "n".repeat(70 << 10));
    for (what, path, headers) in [
        ("101 headers", "/evil".to_owned(), many),
        ("a large value", "/evil".to_owned(), large),
        ("a long name", "/evil".to_owned(), long_name),
        ("a long target", format!("/evil{}", "x".repeat(70 << 10)), String::new()),
    ] {
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await;
        let answer = String::from_utf8_lossy(&client.until_ended().await).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(matches!(status, "431" | "414"), "{what}: {answer:?}");
    }
    app.assert_nothing_arrived();
}
