//! A client of the admin socket: one question, one answer, one connection.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// Where `postern run` listens unless the file says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/postern/admin.sock";
const DEADLINE: Duration = Duration::from_secs(5);
/// Thousands of connections fit; more than this is not what we asked for.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Asks the process behind `socket` for `target` and reads the answer as JSON.
///
/// # Errors
/// Nobody listens, we may not ask, or the answer does not come or is none; in words for the operator.
pub(super) async fn get(socket: &Path, target: &str) -> anyhow::Result<serde_json::Value> {
    tell(socket, Method::GET, target).await
}

/// As [`get`], of what changes something.
///
/// # Errors
/// As [`get`], and what the process will not do.
pub(super) async fn post(socket: &Path, target: &str) -> anyhow::Result<serde_json::Value> {
    tell(socket, Method::POST, target).await
}

async fn tell(socket: &Path, method: Method, target: &str) -> anyhow::Result<serde_json::Value> {
    let asking = tokio::time::timeout(DEADLINE, ask(socket, method, target)).await;
    let (status, body) =
        asking.with_context(|| format!("no answer from {} within {DEADLINE:?}", socket.display()))??;
    if !status.is_success() {
        bail!("{} answered {status}: {}", socket.display(), String::from_utf8_lossy(&body).trim());
    }
    serde_json::from_slice(&body).with_context(|| format!("{target} of {} is not JSON", socket.display()))
}

async fn ask(socket: &Path, method: Method, target: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await.with_context(|| why_not_connected(socket))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("the admin socket closed")?;
    let request = Request::builder().method(method).uri(target).header(http::header::HOST, "postern");
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        anyhow::Ok((status, body))
    };
    // The connection has to be driven while the answer is read; its own end says nothing that the answer does not.
    let (answer, _end) = tokio::join!(answer, connection);
    answer.with_context(|| format!("asking {} for {target}", socket.display()))
}

fn why_not_connected(socket: &Path) -> String {
    let path = socket.display();
    match std::os::unix::net::UnixStream::connect(socket).map_err(|error| error.kind()) {
        Err(ErrorKind::NotFound) => {
            format!("there is no {path}: is Postern running, with `admin: {{ socket: … }}`? Name it with --admin PATH")
        }
        Err(ErrorKind::ConnectionRefused) => format!("nobody listens on {path} any more: the process was killed"),
        Err(ErrorKind::PermissionDenied) => format!("{path} is not ours to use: ask as root or as the proxy's user"),
        _ => format!("cannot connect to {path}"),
    }
}
