//! One fetch from a bundle endpoint: GET over HTTPS, redirects followed, nothing shown of ourselves
//! (SPIFFE Federation §5.2.1.3, §5.2.1.4, §5.2.2.4).

use crate::tls::{ClientAlpn, EndpointTrust, TlsError, WebTls};
use crate::upstream::reserved::{is_metadata, is_public, may_be_dialled};
use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postern_config::identity::{BundleUrl, BundleUrlError};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// From the name's resolution to the last byte, redirects included.
const DEADLINE: Duration = Duration::from_secs(30);
/// For one address; a name may have several.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Some hundred authorities. Files of our own host may be larger, what a foreign one sends may not (THREATS NW-13).
const BYTES_MAX: usize = 1024 * 1024;
/// As many as browsers and SPIRE follow would hide a loop for long.
const REDIRECTS_MAX: usize = 5;
const AGENT: &str = concat!("postern/", env!("CARGO_PKG_VERSION"));

/// Whom to believe, at the endpoint and wherever it redirects to.
pub(in crate::identity) enum Trust {
    Web(WebTls),
    Spiffe(EndpointTrust),
}

#[derive(Debug, thiserror::Error)]
pub(in crate::identity) enum FetchError {
    #[error("no whole answer within {DEADLINE:?}")]
    Deadline,
    #[error("cannot resolve {host}")]
    Resolve { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("cannot connect to {host}, port {port}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error("{url} does not prove who it is")]
    Tls { url: BundleUrl, source: Box<TlsError> },
    #[error("{url} does not speak HTTP/1.1 as it should")]
    Http { url: BundleUrl, source: hyper::Error },
    #[error("the request for {url} cannot be written")]
    Request { url: BundleUrl, source: http::Error },
    #[error("{url} answers {status} instead of 200")]
    Status { url: BundleUrl, status: StatusCode },
    #[error("{url} redirects, and `follow_redirects` is false")]
    RedirectRefused { url: BundleUrl },
    #[error("{url} redirects without saying where to")]
    NoLocation { url: BundleUrl },
    #[error("{url} redirects to `{location}`, which")]
    RedirectTarget { url: BundleUrl, location: String, source: BundleUrlError },
    #[error("more than {REDIRECTS_MAX} redirects")]
    RedirectsMax,
    #[error("a redirect to {url} leads to {address}: this host, or a metadata service")]
    RedirectInside { url: BundleUrl, address: IpAddr },
    #[error("{host} is at {address}, which is not public: write `allow_private_addresses: true` if it is meant")]
    NotPublic { host: String, address: IpAddr },
    #[error("{host} is at {address}, a cloud's metadata service")]
    Metadata { host: String, address: IpAddr },
    #[error("the document at {url} cannot be read to its end, or has more than {BYTES_MAX} bytes")]
    Body { url: BundleUrl, source: Box<dyn std::error::Error + Send + Sync> },
}

/// The bytes of the bundle. Redirects always begin at `url` again: no target is remembered.
///
/// # Errors
/// [`FetchError`].
///
/// # Cancellation
/// Dropping it closes the connection.
pub(super) async fn fetch(url: &BundleUrl, trust: &Trust, follow_redirects: bool) -> Result<Bytes, FetchError> {
    match tokio::time::timeout(DEADLINE, follow(url, trust, follow_redirects)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(FetchError::Deadline),
    }
}

/// Whether addresses that are not public may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::identity) enum Inside {
    Allowed,
    Refused,
}

/// One document, without redirects. What counts is the address that is connected to, not the name that leads there: who owns a
/// name can turn it anywhere (THREATS NW-03).
///
/// # Errors
/// [`FetchError`].
///
/// # Cancellation
/// Dropping it closes the connection.
pub(in crate::identity) async fn fetch_once(
    url: &BundleUrl,
    trust: &Trust,
    inside: Inside,
) -> Result<Bytes, FetchError> {
    let answer = async {
        let addresses = resolve(url).await?;
        for address in addresses.iter().map(SocketAddr::ip) {
            let host = url.host();
            if is_metadata(address) {
                return Err(FetchError::Metadata { host, address });
            }
            if inside == Inside::Refused && !is_public(address) {
                return Err(FetchError::NotPublic { host, address });
            }
        }
        let (response, _connection) = get(url, trust, &addresses).await?;
        match response.status() {
            StatusCode::OK => {
                let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
                body.map(|body| body.to_bytes()).map_err(|source| FetchError::Body { url: url.clone(), source })
            }
            status => Err(FetchError::Status { url: url.clone(), status }),
        }
    };
    tokio::time::timeout(DEADLINE, answer).await.unwrap_or(Err(FetchError::Deadline))
}

async fn follow(url: &BundleUrl, trust: &Trust, follow_redirects: bool) -> Result<Bytes, FetchError> {
    let mut url = url.clone();
    // Where the operator's own address leads inside, a redirect may too; otherwise none may.
    let mut inside_allowed = true;
    for _hop in 0..=REDIRECTS_MAX {
        let addresses = resolve(&url).await?;
        let inside = addresses.iter().map(SocketAddr::ip).find(|address| !may_be_dialled(*address));
        if let (Some(address), false) = (inside, inside_allowed) {
            return Err(FetchError::RedirectInside { url, address });
        }
        inside_allowed = inside.is_some();
        let (response, _connection) = get(&url, trust, &addresses).await?;
        let status = response.status();
        if status == StatusCode::OK {
            let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
            return body.map(|body| body.to_bytes()).map_err(|source| FetchError::Body { url, source });
        }
        if !is_redirect(status) {
            return Err(FetchError::Status { url, status });
        }
        if !follow_redirects {
            return Err(FetchError::RedirectRefused { url });
        }
        url = target(&url, &response)?;
        tracing::debug!(%url, "the bundle endpoint redirects");
    }
    Err(FetchError::RedirectsMax)
}

/// RFC 9110 §15.4: those that name one other place. 300 and 304 do not.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn target(url: &BundleUrl, response: &Response<Incoming>) -> Result<BundleUrl, FetchError> {
    let no_location = || FetchError::NoLocation { url: url.clone() };
    let location = response.headers().get(LOCATION).ok_or_else(no_location)?;
    let location = location.to_str().map_err(|_not_ascii| no_location())?;
    url.redirected(location).map_err(|source| FetchError::RedirectTarget {
        url: url.clone(),
        location: location.chars().take(200).collect(),
        source,
    })
}

/// The response and the task that drives its connection.
async fn get(
    url: &BundleUrl,
    trust: &Trust,
    addresses: &[SocketAddr],
) -> Result<(Response<Incoming>, JoinSet<Result<(), hyper::Error>>), FetchError> {
    let stream = secured(url, trust, connect(url, addresses).await?).await?;
    let http = |source| FetchError::Http { url: url.clone(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends with the set.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request = Request::get(url.path_and_query())
        .header(HOST, url.authority())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|source| FetchError::Request { url: url.clone(), source })?;
    let response = sender.send_request(request).await.map_err(http)?;
    Ok((response, driving))
}

async fn secured(url: &BundleUrl, trust: &Trust, tcp: TcpStream) -> Result<TlsStream<TcpStream>, FetchError> {
    let host = url.host();
    let secured = match trust {
        Trust::Web(web) => web.connect(tcp, &host, ClientAlpn::Http1, DEADLINE).await,
        Trust::Spiffe(endpoint) => endpoint.connect(tcp, &host, DEADLINE).await,
    };
    secured.map_err(|source| FetchError::Tls { url: url.clone(), source: Box::new(source) })
}

async fn resolve(url: &BundleUrl) -> Result<Vec<SocketAddr>, FetchError> {
    let host = url.host();
    let addresses = tokio::net::lookup_host((host.as_str(), url.port())).await;
    addresses.map(Iterator::collect).map_err(|source| FetchError::Resolve { host: host.clone(), source })
}

/// The first address that answers, in the order of the resolver.
async fn connect(url: &BundleUrl, addresses: &[SocketAddr]) -> Result<TcpStream, FetchError> {
    let mut last = None;
    for address in addresses {
        let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let (host, port) = (url.host(), url.port());
    Err(match last {
        Some(source) => FetchError::Connect { host, port, source },
        None => FetchError::NoAddress { host },
    })
}
