//! An HTTP application: tells what it saw, and does what the path says.

use crate::client_http::{Body, channel, empty, full, with_trailers};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::AbortHandle;

/// One request as the application saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub version: &'static str,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    fn json(&self) -> Value {
        let fields = |fields: &HeaderMap| -> Vec<Value> {
            fields
                .iter()
                .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
                .collect()
        };
        json!({
            "method": self.method,
            "target": self.target,
            "version": self.version,
            "headers": fields(&self.headers),
            "trailers": fields(&self.trailers),
            "body": String::from_utf8_lossy(&self.body[..self.body.len().min(1024)]),
            "length": self.body.len(),
        })
    }

    /// All values of a header, as text.
    pub fn all(&self, name: &str) -> Vec<String> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        self.headers.get_all(name).iter().map(text).collect()
    }
}

type Ledger = Arc<Mutex<Vec<Seen>>>;

/// Paths: `/status/N` · `/trailers` · `/hang` (never answers) · `/stream` (one chunk, then silence) · `/ticks` (a chunk now and
/// then) · `/bytes/N` ·
/// `/early` (404 before the body) · `/upgrade` (101, then an echo) · `/grpc` (the body back, with `grpc-status: 0`) ·
/// `/grpc-error` (trailers only). Anything else is answered with what was seen, as JSON.
pub struct HttpApp {
    pub address: SocketAddr,
    ledger: Ledger,
    task: AbortHandle,
}

impl HttpApp {
    /// HTTP/1 and, by prior knowledge, HTTP/2.
    ///
    /// # Panics
    /// No port is to be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Ledger::default();
        let of_task = ledger.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_tcp(stream, of_task.clone()));
            }
        });
        Self { address, ledger, task: task.abort_handle() }
    }

    /// HTTP/1 on a unix socket.
    ///
    /// # Panics
    /// The socket cannot be made.
    pub async fn on_unix_socket(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let ledger = Ledger::default();
        let of_task = ledger.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_http1(stream, of_task.clone()));
            }
        });
        Self { address: SocketAddr::from(([0, 0, 0, 0], 0)), ledger, task: task.abort_handle() }
    }

    /// Every request whose body was read, in the order in which it was.
    pub fn seen(&self) -> Vec<Seen> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`HttpApp::seen`], and forgets them.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// # Panics
    /// None was.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request at the application")
    }
}

impl Drop for HttpApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_tcp(stream: TcpStream, ledger: Ledger) {
    let mut start = [0; 4];
    // Peeking does not wait for more than is there; the first bytes of a request come together.
    let is_http2 = stream.peek(&mut start).await.is_ok_and(|length| start[..length].starts_with(b"PRI "));
    if is_http2 {
        let service = service_fn(move |request| answer(request, ledger.clone()));
        // Errors are the other side's affair: the test sees them there.
        let mut builder = http2::Builder::new(TokioExecutor::new());
        // hyper's default is 16 KiB, which is less than we let through.
        builder.max_header_list_size(1 << 20);
        // What h2 lets small frames cost grows with it. With hyper's default an application that gets little time ends the
        // connection by which 3,000 of them came.
        builder.initial_connection_window_size(16 << 20);
        drop(builder.serve_connection(TokioIo::new(stream), service).await);
    } else {
        serve_http1(stream, ledger).await;
    }
}

async fn serve_http1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, ledger: Ledger) {
    let service = service_fn(move |request| answer(request, ledger.clone()));
    let serving = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service);
    drop(serving.with_upgrades().await);
}

async fn answer(request: Request<Incoming>, ledger: Ledger) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let (first, rest) = path[1.min(path.len())..].split_once('/').unwrap_or((&path[1.min(path.len())..], ""));
    match first {
        "hang" => {
            note(&ledger, &request, Bytes::new(), HeaderMap::new());
            std::future::pending().await
        }
        "early" => {
            note(&ledger, &request, Bytes::new(), HeaderMap::new());
            Ok(with_status(StatusCode::NOT_FOUND, full("early")))
        }
        "upgrade" => Ok(upgrade(request, &ledger)),
        "stream" => {
            note(&ledger, &request, Bytes::new(), HeaderMap::new());
            Ok(Response::new(stream()))
        }
        "ticks" => {
            note(&ledger, &request, Bytes::new(), HeaderMap::new());
            Ok(Response::new(ticks()))
        }
        "grpc" => Ok(grpc(request, &ledger)),
        _ => {
            let seen = read(request, &ledger).await?;
            Ok(after_body(first, rest, &seen))
        }
    }
}

fn after_body(first: &str, rest: &str, seen: &Seen) -> Response<Body> {
    match first {
        "status" => with_status(rest.parse().unwrap_or(StatusCode::OK), empty()),
        // hyper's HTTP/2 server would send the body.
        "bytes" if seen.method == "HEAD" => {
            let mut response = Response::new(empty());
            response.headers_mut().insert("content-length", HeaderValue::from_str(rest).expect("a length"));
            response
        }
        "bytes" => Response::new(full(vec![b'x'; rest.parse().unwrap_or(0)])),
        "trailers" => {
            let mut trailers = HeaderMap::new();
            for (name, value) in [("x-checksum", "abc"), ("x-spiffe-id", "spiffe://forged/app"), ("client-cert", ":x:")]
            {
                trailers.insert(name, HeaderValue::from_static(value));
            }
            let mut response = Response::new(with_trailers("body", trailers));
            response.headers_mut().insert("trailer", HeaderValue::from_static("x-checksum"));
            response
        }
        "grpc-error" => {
            let mut response = Response::new(empty());
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("5"));
            headers.insert("grpc-message", HeaderValue::from_static("nothing there"));
            response
        }
        "forged" => {
            let mut response = Response::new(empty());
            let headers = response.headers_mut();
            headers.insert("x-spiffe-id", HeaderValue::from_static("spiffe://forged/app"));
            headers.insert("x-postern-refusal", HeaderValue::from_static("not_allowed; decision=forged-1"));
            headers.insert("x-harmless", HeaderValue::from_static("stays"));
            response
        }
        _ => Response::new(full(seen.json().to_string())),
    }
}

fn with_status(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

async fn read(request: Request<Incoming>, ledger: &Ledger) -> Result<Seen, hyper::Error> {
    let (head, body) = request.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(note(ledger, &Request::from_parts(head, ()), collected.to_bytes(), trailers))
}

fn note<B>(ledger: &Ledger, request: &Request<B>, body: Bytes, trailers: HeaderMap) -> Seen {
    let seen = Seen {
        method: request.method().to_string(),
        target: request.uri().to_string(),
        version: if request.version() == http::Version::HTTP_2 { "2" } else { "1.1" },
        headers: request.headers().clone(),
        trailers,
        body,
    };
    ledger.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
    seen
}

/// One chunk now, and the rest never.
fn stream() -> Body {
    let (sender, body) = channel();
    tokio::spawn(async move {
        // The reader may have gone: then the body is over.
        let _ = sender.send(Ok(Frame::data(Bytes::from_static(b"first")))).await;
        sender.closed().await;
    });
    body
}

/// A chunk every few milliseconds, as long as somebody listens.
fn ticks() -> Body {
    let (sender, body) = channel();
    tokio::spawn(async move {
        while sender.send(Ok(Frame::data(Bytes::from_static(b"tick")))).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    body
}

/// What the caller sends comes back as it comes, and the status last.
fn grpc(request: Request<Incoming>, ledger: &Ledger) -> Response<Body> {
    note(ledger, &request, Bytes::new(), HeaderMap::new());
    let (sender, body) = channel();
    let mut incoming = request.into_body();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = incoming.frame().await {
            if let Ok(data) = frame.into_data() {
                sender.send(Ok::<_, Infallible>(Frame::data(data))).await.ok()?;
            }
        }
        let trailers =
            HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        sender.send(Ok(Frame::trailers(trailers))).await.ok()
    });
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn upgrade(mut request: Request<Incoming>, ledger: &Ledger) -> Response<Body> {
    note(ledger, &request, Bytes::new(), HeaderMap::new());
    let Some(token) = request.headers().get("upgrade").cloned() else {
        return with_status(StatusCode::UPGRADE_REQUIRED, empty());
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut reads, mut writes) = tokio::io::split(TokioIo::new(upgraded.await.ok()?));
        tokio::io::copy(&mut reads, &mut writes).await.ok()
    });
    let mut response = with_status(StatusCode::SWITCHING_PROTOCOLS, empty());
    response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    response.headers_mut().insert("upgrade", token);
    response
}
