//! An agent that says what a test tells it to. It checks nothing, and notes what it was asked.

use crate::identity::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::identity::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};

type Sender<M> = mpsc::Sender<Result<M, Status>>;

#[derive(Clone)]
pub(super) struct FakeAgent {
    state: Arc<Mutex<State>>,
    calls: watch::Sender<usize>,
    server: Arc<Mutex<Option<AbortHandle>>>,
}

#[derive(Default)]
struct State {
    /// Calls answered so, before any stream is opened.
    failures: VecDeque<Status>,
    svids: Option<X509svidResponse>,
    bundles: Option<X509BundlesResponse>,
    /// `None`: the RPC is not there.
    token_keys: Option<JwtBundlesResponse>,
    svid_streams: Vec<Sender<X509svidResponse>>,
    bundle_streams: Vec<Sender<X509BundlesResponse>>,
    token_key_streams: Vec<Sender<JwtBundlesResponse>>,
    /// Of every RPC: the values of the security header, and when.
    seen: Vec<(Vec<String>, Instant)>,
}

impl FakeAgent {
    pub(super) fn new() -> Self {
        Self { state: Arc::default(), calls: watch::Sender::new(0), server: Arc::default() }
    }

    pub(super) fn on_socket(socket: &Path) -> Self {
        let this = Self::new();
        this.listen(socket);
        this
    }

    /// Serves on a socket; what was there is replaced.
    pub(super) fn listen(&self, socket: &Path) {
        let _ = std::fs::remove_file(socket);
        let incoming = UnixListenerStream::new(tokio::net::UnixListener::bind(socket).unwrap());
        let server = tokio::spawn(self.router().serve_with_incoming(incoming));
        *self.server.lock().unwrap() = Some(server.abort_handle());
    }

    pub(super) async fn on_tcp(&self, address: &str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(self.router().serve_with_incoming(TcpListenerStream::new(listener)));
        *self.server.lock().unwrap() = Some(server.abort_handle());
        address
    }

    fn router(&self) -> Router {
        let service = SpiffeWorkloadApiServer::new(self.clone()).max_encoding_message_size(usize::MAX);
        Server::builder().add_service(service)
    }

    /// Stops listening and ends every stream.
    pub(super) fn die(&self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            server.abort();
        }
        self.end(&Status::unavailable("the agent is going away"));
    }

    pub(super) fn fail_next(&self, failures: impl IntoIterator<Item = Status>) {
        self.state().failures.extend(failures);
    }

    pub(super) fn fail_no_more(&self) {
        self.state().failures.clear();
    }

    /// To open streams now, and first on every later one.
    pub(super) fn send(&self, message: X509svidResponse) {
        let mut state = self.state();
        state.svid_streams.retain(|stream| stream.try_send(Ok(message.clone())).is_ok());
        state.svids = Some(message);
    }

    pub(super) fn send_bundles(&self, message: X509BundlesResponse) {
        let mut state = self.state();
        state.bundle_streams.retain(|stream| stream.try_send(Ok(message.clone())).is_ok());
        state.bundles = Some(message);
    }

    pub(super) fn send_token_keys(&self, message: JwtBundlesResponse) {
        let mut state = self.state();
        state.token_key_streams.retain(|stream| stream.try_send(Ok(message.clone())).is_ok());
        state.token_keys = Some(message);
    }

    /// Of this RPC alone: the other streams stay.
    pub(super) fn end_token_keys(&self, status: &Status) {
        for stream in self.state().token_key_streams.drain(..) {
            let _ = stream.try_send(Err(status.clone()));
        }
    }

    pub(super) fn end(&self, status: &Status) {
        let mut state = self.state();
        for stream in state.svid_streams.drain(..) {
            let _ = stream.try_send(Err(status.clone()));
        }
        state.bundle_streams.clear();
        state.token_key_streams.clear();
    }

    pub(super) fn headers(&self) -> Vec<Vec<String>> {
        self.state().seen.iter().map(|(values, _at)| values.clone()).collect()
    }

    pub(super) fn gaps(&self) -> Vec<Duration> {
        self.state().seen.windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
    }

    pub(super) async fn called(&self, times: usize) {
        let mut calls = self.calls.subscribe();
        let waiting = calls.wait_for(|calls| *calls >= times);
        tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("called in time").unwrap();
    }

    pub(super) fn calls(&self) -> usize {
        *self.calls.borrow()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn note<M>(&self, request: &Request<M>) -> Result<(), Status> {
        let header = request.metadata().get_all("workload.spiffe.io");
        let values = header.iter().map(|value| value.to_str().unwrap().to_owned()).collect();
        let mut state = self.state();
        state.seen.push((values, Instant::now()));
        let failure = state.failures.pop_front();
        self.calls.send_modify(|calls| *calls += 1);
        failure.map_or(Ok(()), Err)
    }
}

fn open<M>(first: Option<M>, streams: &mut Vec<Sender<M>>) -> Response<ReceiverStream<Result<M, Status>>> {
    let (sender, receiver) = mpsc::channel(1024);
    if let Some(first) = first {
        sender.try_send(Ok(first)).unwrap_or_else(|_| panic!("a new channel has room"));
    }
    streams.push(sender);
    Response::new(ReceiverStream::new(receiver))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for FakeAgent {
    type FetchX509SVIDStream = ReceiverStream<Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = ReceiverStream<Result<X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = ReceiverStream<Result<JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.note(&request)?;
        let state = &mut *self.state();
        Ok(open(state.svids.clone(), &mut state.svid_streams))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.note(&request)?;
        let state = &mut *self.state();
        Ok(open(state.bundles.clone(), &mut state.bundle_streams))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let state = &mut *self.state();
        let first = state.token_keys.clone().ok_or_else(|| Status::unimplemented(""))?;
        Ok(open(Some(first), &mut state.token_key_streams))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
