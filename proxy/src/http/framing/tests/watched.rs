//! What the wrapper tells the session, and which answers it holds back.

use super::super::{Findings, Watched};
use crate::capture::Remote;
use crate::session::{Direction, Session};
use crate::telemetry::PortMetrics;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};

struct Scene {
    watched: Watched<DuplexStream>,
    findings: Findings,
    session: Arc<Session>,
    caller: DuplexStream,
}

/// A caller that takes `room` bytes before it reads any.
fn scene(room: usize) -> Scene {
    let remote = Remote::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    let session = Session::new(1, Direction::Inbound, "orders".into(), remote, Arc::new(PortMetrics::default()));
    let (caller, callee) = duplex(room);
    let (watched, findings) = Watched::new(callee, session.clone(), 3);
    Scene { watched, findings, session, caller }
}

fn now<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

impl Scene {
    /// The caller sends `bytes`, and all of them are read.
    async fn receive(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.caller.write_all(bytes).await.expect("room for it");
        let mut read = vec![0; bytes.len()];
        self.watched.read_exact(&mut read).await.map(|_| read)
    }

    fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        now(|context| Pin::new(&mut self.watched).poll_write(context, bytes))
    }

    fn write_vectored(&mut self, slices: &[&[u8]]) -> Poll<io::Result<usize>> {
        let slices: Vec<_> = slices.iter().map(|slice| io::IoSlice::new(slice)).collect();
        now(|context| Pin::new(&mut self.watched).poll_write_vectored(context, &slices))
    }

    /// What has come to the caller so far; `None`: the end.
    fn arrived(&mut self) -> Option<Vec<u8>> {
        let mut bytes = [0; 1024];
        let mut buffer = ReadBuf::new(&mut bytes);
        match now(|context| Pin::new(&mut self.caller).poll_read(context, &mut buffer)) {
            Poll::Pending => Some(Vec::new()),
            Poll::Ready(read) => {
                read.expect("a pipe");
                Some(buffer.filled().to_vec()).filter(|bytes| !bytes.is_empty())
            }
        }
    }
}

const REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn ds_02_the_session_knows_whether_a_head_or_a_message_is_under_way() {
    let mut scene = scene(1024);
    for (bytes, head_begun, between_messages) in [
        ("GET / HTTP/1.1\r\nhos", true, false),
        ("t: a\r\n\r\n", false, true),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\na", false, false),
        ("bc", false, true),
        ("P", true, false),
        ("OST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1", false, false),
        ("\r\nx\r\n0\r\n", false, false),
        ("\r\n", false, true),
    ] {
        assert_eq!(scene.receive(bytes.as_bytes()).await.expect("bytes"), bytes.as_bytes());
        let told = (scene.session.head_begun.load(Relaxed), scene.session.between_messages.load(Relaxed));
        assert_eq!(told, (head_begun, between_messages), "{bytes:?}");
    }
}

#[tokio::test]
async fn sm_10_a_size_line_that_does_not_end_is_an_error() {
    let mut scene = scene(8192);
    scene.receive(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").await.expect("a head");
    scene.receive(&[b'0'; 4096]).await.expect("as long as may be");
    assert!(scene.receive(b"0").await.is_err());
}

#[tokio::test]
async fn more_fields_than_allowed_are_found() {
    for (fields, expected) in [(3, false), (4, true)] {
        let mut scene = scene(1024);
        scene.receive(format!("GET / HTTP/1.1\r\n{}", "x: 1\r\n".repeat(fields)).as_bytes()).await.expect("a head");
        assert_eq!(scene.findings.has_too_many_fields(), expected, "{fields}");
    }
}

#[test]
fn the_session_knows_whether_the_caller_has_an_answer_to_take() {
    let mut scene = scene(4);
    let pending = |scene: &Scene| scene.session.write_pending.load(Relaxed);
    assert!(matches!(scene.write(b"abcdef"), Poll::Ready(Ok(4))));
    assert!(!pending(&scene));
    assert!(scene.write(b"ef").is_pending());
    assert!(pending(&scene));
    assert_eq!(scene.arrived(), Some(b"abcd".to_vec()));
    assert!(matches!(scene.write_vectored(&[b"e", b"f"]), Poll::Ready(Ok(2))));
    assert!(!pending(&scene));
    assert!(matches!(scene.write_vectored(&[b"g", b"h", b"i"]), Poll::Ready(Ok(2))));
    assert!(scene.write_vectored(&[b"i", b"j"]).is_pending());
    assert!(pending(&scene));
    assert!(now(|context| Pin::new(&mut scene.watched).poll_flush(context)).is_ready());
    assert!(!pending(&scene));
    assert_eq!(scene.arrived(), Some(b"efgh".to_vec()));
}

#[test]
fn holds_back_what_hyper_says_to_a_head_that_it_refused_and_nothing_else() {
    for (bytes, is_held_back) in [
        (REFUSAL, true),
        (b"HTTP/1.0 431 Request Header Fields Too Large\r\n\r\n", true),
        (b"HTTP/1.1 100 Continue\r\n\r\n", false),
        (b"HTTP/1.1 200 OK\r\n\r\n", false),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", false),
        (b"HTTP/1.1 400 Bad Request\r\n\r\nbody", false),
        (b"HTTP/2.0 400 Bad Request\r\n\r\n", false),
        (b"HTTP/1.", false),
    ] {
        for vectored in [false, true] {
            let mut scene = scene(1024);
            let written = if vectored { scene.write_vectored(&[bytes]) } else { scene.write(bytes) };
            assert!(matches!(written, Poll::Ready(Ok(count)) if count == bytes.len()));
            let text = bytes.escape_ascii();
            assert_eq!(scene.findings.held_back(), is_held_back.then_some(bytes), "{text}");
            assert_eq!(scene.arrived(), Some(if is_held_back { Vec::new() } else { bytes.to_vec() }), "{text}");
            // The connection stays open for the answer that is still to come.
            assert!(now(|context| Pin::new(&mut scene.watched).poll_shutdown(context)).is_ready());
            assert_eq!(scene.arrived(), is_held_back.then(Vec::new), "{text}");
        }
    }
}

#[test]
fn an_application_s_refusal_passes_and_so_does_a_second_of_hyper_s() {
    let mut scene = scene(1024);
    let passes = |scene: &mut Scene, bytes: &[u8]| {
        assert!(matches!(scene.write(bytes), Poll::Ready(Ok(count)) if count == bytes.len()));
        scene.arrived() == Some(bytes.to_vec())
    };
    let flush = |scene: &mut Scene| assert!(now(|context| Pin::new(&mut scene.watched).poll_flush(context)).is_ready());
    scene.findings.request_begins();
    scene.session.requests_active.store(1, Relaxed);
    assert!(passes(&mut scene, REFUSAL), "it answers the request");
    flush(&mut scene);
    assert!(passes(&mut scene, REFUSAL), "so does what comes after a part of the answer was flushed");
    scene.session.requests_active.store(0, Relaxed);
    flush(&mut scene);
    assert!(!passes(&mut scene, REFUSAL), "no request is under way");
    assert!(passes(&mut scene, REFUSAL), "one is held back");
}

/// Not asked for what it has: takes all, and no slices.
struct Plain;

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn takes_slices_where_the_connection_does() {
    let Scene { watched, session, .. } = scene(1);
    assert!(watched.is_write_vectored());
    assert!(!Watched::new(Plain, session, 3).0.is_write_vectored());
}
