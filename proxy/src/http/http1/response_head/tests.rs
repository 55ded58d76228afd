use super::*;
use http::{HeaderMap, Response};

fn written(status: u16, fields: &[(&'static str, &str)], length: Option<u64>, asked: Asked) -> (String, Written) {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    let (head, ()) = response.header("date", "x").body(()).unwrap().into_parts();
    let written = write(&head, length, asked);
    let text = String::from_utf8(written.lines.clone()).unwrap();
    (text, written)
}

const KEPT: Asked = Asked { version: Version::HTTP_11, is_head: false, is_connect: false, keeps: true };

#[test]
fn rfc9112_6_the_end_of_a_body_is_told_in_a_way_that_the_caller_knows() {
    let old = Asked { version: Version::HTTP_10, ..KEPT };
    let head = Asked { is_head: true, ..KEPT };
    let connect = Asked { is_connect: true, ..KEPT };
    let close = Asked { keeps: false, ..KEPT };
    for (asked, status, fields, length, expected, keeps) in [
        (KEPT, 200, vec![], Some(5), "HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 5\r\n\r\n", true),
        (
            KEPT,
            200,
            vec![("content-length", "5")],
            Some(5),
            "HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 5\r\n\r\n",
            true,
        ),
        (KEPT, 200, vec![], None, "HTTP/1.1 200 OK\r\ndate: x\r\ntransfer-encoding: chunked\r\n\r\n", true),
        (KEPT, 200, vec![], Some(0), "HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 0\r\n\r\n", true),
        (old, 200, vec![], None, "HTTP/1.0 200 OK\r\ndate: x\r\n\r\n", false),
        (
            old,
            200,
            vec![],
            Some(5),
            "HTTP/1.0 200 OK\r\ndate: x\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n",
            true,
        ),
        (
            close,
            200,
            vec![],
            Some(5),
            "HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
            false,
        ),
        (
            KEPT,
            200,
            vec![("connection", "close")],
            Some(0),
            "HTTP/1.1 200 OK\r\nconnection: close\r\ndate: x\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
        (
            head,
            200,
            vec![("content-length", "9")],
            Some(0),
            "HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 9\r\n\r\n",
            true,
        ),
        (head, 403, vec![], Some(7), "HTTP/1.1 403 Forbidden\r\ndate: x\r\ncontent-length: 7\r\n\r\n", true),
        (head, 200, vec![], None, "HTTP/1.1 200 OK\r\ndate: x\r\n\r\n", true),
        (KEPT, 204, vec![("content-length", "9")], Some(0), "HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n", true),
        (
            KEPT,
            304,
            vec![("content-length", "9")],
            Some(0),
            "HTTP/1.1 304 Not Modified\r\ndate: x\r\ncontent-length: 9\r\n\r\n",
            true,
        ),
        (connect, 200, vec![("content-length", "9")], Some(0), "HTTP/1.1 200 OK\r\ndate: x\r\n\r\n", true),
        (
            KEPT,
            101,
            vec![("connection", "upgrade")],
            Some(0),
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\ndate: x\r\n\r\n",
            true,
        ),
    ] {
        let (text, written) = written(status, &fields, length, asked);
        assert_eq!((text.as_str(), written.keeps), (expected, keeps), "{asked:?} {fields:?}");
        let has_body = matches!(written.framing, Framing::Length(1..) | Framing::Chunks | Framing::UntilEnd);
        assert_eq!(has_body, length != Some(0) && !asked.is_head && status == 200, "{expected}");
        assert_eq!(written.switches, status == 101 || asked.is_connect);
    }
}

#[test]
fn a_reason_of_the_applications_own_goes_on() {
    let (mut head, ()) = Response::new(()).into_parts();
    head.headers = HeaderMap::new();
    head.extensions.insert(ReasonPhrase::from_static(b"Fine"));
    assert!(write(&head, Some(0), KEPT).lines.starts_with(b"HTTP/1.1 200 Fine\r\ndate: "));
}
