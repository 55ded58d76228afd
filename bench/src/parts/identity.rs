//! What a connection costs before its first request: verifying an SVID, and a whole handshake of both sides.

use super::Part;
use crate::compare::certificates::Certificates;
use crate::compare::setting::{CLIENT_ID, Side};
use anyhow::Context as _;
use postern::http::identity_headers::RenderedIdentity;
use postern::identity::{Counters, IdentityStore, Snapshot};
use postern::tls::{Accept, ClientAlpn, Connect, Peer, Role, ServerAlpn, Strictness, accept, connect, verify_svid};
use postern_config::identity::IdentitySource;
use postern_config::{Identity, IdentityHeaders, SpiffePattern};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;

const DEADLINE: Duration = Duration::from_secs(60);

/// One that calls itself.
pub struct Workload {
    runtime: Runtime,
    snapshot: Arc<Snapshot>,
    expected: [SpiffePattern; 1],
}

impl Workload {
    pub fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let snapshot = runtime.block_on(read_snapshot())?;
        let expected = [SpiffePattern::parse(CLIENT_ID).map_err(anyhow::Error::msg)?];
        Ok(Self { runtime, snapshot, expected })
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// As the other side of a handshake with itself knows it.
    pub fn peer(&self) -> anyhow::Result<Arc<Peer>> {
        self.runtime.block_on(self.shake_hands())
    }

    /// The headers that its calls to itself would have.
    pub fn rendered(&self) -> anyhow::Result<RenderedIdentity> {
        let peer = self.runtime.block_on(self.shake_hands())?;
        Ok(RenderedIdentity::new(&IdentityHeaders::default(), &peer, self.snapshot.svids.first().map(|svid| &svid.id)))
    }

    pub fn verify(&self) -> anyhow::Result<Part> {
        let snapshot = self.snapshot.clone();
        let chain = snapshot.svids[0].certified.cert.clone();
        Part::new("verify", "verify an SVID", 300, move || {
            let now = SystemTime::now();
            verify_svid(black_box(&chain), &snapshot.bundles, 1, Role::Client, now, Strictness::Strict).is_ok()
        })
    }

    pub fn handshake(self) -> anyhow::Result<Part> {
        Part::new("handshake", "an mTLS handshake, both sides", 300, move || {
            self.runtime.block_on(self.shake_hands()).is_ok()
        })
    }

    async fn shake_hands(&self) -> anyhow::Result<Arc<Peer>> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (snapshot, expected) = (&self.snapshot, &self.expected);
        let (svid, deadline, strictness) = (&snapshot.svids[0], DEADLINE, Strictness::Strict);
        let server = accept(ours, Accept { snapshot, svid, alpn: ServerAlpn::Http, strictness, deadline });
        let client = connect(theirs, Connect { snapshot, svid, expected, alpn: ClientAlpn::H2, strictness, deadline });
        let ((_, caller), _) = tokio::try_join!(server, client)?;
        Ok(caller)
    }
}

async fn read_snapshot() -> anyhow::Result<Arc<Snapshot>> {
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::make(folder.path())?;
    let pems = certificates.of(Side::Client);
    let source = IdentitySource::Files {
        certificate: pems.certificate.clone(),
        key: pems.key.clone(),
        bundle: certificates.bundle.clone(),
        federated: Vec::new(),
    };
    let store = Arc::new(IdentityStore::default());
    let mut changes = store.subscribe();
    let config = Identity { source, ..Identity::default() };
    let _source = postern::identity::spawn(&config, None, store.clone(), Arc::new(Counters::default()))?;
    while store.load().svids.is_empty() {
        changes.changed().await.context("the source of identities ended")?;
    }
    Ok(store.load())
}
