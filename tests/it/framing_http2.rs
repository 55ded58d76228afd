//! HTTP/2 requests with more than one meaning, written frame by frame (THREATS HD-06, HD-07, SM-17 to SM-19).

use postern_tests::http2_raw::{DATA, END_HEADERS, END_STREAM, HEADERS, PROTOCOL_ERROR, RST_STREAM, block, frame, get};
use postern_tests::mesh::WEB;
use postern_tests::{H2Raw, HttpApp, Mesh, Pair};

/// How the first stream of a connection was answered.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    Status(u16),
    /// The stream or the connection was reset.
    Reset,
}

async fn ask(to: std::net::SocketAddr, fields: &[(&str, &[u8])], body: Option<&[u8]>) -> Answered {
    let mut client = H2Raw::connect(to).await;
    let end = if body.is_some() { 0 } else { END_STREAM };
    client.send(frame(HEADERS, END_HEADERS | end, 1, &block(fields))).await;
    if let Some(body) = body {
        client.send(frame(DATA, END_STREAM, 1, body)).await;
    }
    match client.answer(1).await {
        Ok(status) => Answered::Status(status),
        Err(_) => Answered::Reset,
    }
}

const METHOD: (&str, &[u8]) = (":method", b"POST");
const SCHEME: (&str, &[u8]) = (":scheme", b"http");
const PATH: (&str, &[u8]) = (":path", b"/evil");
const AUTHORITY: (&str, &[u8]) = (":authority", b"good");

type Case<'a> = (&'a str, &'a [(&'a str, &'a [u8])], Option<&'a [u8]>);

/// All of them are for the path `/evil`, or for none.
const AMBIGUOUS: &[Case<'_>] = &[
    ("HD-06", &[METHOD, SCHEME, PATH, AUTHORITY, ("host", b"evil")], None),
    ("HD-07 no authority, no host", &[METHOD, SCHEME, PATH], None),
    ("HD-07 no authority, two hosts", &[METHOD, SCHEME, PATH, ("host", b"a"), ("host", b"b")], None),
    ("HD-07 two authorities", &[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY], None),
    ("HD-03 user in the authority", &[METHOD, SCHEME, PATH, (":authority", b"u@good")], None),
    ("HD-25 space around a value", &[METHOD, SCHEME, PATH, AUTHORITY, ("x", b" a ")], None),
    ("SM-17 too long", &[METHOD, SCHEME, PATH, AUTHORITY, ("content-length", b"1")], Some(b"abc")),
    ("SM-17 too short", &[METHOD, SCHEME, PATH, AUTHORITY, ("content-length", b"10")], Some(b"abc")),
    ("SM-17 none", &[METHOD, SCHEME, PATH, AUTHORITY, ("content-length", b"5")], None),
    ("HD-26", &[METHOD, SCHEME, PATH, AUTHORITY, ("content-length", b"3"), ("content-length", b"3")], Some(b"abc")),
    ("SM-18 te", &[METHOD, SCHEME, PATH, AUTHORITY, ("transfer-encoding", b"chunked")], Some(b"0\r\n\r\n")),
    ("SM-18 connection", &[METHOD, SCHEME, PATH, AUTHORITY, ("connection", b"close")], None),
    ("SM-18 upgrade", &[METHOD, SCHEME, PATH, AUTHORITY, ("upgrade", b"h2c")], None),
    ("SM-18 te: gzip", &[METHOD, SCHEME, PATH, AUTHORITY, ("te", b"gzip")], None),
    ("SM-19 upper case", &[METHOD, SCHEME, PATH, AUTHORITY, ("X-Upper", b"a")], None),
    ("SM-19 line break in a value", &[METHOD, SCHEME, PATH, AUTHORITY, ("x", b"a\r\nhost: evil")], None),
    ("SM-19 colon in a name", &[METHOD, SCHEME, PATH, AUTHORITY, ("x:y", b"a")], None),
    ("SM-19 method", &[(":method", b"GET / HTTP/1.1\r\n"), SCHEME, PATH, AUTHORITY], None),
    ("SM-19 scheme", &[METHOD, (":scheme", b"file"), PATH, AUTHORITY], None),
    ("SM-19 space in the path", &[METHOD, SCHEME, (":path", b"/evil x"), AUTHORITY], None),
    ("SM-19 other scheme with a path", &[METHOD, (":scheme", b"http://x/?"), PATH, AUTHORITY], None),
    ("SM-19 unknown pseudo-header", &[METHOD, SCHEME, PATH, AUTHORITY, (":evil", b"a")], None),
    ("SM-19 pseudo-header last", &[METHOD, SCHEME, AUTHORITY, ("x", b"a"), PATH], None),
    ("SM-18 keep-alive", &[METHOD, SCHEME, PATH, AUTHORITY, ("keep-alive", b"1")], None),
    ("SM-18 proxy-connection", &[METHOD, SCHEME, PATH, AUTHORITY, ("proxy-connection", b"close")], None),
    ("SM-22 CONNECT", &[(":method", b"CONNECT"), AUTHORITY], None),
    ("SM-22 CONNECT with a body", &[(":method", b"CONNECT"), AUTHORITY, ("content-length", b"4")], Some(b"evil")),
    ("SM-22 extended CONNECT", &[(":method", b"CONNECT"), (":protocol", b"websocket"), SCHEME, PATH, AUTHORITY], None),
    ("PN-16 no path", &[METHOD, SCHEME, AUTHORITY], None),
    ("PN-16 empty path", &[METHOD, SCHEME, (":path", b""), AUTHORITY], None),
    ("PN-16 gRPC without a slash", &[METHOD, SCHEME, (":path", b"Svc/Evil"), AUTHORITY], None),
    ("PN-16 absolute path", &[METHOD, SCHEME, (":path", b"http://evil/admin"), AUTHORITY], None),
    ("PN-15 asterisk", &[METHOD, SCHEME, (":path", b"*"), AUTHORITY], None),
    ("SM-06 look-alike", &[METHOD, SCHEME, PATH, AUTHORITY, ("content_length", b"5")], None),
    ("SM-19 no slash", &[METHOD, SCHEME, (":path", b"evil"), AUTHORITY], None),
];

async fn refuses(rows: &[&str]) {
    let app = HttpApp::start().await;
    let pair = Pair::raw_to_http(app.address).await;
    let mut wrong = Vec::new();
    let cases: Vec<_> = AMBIGUOUS.iter().filter(|(row, _, _)| rows.contains(&&row[..5])).collect();
    assert!(cases.len() >= rows.len());
    for (row, fields, body) in &cases {
        let answered = ask(pair.outbound, fields, *body).await;
        let is_connect = *row == "SM-22 CONNECT";
        let refused = matches!(answered, Answered::Reset | Answered::Status(400))
            || is_connect && answered == Answered::Status(999);
        // What is malformed by its length may have begun: it must not end well.
        let began = row.starts_with("SM-17") || row.starts_with("SM-18 te");
        if !(refused || began && answered != Answered::Status(200)) || !app.seen().is_empty() {
            wrong.push(format!("{row}: {answered:?}, {:?}", app.seen()));
        }
        let honest = ask(pair.outbound, &[METHOD, SCHEME, (":path", b"/bytes/1"), AUTHORITY], None).await;
        assert_eq!(honest, Answered::Status(200), "after {row}");
        assert_eq!(app.take_seen().len(), 1);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Each is on record: as a request with its reason, in the number of streams that became none, or as the end of its
    // connection.
    let connections = pair.orders.records_of("connection", 2 * cases.len()).await;
    let requests: Vec<_> = pair.orders.records().into_iter().filter(|record| record["kind"] == "request").collect();
    let reasons = requests.iter().filter(|record| record["refusal"].is_string() || record["end"].is_string()).count();
    let refused: u64 = connections.iter().filter_map(|record| record["http2.streams_refused"].as_u64()).sum();
    let ended = connections.iter().filter(|record| record["end"].is_string()).count();
    let on_record = (reasons + ended) as u64 + refused;
    assert!(on_record >= cases.len() as u64, "{on_record} of {}: {requests:#?} {connections:#?}", cases.len());
}

#[tokio::test]
async fn hd_03_hd_06_hd_07_authorities_with_two_meanings_are_refused() {
    refuses(&["HD-03", "HD-06", "HD-07"]).await;
}

#[tokio::test]
async fn hd_25_hd_26_values_that_http_1_would_read_differently_are_refused() {
    refuses(&["HD-25", "HD-26"]).await;
}

#[tokio::test]
async fn sm_17_sm_18_framing_that_http_2_does_not_have_is_refused() {
    refuses(&["SM-17", "SM-18"]).await;
}

#[tokio::test]
async fn sm_06_sm_19_sm_22_names_values_and_methods_that_break_out_are_refused() {
    refuses(&["SM-06", "SM-19", "SM-22"]).await;
}

#[tokio::test]
async fn pn_15_pn_16_paths_that_are_none_are_refused() {
    refuses(&["PN-15", "PN-16"]).await;
}

#[tokio::test]
async fn pn_07_a_fragment_of_http_2_is_neither_matched_nor_passed_on() {
    let app = HttpApp::start().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB}, paths: [\"/ok/**\"] }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    let path = |path: &'static [u8]| [METHOD, SCHEME, (":path", path), AUTHORITY];
    assert_eq!(ask(pair.outbound, &path(b"/admin#/../ok/x"), None).await, Answered::Status(999));
    assert!(app.seen().is_empty());
    if ask(pair.outbound, &path(b"/ok/x#/admin"), None).await == Answered::Status(200) {
        assert!(!app.last().target.contains("admin"), "{:?}", app.last());
    }
}

/// RFC 9110 §9.3.2, and RFC 9113 §8.1.1: callers take content after all for a malformed answer, and reset its stream.
#[tokio::test]
async fn a_head_that_is_refused_gets_an_answer_without_content() {
    let app = HttpApp::start().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB}, paths: [\"/ok/**\"] }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    for (method, has_content) in [("GET", true), ("HEAD", false)] {
        let mut client = H2Raw::connect(pair.outbound).await;
        let fields = [(":method", method.as_bytes()), SCHEME, (":path", b"/closed"), AUTHORITY];
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))).await;
        let answer = client.until(|frame| frame.stream == 1).await.expect("an answer");
        assert_eq!((answer.kind, answer.status()), (HEADERS, 999));
        assert_eq!(answer.flags & END_STREAM == 0, has_content, "{method}");
    }
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn sm_19_pseudo_headers_in_trailers_change_nothing() {
    let app = HttpApp::start().await;
    let pair = Pair::raw_to_http(app.address).await;
    let mut client = H2Raw::connect(pair.outbound).await;
    client.send(frame(HEADERS, END_HEADERS, 1, &block(&[METHOD, SCHEME, (":path", b"/ok"), AUTHORITY]))).await;
    client.send(frame(DATA, 0, 1, b"body")).await;
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", b"/evil"), ("x-last", b"yes")]))).await;
    let answered = client.answer(1).await;
    assert!(!app.seen().iter().any(|seen| seen.target.contains("evil")), "{answered:?} {:?}", app.seen());
}

#[tokio::test]
async fn streams_that_never_become_requests_are_counted_by_code_and_connection() {
    let app = HttpApp::start().await;
    let pair = Pair::raw_to_http(app.address).await;
    let mut client = H2Raw::connect(pair.outbound).await;
    for stream in [1, 3, 5] {
        let bad = [METHOD, SCHEME, PATH, AUTHORITY, ("connection", b"close".as_slice())];
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&bad))).await;
        assert_eq!(client.until(|frame| frame.kind == RST_STREAM).await.unwrap().code(), Some(PROTOCOL_ERROR));
    }
    client.send(get(7, "/bytes/1")).await;
    assert_eq!(client.answer(7).await, Ok(200), "the connection is as good as before");
    drop(client);
    let record = &pair.orders.records_of("connection", 1).await[0];
    assert_eq!((&record["http2.streams_refused"], &record["requests"]), (&3.into(), &1.into()), "{record}");
    let resets = "postern_stream_resets_total{direction=\"inbound\",name=\"orders\",code=\"protocol_error\"}";
    assert_eq!(pair.orders.metric(resets), 3.0);
}

#[tokio::test]
async fn hd_07_a_single_host_stands_in_for_the_authority() {
    let app = HttpApp::start().await;
    let port = format!("protocol: http\napp_http: 1\nallow: [{{ spiffe: {WEB} }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: tcp").await;
    let answered = ask(pair.outbound, &[METHOD, SCHEME, PATH, ("host", b"good")], None).await;
    assert_eq!(answered, Answered::Status(200));
    assert_eq!(app.last().all("host"), ["good"]);
    let answered = ask(pair.outbound, &[METHOD, SCHEME, PATH, AUTHORITY], None).await;
    assert_eq!(answered, Answered::Status(200));
    assert_eq!(app.last().all("host"), ["good"], "hyper's client writes none by itself");
}
