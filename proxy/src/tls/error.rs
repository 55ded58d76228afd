//! How a TLS handshake fails, in words that tell our verdict from the peer's and both from the network's.

use crate::refusal::Refusal;
use crate::tls::peer::Role;
use crate::tls::svid_error::SvidError;
use postern_config::SpiffeId;
use rustls::{AlertDescription, InvalidMessage};
use std::io;

/// Why there is no connection; after a handshake `TlsError::from` reads a stream's error alike.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the TLS handshake did not end in time")]
    Deadline,
    #[error("the peer's SVID is refused")]
    Verify(#[source] SvidError),
    #[error("the peer is {found}, which is not the expected {expected}")]
    WrongIdentity { found: SpiffeId, expected: String },
    #[error("the peer's bytes are not TLS; maybe it speaks plaintext to an mTLS port")]
    NotTls,
    /// The other side refused: its log says why. `access_denied`, `unknown_ca` and the like are about our certificate.
    #[error("the peer ended the TLS handshake with the alert {0:?}")]
    Alert(AlertDescription),
    #[error("the TLS handshake failed")]
    Handshake(#[source] rustls::Error),
    #[error("`{name}` is neither a DNS name nor an IP address, so no certificate can be valid for it")]
    ServerName { name: String },
    #[error("the connection failed during the TLS handshake")]
    Io(#[source] io::Error),
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
}

impl TlsError {
    /// Stable and short, for logs and metrics; a verdict of the verifier is named by its own code.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "tls_deadline",
            Self::Verify(error) => error.code(),
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::NotTls => "not_tls",
            Self::Alert(_) => "tls_alert",
            Self::Handshake(_) => "tls_handshake",
            Self::ServerName { .. } => "server_name",
            Self::Io(_) => "tls_io",
            Self::Closed => "tls_closed",
        }
    }

    /// What we refuse with; `ours` is the role in which *we* took part.
    pub fn refusal(&self, ours: Role) -> Refusal {
        match (ours, self) {
            (Role::Server, Self::Deadline) => Refusal::TlsHandshakeTimeout,
            (Role::Server, Self::Verify(_)) => Refusal::PeerNotVerified,
            (Role::Server, Self::WrongIdentity { .. }) => Refusal::NotAllowed,
            (Role::Server, Self::NotTls) => Refusal::PlaintextRefused,
            (Role::Server, _) => Refusal::TlsHandshakeFailed,
            (Role::Client, Self::Deadline) => Refusal::UpstreamTimeout,
            (Role::Client, Self::Verify(_)) => Refusal::UpstreamNotVerified,
            (Role::Client, Self::WrongIdentity { .. }) => Refusal::WrongUpstreamIdentity,
            // Of a Web PKI server rustls judges the certificate, and says so as an error of its own.
            (Role::Client, Self::Handshake(rustls::Error::InvalidCertificate(_)) | Self::ServerName { .. }) => {
                Refusal::UpstreamNotVerified
            }
            (Role::Client, Self::Alert(alert)) if is_about_our_certificate(*alert) => Refusal::UpstreamRefusedUs,
            (Role::Client, Self::NotTls | Self::Alert(_) | Self::Handshake(_)) => Refusal::UpstreamProtocol,
            (Role::Client, Self::Io(_)) => Refusal::UpstreamUnreachable,
            (Role::Client, Self::Closed) => Refusal::UpstreamClosed,
        }
    }
}

/// Also for errors of an established stream: in TLS 1.3 a client has finished before the server has judged its
/// certificate, so a refusal by the other side arrives as an alert with the first read.
impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::NoCertificatesPresented) => Self::Verify(SvidError::NoCertificate),
            Some(rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            Some(rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )) => Self::NotTls,
            Some(other) => Self::Handshake(other.clone()),
            None if CLOSED.contains(&error.kind()) => Self::Closed,
            None => Self::Io(error),
        }
    }
}

/// The alert about our certificate by which a TLS stream failed, if that is why. In TLS 1.3 it arrives after the handshake,
/// see above.
pub fn refused_us(error: &io::Error) -> Option<AlertDescription> {
    error.get_ref().and_then(|inner| inner.downcast_ref()).and_then(alert_about_us)
}

pub fn alert_about_us(error: &rustls::Error) -> Option<AlertDescription> {
    match error {
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => Some(*alert),
        _ => None,
    }
}

/// RFC 8446 §6.2: what a server says of a client's certificate, and of one that is valid and not wanted.
fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    )
}

/// The ways in which a socket says that the other side has gone.
const CLOSED: [io::ErrorKind; 4] = [
    io::ErrorKind::UnexpectedEof,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::BrokenPipe,
];
