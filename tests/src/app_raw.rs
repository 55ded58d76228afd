//! Applications that see bytes: what reaches them is recorded before anything interprets it.

use crate::wait::eventually;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What arrived, one entry a connection.
#[derive(Clone, Default)]
pub struct Capture(Arc<Mutex<Vec<Vec<u8>>>>);

impl Capture {
    fn open(&self) -> usize {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push(Vec::new());
        connections.len() - 1
    }

    fn add(&self, connection: usize, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[connection].extend_from_slice(bytes);
    }

    pub fn connections(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An HTTP/1.1 application that frames requests by itself, answers what the test says, and keeps every byte.
pub struct RawApp {
    pub address: SocketAddr,
    capture: Capture,
    task: AbortHandle,
}

/// How an application answers: `None` closes the connection without a byte, and so does an answer's `connection: close`
/// after it.
type Answer = dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync;

pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl RawApp {
    /// Answers `200 ok` to every request.
    pub async fn ok() -> Self {
        Self::answering(|_| Some(OK.to_vec())).await
    }

    /// `answer` is given each whole request, as text.
    ///
    /// # Panics
    /// No port is to be had.
    pub async fn answering(answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start(When::RequestIsWhole, Arc::new(answer)).await
    }

    /// Answers as soon as it has a request's head, whatever comes after it.
    pub async fn answering_early(answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start(When::HeadIsThere, Arc::new(answer)).await
    }

    async fn start(when: When, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let capture = Capture::default();
        let of_task = capture.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (capture, answer) = (of_task.clone(), answer.clone());
                let connection = capture.open();
                // Errors are the other side's affair: the test sees them there.
                tokio::spawn(async move { drop(serve(stream, when, &capture, connection, &*answer).await) });
            }
        });
        Self { address, capture, task: task.abort_handle() }
    }

    /// What arrived, one entry a connection.
    pub fn connections(&self) -> Vec<Vec<u8>> {
        self.capture.connections()
    }

    /// Everything that arrived, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.connections().concat()).into_owned()
    }

    pub async fn until_text(&self, what: &str) -> String {
        eventually(&format!("{what:?} at the application"), || Some(self.text()).filter(|text| text.contains(what)))
            .await
    }

    /// # Panics
    /// Something has arrived.
    pub fn assert_nothing_arrived(&self) {
        let text = self.text();
        assert!(text.is_empty(), "the application saw {text:?}");
    }
}

impl Drop for RawApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum When {
    RequestIsWhole,
    HeadIsThere,
}

async fn serve(
    mut stream: TcpStream,
    when: When,
    capture: &Capture,
    connection: usize,
    answer: &Answer,
) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut read = [0; 16 * 1024];
    loop {
        let length = stream.read(&mut read).await?;
        if length == 0 {
            return Ok(());
        }
        capture.add(connection, &read[..length]);
        pending.extend_from_slice(&read[..length]);
        while let Some(end) = request_end(&pending, when) {
            let request = String::from_utf8_lossy(&pending[..end]).into_owned();
            pending.drain(..end);
            let Some(answer) = answer(&request) else { return Ok(()) };
            stream.write_all(&answer).await?;
            if String::from_utf8_lossy(&answer).contains("connection: close") {
                return stream.shutdown().await;
            }
        }
    }
}

/// Where the first request in `bytes` ends, once it is there.
fn request_end(bytes: &[u8], when: When) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    if when == When::HeadIsThere {
        return Some(head);
    }
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()));
    if field("transfer-encoding:").is_some() {
        return chunked_end(bytes, head);
    }
    let length: usize = field("content-length:").map_or(0, |length| length.parse().expect("a length"));
    (bytes.len() >= head + length).then_some(head + length)
}

fn chunked_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let line = at + find(&bytes[at..], b"\r\n")?;
        let size = String::from_utf8_lossy(&bytes[at..line]).into_owned();
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).expect("a chunk size");
        at = line + 2;
        if size == 0 {
            // Trailers, to the empty line.
            loop {
                let line = at + find(&bytes[at..], b"\r\n")?;
                if line == at {
                    return Some(at + 2);
                }
                at = line + 2;
            }
        }
        at += size + 2;
        if at > bytes.len() {
            return None;
        }
    }
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// An application that speaks no HTTP.
pub struct TcpApp {
    pub address: SocketAddr,
    capture: Capture,
    task: AbortHandle,
}

impl TcpApp {
    /// Sends back what it gets, and ends when the caller has ended.
    pub async fn echo() -> Self {
        Self::banner("").await
    }

    /// Speaks first, then echoes.
    pub async fn banner(text: &'static str) -> Self {
        Self::start(move |mut stream, capture, connection| async move {
            stream.write_all(text.as_bytes()).await?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    return stream.shutdown().await;
                }
                capture.add(connection, &buffer[..length]);
                stream.write_all(&buffer[..length]).await?;
            }
        })
        .await
    }

    /// Sends `text`, ends its own side at once, and takes what comes until the caller has ended.
    pub async fn ends_first(text: &'static str) -> Self {
        Self::start(move |mut stream, capture, connection| async move {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    return Ok(());
                }
                capture.add(connection, &buffer[..length]);
            }
        })
        .await
    }

    /// Serves each connection with `serve`.
    ///
    /// # Panics
    /// No port is to be had.
    pub async fn start<F>(serve: impl Fn(TcpStream, Capture, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let capture = Capture::default();
        let of_task = capture.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = of_task.open();
                let serving = serve(stream, of_task.clone(), connection);
                tokio::spawn(async move { drop(serving.await) });
            }
        });
        Self { address, capture, task: task.abort_handle() }
    }

    pub fn connections(&self) -> Vec<Vec<u8>> {
        self.capture.connections()
    }
}

impl Drop for TcpApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}
