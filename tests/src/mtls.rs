//! A peer that speaks mTLS by itself, with a sidecar's identity: for what a sidecar would not do.

use crate::sidecar::Sidecar;
use crate::wait::within;
use postern::identity::Snapshot;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connects as `identity` does, for the protocols `alpn` and with any server name.
///
/// # Errors
/// The handshake failed.
///
/// # Panics
/// Nobody listens.
pub async fn connect(
    identity: &Sidecar,
    to: SocketAddr,
    alpn: &[&[u8]],
    server_name: &'static str,
) -> io::Result<TlsStream<TcpStream>> {
    connect_as(&identity.shared.identity.load(), to, alpn, server_name).await
}

/// As [`connect`], from an address of this host; on Linux all of 127.0.0.0/8 are.
///
/// # Errors
/// As [`connect`].
///
/// # Panics
/// As [`connect`].
pub async fn connect_from(
    identity: &Sidecar,
    from: Ipv4Addr,
    to: SocketAddr,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
    let stream = within("a connection", socket.connect(to)).await.expect("somebody listens");
    shake_hands(&identity.shared.identity.load(), stream, alpn, "orders.shop.svc").await
}

/// As [`connect`], with an identity that was had at some time.
///
/// # Errors
/// As [`connect`].
///
/// # Panics
/// As [`connect`].
pub async fn connect_as(
    snapshot: &Snapshot,
    to: SocketAddr,
    alpn: &[&[u8]],
    server_name: &'static str,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = within("a connection", TcpStream::connect(to)).await.expect("somebody listens");
    shake_hands(snapshot, stream, alpn, server_name).await
}

async fn shake_hands(
    snapshot: &Snapshot,
    stream: TcpStream,
    alpn: &[&[u8]],
    server_name: &'static str,
) -> io::Result<TlsStream<TcpStream>> {
    let own = SingleCertAndKey::from(CertifiedKey::clone(&snapshot.svids[0].certified));
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(Arc::new(own));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(server_name).expect("a name");
    within("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// Who answers is not what such a test is about.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
