mod watched;

use super::{Findings, LINE_BYTES_KEPT, Watch};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

/// The number of the first ambiguous head in `bytes`, fed in pieces of `step`.
fn first_ambiguous(bytes: &[u8], step: usize) -> u64 {
    let mut watch = Watch::default();
    bytes.chunks(step).for_each(|piece| watch.observe(piece));
    watch.findings.0.ambiguous.load(super::Relaxed)
}

#[test]
fn sm_01_02_08_finds_the_first_head_with_two_lengths_or_a_bare_line_feed() {
    let plain = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let both = "POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX";
    let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0A \r\n0123456789\r\n0\r\nx: y\r\nz: 1\r\n\r\n";
    let long = format!("GET /{} HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(500), "b".repeat(500));
    for (bytes, expected) in [
        (String::new(), 0),
        (plain.to_owned(), 0),
        (plain.repeat(3), 0),
        (both.to_owned(), 1),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n".to_owned(), 1),
        (format!("{plain}{chunked}{plain}{both}"), 4),
        ("POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nX".to_owned(), 1),
        (format!("{long}{long}{both}"), 3),
        (format!("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n\n\n\n\nx{both}"), 2),
        (format!("\r\n\r\n{plain}{both}"), 2),
        ("GET / HTTP/1.1\nhost: a\n\n".to_owned(), 1),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\n\r\n".to_owned(), 1),
        (format!("{plain}GET / HTTP/1.1\r\nhost: a\r\n\n"), 2),
        ("X\n\n".to_owned(), 1),
        // What hyper refuses: no request may follow it.
        (format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc{plain}"), 2),
        (format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n{plain}"), 2),
        (format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n;\r\n\r\n{plain}"), 2),
        (format!("POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n{plain}"), 2),
        (format!("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n{plain}"), 2),
    ] {
        for step in [1, 2, 7, bytes.len().max(1)] {
            assert_eq!(first_ambiguous(bytes.as_bytes(), step), expected, "{bytes:?} in steps of {step}");
        }
    }
}

/// Whoever keeps the beginning of a long line reads another number than hyper, and takes a body for the next requests: the
/// ambiguous one behind them would have another number.
#[test]
fn no_more_of_a_line_is_kept_than_tells_its_name() {
    for step in [1, 100, 127, 128, 129, 5000] {
        let mut watch = Watch::default();
        for piece in [b'a'; 10_000].chunks(step) {
            watch.observe(piece);
            assert!(watch.line.len() <= LINE_BYTES_KEPT, "{} in steps of {step}", watch.line.len());
        }
        assert_eq!((watch.line.len(), watch.line_bytes), (LINE_BYTES_KEPT, 10_000));
    }
}

#[test]
fn sm_01_sm_10_a_number_that_is_cut_off_is_no_number() {
    let head = |field: &str| format!("POST / HTTP/1.1\r\n{field}\r\n\r\n");
    let both = "POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX";
    let chunked = head("transfer-encoding: chunked");
    let body = "\r\nX\r\n\r\nab";
    let is_found = |bytes: String, expected: u64| {
        for step in [1, 7, bytes.len()] {
            assert_eq!(first_ambiguous(bytes.as_bytes(), step), expected, "{bytes:?} in steps of {step}");
        }
    };
    for zeros in [0, 50, 106, 126] {
        let zeros = "0".repeat(zeros);
        // Few enough to be read to their end: the ambiguous request stands behind two others.
        is_found(format!("{chunked}{zeros}9\r\n{body}\r\n0\r\n\r\n{}{both}", head("x: y")), 3);
    }
    for zeros in [128, 200, 4000] {
        let zeros = "0".repeat(zeros);
        is_found(format!("{}{body}{}{both}", head(&format!("content-length: {zeros}9")), head("x: y")), 2);
        is_found(format!("{chunked}{zeros}9\r\n{body}\r\n0\r\n\r\n{}{both}", head("x: y")), 2);
        is_found(format!("{chunked}9;{zeros}\r\n{body}\r\n0\r\n\r\n{}{both}", head("x: y")), 3);
        is_found(format!("{}{zeros}\r\n", head(&format!("transfer-encoding: chunked{}x", " ".repeat(200)))), 2);
        is_found(format!("{}{body}{}{both}", head(&format!("x: {zeros}\r\ncontent-length: 9")), head("x: y")), 3);
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
            assert_eq!(first_ambiguous(bytes.as_bytes(), step), expected, "{line} in steps of {step}");
        }
    }
}

#[test]
fn sm_10_finds_a_size_line_that_does_not_end() {
    for (line, is_hostile) in
        [("3".to_owned(), false), ("0".repeat(5000), true), (format!("3;{}", "x".repeat(5000)), true)]
    {
        let mut watch = Watch::default();
        watch.observe(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
        watch.observe(line.as_bytes());
        assert_eq!(watch.is_hostile(), is_hostile, "{}", line.len());
    }
}

#[test]
fn a_finding_holds_for_its_request_and_all_after_it() {
    let findings = Findings::default();
    assert!(!findings.is_ambiguous(1));
    findings.0.ambiguous.store(3, super::Relaxed);
    assert_eq!([1, 2, 3, 4].map(|number| findings.is_ambiguous(number)), [false, false, true, true]);
}

#[test]
fn ds_02_knows_whether_a_head_is_under_way() {
    for (bytes, expected) in [
        ("", false),
        ("G", true),
        ("GET / HTTP/1.1\r\n", true),
        ("GET / HTTP/1.1\r\nhost: a\r\n", true),
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET", true),
        ("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nabc", false),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcG", true),
    ] {
        let mut watch = Watch::default();
        watch.observe(bytes.as_bytes());
        assert_eq!(watch.head_begun(), expected, "{bytes:?}");
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
    fn honest_requests_are_never_ambiguous_however_they_arrive(
        requests in proptest::collection::vec(honest_request(), 1..5),
        step in 1_usize..50,
    ) {
        let count = requests.len() as u64;
        let mut bytes = requests.concat();
        assert_eq!(first_ambiguous(&bytes, step), 0);
        bytes.extend(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n");
        assert_eq!(first_ambiguous(&bytes, step), count + 1);
    }

    #[test]
    fn any_bytes_in_any_pieces_are_read_the_same_way(bytes: Vec<u8>, step in 1_usize..20) {
        assert_eq!(first_ambiguous(&bytes, step), first_ambiguous(&bytes, bytes.len().max(1)));
    }
}
