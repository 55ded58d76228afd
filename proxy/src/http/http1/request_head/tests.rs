use super::*;
use crate::http::headers::check_framing;
use crate::http::http1::wire::Wire;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

const LIMITS: HeadLimits = HeadLimits { fields: 100, bytes: 4096 };

/// So many bytes a read.
struct Pieces<'a> {
    left: &'a [u8],
    step: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, left) = self.left.split_at(self.left.len().min(self.step).min(buffer.remaining()));
        buffer.put_slice(piece);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

/// Requests up to the first that is refused, or whose body is none: its number, or 0; and how many there were.
fn first_refused(bytes: &[u8], step: usize) -> (u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut wire = Wire::new(Pieces { left: bytes, step });
        let mut number = 0;
        loop {
            let head = match wire.take_head(LIMITS.bytes, |unread| take(unread, LIMITS)) {
                Ok(Some(head)) => head,
                Ok(None) => match poll_fn(|context| wire.poll_fill(context)).await.unwrap() {
                    0 => return (0, number),
                    _ => continue,
                },
                Err(_) => return (number + 1, number),
            };
            number += 1;
            if check_framing(&head.parts).is_err() {
                assert!(!head.keeps || head.parts.headers.contains_key("expect"), "{:?}", head.parts);
                return (number, number);
            }
            let mut body = head.body;
            while let Some(frame) = poll_fn(|context| body.poll_frame(&mut wire, context)).await {
                if frame.is_err() {
                    return (number + 1, number);
                }
            }
            if !head.keeps {
                return (0, number);
            }
        }
    })
}

#[test]
fn sm_01_02_08_nothing_follows_a_head_with_two_lengths_or_a_bare_line_feed() {
    let plain = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let both = "POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX";
    let chunked =
        "POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0A \r\n0123456789\r\n0\r\nx: y\r\n\r\n";
    let long = format!("GET /{} HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(500), "b".repeat(500));
    for (bytes, expected) in [
        (String::new(), 0),
        (plain.to_owned(), 0),
        (plain.repeat(3), 0),
        (both.to_owned(), 1),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n".to_owned(), 1),
        (format!("{plain}{chunked}{plain}{both}"), 4),
        (format!("{long}{long}{both}"), 3),
        (format!("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n\n\n\n\nx{both}"), 2),
        (format!("\r\n\r\n{plain}{both}"), 2),
        ("GET / HTTP/1.1\nhost: a\n\n".to_owned(), 1),
        (format!("\n{plain}"), 1),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\n\r\n".to_owned(), 1),
        (format!("{plain}GET / HTTP/1.1\r\nhost: a\r\n\n"), 2),
        (format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc{plain}"), 2),
        (format!("POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n{plain}"), 1),
        (format!("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello{plain}"), 1),
        (format!("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{plain}"), 1),
        (format!("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n{plain}"), 1),
        (format!("GET / HTTP/1.1\r\nx(: 1\r\n\r\n{plain}"), 1),
        (format!("GET / HTTP/1.1\r\nx: 1\r\n 2\r\n\r\n{plain}"), 1),
    ] {
        for step in [1, 2, 7, bytes.len().max(1)] {
            assert_eq!(first_refused(bytes.as_bytes(), step).0, expected, "{bytes:?} in steps of {step}");
        }
    }
}

#[test]
fn pn_07_finds_a_fragment_in_a_target_of_any_length_and_nowhere_else() {
    let long = "a".repeat(500);
    for (line, expected) in [
        ("GET /admin#x HTTP/1.1".to_owned(), 1),
        ("GET /# HTTP/1.1".to_owned(), 1),
        (format!("GET /{long}#{long} HTTP/1.1"), 1),
        ("GET /a%23b HTTP/1.1".to_owned(), 0),
        ("GET / HTTP/1.1\r\nx: #".to_owned(), 0),
        ("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n#GET / HTTP/1.1".to_owned(), 0),
    ] {
        let bytes = format!("{line}\r\nhost: a\r\n\r\n");
        for step in [1, 7, bytes.len()] {
            assert_eq!(first_refused(bytes.as_bytes(), step).0, expected, "{line} in steps of {step}");
        }
    }
}

#[test]
fn hd_23_limits_are_exact() {
    let head = |fields: usize, bytes: usize| {
        let lines: String = (1..fields).map(|index| format!("x-{index}: y\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\n{lines}pad: ");
        let padding = bytes.saturating_sub(head.len() + 4);
        format!("{head}{}\r\n\r\n", "p".repeat(padding))
    };
    for (fields, bytes, expected) in [(100, 4096, 0), (101, 4096, 1), (5, 4096, 0), (5, 4097, 1), (5, 9000, 1)] {
        for step in [1, 1000, 10_000] {
            assert_eq!(
                first_refused(head(fields, bytes).as_bytes(), step).0,
                expected,
                "{fields} of {bytes} by {step}"
            );
        }
    }
    // What is above them is refused before it ends, and not before it is.
    let begun = |bytes: usize| take(&mut BytesMut::from(&head(5, 9000)[..bytes]), LIMITS);
    assert!(matches!(begun(4096), Ok(None)));
    assert!(matches!(begun(4097), Err(Unreadable::LongHead)));
    let endless = head(5, 9000);
    assert_eq!(first_refused(&endless.as_bytes()[..5000], 1000).0, 1);
    // Above what fits in place.
    let limits = HeadLimits { fields: 200, bytes: 1 << 16 };
    assert!(take(&mut BytesMut::from(head(150, 8000).as_str()), limits).unwrap().is_some());
    let limits = HeadLimits { fields: 100, bytes: 1 << 20 };
    let to = |bytes: usize| BytesMut::from(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(bytes - 1)).as_str());
    let longest = take(&mut to(TARGET_BYTES_MAX), limits).unwrap().unwrap();
    assert_eq!(longest.parts.uri.path().len(), TARGET_BYTES_MAX);
    assert!(matches!(take(&mut to(TARGET_BYTES_MAX + 1), limits), Err(Unreadable::LongTarget)));
}

#[test]
fn ds_02_knows_whether_a_head_has_begun() {
    for (bytes, expected) in [("", false), ("\r\n\r\n", false), ("G", true), ("\r\nGET / HTTP/1.1\r\n", true)] {
        assert_eq!(has_begun(bytes.as_bytes()), expected, "{bytes:?}");
    }
}

#[test]
fn rfc9112_9_3_the_next_request_comes_where_both_can_tell() {
    for (head, keeps) in [
        ("GET / HTTP/1.1\r\n", true),
        ("GET / HTTP/1.1\r\nconnection: x, Close\r\n", false),
        ("GET / HTTP/1.0\r\n", false),
        ("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n", true),
        ("GET / HTTP/1.0\r\nconnection: keep-alive, close\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n", false),
    ] {
        let read = take(&mut BytesMut::from(format!("{head}host: a\r\n\r\n").as_str()), LIMITS).unwrap().unwrap();
        assert_eq!(read.keeps, keeps, "{head:?}");
    }
}

#[test]
fn rfc9110_10_1_what_a_caller_asks_for_besides_is_heard() {
    for (head, expects_continue, takes_trailers, asks_upgrade) in [
        ("HTTP/1.1", false, false, false),
        ("HTTP/1.1\r\nexpect: 100-Continue", true, false, false),
        ("HTTP/1.1\r\nexpect: 100", false, false, false),
        ("HTTP/1.0\r\nexpect: 100-continue", false, false, false),
        ("HTTP/1.1\r\nte: Trailers", false, true, false),
        ("HTTP/1.1\r\nte: gzip;q=0.5 , trailers\r\nte: gzip", false, true, false),
        ("HTTP/1.1\r\nte: gzip", false, false, false),
        ("HTTP/1.1\r\nupgrade: websocket\r\nx: y", false, false, true),
        ("HTTP/1.1\r\nx: 100-continue, trailers, upgrade", false, false, false),
    ] {
        let bytes = format!("GET / {head}\r\n\r\n");
        let read = take(&mut BytesMut::from(bytes.as_str()), LIMITS).unwrap().unwrap();
        let found = (read.expects_continue, read.takes_trailers, read.asks_upgrade);
        assert_eq!(found, (expects_continue, takes_trailers, asks_upgrade), "{head:?}");
    }
}

fn honest_request() -> impl Strategy<Value = Vec<u8>> {
    let body = proptest::collection::vec(any::<u8>(), 0..40);
    (body, prop_oneof![Just(0_usize), 1_usize..9]).prop_map(|(body, chunk)| {
        let mut request = b"POST /x HTTP/1.1\r\nhost: a\r\n".to_vec();
        if chunk == 0 {
            request.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
            request.extend(body);
        } else {
            request.extend(b"transfer-encoding: chunked\r\n\r\n");
            for piece in body.chunks(chunk) {
                request.extend(format!("{:x}\r\n", piece.len()).bytes());
                request.extend(piece);
                request.extend(b"\r\n");
            }
            request.extend(b"0\r\n\r\n");
        }
        request
    })
}

proptest! {
    #[test]
    fn honest_requests_are_never_refused_however_they_arrive(
        requests in proptest::collection::vec(honest_request(), 1..5),
        step in 1_usize..50,
    ) {
        let count = requests.len() as u64;
        let mut bytes = requests.concat();
        assert_eq!(first_refused(&bytes, step), (0, count));
        bytes.extend(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n");
        assert_eq!(first_refused(&bytes, step).0, count + 1);
    }

    #[test]
    fn any_bytes_in_any_pieces_are_read_the_same_way(bytes in "(GET / HTTP/1.1\r\n|[a-c]: [0-9]{0,3}|content-length: 3|\r\n|\n|\r|.|transfer-encoding: chunked){0,12}", step in 1_usize..20) {
        // Of a head that does not end, it is not always known that it is none.
        let (pieces, whole) = (first_refused(bytes.as_bytes(), step), first_refused(bytes.as_bytes(), usize::MAX));
        assert_eq!(pieces.1, whole.1);
        assert!(pieces.0 == whole.0 || pieces.0 == 0, "{pieces:?}, {whole:?}");
    }
}
