//! Once known, a protocol stays known whatever follows; and a stream that says `HTTP/` in its first line is never opaque.

use bytes::BytesMut;
use postern::detect::{DECIDED_WITHIN_BYTES, Detected, Opaque, Verdict, classify};
use tokio::io::AsyncReadExt;

pub(super) fn check(bytes: &[u8]) {
    let mut known = None;
    for end in 0..=bytes.len().min(DECIDED_WITHIN_BYTES + 8) {
        match (classify(&bytes[..end]), known) {
            (Verdict::NeedMore, None) => {
                assert!(end < DECIDED_WITHIN_BYTES, "not known after {end} bytes: {:?}", &bytes[..end]);
            }
            (Verdict::Known(first), None) => known = Some(first),
            (verdict, Some(first)) => assert_eq!(verdict, Verdict::Known(first), "{:?}", bytes.escape_ascii()),
        }
    }
    let strict = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_request = |line: &[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_word = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase) && word.len() < 20;
        let mut words = line.split(|byte| *byte == b' ');
        matches!(
            (words.next(), words.next(), words.next(), words.next()),
            (Some(method), Some([b'/', ..]), Some(b"HTTP/1.1" | b"HTTP/1.0"), None) if is_word(method)
        )
    };
    if strict.len() < bytes.len() && is_request(strict) {
        assert_eq!(known, Some(Detected::Http1), "{:?}", bytes.escape_ascii());
    }
    disguised(bytes);
}

/// What comes out of the watch over a stream that was taken for opaque is what went in; and no line of HTTP comes out whole.
fn disguised(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut read = BytesMut::new();
        let mut watched = Opaque::new(bytes);
        let stopped = loop {
            match watched.read_buf(&mut read).await {
                Ok(0) => break false,
                Ok(_) => {}
                Err(_) => break true,
            }
        };
        let begin = bytes.iter().position(|byte| !b"\r\n \t".contains(byte)).unwrap_or(bytes.len());
        let first_line = bytes[begin..].split(|byte| *byte == b'\n').next().unwrap_or_default();
        let is_http = first_line.to_ascii_uppercase().windows(5).any(|window| window == b"HTTP/");
        assert_eq!(stopped, is_http, "{:?}", bytes.escape_ascii());
        assert!(stopped || read == bytes, "bytes were changed");
    });
}
