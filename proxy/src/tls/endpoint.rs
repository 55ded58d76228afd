//! TLS towards a bundle endpoint of the profile `https_spiffe`: its SVID says who it is, and we show none
//! (SPIFFE Federation §5.2.2.4).

use crate::identity::{Bundle, Snapshot};
use crate::tls::error::TlsError;
use crate::tls::handshake::{Expected, Handshake};
use crate::tls::mesh::{ClientAlpn, conclude};
use crate::tls::provider::provider;
use crate::tls::verifier::Strictness;
use postern_config::SpiffeId;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::ServerName;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client};

/// Whom to believe at an endpoint: exactly `id`, vouched for by `bundle`.
pub struct EndpointTrust {
    pub id: SpiffeId,
    pub bundle: Arc<Bundle>,
    pub strictness: Strictness,
}

impl EndpointTrust {
    /// `server_name` is sent as SNI, and decides nothing.
    ///
    /// # Errors
    /// [`TlsError`].
    ///
    /// # Cancellation
    /// Dropping it closes `io` without an alert.
    pub async fn connect<IO>(
        &self,
        io: IO,
        server_name: &str,
        deadline: Duration,
    ) -> Result<client::TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_invalid| TlsError::ServerName { name: server_name.to_owned() })?;
        let bundles = HashMap::from([(self.bundle.trust_domain.clone(), self.bundle.clone())]);
        let snapshot = Arc::new(Snapshot { bundles, ..Snapshot::empty() });
        let provider = provider();
        let handshake = Handshake::anonymous(&provider, &snapshot, Expected::Exactly(self.id.clone()), self.strictness);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsError::Handshake)?
            .dangerous()
            .with_custom_certificate_verifier(handshake.clone())
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = ClientAlpn::Http1.protocols();
        let connecting = Box::pin(TlsConnector::from(Arc::new(config)).connect(name, io));
        conclude(connecting, &handshake, deadline).await.map(|(stream, _peer)| stream)
    }
}
