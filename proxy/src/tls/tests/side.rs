//! Fixtures as the program sees them: bundles, snapshots, SVIDs, and two sides that shake hands over a pipe.

use super::cases::{Case, ID, World};
use super::certificates::{Draft, Key};
use crate::identity::{AuthorityId, Bundle, Snapshot, SourceStatus, Svid};
use crate::tls::bundle::load_bundle;
use crate::tls::{Accept, ClientAlpn, Connect, Peer, ServerAlpn, Strictness, TlsError, accept, connect};
use postern_config::{SpiffeId, SpiffePattern, TrustDomain};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::DuplexStream;
use tokio_rustls::{client, server};

pub const GENERATION: u64 = 7;

pub fn bundles(named: &[(&str, Vec<CertificateDer<'static>>)]) -> HashMap<TrustDomain, Arc<Bundle>> {
    named
        .iter()
        .map(|(name, certificates)| {
            let trust_domain = TrustDomain::parse(name).expect("a trust domain");
            let (bundle, _) = load_bundle(trust_domain.clone(), certificates.clone(), SystemTime::now());
            (trust_domain, Arc::new(bundle))
        })
        .collect()
}

/// One end of a handshake.
pub struct Side {
    pub snapshot: Arc<Snapshot>,
    pub svid: Arc<Svid>,
}

impl Side {
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &Key, named: &[(&str, Vec<CertificateDer<'static>>)]) -> Self {
        let signing = any_supported_type(&key.private()).expect("a P-256 key");
        let svid = Arc::new(Svid {
            id: SpiffeId::parse(ID).expect("an ID"),
            hint: None,
            certified: Arc::new(CertifiedKey::new(chain, signing)),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::now() + Duration::from_secs(3600),
            serial: String::new(),
            fingerprint: [0; 32],
            authority: AuthorityId([0; 32]),
            issued: Vec::new(),
            rendered: Default::default(),
        });
        let snapshot = Arc::new(Snapshot {
            generation: GENERATION,
            svids: vec![svid.clone()],
            bundles: bundles(named),
            source: SourceStatus::Connected,
            ..Snapshot::empty()
        });
        Self { snapshot, svid }
    }

    /// A good peer of `world`, which believes `case`'s bundles.
    pub fn opposite(world: &World, case: &Case) -> Self {
        let chain = vec![world.ca1.issue(&Draft::leaf(ID), &world.key)];
        Self::new(chain, &world.key, &case.bundles)
    }

    pub fn good(world: &World) -> Self {
        Self::new(vec![world.ca1.issue(&Draft::leaf(ID), &world.key)], &world.key, &world.bundles())
    }

    pub fn accept(&self) -> Accept<'_> {
        Accept {
            snapshot: &self.snapshot,
            svid: &self.svid,
            alpn: ServerAlpn::Http,
            strictness: Strictness::Strict,
            deadline: DEADLINE,
        }
    }

    pub fn connect<'a>(&'a self, expected: &'a [SpiffePattern]) -> Connect<'a> {
        Connect {
            snapshot: &self.snapshot,
            svid: &self.svid,
            expected,
            alpn: ClientAlpn::H2,
            strictness: Strictness::Strict,
            deadline: DEADLINE,
        }
    }
}

pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn pattern(text: &str) -> Vec<SpiffePattern> {
    vec![SpiffePattern::parse(text).expect("a pattern")]
}

pub type Accepted = Result<(server::TlsStream<DuplexStream>, Arc<Peer>), TlsError>;
pub type Connected = Result<(client::TlsStream<DuplexStream>, Arc<Peer>), TlsError>;

/// Both ends of one handshake, the client expecting `expected`.
pub async fn meet(server: &Side, client: &Side, expected: &str) -> (Accepted, Connected) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let expected = pattern(expected);
    tokio::join!(accept(near, server.accept()), connect(far, client.connect(&expected)))
}
