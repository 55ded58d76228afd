//! The transport of the SPIFFE Workload API: one connection, one stream, and what its end means.
//!
//! gRPC over cleartext HTTP/2 (Workload Endpoint §3.1), on a unix socket or a TCP address, without credentials (§5).
//! Every RPC carries the metadata `workload.spiffe.io: true` exactly once (§3). `supervisor` opens streams for ever and
//! gives their messages to `message`.

use super::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use super::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use hyper_util::rt::TokioIo;
use postern_config::SpiffeId;
use postern_config::identity::Endpoint;
use std::error::Error;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Status, Streaming};
use tower::service_fn;
use zeroize::Zeroizing;

/// gRPC's default of 4 MiB is within reach of a few hundred federated bundles.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Within this and the interval of [`Keepalive`] an agent that hangs is found, also when the stream is silent for hours.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often we ping. gRPC servers end connections that ping more than they like (gRFC A8), and by default, which is
/// SPIRE's, that is more than once in five minutes (spiffe/spire#7264). So we start eager and learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Keepalive {
    #[default]
    Eager,
    Patient,
}

impl Keepalive {
    fn interval(self) -> Duration {
        match self {
            Self::Eager => Duration::from_secs(20),
            Self::Patient => Duration::from_secs(5 * 60 + 20),
        }
    }

    /// What to do after a connection that the agent cut off when it had `lasted` so long.
    ///
    /// The reason that it gives, ENHANCE_YOUR_CALM, does not come through: h2 tells a stream of the broken pipe behind
    /// the GOAWAY alone. So it is guessed from the time: such servers allow two pings too many, and one that bore pings
    /// for five minutes minds none. A patient connection that ends before its first ping was not ended for pings.
    pub(crate) fn after_cut_off(self, lasted: Duration) -> Self {
        match self {
            Self::Eager if lasted >= self.interval() * 3 && lasted < Self::Patient.interval() => Self::Patient,
            Self::Patient if lasted < self.interval() => Self::Eager,
            unchanged => unchanged,
        }
    }
}

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
    #[error("the agent cut the connection off")]
    CutOff,
    #[error("a message is larger than {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the agent answered without a token (Workload API §4.5)")]
    NoToken,
    #[error("the stream failed with {code:?}: {message}")]
    Failed { code: Code, message: String },
}

impl From<Status> for StreamEnd {
    fn from(status: Status) -> Self {
        let (code, message) = (status.code(), status.message().chars().take(200).collect());
        match code {
            _ if is_cut_off(&status) => Self::CutOff,
            Code::PermissionDenied => Self::Denied(message),
            Code::InvalidArgument | Code::Unimplemented => Self::NotSupported { code, message },
            Code::OutOfRange => Self::TooLarge,
            _ => Self::Failed { code, message },
        }
    }
}

/// Whether the connection ended below the RPC, from the other side. An agent's own status has no transport error in it,
/// and our keepalive's time-out is not of this kind.
fn is_cut_off(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<h2::Error>().is_some_and(|error| error.is_io() || error.is_go_away()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Connects, and opens the stream of SVIDs with the bundles that belong to them (Workload API §5.2.1).
pub(crate) async fn fetch_svids(
    endpoint: &Endpoint,
    keepalive: Keepalive,
) -> Result<Streaming<X509svidResponse>, StreamEnd> {
    let response = client(endpoint, keepalive).await?.fetch_x509svid(with_security_header(X509svidRequest {})).await?;
    Ok(response.into_inner())
}

/// Connects, and opens the stream of bundles alone (Workload API §5.2.2).
pub(crate) async fn fetch_bundles(
    endpoint: &Endpoint,
    keepalive: Keepalive,
) -> Result<Streaming<X509BundlesResponse>, StreamEnd> {
    let response =
        client(endpoint, keepalive).await?.fetch_x509_bundles(with_security_header(X509BundlesRequest {})).await?;
    Ok(response.into_inner())
}

/// Connects, and opens the stream of the keys for tokens (Workload API §6.2.2).
pub(crate) async fn fetch_token_keys(
    endpoint: &Endpoint,
    keepalive: Keepalive,
) -> Result<Streaming<JwtBundlesResponse>, StreamEnd> {
    let response =
        client(endpoint, keepalive).await?.fetch_jwt_bundles(with_security_header(JwtBundlesRequest {})).await?;
    Ok(response.into_inner())
}

/// A connection over which tokens are asked for, one after the other or at once.
#[derive(Clone)]
pub(crate) struct TokenClient(SpiffeWorkloadApiClient<Channel>);

impl TokenClient {
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Self, StreamEnd> {
        // A connection without a stream is not pinged; it is made again when it breaks.
        client(endpoint, Keepalive::Patient).await.map(Self)
    }

    /// The token of `id` for `audience` (Workload API §6.2.1).
    pub(crate) async fn fetch(&self, id: &SpiffeId, audience: &str) -> Result<Zeroizing<String>, StreamEnd> {
        let request = JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: id.to_string() };
        let response = self.0.clone().fetch_jwtsvid(with_security_header(request)).await?.into_inner();
        let mut tokens = response.svids.into_iter().map(|svid| Zeroizing::new(svid.svid));
        // One was asked for.
        tokens.next().filter(|token| !token.is_empty()).ok_or(StreamEnd::NoToken)
    }
}

fn with_security_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

async fn client(endpoint: &Endpoint, keepalive: Keepalive) -> Result<SpiffeWorkloadApiClient<Channel>, StreamEnd> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect(endpoint, keepalive)).await;
    let channel = connecting
        .map_err(|_elapsed| StreamEnd::ConnectTimeout { endpoint: address_of(endpoint) })?
        .map_err(|source| StreamEnd::Connect { endpoint: address_of(endpoint), source })?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

async fn connect(endpoint: &Endpoint, keepalive: Keepalive) -> Result<Channel, tonic::transport::Error> {
    // Only the authority that HTTP/2 wants is taken from this; the connector knows where to go.
    let transport = tonic::transport::Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(keepalive.interval())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_from_when_it_was_cut_off() {
        use Keepalive::{Eager, Patient};
        let cases = [
            (Eager, 59, Eager),
            (Eager, 60, Patient),
            (Eager, 80, Patient),
            (Eager, 319, Patient),
            (Eager, 320, Eager),
            (Patient, 319, Eager),
            (Patient, 320, Patient),
            (Patient, 86_400, Patient),
        ];
        for (before, lasted, after) in cases {
            assert_eq!(before.after_cut_off(Duration::from_secs(lasted)), after, "{before:?} {lasted}");
        }
    }
}
