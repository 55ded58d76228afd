//! HTTP/2 requests with more than one meaning, written frame by frame (THREATS HD-06, HD-07, SM-17 to SM-19).

use postern_tests::mesh::WEB;
use postern_tests::{HttpApp, Mesh, Pair, RawClient};

/// RFC 7541 §6.2.2: literal, never indexed by us, nothing Huffman-coded.
fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name.as_bytes(), value] {
        assert!(text.len() < 127, "one byte of length is enough here");
        bytes.push(text.len() as u8);
        bytes.extend_from_slice(text);
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How the first stream of a connection was answered.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    Status(u16),
    /// The stream or the connection was reset.
    Reset,
}

async fn ask(to: std::net::SocketAddr, fields: &[(&str, &[u8])], body: Option<&[u8]>) -> Answered {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let end = if body.is_some() { 0 } else { END_STREAM };
    bytes.extend(frame(HEADERS, END_HEADERS | end, 1, &block));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    let mut client = RawClient::connect(to).await;
    client.send(bytes).await;
    loop {
        let Ok(head) = client.take(9).await else { return Answered::Reset };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Ok(payload) = client.take(length).await else { return Answered::Reset };
        match head[3] {
            HEADERS => return Answered::Status(status(&payload)),
            RST_STREAM | GOAWAY => return Answered::Reset,
            _ => {}
        }
    }
}

/// `:status` comes first: an entry of the static table (RFC 7541, appendix A), or a literal with its name from there.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may stand before it (§6.3).
    let start = block.iter().position(|byte| byte & 0xE0 != 0x20).unwrap_or(0);
    match block[start] {
        0x88 => 200,
        0x89 => 204,
        0x8A => 206,
        0x8B => 304,
        0x8C => 400,
        0x8D => 404,
        0x8E => 500,
        // Three digits, Huffman-coded or not, are more than this test tells apart.
        _ => 999,
    }
}

const METHOD: (&str, &[u8]) = (":method", b"POST");
const SCHEME: (&str, &[u8]) = (":scheme", b"http");
const PATH: (&str, &[u8]) = (":path", b"/evil");
const AUTHORITY: (&str, &[u8]) = (":authority", b"good");

#[tokio::test]
async fn requests_with_more_than_one_meaning_are_refused_with_nothing_at_the_application() {
    let app = HttpApp::start().await;
    let pair = Pair::raw_to_http(app.address).await;
    type Case<'a> = (&'a str, &'a [(&'a str, &'a [u8])], Option<&'a [u8]>);
    let cases: &[Case<'_>] = &[
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
        ("SM-19 no slash", &[METHOD, SCHEME, (":path", b"evil"), AUTHORITY], None),
    ];
    let mut wrong = Vec::new();
    for (row, fields, body) in cases {
        let answered = ask(pair.outbound, fields, *body).await;
        let refused = matches!(answered, Answered::Reset | Answered::Status(400));
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
