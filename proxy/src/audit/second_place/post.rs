//! A server that each seal is sent to by POST. Its thread has a runtime of its own: nothing of the data plane waits for it.

use super::otlp;
use crate::tls::web::{WebRoots, WebRootsError, WebTls};
use crate::tls::{ClientAlpn, TlsError};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postern_config::audit::{PostAs, PostUrl};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// From the name's resolution to the head of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Of an answer that says more than its status does.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const AGENT: &str = concat!("postern/", env!("CARGO_PKG_VERSION"));

pub(super) struct Posted {
    url: PostUrl,
    form: PostAs,
    /// `None`: `http`, on this host.
    tls: Option<WebTls>,
    runtime: Runtime,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("its runtime cannot be started")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Roots(#[from] WebRootsError),
    #[error("no answer within {DEADLINE:?}")]
    Deadline,
    #[error("cannot connect to {host}, port {port}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error("it does not prove who it is")]
    Tls(#[source] Box<TlsError>),
    #[error("it does not speak HTTP/1.1 as it should")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
    #[error("it answers {0}, which does not say that it has been kept (RFC 9110 §15.3)")]
    Status(StatusCode),
    #[error("its answer cannot be read")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it rejects the seal (OTLP, partial success): {0}")]
    Rejected(String),
}

impl Posted {
    /// # Errors
    /// There are no roots to believe the server by.
    pub(super) fn open(url: &PostUrl, form: PostAs, roots: Option<&Path>) -> Result<Self, PostError> {
        let tls = match url.is_https() {
            true => Some(WebTls::new(WebRoots::read(roots)?)?),
            false => None,
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(PostError::Runtime)?;
        Ok(Self { url: url.clone(), form, tls, runtime })
    }

    /// A connection for each: they are minutes apart.
    ///
    /// # Errors
    /// The server has not said that it keeps it; it may have it all the same.
    pub(super) fn post(&mut self, seal: &[u8]) -> Result<(), PostError> {
        let body = match self.form {
            PostAs::Line => Bytes::copy_from_slice(seal),
            PostAs::Otlp => otlp::request(seal, SystemTime::now()).into(),
        };
        let sending = async { tokio::time::timeout(DEADLINE, self.send(body)).await };
        self.runtime.block_on(sending).unwrap_or(Err(PostError::Deadline))
    }

    async fn send(&self, body: Bytes) -> Result<(), PostError> {
        let (host, port) = (self.url.host(), self.url.port());
        let connected = TcpStream::connect((host.as_str(), port)).await;
        let tcp = connected.map_err(|source| PostError::Connect { host: host.clone(), port, source })?;
        match &self.tls {
            Some(web) => {
                let secured = web.connect(tcp, &host, ClientAlpn::Http1, DEADLINE).await;
                self.request(secured.map_err(|error| PostError::Tls(Box::new(error)))?, body).await
            }
            None => self.request(tcp, body).await,
        }
    }

    async fn request(&self, io: impl AsyncRead + AsyncWrite + Unpin, body: Bytes) -> Result<(), PostError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let request = Request::post(self.url.path_and_query())
            .header(HOST, self.url.authority())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .body(Full::new(body))?;
        let answered = async move {
            let response = sender.send_request(request).await?;
            match (response.status(), self.form) {
                (status, _) if !status.is_success() => Err(PostError::Status(status)),
                (_, PostAs::Line) => Ok(()),
                (_, PostAs::Otlp) => {
                    let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
                    match otlp::rejected(&answer.map_err(PostError::Answer)?.to_bytes()) {
                        Some(why) => Err(PostError::Rejected(why)),
                        None => Ok(()),
                    }
                }
            }
        };
        tokio::pin!(connection, answered);
        tokio::select! {
            biased;
            answered = &mut answered => answered,
            ended = &mut connection => {
                ended?;
                answered.await
            }
        }
    }
}
