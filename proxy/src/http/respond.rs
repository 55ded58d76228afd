//! Writes refusals: the only place that does.

use super::body::ResponseBody;
use super::http1::response_head::{self, Asked};
use crate::refusal::{Refusal, Refused};
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use http_body::Body as _;

/// To the peer's sidecar: `code; decision=id`. It records the code and passes on the id alone.
pub const REFUSAL_HEADER: HeaderName = HeaderName::from_static("x-postern-refusal");
/// To applications.
pub const DECISION_HEADER: HeaderName = HeaderName::from_static("x-postern-decision");

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Who gets the refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A verified peer: its sidecar learns the code.
    MeshPeer,
    /// The application, or an anonymous caller: the decision id only.
    Other,
}

/// What of the request the answer's form depends on.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub is_grpc: bool,
    pub version: Version,
    pub is_head: bool,
    /// HTTP/1: close after it (framing cannot be trusted any more, or the connection is retired).
    pub close: bool,
}

/// gRPC callers get their status in a trailers-only response (gRPC over HTTP/2, "Responses").
pub fn refuse(refused: &Refused, decision: &str, asker: Asker, form: Form) -> Response<ResponseBody> {
    let refusal = refused.refusal;
    let text = words(refused, decision);
    let mut response = if form.is_grpc {
        let mut response = Response::new(ResponseBody::Own(None));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(refused.grpc_status())));
        insert(headers, GRPC_MESSAGE, text.trim_end());
        response
    } else if let Some(denial) = &refused.denial {
        let mut response = Response::new(ResponseBody::Own(Some(denial.body.clone()).filter(|body| !body.is_empty())));
        *response.status_mut() = denial.status;
        response.headers_mut().clone_from(&denial.headers);
        response
    } else {
        let mut response = Response::new(ResponseBody::Own(Some(Bytes::from(text))));
        *response.status_mut() = refusal.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    let headers = response.headers_mut();
    match asker {
        Asker::MeshPeer => insert(headers, REFUSAL_HEADER, &format!("{}; decision={decision}", refusal.code())),
        Asker::Other => insert(headers, DECISION_HEADER, decision),
    }
    if refused.status() == StatusCode::METHOD_NOT_ALLOWED && !headers.contains_key(ALLOW) {
        // RFC 9110 §15.5.6 wants the list of allowed methods; for CONNECT alone there is none to give.
        headers.insert(ALLOW, HeaderValue::from_static(""));
    }
    if let Some(seconds) = refused.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.get()));
    }
    // RFC 9110 §15.5.2 wants a challenge; RFC 6750 §3.1: no error code where there was no token.
    match refusal {
        Refusal::TokenMissing => headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        Refusal::TokenInvalid | Refusal::TokenReplayed => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""))
        }
        _ => None,
    };
    if form.close && form.version != Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if form.is_head { without_content(response) } else { response }
}

/// The answer to HEAD has no content (RFC 9110 §9.3.2), and may say how long it would be (§8.6). On HTTP/2 nobody after us leaves it
/// out, and strict callers reset the stream of an answer that has some.
fn without_content(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response.map(|_| ResponseBody::Own(None))
}

/// To a peer's CONNECT for a stream of a tunnel.
pub fn refuse_stream(refused: &Refused, decision: &str, asker: Asker) -> Response<()> {
    refuse(refused, decision, asker, Form { is_grpc: false, version: Version::HTTP_2, is_head: false, close: false })
        .map(drop)
}

fn words(refused: &Refused, decision: &str) -> String {
    match refused.words_outside() {
        Some(limit) => format!("refused, {limit}, decision {decision}\n"),
        None => format!("refused, decision {decision}\n"),
    }
}

/// The answer to a head that cannot be read, behind which the connection ends.
pub fn refuse_head(refused: &Refused, decision: &str, asker: Asker) -> Vec<u8> {
    let form = Form { is_grpc: false, version: Version::HTTP_11, is_head: false, close: true };
    let (head, _) = refuse(refused, decision, asker, form).into_parts();
    let text = words(refused, decision);
    let asked = Asked { version: Version::HTTP_11, is_head: false, is_connect: false, keeps: false };
    let mut bytes = response_head::write(&head, Some(text.len() as u64), asked).lines;
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Codes and ids are letters, digits, `_`, `-`: always a header value.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Reads what the peer's sidecar said: its code (bounded, of our own alphabet) and its decision id.
pub fn read_refusal(headers: &HeaderMap) -> Option<(String, Option<String>)> {
    const BYTES_MAX: usize = 64;
    let text = headers.get(REFUSAL_HEADER)?.to_str().ok()?;
    let (code, rest) = text.split_once(';').unwrap_or((text, ""));
    let plain = |text: &str| {
        let ours = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (!text.is_empty() && text.len() <= BYTES_MAX && text.bytes().all(ours)).then(|| text.to_owned())
    };
    Some((plain(code.trim())?, rest.trim().strip_prefix("decision=").and_then(plain)))
}

#[cfg(test)]
mod tests {
    use super::{Asker, Form, REFUSAL_HEADER, read_refusal, refuse, refuse_head};
    use crate::refusal::{Refusal, Refused};
    use http::{HeaderMap, HeaderValue, Version};
    use http_body::Body as _;

    fn form(is_grpc: bool) -> Form {
        Form { is_grpc, version: Version::HTTP_11, is_head: false, close: false }
    }

    #[test]
    fn peers_learn_the_code_and_applications_do_not() {
        let to_peer = refuse(&Refusal::NotAllowed.into(), "ab-1", Asker::MeshPeer, form(false));
        assert_eq!(to_peer.status(), 403);
        assert_eq!(to_peer.headers()[REFUSAL_HEADER], "not_allowed; decision=ab-1");
        let to_app = refuse(&Refusal::NotAllowed.into(), "ab-1", Asker::Other, form(false));
        assert!(!to_app.headers().contains_key(REFUSAL_HEADER));
        assert_eq!(to_app.headers()["x-postern-decision"], "ab-1");
    }

    #[test]
    fn the_answer_to_head_says_how_long_its_content_would_be_and_has_none() {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let asked = |is_head| {
                let form = Form { version, is_head, ..form(false) };
                refuse(&Refusal::NotAllowed.into(), "ab-1", Asker::MeshPeer, form)
            };
            let length = asked(false).body().size_hint().exact().expect("its length");
            assert!(length > 0);
            let answer = asked(true);
            assert_eq!(answer.headers()["content-length"], length.to_string());
            assert!(answer.body().is_end_stream());
        }
    }

    #[test]
    fn h2_16_grpc_callers_get_a_grpc_status() {
        for (refusal, status) in
            [(Refusal::NotAllowed, "7"), (Refusal::UpstreamUnreachable, "14"), (Refusal::UpstreamTimeout, "4")]
        {
            let response = refuse(&refusal.into(), "ab-1", Asker::Other, form(true));
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["grpc-status"], status);
        }
    }

    #[test]
    fn hd_23_the_answer_to_a_head_that_cannot_be_read_names_limit_and_decision() {
        let refused = Refused::new(Refusal::HeadersTooLarge, "more than 100 header fields");
        let answer = String::from_utf8(refuse_head(&refused, "ab-1", Asker::Other)).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(body, "refused, more than 100 header fields, decision ab-1\n");
        let lines: Vec<_> = head.split("\r\n").filter(|line| !line.starts_with("date: ")).collect();
        assert_eq!(
            lines,
            [
                "HTTP/1.1 431 Request Header Fields Too Large",
                "content-type: text/plain; charset=utf-8",
                "x-postern-decision: ab-1",
                "connection: close",
                &format!("content-length: {}", body.len()),
            ]
        );
        assert_eq!(head.matches("\r\ndate: ").count(), 1);
    }

    #[test]
    fn a_peers_refusal_is_read_only_in_our_own_alphabet() {
        for (text, expected) in [
            ("not_allowed; decision=ab-1", Some(("not_allowed", Some("ab-1")))),
            ("not_allowed", Some(("not_allowed", None))),
            ("", None),
            ("no spaces here; decision=x", None),
            ("ok; decision=<script>", Some(("ok", None))),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(REFUSAL_HEADER, HeaderValue::from_static(text));
            let expected = expected.map(|(code, id): (&str, Option<&str>)| (code.to_owned(), id.map(str::to_owned)));
            assert_eq!(read_refusal(&headers), expected, "{text:?}");
        }
    }
}
