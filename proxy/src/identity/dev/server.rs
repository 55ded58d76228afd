//! The Workload API over one unix socket a workload: transport, security header, RPCs.

use super::Shared;
use super::token_key::TOKEN_TTL_MAX;
use super::unix_authority::LenientStream;
use super::validate::validate;
use super::workload::{MessageStream, Workload, authority_of, no_identity};
use crate::identity::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::identity::proto::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use postern_config::SpiffeId;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::SystemTime;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// Serves `workload` on `listener` until the future is dropped.
pub(super) async fn serve(
    shared: Arc<Shared>,
    workload: Arc<Workload>,
    listener: UnixListener,
) -> Result<(), tonic::transport::Error> {
    let name = workload.name.clone();
    let incoming = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => UnixListenerStream::new(listener).map(|accepted| accepted.map(LenientStream::new)),
        Err(error) => {
            tracing::error!(workload = name, %error, "cannot serve the Workload API");
            return Ok(());
        }
    };
    let service = SpiffeWorkloadApiServer::new(WorkloadApi { shared, workload });
    tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
}

struct WorkloadApi {
    shared: Arc<Shared>,
    workload: Arc<Workload>,
}

impl WorkloadApi {
    /// A JWT-SVID for each of the workload's identities, or for the one that is asked for (Workload API §6.2.1).
    fn issue_tokens(&self, request: &JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
        if request.audience.is_empty() || request.audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let wanted = |id: &SpiffeId| request.spiffe_id.is_empty() || request.spiffe_id == id.as_str();
        let Self { shared, workload } = self;
        let ttl = shared.svid_ttl.min(TOKEN_TTL_MAX);
        let authorities = shared.authorities();
        let mut svids = Vec::new();
        for (id, hint) in workload.svids.iter().filter(|(id, _)| wanted(id) && !workload.is_withdrawn()) {
            let issued = authority_of(&authorities, &id.trust_domain())
                .and_then(|authority| authority.issue_token(id, &request.audience, ttl, SystemTime::now()));
            let svid = issued.map_err(|error| Status::internal(error.to_string()))?;
            svids.push(Jwtsvid { spiffe_id: id.to_string(), svid, hint: hint.clone().unwrap_or_default() });
        }
        if svids.is_empty() { Err(no_identity()) } else { Ok(JwtsvidResponse { svids }) }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = MessageStream<X509svidResponse>;
    type FetchX509BundlesStream = MessageStream<X509BundlesResponse>;
    type FetchJWTBundlesStream = MessageStream<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        require_security_header(request.metadata())?;
        self.workload.open_svids().map(Response::new)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        require_security_header(request.metadata())?;
        self.workload.open_bundles().map(Response::new)
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        require_security_header(request.metadata())?;
        self.issue_tokens(request.get_ref()).map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        require_security_header(request.metadata())?;
        self.workload.open_token_keys().map(Response::new)
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        require_security_header(request.metadata())?;
        validate(&self.workload, request.get_ref(), SystemTime::now()).map(Response::new)
    }
}

/// Workload Endpoint §3: "…MUST include the static metadata key `workload.spiffe.io` with a value of `true`"; like
/// SPIRE we want it exactly once.
fn require_security_header(metadata: &MetadataMap) -> Result<(), Status> {
    let mut values = metadata.get_all("workload.spiffe.io").iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}
