//! HTTP clients: hyper's, one connection each.

use crate::wait::within;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

pub fn empty() -> Body {
    Empty::new().boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// Bytes, then trailers.
pub fn with_trailers(bytes: impl Into<Bytes>, trailers: HeaderMap) -> Body {
    let frames = [Ok(Frame::data(bytes.into())), Ok(Frame::trailers(trailers))];
    StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
}

/// A body whose frames the test sends one by one; dropping the sender ends it.
pub fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, Infallible>>, Body) {
    let (sender, frames) = mpsc::channel(1);
    (sender, StreamBody::new(ReceiverStream::new(frames)).boxed_unsync())
}

/// A response that was read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// # Errors
    /// The body broke off.
    pub async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        let collected = within("a body", body.collect()).await?;
        let trailers = collected.trailers().cloned();
        Ok(Self { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }

    /// The header's value, empty where it is none or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// # Panics
    /// The body is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON: {self:?}"))
    }
}

pub struct H1Client {
    pub sender: http1::SendRequest<Body>,
    pub connection: JoinHandle<hyper::Result<()>>,
    host: String,
}

impl H1Client {
    /// # Panics
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::named(address, "orders.shop.svc").await
    }

    /// With the `Host` that its requests carry.
    ///
    /// # Panics
    /// Nobody listens.
    pub async fn named(address: SocketAddr, host: &str) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        Self::over(stream, host).await
    }

    /// # Panics
    /// The other side has closed already.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: &str) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        Self { sender, connection: tokio::spawn(connection.with_upgrades()), host: host.to_owned() }
    }

    /// # Errors
    /// The connection ended.
    pub async fn get(&mut self, path: &str) -> hyper::Result<Reply> {
        let request = self.request("GET", path);
        self.send(request.body(empty()).unwrap()).await
    }

    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header("host", &self.host)
    }

    /// # Errors
    /// The connection ended.
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Reply> {
        self.sender.ready().await?;
        let response = within("a response", self.sender.send_request(request)).await?;
        Reply::read(response).await
    }
}

pub struct H2Client {
    pub sender: http2::SendRequest<Body>,
    pub connection: JoinHandle<hyper::Result<()>>,
    authority: String,
}

impl H2Client {
    /// By prior knowledge.
    ///
    /// # Panics
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::named(address, "orders.shop.svc").await
    }

    /// With the `:authority` that its requests carry.
    ///
    /// # Panics
    /// Nobody listens.
    pub async fn named(address: SocketAddr, authority: &str) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        Self::over(stream, authority).await
    }

    /// # Panics
    /// The other side has closed already.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, authority: &str) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        Self { sender, connection: tokio::spawn(connection), authority: authority.to_owned() }
    }

    /// # Errors
    /// The stream or the connection ended.
    pub async fn get(&mut self, path: &str) -> hyper::Result<Reply> {
        let request = self.request("GET", path);
        self.send(request.body(empty()).unwrap()).await
    }

    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("http://{}{path}", self.authority))
    }

    /// # Errors
    /// The stream or the connection ended.
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Reply> {
        self.sender.ready().await?;
        let response = within("a response", self.sender.send_request(request)).await?;
        Reply::read(response).await
    }
}
