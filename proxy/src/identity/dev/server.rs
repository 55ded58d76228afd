//! The Workload API over one unix socket a workload: transport, security header, RPCs.

use super::unix_authority::LenientStream;
use super::workload::{MessageStream, Workload};
use crate::identity::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::identity::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// Serves `workload` on `listener` until the future is dropped.
pub(super) async fn serve(workload: Arc<Workload>, listener: UnixListener) -> Result<(), tonic::transport::Error> {
    let name = workload.name.clone();
    let incoming = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => UnixListenerStream::new(listener).map(|accepted| accepted.map(LenientStream::new)),
        Err(error) => {
            tracing::error!(workload = name, %error, "cannot serve the Workload API");
            return Ok(());
        }
    };
    let service = SpiffeWorkloadApiServer::new(WorkloadApi { workload });
    tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
}

struct WorkloadApi {
    workload: Arc<Workload>,
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
        Err(no_tokens(request.metadata()))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(no_tokens(request.metadata()))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(no_tokens(request.metadata()))
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

fn no_tokens(metadata: &MetadataMap) -> Status {
    require_security_header(metadata)
        .err()
        .unwrap_or_else(|| Status::unimplemented("this provider issues no JWT-SVIDs"))
}
