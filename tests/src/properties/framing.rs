//! What we understand of a stream of requests is what the next hop will understand (THREATS SM-01 to SM-13).
//!
//! The bytes are read as on a real connection, and by a second reader without leniencies.
//! Of whatever is not refused before it is routed, both have to say the same: method, target, fields, body, and where the
//! next request begins. It is then written as it goes on to an application, and the second reader has to find one request there, the same.

use super::head_strict::{self, Seen};
use super::tokens::spell;
use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::{Method, Uri};
use http_body_util::{BodyExt, Full};
use postern::http::forward::path_of;
use postern::http::headers;
use postern::http::http1::outgoing::Outgoing;
use postern::http::http1::request_head::{self, HeadLimits};
use postern::http::http1::wire::Wire;
use postern::http::target::read_target;
use postern::upstream::http1::request::write_head;
use std::future::poll_fn;

const LIMITS: HeadLimits = HeadLimits { fields: 100, bytes: 64 << 10 };

const VOCABULARY: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n",
    "POST /x HTTP/1.1\r\nHost: a\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding",
    "Content-Length",
    ": ",
    "chunked",
    "0\r\n\r\n",
    // 9, 10 and 13 stand for themselves.
    "\t",
    "\n",
    "5\r\nhello\r\n",
    "GET http://a/ HTTP/1.0\r\n",
    "\r",
    "\r\n\r\n",
    " HTTP/1.1",
    "Connection: close\r\n",
    "Connection: ",
    "Expect: 100-continue\r\n",
    "identity",
    ", ",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Upgrade: h2c\r\n",
    "\0",
    "\r\n ",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
    "a;b=\"\r\n\"",
    "+",
    "0x",
    "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n",
    "Trailer: x\r\n",
];

/// A stream of requests.
pub(super) fn requests(bytes: &[u8]) {
    compare(&spell(bytes, VOCABULARY));
}

/// A chunked body, and a request behind it.
pub(super) fn chunks(bytes: &[u8]) {
    let mut stream = b"POST /first HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    stream.extend(spell(bytes, VOCABULARY));
    stream.extend(b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n");
    compare(&stream);
}

/// A request as it was handed on.
struct Served {
    head: Parts,
    /// `None`: it broke off.
    body: Option<Vec<u8>>,
}

/// More are not written anew: it takes its time.
const RELAYED_MAX: usize = 2;

fn compare(stream: &[u8]) {
    let served = run(serve(stream));
    let mut rest = stream;
    for (number, request) in served.iter().enumerate() {
        // What is refused for its framing ends the connection.
        if headers::check_framing(&request.head).is_err() {
            return;
        }
        let text = || stream.escape_ascii().to_string();
        let Some((seen, behind)) = head_strict::read(rest) else {
            panic!("request {number} of {}: served as {:?}, and a strict reader refuses it", text(), request.head);
        };
        if seen.body.is_none() || request.body.is_none() {
            // It has no clear end, or is within the grammar and beyond our limits (a hundred trailers, say): nothing may follow.
            assert!(request.body.is_none() || seen.body.is_some(), "a body that is none was taken in {}", text());
            assert_eq!(served.len(), number + 1, "a request behind one that was given up in {}", text());
            return;
        }
        assert!(
            same(&seen, request),
            "request {number} of {}:\n{seen:?}\n{:?} {:?}",
            text(),
            request.head,
            request.body
        );
        rest = behind;
        if number < RELAYED_MAX && request.body.is_some() {
            relay(request);
        }
    }
}

fn same(seen: &Seen, served: &Served) -> bool {
    let head = &served.head;
    // `http::Uri` has no fragment: it neither decides nor goes on (THREATS PN-07).
    let target = seen.target.split('#').next().unwrap_or_default();
    let same_target = match target.starts_with('/') {
        true => head.uri == *target,
        false => target.parse::<Uri>().is_ok_and(|uri| uri == head.uri),
    };
    seen.method == head.method.as_str()
        && same_target
        && sorted(seen.fields.clone()) == sorted(fields(&head.headers))
        && seen.body == served.body
}

fn fields(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// By name; lines of one name stay in their order.
fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// As `http/serve_http1.rs` does, for an application that reads every body and answers.
async fn serve(stream: &[u8]) -> Vec<Served> {
    let mut wire = Wire::new(stream);
    let mut served = Vec::new();
    loop {
        let head = match wire.take_head(LIMITS.bytes, |unread| request_head::take(unread, LIMITS)) {
            Ok(Some(head)) => head,
            Ok(None) => match poll_fn(|context| wire.poll_fill(context)).await.expect("memory") {
                0 => return served,
                _ => continue,
            },
            Err(_) => return served,
        };
        let mut incoming = head.body;
        let mut body = Some(Vec::new());
        while let (Some(bytes), Some(frame)) =
            (&mut body, poll_fn(|context| incoming.poll_frame(&mut wire, context)).await)
        {
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => bytes.extend_from_slice(&data),
                Ok(Err(_trailers)) => {}
                Err(_) => body = None,
            }
        }
        let goes_on = head.keeps && body.is_some() && head.parts.method != Method::CONNECT;
        served.push(Served { head: head.parts, body });
        if !goes_on {
            return served;
        }
    }
}

/// Writes the request as it would go on, and reads it as the next hop.
fn relay(request: &Served) {
    let head = &request.head;
    let Ok(target) = read_target(head, None, Some("a")) else { return };
    if head.method == Method::CONNECT || headers::requested_upgrade(head).is_err() {
        return;
    }
    let body = request.body.clone().unwrap_or_default();
    let mut onward = head.clone();
    headers::strip_request(&mut onward.headers, true);
    onward.headers.insert(HOST, target.authority().parse().expect("a header value"));
    onward.uri = Uri::from(path_of(&head.uri));
    // What decided, and the query behind it.
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{}{query}", head.uri.path());
    let written = run(write(&onward, &body));
    let text = written.escape_ascii().to_string();
    let (seen, behind) = head_strict::read(&written).unwrap_or_else(|| panic!("{head:?} went on as {text}"));
    assert_eq!(behind, b"", "{head:?} went on as {text}");
    assert_eq!((seen.method.as_str(), seen.target.as_str()), (head.method.as_str(), path.as_str()), "{text}");
    assert_eq!(seen.body.as_ref(), Some(&body), "{text}");
    let framing = |name: &str| matches!(name, "content-length" | "transfer-encoding");
    let others = |all: Vec<(String, Vec<u8>)>| sorted(all.into_iter().filter(|(name, _)| !framing(name)).collect());
    assert_eq!(others(seen.fields), others(fields(&onward.headers)), "{text}");
}

/// As `upstream/http1` does.
async fn write(head: &Parts, body: &[u8]) -> Vec<u8> {
    let (lines, framing) = write_head(head, !body.is_empty()).expect("a length that was checked");
    let body = Full::new(Bytes::copy_from_slice(body)).map_err(|never| match never {});
    let (mut message, mut written) = (Outgoing::new(lines, body, framing), Vec::new());
    poll_fn(|context| message.poll(&mut written, context)).await.expect("memory");
    written
}
