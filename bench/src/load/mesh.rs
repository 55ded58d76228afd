//! mTLS as a client sidecar has it, for loads that go to the server sidecar directly.

use super::http1;
use anyhow::Context as _;
use clap::Args;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Args)]
pub struct MeshArguments {
    /// To a server sidecar, with this certificate.
    #[arg(long, requires_all = ["key", "bundle"])]
    certificate: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
    #[arg(long)]
    bundle: Option<PathBuf>,
}

/// Files of whoever connects, and of whom it believes.
pub struct PemFiles<'a> {
    pub certificate: &'a Path,
    pub key: &'a Path,
    pub bundle: &'a Path,
}

#[derive(Clone)]
pub struct Mesh {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Mesh {
    /// For HTTP/1.1 with the server called `host`, if that is asked for. Every handshake is a full one.
    pub fn new(arguments: &MeshArguments, host: &str) -> anyhow::Result<Option<Self>> {
        let MeshArguments { certificate: Some(certificate), key: Some(key), bundle: Some(bundle) } = arguments else {
            return Ok(None);
        };
        Self::of(&PemFiles { certificate, key, bundle }, host, b"http/1.1").map(Some)
    }

    /// For the protocol `alpn` with the server called `host`. Every handshake is a full one.
    pub fn of(files: &PemFiles<'_>, host: &str, alpn: &[u8]) -> anyhow::Result<Self> {
        let PemFiles { certificate, key, bundle } = *files;
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(key)?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(bundle)? {
            roots.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host} is no name"))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub async fn connect(&self, to: SocketAddr) -> anyhow::Result<TlsStream<TcpStream>> {
        Ok(self.connector.connect(self.name.clone(), http1::connect(to).await?).await?)
    }
}
