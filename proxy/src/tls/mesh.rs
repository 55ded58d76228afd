//! mTLS between proxies: one handshake, one snapshot, one verdict.
//!
//! TLS 1.3 only. No session is resumed in either direction: a resumed handshake skips the verifier, so it would outlive
//! expiry, bundle and policy (THREATS TL-01). No early data, no SNI: the SPIFFE ID alone says who answers. The
//! configuration is made per handshake, so what a handshake believed is one snapshot; making it costs microseconds
//! (4 µs unoptimized: `configuration_costs_microseconds`), the handshake's signatures some hundreds.

use crate::identity::{Snapshot, Svid};
use crate::tls::error::TlsError;
use crate::tls::handshake::{Expected, Handshake};
use crate::tls::peer::Peer;
use crate::tls::provider::provider;
use crate::tls::verifier::Strictness;
use postern_config::SpiffePattern;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// How to answer a handshake.
pub struct Accept<'a> {
    pub snapshot: &'a Arc<Snapshot>,
    pub svid: &'a Arc<Svid>,
    pub alpn: ServerAlpn,
    pub strictness: Strictness,
    /// From now to the end of the handshake.
    pub deadline: Duration,
}

/// What an inbound port speaks. A client that offers ALPN and shares none is refused; one that offers none is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerAlpn {
    /// h2 before http/1.1.
    Http,
    Http1Only,
    Http2Only,
    /// L4: ALPN is not looked at.
    None,
}

/// How to open a handshake.
pub struct Connect<'a> {
    pub snapshot: &'a Arc<Snapshot>,
    pub svid: &'a Arc<Svid>,
    /// Who may answer; nobody when empty.
    pub expected: &'a [SpiffePattern],
    pub alpn: ClientAlpn,
    pub strictness: Strictness,
    /// From now to the end of the handshake.
    pub deadline: Duration,
}

/// What a client is about to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAlpn {
    H2,
    Http1,
    /// L4: ALPN is not offered.
    None,
}

/// Answers a client's handshake and makes the client known.
///
/// # Errors
/// [`TlsError`]. The alert that fits has been sent where the other side still listens.
///
/// # Cancellation
/// Dropping it closes `io` without an alert.
pub async fn accept<IO>(io: IO, with: Accept<'_>) -> Result<(server::TlsStream<IO>, Arc<Peer>), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let provider = provider();
    let handshake = Handshake::new(&provider, with.snapshot, with.svid, Expected::Anyone, with.strictness);
    let config = server_config(provider, &handshake, with.alpn)?;
    // Boxed: the caller's future lives as long as the connection, the handshake does not.
    let accepting = Box::pin(TlsAcceptor::from(config).accept(io));
    conclude(accepting, &handshake, with.deadline).await
}

/// Opens a handshake and makes sure that one of the expected answers.
///
/// # Errors
/// [`TlsError`]. That the *server* refused our certificate shows with the first read only, as an alert: see
/// [`TlsError::from`].
///
/// # Cancellation
/// Dropping it closes `io` without an alert.
pub async fn connect<IO>(io: IO, with: Connect<'_>) -> Result<(client::TlsStream<IO>, Arc<Peer>), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let provider = provider();
    let expected = Expected::OneOf(with.expected.to_vec());
    let handshake = Handshake::new(&provider, with.snapshot, with.svid, expected, with.strictness);
    let config = client_config(provider, &handshake, with.alpn)?;
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let connecting = Box::pin(TlsConnector::from(config).connect(nobody, io));
    conclude(connecting, &handshake, with.deadline).await
}

/// Drives the handshake to its end or the deadline. The verifier's own reason goes before rustls' word for it.
pub(super) async fn conclude<S, F>(
    driving: Pin<Box<F>>,
    handshake: &Handshake,
    deadline: Duration,
) -> Result<(S, Arc<Peer>), TlsError>
where
    F: Future<Output = io::Result<S>>,
{
    let outcome = tokio::time::timeout(deadline, driving).await;
    let verdict = handshake.finish();
    match (outcome, verdict) {
        (Err(_elapsed), _) => Err(TlsError::Deadline),
        (Ok(_), Some(Err(refused))) => Err(refused),
        (Ok(Err(error)), _) => Err(TlsError::from(error)),
        (Ok(Ok(stream)), Some(Ok(peer))) => Ok((stream, peer)),
        // rustls calls the verifier in every full handshake, and there are no others. Fail closed if it did not.
        (Ok(Ok(_)), None) => Err(TlsError::Verify(crate::tls::SvidError::NoCertificate)),
    }
}

/// # Errors
/// [`TlsError::Handshake`] if the provider cannot do TLS 1.3, which it can.
pub(super) fn server_config(
    provider: Arc<rustls::crypto::CryptoProvider>,
    handshake: &Arc<Handshake>,
    alpn: ServerAlpn,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Handshake)?
        .with_client_cert_verifier(handshake.clone())
        .with_cert_resolver(handshake.clone());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = match alpn {
        ServerAlpn::Http => vec![H2.to_vec(), HTTP_1_1.to_vec()],
        ServerAlpn::Http1Only => vec![HTTP_1_1.to_vec()],
        ServerAlpn::Http2Only => vec![H2.to_vec()],
        ServerAlpn::None => Vec::new(),
    };
    Ok(Arc::new(config))
}

/// # Errors
/// As [`server_config`].
fn client_config(
    provider: Arc<rustls::crypto::CryptoProvider>,
    handshake: &Arc<Handshake>,
    alpn: ClientAlpn,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Handshake)?
        .dangerous()
        .with_custom_certificate_verifier(handshake.clone())
        .with_client_cert_resolver(handshake.clone());
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = alpn.protocols();
    Ok(Arc::new(config))
}

impl ClientAlpn {
    pub(super) fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::H2 => vec![H2.to_vec()],
            Self::Http1 => vec![HTTP_1_1.to_vec()],
            Self::None => Vec::new(),
        }
    }
}

/// RFC 7301 §6, RFC 9113 §3.1.
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";
