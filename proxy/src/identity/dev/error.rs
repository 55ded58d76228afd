//! What can go wrong in the embedded provider.

use postern_config::TrustDomain;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error("cannot read or write the provider's state at {file}", file = file.display())]
    State { file: PathBuf, source: std::io::Error },
    #[error("the provider's state at {file} is not what this version writes; delete it to start with a new CA", file = file.display())]
    StateFormat { file: PathBuf, source: serde_json::Error },
    #[error("a stored certificate is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("a stored certificate is not X.509")]
    Certificate(#[from] x509_parser::nom::Err<x509_parser::error::X509Error>),
    #[error("cannot make a key or certificate")]
    Generate(#[from] rcgen::Error),
    #[error("a key for tokens cannot be used")]
    TokenKey,
    #[error("the system gives no random bytes")]
    Random,
    #[error("cannot bind {socket}, maybe its path is too long (107 bytes) or its directory is missing", socket = socket.display())]
    Bind { socket: PathBuf, source: std::io::Error },
    #[error("{path} is served by another process; is another `dev-identity` running with this state directory?", path = .0.display())]
    AlreadyServed(PathBuf),
    #[error("cannot start the provider's thread")]
    Runtime(#[source] std::io::Error),
    #[error("lives of SVIDs and authorities have to be at least {0:?}")]
    TtlTooShort(Duration),
    #[error("workload name {0:?}: letters, digits, `-`, `_` and `.`, not starting with `.`, and not `control`")]
    WorkloadName(String),
    #[error("workload {0:?} is given twice")]
    DuplicateWorkload(String),
    #[error("workload {0:?} has no SPIFFE ID")]
    NoIdentity(String),
    #[error("there is no workload {0:?}")]
    UnknownWorkload(String),
    #[error("this provider has no trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    #[error("{0} has as many authorities as a bundle may hold; remove the old ones first")]
    TooManyAuthorities(TrustDomain),
    #[error("{0} has as many revoked SVIDs as its lists may hold; rotate its authority, and remove the old one")]
    TooManyRevoked(TrustDomain),
}
