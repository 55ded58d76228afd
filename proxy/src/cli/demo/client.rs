//! What a user's programs do in the demo: requests, load, an L4 connection.

use crate::tasks;
use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const REQUEST_MAX: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 8;

pub struct Answer {
    pub status: StatusCode,
    pub decision: String,
    pub body: String,
}

async fn connect(to: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let tcp = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
    let (sender, connection) = handshake(TokioIo::new(tcp)).await?;
    tasks::spawn(connection);
    Ok(sender)
}

fn request(path: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
    Ok(Request::get(path).header("host", "orders.shop.example").body(Empty::new())?)
}

async fn read(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    let decision = head.headers.get("x-postern-decision").and_then(|value| value.to_str().ok());
    let body = body.collect().await?.to_bytes();
    Ok(Answer {
        status: head.status,
        decision: decision.unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// One request on a connection of its own.
pub async fn get(to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let asking = async { read(connect(to).await?.send_request(request(path)?).await?).await };
    tokio::time::timeout(REQUEST_MAX, asking).await.with_context(|| format!("no answer in {REQUEST_MAX:?}"))?
}

/// An L4 connection that has carried bytes both ways.
pub async fn tunnel(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(b"ping").await?;
    let mut echo = [0; 4];
    tokio::time::timeout(REQUEST_MAX, stream.read_exact(&mut echo)).await.context("no echo")??;
    Ok(stream)
}

/// Keep-alive connections that ask without a pause.
pub struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    pub fn start(to: SocketAddr, path: &'static str) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = |_| tasks::spawn(keep_asking(to, path, stop.clone(), requests.clone()));
        let tasks = (0..CONNECTIONS).map(task).collect();
        Self { stop, requests, tasks }
    }

    /// Requests made, and what went wrong with those that failed.
    pub async fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap_or_else(|error| vec![error.to_string()]));
        }
        (self.requests.load(Relaxed), failures)
    }
}

async fn keep_asking(to: SocketAddr, path: &str, stop: Arc<AtomicBool>, requests: Arc<AtomicU64>) -> Vec<String> {
    let mut failures = Vec::new();
    let mut open: Option<SendRequest<Empty<Bytes>>> = None;
    while !stop.load(Relaxed) {
        // As a well-made client does: a connection that the server closed between requests is replaced.
        let usable = open.take().filter(|sender| sender.is_ready());
        let asked = tokio::time::timeout(REQUEST_MAX, async {
            let mut sender = match usable {
                Some(sender) => sender,
                None => connect(to).await?,
            };
            let answer = read(sender.send_request(request(path)?).await?).await?;
            anyhow::Ok((sender, answer))
        });
        requests.fetch_add(1, Relaxed);
        match asked.await {
            Ok(Ok((sender, answer))) if answer.status == StatusCode::OK => open = Some(sender),
            Ok(Ok((_, answer))) => failures.push(format!("{}: {}", answer.status, answer.body.trim())),
            Ok(Err(error)) => failures.push(format!("{error:#}")),
            Err(_) => failures.push("no answer in time".to_owned()),
        }
    }
    failures
}
