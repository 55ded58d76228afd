//! The crate spiffe-rustls as oracle: every certificate case of the SPIFFE checklist is put to its verifiers through a
//! real handshake, in both roles. Where it says otherwise than we do, the difference is listed with its reason.

use anyhow::{Context, Result};
use cases::{Case, ID, Verdict, World, all};
use certificates::{Draft, Key};
use postern::identity::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use postern::identity::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use postern::identity::{AuthorityId, Snapshot, Svid};
use postern::tls::bundle::load_bundle;
use postern::tls::{Accept, ClientAlpn, Connect, ServerAlpn, Strictness, accept, connect};
use postern_config::{SpiffeId, SpiffePattern, TrustDomain};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, ServerName};
use spiffe::X509Source;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::duplex;
use tokio::net::UnixListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

#[allow(dead_code, reason = "shared with the proxy's own tests, which use all of it")]
#[path = "../../proxy/src/tls/tests/cases.rs"]
mod cases;
#[allow(dead_code, reason = "shared with the proxy's own tests, which use all of it")]
#[path = "../../proxy/src/tls/tests/certificates.rs"]
mod certificates;

/// Case, what the oracle does in both roles, and why. It is never the stricter one.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("X-05", "accepts", "does not look whether a SAN beside an empty subject is critical (X509-SVID §3.1)"),
    ("X-08", "accepts", "drops the URI SAN that is not text before it counts"),
    ("X-08 reversed", "accepts", "drops the URI SAN that is not text before it counts"),
    ("X-16 not critical", "accepts", "does not look whether keyUsage is critical (X509-SVID §4.3)"),
    ("X-30 absent", "accepts", "allows issuers without keyUsage, as RFC 5280 does and X509-SVID §4.3 does not"),
    ("X-30 not critical", "accepts", "does not look whether an issuer's keyUsage is critical (X509-SVID §4.3)"),
    ("X-33", "accepts", "leaves path lengths to webpki, which does not read a root's"),
    ("X-37", "accepts", "does not look at a root's validity"),
    ("X-37 early", "accepts", "does not look at a root's validity"),
    ("X-38", "accepts", "does not look whether a root is a CA"),
    ("X-38 unknown critical extension", "accepts", "does not look at a root's extensions"),
    ("X-38 ID with a path", "accepts", "does not look at an authority's SPIFFE ID (X509-SVID §3.2)"),
    ("X-45 with a path", "accepts", "does not look at an authority's SPIFFE ID (X509-SVID §3.2)"),
    ("X-52 flood", "accepts", "has no bound of its own on the certificates presented"),
];

#[tokio::test]
async fn spiffe_rustls_agrees_but_for_listed_differences() -> Result<()> {
    let world = World::new();
    let mut found = Vec::new();
    let mut asked = 0;
    for case in all(&world) {
        // Workload API §4.5: a message without a bundle is discarded, so the oracle cannot be asked.
        if case.bundles[0].1.is_empty() {
            continue;
        }
        asked += 1;
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("agent.sock");
        let agent = tokio::spawn(serve(UnixListener::bind(&socket)?, message(&world, &case)));
        for (role, ours) in [("client", case.as_client), ("server", case.as_server)] {
            let source = source(&socket).await.with_context(|| format!("no source for {}", case.name))?;
            let oracle = match role {
                "client" => admits_client(&world, &case, source).await?,
                _ => admits_server(&world, &case, source).await?,
            };
            if oracle != (ours == Verdict::Accepted) {
                found.push((case.name, role, if oracle { "accepts" } else { "refuses" }));
            }
        }
        agent.abort();
    }
    assert!(asked > 60, "{asked} cases");
    let listed: BTreeMap<_, _> = DIFFERENCES.iter().map(|(case, oracle, _)| (*case, *oracle)).collect();
    let unlisted: Vec<_> = found.iter().filter(|(case, _, oracle)| listed.get(case) != Some(oracle)).collect();
    assert!(unlisted.is_empty(), "differs and is not listed: {unlisted:#?}");
    let gone: Vec<_> = listed.keys().filter(|case| !found.iter().any(|(name, ..)| name == *case)).collect();
    assert!(gone.is_empty(), "listed, but agrees now: {gone:?}");
    Ok(())
}

/// The oracle as server; the case's chain comes from our client.
async fn admits_client(world: &World, case: &Case, source: X509Source) -> Result<bool> {
    let config = spiffe_rustls::mtls_server(source).build()?;
    let (near, far) = duplex(256 * 1024);
    let presenting = Presenting::new(world, case);
    let expected = [SpiffePattern::parse(ID).map_err(anyhow::Error::msg)?];
    let connecting = connect(
        far,
        Connect {
            snapshot: &presenting.snapshot,
            svid: &presenting.svid,
            expected: &expected,
            alpn: ClientAlpn::None,
            strictness: Strictness::Strict,
            deadline: DEADLINE,
        },
    );
    let (accepted, _) = tokio::join!(TlsAcceptor::from(Arc::new(config)).accept(near), connecting);
    Ok(accepted.is_ok())
}

/// The oracle as client; the case's chain comes from our server.
async fn admits_server(world: &World, case: &Case, source: X509Source) -> Result<bool> {
    let config = spiffe_rustls::mtls_client(source).build()?;
    let (near, far) = duplex(256 * 1024);
    let presenting = Presenting::new(world, case);
    let accepting = accept(
        near,
        Accept {
            snapshot: &presenting.snapshot,
            svid: &presenting.svid,
            alpn: ServerAlpn::None,
            strictness: Strictness::Strict,
            deadline: DEADLINE,
        },
    );
    let name = ServerName::try_from("peer.example")?;
    let (_, connected) = tokio::join!(accepting, TlsConnector::from(Arc::new(config)).connect(name, far));
    Ok(connected.is_ok())
}

const DEADLINE: Duration = Duration::from_secs(30);

/// Our side, which presents the case and believes the world's bundles.
struct Presenting {
    snapshot: Arc<Snapshot>,
    svid: Arc<Svid>,
}

impl Presenting {
    fn new(world: &World, case: &Case) -> Self {
        let signing = any_supported_type(&case.key.private()).expect("a P-256 key");
        let svid = Svid {
            id: SpiffeId::parse(ID).expect("an ID"),
            hint: None,
            certified: Arc::new(CertifiedKey::new(case.chain.clone(), signing)),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::now() + Duration::from_secs(3600),
            serial: String::new(),
            fingerprint: [0; 32],
            authority: AuthorityId([0; 32]),
            issued: Vec::new(),
            rendered: Default::default(),
        };
        let bundles = world.bundles().into_iter().map(|(name, certificates)| {
            let trust_domain = TrustDomain::parse(name).expect("a trust domain");
            let (bundle, _) = load_bundle(trust_domain.clone(), certificates, SystemTime::now());
            (trust_domain, Arc::new(bundle))
        });
        let snapshot = Snapshot { bundles: bundles.collect(), ..Snapshot::empty() };
        Self { snapshot: Arc::new(snapshot), svid: Arc::new(svid) }
    }
}

async fn source(socket: &Path) -> Result<X509Source> {
    let endpoint = format!("unix:{}", socket.display());
    let building = X509Source::builder().endpoint(endpoint).build();
    Ok(tokio::time::timeout(Duration::from_secs(10), building).await??)
}

/// A good SVID of the world for the oracle itself, with the case's bundles.
fn message(world: &World, case: &Case) -> X509svidResponse {
    let joined = |certificates: &[CertificateDer<'_>]| -> Vec<u8> {
        certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
    };
    let key: &Key = &world.key;
    let svid = X509svid {
        spiffe_id: ID.to_owned(),
        x509_svid: world.ca1.issue(&Draft::leaf(ID), key).to_vec(),
        x509_svid_key: key.private().secret_der().to_vec(),
        bundle: joined(&case.bundles[0].1),
        hint: String::new(),
    };
    let federated =
        case.bundles[1..].iter().map(|(name, certificates)| (format!("spiffe://{name}"), joined(certificates)));
    X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: federated.collect() }
}

async fn serve(listener: UnixListener, message: X509svidResponse) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .add_service(SpiffeWorkloadApiServer::new(Agent(message)))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
}

/// An agent that has one message, and keeps the stream open.
struct Agent(X509svidResponse);

type Messages<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Agent {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let once = tokio_stream::once(Ok(self.0.clone())).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(once)))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn fetch_jwtsvid(&self, _request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}
