//! What has no one reading is refused before a byte of it reaches the application (THREATS, SM and HD rows).

use postern_tests::mesh::WEB;
use postern_tests::negative::CANARY;
use postern_tests::{Mesh, Negative, Pair, RawApp, RawClient};

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
    ("SM-03 one length twice", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    ("SM-03 two spellings", "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 03\r\n\r\nabc"),
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
    ("SM-27 version twice", "GET /evil HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("SM-27 tab", "GET\t/evil\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    ("SM-27 HTTP/1.2", "GET /evil HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("SM-27 two spaces", "GET  /evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("SM-27 HTTP/0.9", "GET /evil\r\n\r\n"),
    ("SM-19 PRI", "PRI /evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("PN-15 PRI *", "PRI * HTTP/1.1\r\nHost: evil\r\n\r\n"),
    ("PN-15 GET *", "GET * HTTP/1.1\r\nHost: evil\r\n\r\n"),
    ("PN-15 OPTIONS */x", "OPTIONS */evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("PN-07 fragment", "GET /ok#/../evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("PN-07 fragment alone", "GET /#evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("PN-18 user in the target", "GET http://good@evil:80/evil HTTP/1.1\r\nHost: evil\r\n\r\n"),
    ("PN-18 no path", "GET http://h?x=/evil HTTP/1.1\r\nHost: other\r\n\r\n"),
    ("PN-24 tab behind the method", "GET\t/evil HTTP/1.1\r\nHost: a\r\n\r\n"),
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
    ("SM-22 a body of CONNECT", "CONNECT evil:80 HTTP/1.1\r\nHost: evil:80\r\nContent-Length: 4\r\n\r\nevil"),
    ("SM-22 CONNECT", "CONNECT evil:80 HTTP/1.1\r\nHost: evil:80\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n"),
];

/// Sends every request of `rows` on a connection of its own, as a peer's bytes and as the application's.
async fn refuses(rows: &[&str]) {
    let app = RawApp::ok().await;
    let of_peer = Pair::raw_to_http(app.address).await;
    let of_application = Pair::http(app.address).await;
    let mut by_peer = Negative::new(&of_peer.orders, &app, of_peer.outbound);
    let mut by_application = Negative::new(&of_application.web, &app, of_application.outbound);
    let mut found = 0;
    for (row, request) in AMBIGUOUS.iter().filter(|(row, _)| rows.contains(&&row[..5])) {
        let secret = format!("\r\nAuthorization: Bearer {CANARY}\r\n");
        // Behind the request line, unless the row is about what stands there.
        let request = if row.starts_with("SM-08 bare LF every") || row.starts_with("SM-06 space first") {
            (*request).to_owned()
        } else {
            request.replacen("\r\n", &secret, 1)
        };
        let expected: &[&str] = match *row {
            row if row.starts_with("SM-22 CONNECT") => &["405"],
            // Not even seen as HTTP: closed without a word.
            "SM-27 tab" | "PN-24 tab behind the method" | "SM-27 two spaces" => &["", "400"],
            _ => &["400", "431", "505"],
        };
        by_peer.refuses(row, request.as_bytes(), expected).await;
        by_application.refuses(row, request.as_bytes(), expected).await;
        found += 1;
    }
    assert!(found >= rows.len(), "{rows:?}");
}

#[tokio::test]
async fn sm_01_sm_02_two_ways_to_tell_a_length_are_none() {
    refuses(&["SM-01", "SM-02"]).await;
}

#[tokio::test]
async fn sm_03_lengths_that_are_no_number_or_several_are_refused() {
    refuses(&["SM-03"]).await;
}

#[tokio::test]
async fn sm_05_sm_06_codings_and_what_looks_like_one_are_refused() {
    refuses(&["SM-05", "SM-06"]).await;
}

#[tokio::test]
async fn sm_07_sm_08_sm_09_lines_that_two_parsers_read_differently_are_refused() {
    refuses(&["SM-07", "SM-08", "SM-09"]).await;
}

#[tokio::test]
async fn sm_19_sm_22_sm_27_request_lines_that_are_none_are_refused() {
    refuses(&["SM-19", "SM-22", "SM-27"]).await;
}

#[tokio::test]
async fn pn_07_pn_15_pn_18_pn_24_targets_with_two_meanings_are_refused() {
    refuses(&["PN-07", "PN-15", "PN-18", "PN-24"]).await;
}

#[tokio::test]
async fn hd_01_hd_02_hd_03_hd_06_hosts_with_two_meanings_are_refused() {
    refuses(&["HD-01", "HD-02", "HD-03", "HD-06"]).await;
}

#[tokio::test]
async fn sm_27_line_breaks_before_a_request_have_an_end() {
    let app = RawApp::ok().await;
    let pair = Pair::raw_to_http(app.address).await;
    let mut few = RawClient::connect(pair.outbound).await;
    few.send(format!("{}GET /a HTTP/1.1\r\nhost: a\r\n\r\n", "\r\n".repeat(10))).await;
    // RFC 9112 §2.2 wants at least one to be passed over; detection of the protocol takes none.
    let answer = String::from_utf8_lossy(&few.until_ended_or_response().await).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    let mut negative = Negative::new(&pair.web, &app, pair.outbound);
    let mut many = RawClient::connect(pair.outbound).await;
    many.send_what_is_taken("GET /first HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(many.response().await.status, 200);
    many.send_what_is_taken("\r\n".repeat(100_000)).await;
    let rest = String::from_utf8_lossy(&many.until_ended().await).into_owned();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 4"), "{rest:?}");
    let _ = &mut negative;
    assert_eq!(RawClient::connect(pair.outbound).await.get("a", "/honest").await.status, 200);
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
async fn sm_10_sm_12_sm_13_broken_chunks_never_end_cleanly_at_the_application() {
    let app = RawApp::ok().await;
    let pair = Pair::raw_to_http(app.address).await;
    let chunks: [&str; 11] = [
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
    let endless = [
        format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(1 << 20)),
        format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(17 << 10)),
    ];
    for chunk in chunks.into_iter().chain(endless.iter().map(String::as_str)) {
        let mut client = RawClient::connect(pair.outbound).await;
        client
            .send_what_is_taken(format!(
                "POST /broken HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"
            ))
            .await;
        let answer = String::from_utf8_lossy(&client.until_ended().await).into_owned();
        assert!(!answer.starts_with("HTTP/1.1 2"), "{:?}: {answer:?}", &chunk[..chunk.len().min(20)]);
    }
    // What nobody reads does not go on: extensions, also odd ones, end here (SM-12).
    let mut client = RawClient::connect(pair.outbound).await;
    client
        .send("POST /whole HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;odd=\x01\r\nabc\r\n0\r\n\r\n")
        .await;
    let answer = String::from_utf8_lossy(&client.until_ended_or_response().await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer:?}");
    assert!(!app.text().contains("odd"), "{}", app.text());
    let broken = app.connections().into_iter().filter(|bytes| bytes.starts_with(b"POST /broken"));
    let clean = broken.filter(|bytes| bytes.ends_with(b"0\r\n\r\n")).count();
    assert_eq!(clean, 0, "no clean end: {}", app.text());
    let mut honest = RawClient::connect(pair.outbound).await;
    assert_eq!(honest.get("a", "/honest").await.status, 200);
}

/// A length with zeros before it is a number, however many they are; a chunk's size has room for sixteen digits.
#[tokio::test]
async fn sm_01_zeros_before_a_length_hide_no_ambiguous_request() {
    let app = RawApp::ok().await;
    let pair = Pair::raw_to_http(app.address).await;
    let zeros = "0".repeat(200);
    let body = "\r\nX\r\n\r\nab";
    let both = "POST /evil HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nX";
    for (first, statuses) in [
        (format!("content-length: {zeros}9\r\n\r\n{body}"), &[200, 400][..]),
        (format!("transfer-encoding: chunked\r\n\r\n0000009\r\n{body}\r\n0\r\n\r\n"), &[200, 400]),
        (format!("transfer-encoding: chunked\r\n\r\n{zeros}9\r\n{body}\r\n0\r\n\r\n"), &[400]),
    ] {
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(format!("POST /ok HTTP/1.1\r\nhost: a\r\n{first}{both}")).await;
        for status in statuses {
            assert_eq!(client.response().await.status, *status, "{first:?}");
        }
        assert!(client.until_ended().await.is_empty(), "{first:?}");
    }
    assert!(!app.text().contains("evil"), "{}", app.text());
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
