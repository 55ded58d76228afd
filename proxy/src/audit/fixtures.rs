//! Logs for tests: made as the writer makes them, in memory.

use super::chain::{Chain, LogId, Record};
use super::record;
use super::seal::{Cause, KIND, Sealer};
use super::verify::seals::Judge;
use crate::identity::{AuthorityId, Bundle, Snapshot, SourceStatus, Svid};
use crate::tls::Strictness;
use crate::tls::bundle::{load_bundle, sha256};
use crate::tls::tests::certificates::{Draft, Issuer, Key};
use postern_config::{SpiffeId, TrustDomain};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub const ID: &str = "spiffe://example.org/orders";

/// A workload and the authority that vouches for it.
pub struct Signer {
    pub authority: Issuer,
    pub svid: Arc<Svid>,
}

impl Signer {
    pub fn new() -> Self {
        Self::of(Issuer::root(Draft::authority("CA1", "spiffe://example.org")), ID)
    }

    pub fn of(authority: Issuer, id: &str) -> Self {
        let key = Key::generate();
        let leaf = authority.issue(&Draft::leaf(id), &key);
        let signing = any_supported_type(&key.private()).unwrap();
        let fingerprint = sha256(&leaf);
        let svid = Svid {
            id: SpiffeId::parse(id).unwrap(),
            hint: None,
            certified: Arc::new(CertifiedKey::new(vec![leaf], signing)),
            not_before: SystemTime::now() - Duration::from_secs(60),
            not_after: SystemTime::now() + Duration::from_secs(3600),
            serial: "010fa0".to_owned(),
            fingerprint,
            authority: AuthorityId([0; 32]),
            issued: Vec::new(),
            rendered: Default::default(),
        };
        Self { authority, svid: Arc::new(svid) }
    }

    pub fn trust_domain(&self) -> TrustDomain {
        self.svid.id.trust_domain()
    }

    pub fn bundle(&self) -> Bundle {
        load_bundle(self.trust_domain(), [self.authority.der.clone()], SystemTime::now()).0
    }

    /// What the identity store holds.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            svids: vec![self.svid.clone()],
            bundles: HashMap::from([(self.trust_domain(), Arc::new(self.bundle()))]),
            source: SourceStatus::Connected,
            received_at: Some(SystemTime::now()),
            ..Snapshot::empty()
        }
    }

    /// By whom this one's seals are believed.
    pub fn judge(&self) -> Judge {
        Judge {
            trusted: Some((self.trust_domain(), vec![self.authority.der.clone()])),
            archived: HashMap::new(),
            id: None,
            strictness: Strictness::Strict,
            now: SystemTime::now(),
        }
    }

    pub fn seal(&self, chain: &mut Chain, lines: &mut Vec<u8>) {
        self.seal_at(chain, lines, SystemTime::now());
    }

    pub fn seal_at(&self, chain: &mut Chain, lines: &mut Vec<u8>, now: SystemTime) {
        let sealer = Sealer::new(&self.svid).unwrap();
        let mut body = Vec::new();
        record::write(&mut body, KIND, |object| {
            sealer.write(object, Cause::Interval, 1, None, now);
        });
        chain.append_signed(&body, lines, |line| sealer.sign(line)).unwrap();
    }
}

/// A body that differs from all others of its log.
pub fn body(number: u64) -> Vec<u8> {
    let mut body = Vec::new();
    record::write(&mut body, "request", |object| {
        object.text("outcome", "allowed", 32);
        object.number("connection", number);
        object.text("url.path", "/orders/7", 64);
    });
    body
}

/// Goes on with `chain` for so many records, of which each fifth and the last are seals.
pub fn sealed(signer: &Signer, chain: &mut Chain, records: u64, salt: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for number in 1..=records {
        match number % 5 == 0 || number == records {
            true => signer.seal(chain, &mut lines),
            false => chain.append(&body(number + salt), &mut lines),
        }
    }
    String::from_utf8(lines).unwrap().lines().map(str::to_owned).collect()
}

pub fn new_log(signer: &Signer, id: u8, records: u64) -> Vec<String> {
    sealed(signer, &mut Chain::begin(LogId([id; 16])), records, 0)
}

pub fn chain_after(line: &str) -> Chain {
    Chain::after(&Record::read(line.as_bytes()).unwrap())
}

pub fn text(lines: &[String]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
}
