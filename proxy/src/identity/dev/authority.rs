//! The authorities of one trust domain: keys and certificates, their staged rotation, and the file that keeps them.
//!
//! At any time one authority issues; newer ones are published but do not issue yet, older ones are still published but
//! issue no more. That is what makes a rotation lose nothing: publish, reissue, wait, remove.

use super::DevError;
use super::token_key::TokenKey;
use crate::tls::certificate::hex;
use postern_config::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use zeroize::{Zeroize, Zeroizing};

/// Clocks of two machines differ: what is issued now was valid a minute ago.
const BACKDATE: Duration = Duration::from_secs(60);
/// A rotation every few milliseconds in a test must not grow a bundle without end.
const AUTHORITIES_MAX: usize = 16;
const REVOKED_MAX: usize = 10_000;

/// One CA key and its certificate.
pub(super) struct Authority {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    token_key: TokenKey,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Authority {
    /// A self-signed CA in the shape of X509-SVID §3.2 and §4: BC and keyUsage critical, a SPIFFE ID without a path.
    fn generate(trust_domain: &TrustDomain, ttl: Duration, now: SystemTime) -> Result<Self, DevError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = base_parameters(&format!("spiffe://{trust_domain}"))?;
        let (not_before, not_after) = (now - BACKDATE, now + ttl);
        parameters.not_before = OffsetDateTime::from(not_before);
        parameters.not_after = OffsetDateTime::from(not_after);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key)?;
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        let token_key = TokenKey::generate()?;
        Ok(Self { pem, certificate, issuer: Issuer::new(parameters, key), token_key, not_before, not_after })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.certificate
    }
}

/// A leaf and its key, as they go on the wire.
pub(super) struct Issued {
    pub(super) chain: Vec<u8>,
    pub(super) key_pkcs8: Zeroizing<Vec<u8>>,
    pub(super) not_after: SystemTime,
}

/// The authorities of a trust domain, oldest first.
pub(super) struct TrustDomainAuthorities {
    pub(super) trust_domain: TrustDomain,
    authorities: Vec<Authority>,
    /// Index of the one that issues.
    issuing: usize,
    /// Serial numbers of leaves that were taken back. They are random, so that one list does for all authorities.
    revoked: Vec<Vec<u8>>,
    /// Rises with every list.
    crl_number: u64,
    ttl: Duration,
    file: PathBuf,
}

impl TrustDomainAuthorities {
    /// Reads `directory/TRUST-DOMAIN.json`, or makes the first authority and writes it.
    pub(super) fn open(
        directory: &Path,
        trust_domain: TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, DevError> {
        let file = directory.join(format!("{trust_domain}.json"));
        let (authorities, revoked) = (Vec::new(), Vec::new());
        let mut this = Self { trust_domain, authorities, issuing: 0, revoked, crl_number: 0, ttl, file };
        if this.file.exists() {
            this.load()?;
            this.drop_expired(now);
        }
        if this.authorities.is_empty() {
            this.authorities.push(Authority::generate(&this.trust_domain, ttl, now)?);
            this.issuing = 0;
        }
        this.save()?;
        Ok(this)
    }

    /// The bundle as concatenated DER (Workload API §5.1).
    pub(super) fn bundle(&self) -> Vec<u8> {
        self.authorities.iter().flat_map(|authority| authority.der().iter().copied()).collect()
    }

    /// The keys for tokens as a JWK Set (Workload API §6.2.2).
    pub(super) fn token_keys(&self) -> Vec<u8> {
        let keys: Vec<_> = self.authorities.iter().map(|authority| authority.token_key.jwk()).collect();
        serde_json::json!({ "keys": keys }).to_string().into_bytes()
    }

    /// Takes a leaf back: from now on it is in every list.
    pub(super) fn revoke(&mut self, chain: &[u8]) -> Result<(), DevError> {
        let (_rest, leaf) = x509_parser::parse_x509_certificate(chain)?;
        let serial = leaf.raw_serial().to_vec();
        if !self.revoked.contains(&serial) {
            if self.revoked.len() >= REVOKED_MAX {
                return Err(DevError::TooManyRevoked(self.trust_domain.clone()));
            }
            self.revoked.push(serial);
        }
        self.crl_number += 1;
        self.save()
    }

    /// A list of each authority's, DER; none while nothing was taken back.
    pub(super) fn crls(&self, now: SystemTime) -> Result<Vec<Vec<u8>>, DevError> {
        if self.revoked.is_empty() {
            return Ok(Vec::new());
        }
        let entry = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: OffsetDateTime::from(now - BACKDATE),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: OffsetDateTime::from(now - BACKDATE),
            next_update: OffsetDateTime::from(now + self.ttl),
            crl_number: SerialNumber::from(self.crl_number),
            issuing_distribution_point: None,
            revoked_certs: self.revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = |authority: &Authority| Ok(list.signed_by(&authority.issuer)?.der().to_vec());
        self.authorities.iter().map(signed).collect()
    }

    /// A JWT-SVID by the authority that issues.
    pub(super) fn issue_token(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, DevError> {
        self.authorities[self.issuing].token_key.issue(id, audience, ttl, now)
    }

    pub(super) fn published(&self) -> usize {
        self.authorities.len()
    }

    /// First stage of a rotation: the new authority is in the bundle, and issues nothing yet.
    pub(super) fn publish_new(&mut self, now: SystemTime) -> Result<(), DevError> {
        if self.authorities.len() >= AUTHORITIES_MAX {
            return Err(DevError::TooManyAuthorities(self.trust_domain.clone()));
        }
        self.authorities.push(Authority::generate(&self.trust_domain, self.ttl, now)?);
        self.save()
    }

    /// Second stage: the newest authority issues from now on.
    pub(super) fn issue_from_newest(&mut self) -> Result<(), DevError> {
        self.issuing = self.authorities.len() - 1;
        self.save()
    }

    /// Last stage: what is older than the issuing authority leaves the bundle.
    pub(super) fn remove_old(&mut self) -> Result<(), DevError> {
        self.authorities.drain(..self.issuing);
        self.issuing = 0;
        self.save()
    }

    /// What time alone demands; true when something changed that SVIDs and bundles have to follow.
    ///
    /// A new authority is published at half of the newest one's life, issues after a further eighth, and the old one
    /// leaves the bundle when it expires: then nothing that it signed is valid any more.
    pub(super) fn maintain(&mut self, now: SystemTime) -> Result<bool, DevError> {
        let before = (self.authorities.len(), self.issuing);
        self.drop_expired(now);
        let newest = self.authorities.last().map(|newest| age(newest.not_before, now));
        match newest {
            None => self.authorities.push(Authority::generate(&self.trust_domain, self.ttl, now)?),
            Some(age) if age >= self.ttl / 2 => {
                self.authorities.push(Authority::generate(&self.trust_domain, self.ttl, now)?)
            }
            Some(age) if age >= self.ttl / 8 => self.issuing = self.authorities.len() - 1,
            Some(_) => {}
        }
        let changed = before != (self.authorities.len(), self.issuing);
        if changed {
            self.save()?;
        }
        Ok(changed)
    }

    /// A P-256 leaf by the rules of X509-SVID §4: BC critical CA:FALSE, keyUsage critical digitalSignature, both EKUs,
    /// one URI SAN. It never outlives its authority.
    pub(super) fn issue(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<Issued, DevError> {
        let authority = &self.authorities[self.issuing];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = base_parameters(id.as_str())?;
        parameters.not_before = OffsetDateTime::from((now - BACKDATE).max(authority.not_before));
        let not_after = (now + ttl).min(authority.not_after);
        parameters.not_after = OffsetDateTime::from(not_after);
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &authority.issuer)?;
        Ok(Issued { chain: certificate.der().to_vec(), key_pkcs8: Zeroizing::new(key.serialize_der()), not_after })
    }

    fn drop_expired(&mut self, now: SystemTime) {
        let issuing = self.issuing;
        let expired_before_issuing =
            self.authorities[..issuing].iter().filter(|authority| authority.not_after <= now).count();
        self.authorities.retain(|authority| authority.not_after > now);
        self.issuing = (issuing - expired_before_issuing).min(self.authorities.len().saturating_sub(1));
    }

    fn load(&mut self) -> Result<(), DevError> {
        let file = || self.file.clone();
        let text = Zeroizing::new(
            std::fs::read_to_string(&self.file).map_err(|source| DevError::State { file: file(), source })?,
        );
        let stored: StoredAuthorities =
            serde_json::from_str(&text).map_err(|source| DevError::StateFormat { file: file(), source })?;
        self.authorities = stored.authorities.iter().map(StoredAuthority::open).collect::<Result<_, _>>()?;
        self.revoked = stored.revoked.iter().filter_map(|serial| from_hex(serial)).collect();
        self.crl_number = stored.crl_number;
        self.issuing = stored.issuing.min(self.authorities.len().saturating_sub(1));
        Ok(())
    }

    /// Written beside and renamed: a crash leaves the old state or the new one.
    fn save(&self) -> Result<(), DevError> {
        let stored = StoredAuthorities {
            warning: "development only: these are private keys of a certificate authority".to_owned(),
            issuing: self.issuing,
            revoked: self.revoked.iter().map(|serial| hex(serial)).collect(),
            crl_number: self.crl_number,
            authorities: self.authorities.iter().map(StoredAuthority::of).collect(),
        };
        let at = |source| DevError::State { file: self.file.clone(), source };
        let text = Zeroizing::new(
            serde_json::to_vec_pretty(&stored)
                .map_err(|source| DevError::StateFormat { file: self.file.clone(), source })?,
        );
        let beside = self.file.with_extension("json.new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(at)?;
        file.write_all(&text).map_err(at)?;
        file.sync_all().map_err(at)?;
        std::fs::rename(&beside, &self.file).map_err(at)
    }
}

fn age(not_before: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(not_before + BACKDATE).unwrap_or_default()
}

/// Subject as SPIRE writes it (the same for every domain and key, on purpose: names must not identify authorities).
fn base_parameters(uri: &str) -> Result<CertificateParams, DevError> {
    let mut parameters = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CountryName, "US");
    subject.push(DnType::OrganizationName, "SPIFFE");
    parameters.distinguished_name = subject;
    parameters.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    let mut serial = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_unspecified| DevError::Random)?;
    // RFC 5280 §4.1.2.2: positive; and no leading zero byte, so that its printed form is of one length.
    serial[0] = serial[0] & 0x7f | 0x40;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(parameters)
}

#[derive(Serialize, Deserialize)]
struct StoredAuthorities {
    warning: String,
    issuing: usize,
    /// Hex.
    #[serde(default)]
    revoked: Vec<String>,
    #[serde(default)]
    crl_number: u64,
    authorities: Vec<StoredAuthority>,
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

#[derive(Serialize, Deserialize)]
struct StoredAuthority {
    certificate: String,
    key: String,
    /// Files of before there were tokens have none.
    #[serde(default)]
    token_key: String,
}

impl Drop for StoredAuthority {
    fn drop(&mut self) {
        self.key.zeroize();
        self.token_key.zeroize();
    }
}

impl StoredAuthority {
    fn of(authority: &Authority) -> Self {
        Self {
            certificate: authority.pem.clone(),
            key: authority.issuer.key().serialize_pem(),
            token_key: authority.token_key.pem().to_owned(),
        }
    }

    fn open(&self) -> Result<Authority, DevError> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(DevError::Pem)?;
        let key = KeyPair::from_pem(&self.key)?;
        let (not_before, not_after) = {
            let (_rest, parsed) = x509_parser::parse_x509_certificate(&certificate)?;
            let validity = parsed.validity();
            (SystemTime::from(validity.not_before.to_datetime()), SystemTime::from(validity.not_after.to_datetime()))
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let token_key = match self.token_key.as_str() {
            "" => TokenKey::generate()?,
            pem => TokenKey::from_pem(pem)?,
        };
        Ok(Authority { pem: self.certificate.clone(), certificate, issuer, token_key, not_before, not_after })
    }
}
