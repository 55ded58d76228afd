//! TLS towards servers outside the mesh: Web PKI names and roots, TLS 1.2 and 1.3, sessions resumed.
//!
//! Without roots there is no verification, so without roots there is no [`WebTls`].

use crate::tls::bundle::sha256;
use crate::tls::error::TlsError;
use crate::tls::mesh::ClientAlpn;
use crate::tls::provider::provider;
use aws_lc_rs::digest;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, ServerName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client};

/// Sessions remembered per ALPN form.
const SESSIONS_MAX: usize = 256;

/// Roots as they were found, before anything is made of them.
pub struct WebRoots {
    /// Where, for messages.
    place: String,
    certificates: Vec<CertificateDer<'static>>,
    /// SHA-256 of all of them.
    fingerprint: [u8; 32],
}

impl WebRoots {
    /// From the PEM file `path`, or from the system (`SSL_CERT_FILE` and `SSL_CERT_DIR` where they are set).
    ///
    /// # Errors
    /// [`WebRootsError`].
    pub fn read(path: Option<&Path>) -> Result<Self, WebRootsError> {
        let (place, certificates) = match path {
            Some(path) => (path.display().to_string(), read_pem(path)?),
            None => ("the system's trust store".to_owned(), read_system()?),
        };
        let mut context = digest::Context::new(&digest::SHA256);
        for certificate in &certificates {
            // Self-delimiting: what precedes one cannot be taken for a part of it.
            context.update(&sha256(certificate));
        }
        let fingerprint = context.finish().as_ref().try_into().expect("SHA-256 is 32 bytes");
        Ok(Self { place, certificates, fingerprint })
    }
}

/// A client of Web PKI servers: one set of roots, and the sessions made with it.
pub struct WebTls {
    fingerprint: [u8; 32],
    h2: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    bare: Arc<ClientConfig>,
}

impl WebTls {
    /// Roots that cannot be read as such are passed over; that none is left is an error.
    ///
    /// # Errors
    /// [`WebRootsError`].
    pub fn new(roots: WebRoots) -> Result<Self, WebRootsError> {
        let WebRoots { place, certificates, fingerprint } = roots;
        let mut store = RootCertStore::empty();
        let (added, _passed_over) = store.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(WebRootsError::None { place });
        }
        let provider = provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
            .build()
            .map_err(WebRootsError::Verifier)?;
        let config = |alpn: ClientAlpn| -> Result<Arc<ClientConfig>, WebRootsError> {
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&TLS13, &TLS12])
                .map_err(WebRootsError::Provider)?
                .with_webpki_verifier(verifier.clone())
                .with_no_client_auth();
            // One store a form, so that no session crosses from one protocol to another.
            config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
            config.alpn_protocols = alpn.protocols();
            Ok(Arc::new(config))
        };
        Ok(Self {
            fingerprint,
            h2: config(ClientAlpn::H2)?,
            http1: config(ClientAlpn::Http1)?,
            bare: config(ClientAlpn::None)?,
        })
    }

    /// Is it made of these roots?
    pub fn trusts(&self, roots: &WebRoots) -> bool {
        self.fingerprint == roots.fingerprint
    }

    /// # Errors
    /// [`TlsError`]; whatever is wrong with the server's certificate is a `Handshake` error.
    ///
    /// # Cancellation
    /// Dropping it closes `io` without an alert.
    pub async fn connect<IO>(
        &self,
        io: IO,
        server_name: &str,
        alpn: ClientAlpn,
        deadline: Duration,
    ) -> Result<client::TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_invalid| TlsError::ServerName { name: server_name.to_owned() })?;
        let config = match alpn {
            ClientAlpn::H2 => &self.h2,
            ClientAlpn::Http1 => &self.http1,
            ClientAlpn::None => &self.bare,
        };
        let connecting = Box::pin(TlsConnector::from(config.clone()).connect(name, io));
        match tokio::time::timeout(deadline, connecting).await {
            Ok(outcome) => outcome.map_err(TlsError::from),
            Err(_elapsed) => Err(TlsError::Deadline),
        }
    }
}

/// Why there are no roots to believe.
#[derive(Debug, thiserror::Error)]
pub enum WebRootsError {
    #[error("cannot read roots from {}", path.display())]
    Unreadable { path: PathBuf, source: pem::Error },
    #[error("cannot read the system's trust store; maybe ca-certificates is not installed: name a file with `roots`")]
    System(#[source] rustls_native_certs::Error),
    #[error("there is no usable root in {place}; maybe ca-certificates is not installed: name a file with `roots`")]
    None { place: String },
    #[error("the roots cannot be used")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    #[error("the crypto provider cannot do TLS 1.2 and 1.3")]
    Provider(#[source] rustls::Error),
}

fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, WebRootsError> {
    let unreadable = |source| WebRootsError::Unreadable { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

/// One unreadable file of many is no reason to stop; nothing but unreadable files is.
fn read_system() -> Result<Vec<CertificateDer<'static>>, WebRootsError> {
    let loaded = rustls_native_certs::load_native_certs();
    match loaded.errors.into_iter().next() {
        Some(error) if loaded.certs.is_empty() => Err(WebRootsError::System(error)),
        _ => Ok(loaded.certs),
    }
}
