//! Why a policy could not be made.

use crate::capture::local_users::UserError;
use crate::dns::DnsError;
use crate::tls::web::WebRootsError;

/// Why a checked configuration could not be compiled into a policy.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("service {service}: the Web PKI roots cannot be used")]
    WebRoots {
        service: String,
        #[source]
        source: WebRootsError,
    },
    #[error("service {service}: `users` names somebody who cannot be found")]
    LocalUser {
        service: String,
        #[source]
        source: UserError,
    },
    #[error(transparent)]
    Dns(#[from] DnsError),
}
