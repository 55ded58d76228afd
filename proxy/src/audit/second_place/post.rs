//! A server that each seal is sent to by POST. Its thread has a runtime of its own: nothing of the data plane waits for it.

use crate::tls::web::{WebRoots, WebRootsError, WebTls};
use crate::tls::{ClientAlpn, TlsError};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postern_config::audit::PostUrl;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// From the name's resolution to the head of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
const AGENT: &str = concat!("postern/", env!("CARGO_PKG_VERSION"));

pub(super) struct Posted {
    url: PostUrl,
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
}

impl Posted {
    /// # Errors
    /// There are no roots to believe the server by.
    pub(super) fn open(url: &PostUrl, roots: Option<&Path>) -> Result<Self, PostError> {
        let tls = match url.is_https() {
            true => Some(WebTls::new(WebRoots::read(roots)?)?),
            false => None,
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(PostError::Runtime)?;
        Ok(Self { url: url.clone(), tls, runtime })
    }

    /// A connection for each: they are minutes apart.
    ///
    /// # Errors
    /// The server has not said that it keeps it; it may have it all the same.
    pub(super) fn post(&mut self, seal: &[u8]) -> Result<(), PostError> {
        let sending = async { tokio::time::timeout(DEADLINE, self.send(seal)).await };
        self.runtime.block_on(sending).unwrap_or(Err(PostError::Deadline))
    }

    async fn send(&self, seal: &[u8]) -> Result<(), PostError> {
        let (host, port) = (self.url.host(), self.url.port());
        let connected = TcpStream::connect((host.as_str(), port)).await;
        let tcp = connected.map_err(|source| PostError::Connect { host: host.clone(), port, source })?;
        match &self.tls {
            Some(web) => {
                let secured = web.connect(tcp, &host, ClientAlpn::Http1, DEADLINE).await;
                self.request(secured.map_err(|error| PostError::Tls(Box::new(error)))?, seal).await
            }
            None => self.request(tcp, seal).await,
        }
    }

    async fn request(&self, io: impl AsyncRead + AsyncWrite + Unpin, seal: &[u8]) -> Result<(), PostError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let request = Request::post(self.url.path_and_query())
            .header(HOST, self.url.authority())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .body(Full::new(Bytes::copy_from_slice(seal)))?;
        let answered = async move {
            let response = sender.send_request(request).await;
            response.map(|response| response.status())
        };
        tokio::pin!(connection, answered);
        let status = tokio::select! {
            biased;
            status = &mut answered => status?,
            ended = &mut connection => {
                ended?;
                answered.await?
            }
        };
        if status.is_success() { Ok(()) } else { Err(PostError::Status(status)) }
    }
}
