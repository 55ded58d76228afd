//! Runs HTTP on one accepted connection, until it ends, is retired or cut.

use super::framing::{AmbiguousFraming, Watched};
use super::request;
use crate::connection::Connection;
use crate::upstream::client::{HttpVersion, chain};
use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// hyper's own limit of header fields, which costs nothing to leave as it is.
const HEADERS_OF_HYPER: usize = 100;
/// hyper takes no smaller buffer.
const BUFFER_BYTES_MIN: usize = 8192;
/// PEERS D1: keepalive ping 20 s / 10 s. Also what ends a connection that never gets past its preface (THREATS H2-13).
const H2_KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const H2_KEEPALIVE_WITHIN: Duration = Duration::from_secs(10);
/// PEERS D2.
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
/// THREATS H2-01 and H2-03: resets that a caller may cause before the connection is closed.
const H2_RESETS_PENDING_MAX: usize = 20;
const H2_RESETS_LOCAL_MAX: usize = 100;

/// Spawns on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Ends when the connection has ended; an end by error goes into the connection's record.
pub async fn serve<IO>(connection: Rc<Connection>, io: IO, version: HttpVersion)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    connection.set_version(version);
    // Boxed: a connection's future lives long, and hyper's is large.
    let result = match version {
        HttpVersion::Http1 => Box::pin(http1(connection.clone(), io)).await,
        HttpVersion::Http2 => Box::pin(http2(connection.clone(), io)).await,
    };
    if let Err(error) = result {
        connection.ended(chain(&error));
    }
}

async fn http1<IO>(connection: Rc<Connection>, io: IO) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let session = connection.session.clone();
    let limits = connection.worker.policy().limits.clone();
    // Heads that do not arrive and idle connections end by the worker's sweep: a timer for each request costs. A retired
    // connection says `Connection: close` with its next response: nothing to do for that here.
    let (io, findings) = Watched::new(io, session.clone());
    let requests = Cell::new(0);
    let service = service_fn(move |mut request: Request<Incoming>| {
        requests.set(requests.get() + 1);
        if findings.is_ambiguous(requests.get()) {
            request.extensions_mut().insert(AmbiguousFraming);
        }
        request::handle(connection.clone(), request)
    });
    let mut builder = http1::Builder::new();
    if limits.headers != HEADERS_OF_HYPER {
        // Only then: it moves the parser's array to the heap.
        builder.max_headers(limits.headers);
    }
    let serving = builder
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(BUFFER_BYTES_MIN))
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    // With half-close allowed, hyper does not read while a response is under way: when the application is silent too,
    // nothing would poll the socket, and a cut would wait for the response's next byte.
    tokio::select! {
        result = serving => result,
        () = session.was_cut() => Ok(()),
    }
}

async fn http2<IO>(connection: Rc<Connection>, io: IO) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let session = connection.session.clone();
    let limits = connection.worker.policy().limits.clone();
    let service = service_fn(move |request| request::handle(connection.clone(), request));
    let mut serving = pin!(
        http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_KEEPALIVE_EVERY)
            .keep_alive_timeout(H2_KEEPALIVE_WITHIN)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_concurrent_streams(limits.h2_streams)
            .max_header_list_size(limits.header_bytes as u32)
            .max_pending_accept_reset_streams(H2_RESETS_PENDING_MAX)
            .max_local_error_reset_streams(H2_RESETS_LOCAL_MAX)
            .serve_connection(TokioIo::new(io), service)
    );
    tokio::select! {
        result = serving.as_mut() => return result,
        () = session.retired() => {}
    }
    if !session.is_cut() {
        // GOAWAY: what is in flight finishes.
        serving.as_mut().graceful_shutdown();
    }
    serving.await
}
