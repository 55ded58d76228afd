use super::{
    DECIDED_WITHIN_BYTES, DetectMemory, Detected, PREFACE, REMEMBERED_FOR, REMEMBERED_MAX, Rewind, Rules, Verdict,
    classify, detect,
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

#[test]
fn classifies_first_bytes() {
    use Detected::{Http1, Http2, Opaque, Tls};
    let known: &[(&[u8], Detected)] = &[
        (b"\x16\x03\x01\x02\x00\x01\x00", Tls),
        (b"\x16\x03\x03\x00\xf4\x01", Tls),
        (b"\x16\x03\x01\x02\x00\x02", Opaque),
        (b"\x16\x03\x01\xff", Opaque),
        (b"\x16\x02", Opaque),
        (b"\x16\x03\x09", Opaque),
        (b"\x15\x03\x01\x00\x02", Opaque),
        (PREFACE, Http2),
        (b"PRI * HTTP/1.1\r\n", Http1),
        (b"PRI * HTTP/2.0\r\n\r\nXX", Http1),
        (b"GET / HTTP/1.1\r\n", Http1),
        (b"GET /", Http1),
        (b"OPTIONS * HTTP/1.1", Http1),
        (b"GET http://good/", Http1),
        (b"GET HTTPS://good/", Http1),
        (b"CONNECT good:80 HTTP/1.1", Http1),
        (b"CONNECT [::1]:80 HTTP/1.1", Http1),
        (b"M-SEARCH * HTTP/1.1", Http1),
        (b"get /", Http1),
        (b"PROPFIND /x", Http1),
        (b"CONNECT {\"verbose\":false}\r\n", Opaque),
        (b"OPTIONS rtsp://camera/ RTSP/1.0", Opaque),
        (b"GET  /", Opaque),
        (b"GET\t/", Opaque),
        (b"EHLO client.example\r\n", Opaque),
        (b"HELO http.example\r\n", Opaque),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Opaque),
        (b"PING\r\n", Opaque),
        (b"get key\r\n", Opaque),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Opaque),
        (b"\r\nGET / HTTP/1.1", Opaque),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1", Opaque),
    ];
    for (bytes, detected) in known {
        assert_eq!(classify(bytes), Verdict::Known(*detected), "{:?}", String::from_utf8_lossy(bytes));
    }
    for bytes in [
        b"".as_slice(),
        b"\x16",
        b"\x16\x03\x01\x02\x00",
        b"P",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"GET",
        b"GET ",
        b"GET htt",
        b"GET http",
    ] {
        assert_eq!(classify(bytes), Verdict::NeedMore, "{:?}", String::from_utf8_lossy(bytes));
    }
}

fn plausible_bytes() -> impl Strategy<Value = Vec<u8>> {
    let starts = [
        b"".as_slice(),
        b"GET ",
        b"PRI * HTTP/2.0\r\n",
        b"CONNECT ",
        b"\x16\x03\x01",
        b"\x16\x03\x01\x02\x00\x01",
        b"X-Y http",
        b"abc",
    ];
    (proptest::sample::select(starts.to_vec()), proptest::collection::vec(any::<u8>(), 0..64))
        .prop_map(|(start, rest)| [start, &rest].concat())
}

proptest! {
    #[test]
    fn classify_is_total_and_monotone(bytes in plausible_bytes()) {
        let mut known = None;
        for length in 0..=bytes.len() {
            match (classify(&bytes[..length]), known) {
                (Verdict::Known(detected), None) => known = Some(detected),
                (Verdict::Known(detected), Some(before)) => prop_assert_eq!(detected, before, "at {} of {:?}", length, bytes),
                (Verdict::NeedMore, Some(before)) => prop_assert!(false, "{:?} was forgotten at {} of {:?}", before, length, bytes),
                (Verdict::NeedMore, None) => prop_assert!(length < DECIDED_WITHIN_BYTES),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ds01_silence_and_half_a_beginning_run_into_the_deadline() {
    for said in [b"".as_slice(), b"P", b"PRI * HTTP/2.0\r\n\r\nSM", b"\x16"] {
        let (mut caller, mut io) = tokio::io::duplex(64);
        caller.write_all(said).await.expect("room");
        let mut buffer = BytesMut::new();
        let start = tokio::time::Instant::now();
        let detected = detect(&mut io, &mut buffer, Duration::from_secs(1)).await.expect("no error");
        assert_eq!((detected, &buffer[..]), (None, said));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn detects_bytes_that_trickle_in_and_gives_them_back() {
    let (mut caller, mut io) = tokio::io::duplex(1);
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let speaking = tokio::spawn(async move {
        caller.write_all(request).await.expect("it is read");
        caller.shutdown().await.expect("open");
    });
    let mut buffer = BytesMut::new();
    let detected = detect(&mut io, &mut buffer, Duration::from_secs(1)).await.expect("no error");
    assert_eq!((detected, &buffer[..]), (Some(Detected::Http1), b"GET /".as_slice()));
    let mut all = Vec::new();
    Rewind::new(buffer.freeze(), io).read_to_end(&mut all).await.expect("no error");
    assert_eq!(all, request);
    speaking.await.expect("no panic");
}

#[tokio::test]
async fn a_caller_that_ends_early_is_opaque() {
    let (mut caller, mut io) = tokio::io::duplex(64);
    caller.write_all(b"GE").await.expect("room");
    drop(caller);
    let mut buffer = BytesMut::new();
    let detected = detect(&mut io, &mut buffer, Duration::from_secs(1)).await.expect("no error");
    assert_eq!((detected, &buffer[..]), (Some(Detected::Opaque), b"GE".as_slice()));
}

#[tokio::test]
async fn reads_no_more_than_its_buffer_may_hold() {
    let (mut caller, mut io) = tokio::io::duplex(16 * 1024);
    caller.write_all(&[b'/'; 8 * 1024]).await.expect("room");
    let mut buffer = BytesMut::new();
    detect(&mut io, &mut buffer, Duration::from_secs(1)).await.expect("no error");
    assert!(buffer.len() <= 1024);
}

#[tokio::test]
async fn rewind_forwards_writes_and_the_rest() {
    let (mut caller, io) = tokio::io::duplex(64);
    let vectored = io.is_write_vectored();
    let mut io = Rewind::new(Bytes::from_static(b"ab"), io);
    assert_eq!(io.is_write_vectored(), vectored);
    io.write_all(b"hello").await.expect("room");
    io.shutdown().await.expect("open");
    let mut heard = Vec::new();
    caller.read_to_end(&mut heard).await.expect("no error");
    assert_eq!(heard, b"hello");
    assert_eq!(io.into_parts().0, "ab");
}

#[test]
fn memory_saves_the_wait_only_where_no_request_rules_exist() {
    let mut memory = DetectMemory::default();
    let now = Instant::now();
    assert!(!memory.may_skip_wait(&"db:5432", Rules::L4Only, now));
    memory.record(&"db:5432", None, now);
    assert!(memory.may_skip_wait(&"db:5432", Rules::L4Only, now));
    assert!(!memory.may_skip_wait(&"db:5432", Rules::L7, now));
    assert!(!memory.may_skip_wait(&"other:1", Rules::L4Only, now));
    memory.record(&"db:5432", Some(Detected::Http1), now);
    assert!(!memory.may_skip_wait(&"db:5432", Rules::L4Only, now));
}

#[test]
fn memory_ends_and_has_a_bound() {
    let mut memory = DetectMemory::default();
    let start = Instant::now();
    memory.record(&usize::MAX, None, start);
    assert!(memory.may_skip_wait(&usize::MAX, Rules::L4Only, start + REMEMBERED_FOR));
    assert!(!memory.may_skip_wait(&usize::MAX, Rules::L4Only, start + REMEMBERED_FOR + Duration::from_millis(1)));
    for destination in 0..=REMEMBERED_MAX {
        let now = start + Duration::from_millis(destination as u64);
        memory.record(&destination, None, now);
        assert!(memory.may_skip_wait(&0, Rules::L4Only, now), "the one in use stays");
    }
    assert_eq!(memory.silent.len(), REMEMBERED_MAX);
    assert!(!memory.may_skip_wait(&1, Rules::L4Only, start + Duration::from_secs(2)), "the one least used went");
}
