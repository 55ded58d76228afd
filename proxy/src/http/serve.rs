//! Runs HTTP on one accepted connection, until it ends, is retired or cut.

use super::body::Received;
use super::framing::{AmbiguousFraming, Findings, Watched};
use super::headers::{too_many_bytes, too_many_fields};
use super::record::Recorder;
use super::request;
use super::respond::{self, Asker};
use super::serve_http2;
use crate::capture::caller::CallerIo;
use crate::connection::Connection;
use crate::detect::Rewind;
use crate::refusal::{Refusal, Refused};
use crate::session::{EndCause, Told};
use crate::upstream::client::{HttpVersion, chain};
use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern_config::Limits;
use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// hyper's own limit of header fields, which costs nothing to leave as it is.
const HEADERS_OF_HYPER: usize = 100;
/// Read from a parked connection, to see that it is at work again.
const FIRST_BYTES: usize = 64;
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// What a caller may still send of a head that was refused, before its connection is closed.
const GOODBYE_BYTES_MAX: usize = 1 << 20;
/// hyper takes no smaller buffer.
const BUFFER_BYTES_MIN: usize = 8192;
/// Ends when the connection has ended; an end by error goes into the connection's record.
pub async fn serve(connection: Rc<Connection>, io: Rewind<CallerIo>, version: HttpVersion) {
    connection.set_version(version);
    match version {
        HttpVersion::Http1 => {
            if let Err(error) = http1(&connection, io).await {
                connection.ended(chain(&error));
            }
        }
        // Boxed: a connection's future lives long, and this one is large.
        HttpVersion::Http2 => {
            if let Err(error) = Box::pin(serve_http2::serve(&connection, io)).await {
                connection.ended(chain(&error));
            }
        }
    }
}

/// hyper keeps 16 KiB of buffers a connection (hyperium/hyper#4057). Most connections of a sidecar are idle: those are
/// parked, which means that hyper is taken off them, and put on again with their next byte.
async fn http1(connection: &Rc<Connection>, mut io: Rewind<CallerIo>) -> Result<(), hyper::Error> {
    while let Some(mut parked) = Box::pin(http1_until_idle(connection.clone(), io)).await? {
        let Some(first) = next_bytes(connection, &mut parked).await else { return Ok(()) };
        io = Rewind::new(first, parked);
    }
    Ok(())
}

/// Serves until the connection ends (`None`), or has been idle for a while and is at rest.
async fn http1_until_idle(connection: Rc<Connection>, io: Rewind<CallerIo>) -> Result<Option<CallerIo>, hyper::Error> {
    let session = connection.session.clone();
    let limits = connection.worker.policy().limits.clone();
    let (io, findings) = Watched::new(io, session.clone(), limits.headers);
    let requests = Cell::new(0);
    let service = service_fn(|mut request: Request<Incoming>| {
        requests.set(requests.get() + 1);
        findings.request_begins();
        session.request_begins();
        if findings.is_ambiguous(requests.get()) {
            request.extensions_mut().insert(AmbiguousFraming);
        }
        request::handle(connection.clone(), request.map(Received::Http1))
    });
    let mut builder = http1::Builder::new();
    if limits.headers != HEADERS_OF_HYPER {
        // Only then: it moves the parser's array to the heap.
        builder.max_headers(limits.headers);
    }
    // Heads that do not arrive and idle connections end by the worker's sweep: a timer for each request costs. A retired
    // connection says `Connection: close` with its next response: nothing to do for that here.
    let mut serving = builder
        .half_close(true)
        .header_read_timeout(None)
        // The buffer alone is no limit: a head that arrives in a large piece may be almost twice as long.
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(BUFFER_BYTES_MIN))
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let result = loop {
        // With half-close allowed, hyper does not read while a response is under way: when the application is silent
        // too, nothing would poll the socket, and a cut would wait for the response's next byte.
        let step = poll_fn(|context| {
            if let Poll::Ready(result) = Pin::new(&mut serving).poll(context) {
                return Poll::Ready(Step::Ended(result));
            }
            // hyper, polled just now, could not end it: it looks at a response's body only when the caller takes what came of
            // it before. A cut wakes the task that polls the body, which is this one.
            match session.request_was_cut() {
                Some(cause) => Poll::Ready(Step::Stuck(cause)),
                None => session.poll_told(context).map(Step::Told),
            }
        });
        match step.await {
            Step::Ended(result) => break Some(result),
            Step::Told(Told::Cut) => return Ok(None),
            Step::Stuck(cause) => {
                session.cut_with_request(cause, Instant::now());
                return Ok(None);
            }
            Step::Told(Told::Park) if session.is_at_rest() => break None,
            Step::Told(Told::Park) => {}
        }
    };
    match result {
        None => {}
        Some(Err(error)) if error.is_parse() => {
            if let Some(parts) = serving.into_parts() {
                let mut io = parts.io.into_inner().into_inner();
                refuse_head(&connection, &mut io, &parts.read_buf, &findings, &limits, &error).await;
            }
            return Err(error);
        }
        Some(result) => return result.map(|()| None),
    }
    // Bytes that hyper read and did not parse would be of a message that it gave up: they are nobody's next request.
    let parts = serving.into_parts().filter(|parts| parts.read_buf.is_empty());
    let rest = parts.map(|parts| parts.io.into_inner().into_inner().into_parts());
    Ok(rest.filter(|(unread, _)| unread.is_empty()).map(|(_, io)| io))
}

/// What there is to do next for a connection that is served.
enum Step {
    Ended(Result<(), hyper::Error>),
    /// A request was cut, and did not end by that.
    Stuck(EndCause),
    Told(Told),
}

/// A head that hyper does not take never becomes a request of `request::handle`; it is one all the same, with an answer, a
/// decision and a record.
async fn refuse_head(
    connection: &Rc<Connection>,
    io: &mut Rewind<CallerIo>,
    head: &[u8],
    findings: &Findings,
    limits: &Limits,
    error: &hyper::Error,
) {
    let plain = findings.held_back();
    let refused = if plain.is_some_and(|plain| plain[8..].starts_with(b" 414")) {
        Refused::new(Refusal::TargetTooLong, "a longer target than can be read")
    } else if error.is_parse_too_large() {
        let fields = findings.has_too_many_fields().then(|| too_many_fields(limits.headers));
        Refused::new(Refusal::HeadersTooLarge, fields.unwrap_or_else(|| too_many_bytes(limits.header_bytes)))
    } else {
        Refused::new(Refusal::BadRequest, chain(error))
    };
    let mut recorder = Recorder::of_refused_head(connection, head);
    let asker = if connection.peer().is_some() { Asker::MeshPeer } else { Asker::Other };
    let answer = plain.map(|plain| respond::refuse_head(&refused, &recorder.decision_id(), asker, plain));
    let status = refused.refusal.status();
    recorder.refused(refused, status);
    drop(recorder);
    let Some(answer) = answer else { return };
    let goodbye = async {
        io.write_all(&answer).await?;
        io.shutdown().await?;
        // RFC 9112 §9.6: a connection that is closed while its caller still sends is reset, and the answer is lost.
        let mut rest = [0; 1024];
        let mut left = GOODBYE_BYTES_MAX;
        while left > 0 {
            match io.read(&mut rest).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // A caller that does not listen any more is no error.
    let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
}

/// Waits for the first bytes of the next request. `None`: the connection ended.
async fn next_bytes(connection: &Connection, io: &mut CallerIo) -> Option<Bytes> {
    let mut first = [0; FIRST_BYTES];
    let read = tokio::select! {
        read = io.read(&mut first) => read.ok()?,
        () = connection.session.was_cut() => return None,
    };
    if read == 0 {
        // Says goodbye as hyper would; a caller that does not listen any more is no error.
        let _ = tokio::time::timeout(GOODBYE_MAX, io.shutdown()).await;
        return None;
    }
    Some(Bytes::copy_from_slice(&first[..read]))
}
