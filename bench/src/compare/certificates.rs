//! One authority and two workloads, as PEM files that every product reads.

use super::setting::{CLIENT_ID, CLIENT_NAME, SERVER_ID, SERVER_NAME, Side};
use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::fs;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// Files of one workload.
pub struct Pems {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Both in one, as HAProxy wants it.
    pub combined: PathBuf,
}

pub struct Certificates {
    pub bundle: PathBuf,
    client: Pems,
    server: Pems,
}

impl Certificates {
    pub fn of(&self, side: Side) -> &Pems {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// P-256 everywhere, one leaf below the authority, as SPIRE issues them; but the subject's common name is the SPIFFE ID
    /// too, because HAProxy and nginx have no way to read a URI name.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let mut authority = parameters("authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.subject_alt_names = vec![SanType::URI("spiffe://shop.example".try_into()?)];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issuer = CertifiedIssuer::self_signed(authority, key)?;
        let bundle = folder.join("bundle.pem");
        fs::write(&bundle, issuer.pem())?;
        let client = workload(folder, &issuer, "client", CLIENT_ID, CLIENT_NAME)?;
        let server = workload(folder, &issuer, "server", SERVER_ID, SERVER_NAME)?;
        Ok(Self { bundle, client, server })
    }
}

fn parameters(common_name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.not_before = OffsetDateTime::now_utc() - Duration::minutes(5);
    parameters.not_after = OffsetDateTime::now_utc() + Duration::days(2);
    parameters
}

fn workload(
    folder: &Path,
    issuer: &CertifiedIssuer<'_, KeyPair>,
    file: &str,
    id: &str,
    name: &str,
) -> anyhow::Result<Pems> {
    let mut leaf = parameters(id);
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.subject_alt_names = vec![SanType::URI(id.try_into()?), SanType::DnsName(name.try_into()?)];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = leaf.signed_by(&key, issuer).context("signing an SVID")?;
    let file = |ending: &str| folder.join(format!("{file}{ending}"));
    let pems = Pems { certificate: file(".pem"), key: file("-key.pem"), combined: file("-both.pem") };
    fs::write(&pems.certificate, certificate.pem())?;
    fs::write(&pems.key, key.serialize_pem())?;
    fs::write(&pems.combined, certificate.pem() + &key.serialize_pem())?;
    Ok(pems)
}
