//! The transport of the SPIFFE Workload API: one connection, one stream, and what its end means.
//!
//! gRPC over cleartext HTTP/2 (Workload Endpoint §3.1), on a unix socket or a TCP address, without credentials (§5).
//! Every RPC carries the metadata `workload.spiffe.io: true` exactly once (§3). `supervisor` opens streams for ever and
//! gives their messages to `message`.

use super::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use super::proto::{X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse};
use hyper_util::rt::TokioIo;
use postern_config::identity::Endpoint;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Status, Streaming};
use tower::service_fn;

/// gRPC's default of 4 MiB is within reach of a few hundred federated bundles.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An agent that hangs is found within these two, also when the stream is silent for hours.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stream could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamEnd {
    #[error("cannot connect to the Workload API at {endpoint}; is the agent running, and may this user reach it?")]
    Connect { endpoint: String, source: tonic::transport::Error },
    #[error("connecting to the Workload API at {endpoint} took longer than {CONNECT_TIMEOUT:?}")]
    ConnectTimeout { endpoint: String },
    #[error("the agent ended the stream")]
    Ended,
    #[error(
        "the agent denies this workload an identity (PermissionDenied): {0}; is there a registration entry for it?"
    )]
    Denied(String),
    #[error("the agent answered {code:?}: {message}; is this a SPIFFE Workload API of this profile?")]
    NotSupported { code: Code, message: String },
    #[error("a message is larger than {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the stream failed with {code:?}: {message}")]
    Failed { code: Code, message: String },
}

impl From<Status> for StreamEnd {
    fn from(status: Status) -> Self {
        let (code, message) = (status.code(), status.message().chars().take(200).collect());
        match code {
            Code::PermissionDenied => Self::Denied(message),
            Code::InvalidArgument | Code::Unimplemented => Self::NotSupported { code, message },
            Code::OutOfRange => Self::TooLarge,
            _ => Self::Failed { code, message },
        }
    }
}

/// Connects, and opens the stream of SVIDs with the bundles that belong to them (Workload API §5.2.1).
pub(crate) async fn fetch_svids(endpoint: &Endpoint) -> Result<Streaming<X509svidResponse>, StreamEnd> {
    let response = client(endpoint).await?.fetch_x509svid(with_security_header(X509svidRequest {})).await?;
    Ok(response.into_inner())
}

/// Connects, and opens the stream of bundles alone (Workload API §5.2.2).
pub(crate) async fn fetch_bundles(endpoint: &Endpoint) -> Result<Streaming<X509BundlesResponse>, StreamEnd> {
    let response = client(endpoint).await?.fetch_x509_bundles(with_security_header(X509BundlesRequest {})).await?;
    Ok(response.into_inner())
}

fn with_security_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

async fn client(endpoint: &Endpoint) -> Result<SpiffeWorkloadApiClient<Channel>, StreamEnd> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect(endpoint)).await;
    let channel = connecting
        .map_err(|_elapsed| StreamEnd::ConnectTimeout { endpoint: address_of(endpoint) })?
        .map_err(|source| StreamEnd::Connect { endpoint: address_of(endpoint), source })?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

async fn connect(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    // Only the authority that HTTP/2 wants is taken from this; the connector knows where to go.
    let transport = tonic::transport::Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    match endpoint.clone() {
        Endpoint::Unix(path) => {
            let connector = service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            transport.connect_with_connector(connector).await
        }
        Endpoint::Tcp(address) => {
            let connector =
                service_fn(move |_: Uri| async move { TcpStream::connect(address).await.map(TokioIo::new) });
            transport.connect_with_connector(connector).await
        }
    }
}

/// As an operator writes it.
pub(crate) fn address_of(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Unix(path) => format!("unix://{}", path.display()),
        Endpoint::Tcp(address) => format!("tcp://{address}"),
    }
}
