//! Authorities and SVIDs made by hand, so that one rule at a time can be broken.

use crate::identity::proto::{X509svid, X509svidResponse};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

pub(super) struct Ca {
    pub(super) der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new(trust_domain: &str) -> Self {
        let mut parameters = parameters(&format!("spiffe://{trust_domain}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(parameters, key) }
    }

    /// A good SVID with this CA as its bundle.
    pub(super) fn svid(&self, id: &str) -> X509svid {
        self.svid_until(id, SystemTime::now() + Duration::from_secs(3600))
    }

    pub(super) fn svid_until(&self, id: &str, not_after: SystemTime) -> X509svid {
        let (x509_svid, key) = self.leaf(id, not_after);
        X509svid {
            spiffe_id: id.to_owned(),
            x509_svid,
            x509_svid_key: key.serialize_der(),
            bundle: self.der.clone(),
            hint: String::new(),
        }
    }

    pub(super) fn leaf(&self, id: &str, not_after: SystemTime) -> (Vec<u8>, KeyPair) {
        let mut parameters = parameters(id);
        parameters.not_after = OffsetDateTime::from(not_after);
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap().der().to_vec(), key)
    }
}

fn parameters(uri: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
    parameters.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let now = SystemTime::now();
    parameters.not_before = OffsetDateTime::from(now - Duration::from_secs(60));
    parameters.not_after = OffsetDateTime::from(now + Duration::from_secs(86400));
    parameters
}

pub(super) fn message(svids: impl IntoIterator<Item = X509svid>) -> X509svidResponse {
    X509svidResponse { svids: svids.into_iter().collect(), crl: Vec::new(), federated_bundles: BTreeMap::new() }
}

/// `message` with a bundle for a foreign trust domain.
pub(super) fn federated(mut message: X509svidResponse, trust_domain: &str, bundle: &[u8]) -> X509svidResponse {
    message.federated_bundles.insert(format!("spiffe://{trust_domain}"), bundle.to_vec());
    message
}
