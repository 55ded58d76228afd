//! A chain that an authority signed, committed so that corpora keep their meaning. The key guards nothing but these tests.
//!
//! `POSTERN_BLESS=1 cargo test -p postern-tests --lib fixtures` makes others.

use postern_config::SpiffeId;
use std::time::{Duration, SystemTime};

pub(super) const TRUST_DOMAIN: &str = "shop.example";
pub(super) const ID: &str = "spiffe://shop.example/ns/web/sa/frontend";
pub(super) const AUTHORITY: &[u8] = include_bytes!("fixtures/authority.der");
#[cfg(test)]
pub(super) const INTERMEDIATE: &[u8] = include_bytes!("fixtures/intermediate.der");
pub(super) const LEAF: &[u8] = include_bytes!("fixtures/leaf.der");
/// PKCS #8.
pub(super) const KEY: &[u8] = include_bytes!("fixtures/leaf.key.der");

/// 2026-11-22, always.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_305_600)
}

pub(super) fn genuine_id() -> SpiffeId {
    SpiffeId::parse(ID).expect("an ID")
}

#[cfg(test)]
mod tests {
    use super::{ID, TRUST_DOMAIN};
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
        KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
    };
    use std::path::Path;

    fn params(name: &str, uri: Option<&str>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = uri.map(|uri| SanType::URI(uri.try_into().unwrap())).into_iter().collect();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2126, 1, 1);
        params
    }

    fn authority(name: &str, uri: Option<&str>, constraints: BasicConstraints) -> CertificateParams {
        let mut params = params(name, uri);
        params.is_ca = IsCa::Ca(constraints);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    #[test]
    fn fixtures_are_made_when_asked_for() {
        if std::env::var_os("POSTERN_BLESS").is_none() {
            return;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/properties/fixtures");
        let root = format!("spiffe://{TRUST_DOMAIN}");
        let root = authority("authority", Some(&root), BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let below = authority("intermediate", None, BasicConstraints::Constrained(0));
        let below = CertifiedIssuer::signed_by(below, KeyPair::generate().unwrap(), &root).unwrap();
        let mut leaf = params("leaf", Some(ID));
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &below).unwrap();
        for (name, der) in [
            ("authority.der", root.der().to_vec()),
            ("intermediate.der", below.der().to_vec()),
            ("leaf.der", leaf.der().to_vec()),
            ("leaf.key.der", key.serialize_der()),
        ] {
            std::fs::write(folder.join(name), der).unwrap();
        }
    }
}
