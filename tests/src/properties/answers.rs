//! What we understand of an upstream's answer does not depend on the pieces that it comes in, and is what hyper's client
//! understands of it, where that takes it too (THREATS SM-23).

use super::framing::run;
use super::tokens::spell;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use postern::http::http1::Broken;
use postern::http::http1::wire::Wire;
use postern::upstream::http1::answer;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, duplex};

const VOCABULARY: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: ",
    "Connection: close\r\n",
    // 9, 10 and 13 stand for themselves.
    "\t",
    "\n",
    "\r\n\r\n",
    "5\r\nhello\r\n",
    "\r",
    "0\r\n\r\n",
    "0\r\nx: y\r\n\r\n",
    "gzip, chunked",
    "chunked",
    ": ",
    "\r\n",
    "\r\n ",
    ";a=b",
    "Content-Length: 5\r\n",
    "HTTP/1.1 ",
    "Connection: keep-alive, ",
    "10000000000000000",
    "+",
];

const HEAD_MAX: usize = 16 << 10;

/// An answer that came whole.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    status: StatusCode,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Option<Vec<(String, Vec<u8>)>>,
    keeps: bool,
    /// Bytes behind it.
    behind: usize,
}

pub(super) fn check(bytes: &[u8]) {
    let (method, bytes) = match bytes.split_first() {
        Some((0..=15, rest)) => (Method::HEAD, rest),
        _ => (Method::GET, bytes),
    };
    let stream = spell(bytes, VOCABULARY);
    let whole = run(read(&stream, usize::MAX, &method));
    for at_once in [1, 2, 5] {
        let pieces = run(read(&stream, at_once, &method));
        match (&whole, &pieces) {
            (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces, "{} by {at_once}", stream.escape_ascii()),
            (Err(_), Err(_)) => {}
            _ => panic!("{} by {at_once}: {whole:?}, {pieces:?}", stream.escape_ascii()),
        }
    }
    let Ok(whole) = whole else { return };
    let Some(theirs) = run(read_by_hyper(&stream, &method)) else { return };
    let ours = (whole.status, whole.body);
    assert_eq!(ours, theirs, "{}", stream.escape_ascii());
}

async fn read(stream: &[u8], at_once: usize, method: &Method) -> Result<Whole, Broken> {
    let mut wire = Wire::new(Pieces { left: stream, at_once });
    let answer = loop {
        if let Some(answer) = answer::take(&mut wire.unread, method, HEAD_MAX)? {
            break answer;
        }
        if poll_fn(|context| wire.poll_fill(context)).await? == 0 {
            return Err(Broken::Ended);
        }
    };
    let (mut incoming, mut body, mut trailers) = (answer.body, BytesMut::new(), None);
    if !answer.switches {
        while let Some(frame) = poll_fn(|context| incoming.poll_frame(&mut wire, context)).await {
            match frame?.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert!(incoming.has_ended());
    }
    let fields = |map: &http::HeaderMap| {
        map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
    };
    Ok(Whole {
        status: answer.head.status,
        fields: fields(&answer.head.headers),
        body: body.to_vec(),
        trailers: trailers.as_ref().map(fields),
        keeps: answer.keeps,
        behind: wire.unread.len() + wire.io.left.len(),
    })
}

/// `None`: it does not take the answer, or not all of it.
async fn read_by_hyper(stream: &[u8], method: &Method) -> Option<(StatusCode, Vec<u8>)> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let (ours, mut theirs) = duplex(stream.len() + 64 * 1024);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.expect("no I/O yet");
    let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).expect("a request");
    let exchange = async {
        let answering = async {
            // Else it would be an answer to nothing.
            let _ = theirs.read(&mut [0; 512]).await;
            let _ = theirs.write_all(stream).await;
            let _ = theirs.shutdown().await;
        };
        let asking = async {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return None;
            }
            Some((status, response.into_body().collect().await.ok()?.to_bytes().to_vec()))
        };
        tokio::join!(answering, asking).1
    };
    let both = async { tokio::join!(exchange, connection).0 };
    tokio::time::timeout(PATIENCE, both).await.ok().flatten()
}

/// So many bytes a read.
struct Pieces<'a> {
    left: &'a [u8],
    at_once: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.left.len().min(self.at_once).min(buffer.remaining());
        let (part, left) = self.left.split_at(count);
        buffer.put_slice(part);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}
