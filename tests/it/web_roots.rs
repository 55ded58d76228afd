//! Servers of the Web PKI: the roots file counts as it is at the last reload, and what did not change keeps its pools.

use http::Response;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern_tests::pair::service_section;
use postern_tests::{H1Client, Mesh, ports};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::version::TLS13;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const NAME: &str = "api.example.com";

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// HTTPS that counts its connections and answers every request.
async fn server(issuer: &CertifiedIssuer<'static, KeyPair>) -> (SocketAddr, Arc<AtomicUsize>) {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let (acceptor, count) = (TlsAcceptor::from(Arc::new(config)), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            counted.fetch_add(1, Relaxed);
            let answer = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")))));
            // The caller's end is its own affair.
            tokio::spawn(async move {
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), answer).await);
            });
        }
    });
    (address, count)
}

fn write(path: &Path, authorities: &[&CertifiedIssuer<'static, KeyPair>]) {
    std::fs::write(path, authorities.iter().map(|it| it.pem()).collect::<String>()).unwrap();
}

#[tokio::test]
async fn a_reload_takes_the_roots_that_the_file_holds_now() {
    let (mesh, listen) = (Mesh::start(), ports::free());
    let (ours, other) = (authority("ours"), authority("other"));
    let (address, connections) = server(&ours).await;
    let roots = mesh.directory().join("roots.pem");
    write(&roots, &[&other]);
    let lines = format!(
        "endpoints: [\"{address}\"]\ntls: web\nserver_name: {NAME}\nroots: {}\nprotocol: http",
        roots.display()
    );
    let section = service_section(listen, &lines);
    let web = mesh.sidecar("web", &section).await;
    let mut client = H1Client::connect(listen).await;
    assert_eq!(client.get("/unknown").await.unwrap().status, 502);

    write(&roots, &[&other, &ours]);
    web.apply(&section).await.unwrap();
    assert_eq!(client.get("/known").await.unwrap().status, 200);
    // What says the same, on other lines, changes nothing.
    web.apply(&format!("# a comment\n\n{section}")).await.unwrap();
    assert_eq!(client.get("/same").await.unwrap().status, 200);
    assert_eq!(connections.load(Relaxed), 1, "the pool stays");

    write(&roots, &[&ours]);
    web.apply(&section).await.unwrap();
    assert_eq!(client.get("/renewed").await.unwrap().status, 200);
    assert_eq!(connections.load(Relaxed), 2, "nothing that the older roots vouched for is used again");

    // A file that cannot be used refuses the reload, and the roots stay.
    std::fs::write(&roots, "torn").unwrap();
    assert!(web.apply(&section).await.is_err());
    assert_eq!(client.get("/still").await.unwrap().status, 200);
}
