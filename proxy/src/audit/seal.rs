//! Seals: the head of the chain, signed with the key of our SVID.
//!
//! A seal is a record itself. Its `prev` is the head that it seals and `seq` less one is how many records that are; it
//! names the algorithm, and holds the certificates that the signature is verified with. What is signed is
//! [`LABEL`] and the SHA-256 of the line from `{` up to and without `,"signature":"`, so a signature says everything that
//! the seal says, its time included.
//!
//! The label keeps a seal from ever being taken for another signature of the same key, or the other way round: what TLS 1.3
//! signs begins with 64 spaces (RFC 8446 §4.4.3). Pure, but for the key that signs.

use super::chain::{Hash, LineFault, Record};
use crate::base64;
use crate::identity::Svid;
use crate::telemetry::json::Object;
use crate::tls::bundle::sha256;
use crate::tls::certificate::hex;
use postern_config::SpiffeId;
use rustls::SignatureScheme;
use rustls::sign::Signer;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use serde::Deserialize;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::aws_lc_rs as verification;

const LABEL: &[u8] = b"postern-audit-seal-v1\0";
pub const KIND: &str = "seal";

/// What keys of SVIDs can sign with here (`identity/key.rs`), best first for each kind of key; and how it is verified.
const ALGORITHMS: [(SignatureScheme, &str, &dyn SignatureVerificationAlgorithm); 5] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, "ecdsa_secp256r1_sha256", verification::ECDSA_P256_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, "ecdsa_secp384r1_sha384", verification::ECDSA_P384_SHA384),
    (SignatureScheme::ECDSA_NISTP521_SHA512, "ecdsa_secp521r1_sha512", verification::ECDSA_P521_SHA512),
    (SignatureScheme::ED25519, "ed25519", verification::ED25519),
    (SignatureScheme::RSA_PSS_SHA256, "rsa_pss_rsae_sha256", verification::RSA_PSS_2048_8192_SHA256_LEGACY_KEY),
];

/// Why the chain was sealed just then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Interval,
    Records,
    Rotation,
    /// The process ends in order.
    Stop,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Records => "records",
            Self::Rotation => "rotation",
            Self::Stop => "stop",
        }
    }
}

/// Signs seals.
pub struct Sealer<'a> {
    svid: &'a Svid,
    algorithm: &'static str,
    signer: Box<dyn Signer>,
}

impl<'a> Sealer<'a> {
    /// `None`: a kind of key that cannot.
    pub fn new(svid: &'a Svid) -> Option<Self> {
        let offered = ALGORITHMS.map(|(scheme, ..)| scheme);
        let signer = svid.certified.key.choose_scheme(&offered)?;
        let (_, algorithm, _) = ALGORITHMS.into_iter().find(|(scheme, ..)| *scheme == signer.scheme())?;
        Some(Self { svid, algorithm, signer })
    }

    /// What stands in the record before its signature. `records`: since the seal before. `bundle`: SHA-256 of the archived
    /// file.
    pub fn write(&self, object: &mut Object<'_>, cause: Cause, records: u64, bundle: Option<&Hash>, now: SystemTime) {
        object.time("time", now);
        object.text("cause", cause.as_str(), 32);
        object.number("records", records);
        object.text("spiffe_id", self.svid.id.as_str(), 2048);
        object.text_if("bundle", bundle.map(|hash| hex(hash)).as_deref(), 64);
        object.text("algorithm", self.algorithm, 32);
        let chain: Vec<String> =
            self.svid.certified.cert.iter().map(|certificate| format!("\"{}\"", base64::encode(certificate))).collect();
        object.number("chain", format_args!("[{}]", chain.join(",")));
    }

    /// # Errors
    /// As the crypto library says.
    pub fn sign(&self, line: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signer.sign(&message(line))
    }
}

fn message(line: &[u8]) -> Vec<u8> {
    [LABEL, &sha256(line)].concat()
}

/// A seal as it was read, with a signature that is its leaf's. Who that is has yet to be found out.
#[derive(Clone, Debug)]
pub struct Seal {
    pub number: u64,
    pub time: SystemTime,
    pub id: SpiffeId,
    /// SHA-256 of the file of the trust bundle that was archived when this was signed.
    pub bundle: Option<Hash>,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Why a record of the kind `seal` seals nothing.
#[derive(Debug, thiserror::Error)]
pub enum SealFault {
    #[error("it is not what a seal has to be")]
    Form(#[from] LineFault),
    #[error("its members cannot be read")]
    Members(#[from] serde_json::Error),
    #[error("its time cannot be read")]
    Time(#[from] time::error::Parse),
    #[error("its SPIFFE ID is none")]
    Id(#[from] postern_config::SpiffeIdError),
    #[error("a certificate in it is not base64")]
    Certificate(#[from] base64::Base64Fault),
    #[error("it has no certificate")]
    NoCertificate,
    #[error("its certificate cannot be read")]
    Leaf(#[source] webpki::Error),
    #[error("`{0}` is no algorithm for seals")]
    Algorithm(String),
    #[error("its signature is not of its own certificate's key over what it says")]
    Signature(#[source] webpki::Error),
}

#[derive(Deserialize)]
struct Members<'a> {
    time: &'a str,
    spiffe_id: &'a str,
    bundle: Option<&'a str>,
    algorithm: &'a str,
    chain: Vec<&'a str>,
}

impl Seal {
    /// Reads a record of the kind `seal`, and verifies its signature by the leaf that it holds.
    ///
    /// # Errors
    /// [`SealFault`].
    pub fn read(record: &Record<'_>) -> Result<Self, SealFault> {
        let (signed, signature) = record.signed()?;
        let members: Members<'_> = serde_json::from_str(record.line)?;
        let chain = members.chain.iter().map(|text| base64::decode(text).map(CertificateDer::from));
        let chain: Vec<_> = chain.collect::<Result<_, _>>()?;
        let leaf = chain.first().ok_or(SealFault::NoCertificate)?;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(SealFault::Leaf)?;
        let named = ALGORITHMS.into_iter().find(|(_, name, _)| *name == members.algorithm);
        let (_, _, algorithm) = named.ok_or_else(|| SealFault::Algorithm(members.algorithm.to_owned()))?;
        leaf.verify_signature(algorithm, &message(signed), &signature).map_err(SealFault::Signature)?;
        Ok(Self {
            number: record.number,
            time: OffsetDateTime::parse(members.time, &Rfc3339)?.into(),
            id: SpiffeId::parse(members.spiffe_id)?,
            bundle: members.bundle.map(read_hash).transpose()?,
            chain,
        })
    }
}

fn read_hash(text: &str) -> Result<Hash, LineFault> {
    super::chain::read_digits(text.as_bytes())?.try_into().map_err(|_length| LineFault::Form)
}

#[cfg(test)]
mod tests {
    use super::{Cause, KIND, Seal, SealFault, Sealer};
    use crate::admin::tests::svid;
    use crate::audit::chain::{Chain, LogId, Record};
    use crate::audit::fixtures::{ID, Signer};
    use crate::audit::record;
    use crate::identity::Svid;
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
    use rustls::sign::CertifiedKey;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    fn line(svid: &Svid, forge: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
        let sealer = Sealer::new(svid).expect("a key that signs");
        let (mut body, mut line) = (Vec::new(), Vec::new());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_309_323);
        record::write(&mut body, KIND, |object| sealer.write(object, Cause::Stop, 3, Some(&[9; 32]), now));
        let sign = |line: &[u8]| sealer.sign(line).map(forge);
        Chain::begin(LogId([7; 16])).append_signed(&body, &mut line, sign).expect("signed");
        String::from_utf8(line).expect("text").trim_end().to_owned()
    }

    /// All kinds of keys that SVIDs may have here.
    #[test]
    fn every_kind_of_key_seals() {
        let kinds: [(&str, &SignatureAlgorithm); 4] = [
            ("ecdsa_secp256r1_sha256", &rcgen::PKCS_ECDSA_P256_SHA256),
            ("ecdsa_secp384r1_sha384", &rcgen::PKCS_ECDSA_P384_SHA384),
            ("ecdsa_secp521r1_sha512", &rcgen::PKCS_ECDSA_P521_SHA512),
            ("ed25519", &rcgen::PKCS_ED25519),
        ];
        for (name, kind) in kinds {
            let key = KeyPair::generate_for(kind).unwrap();
            let certificate = CertificateParams::default().self_signed(&key).unwrap();
            let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private).unwrap();
            let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing));
            let plain = Arc::into_inner(svid("orders", SystemTime::now())).unwrap();
            let line = line(&Svid { certified, ..plain }, |signature| signature);
            let members: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&members["algorithm"], &members["cause"]), (&name.into(), &"stop".into()));
            let seal = Seal::read(&Record::read(line.as_bytes()).unwrap()).unwrap();
            assert_eq!(
                (seal.number, seal.id.as_str(), seal.bundle),
                (1, "spiffe://shop.example/orders", Some([9; 32]))
            );
        }
    }

    #[test]
    fn a_signature_that_is_of_something_else_is_none() {
        let signer = Signer::new();
        let good = line(&signer.svid, |signature| signature);
        assert_eq!(Seal::read(&Record::read(good.as_bytes()).unwrap()).unwrap().id.as_str(), ID);
        let read = |line: &str| Seal::read(&Record::read(line.as_bytes()).unwrap()).map(drop);
        let forged = line(&signer.svid, |mut signature| {
            signature[10] ^= 1;
            signature
        });
        assert!(matches!(read(&forged), Err(SealFault::Signature(_))));
        assert!(matches!(read(&line(&signer.svid, |_| Vec::new())), Err(SealFault::Signature(_))));
        // The signature of another seal of the same key.
        let digits = good.split("\"signature\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let other = crate::audit::chain::read_digits(digits.as_bytes()).unwrap();
        let (mut lines, mut chain) = (Vec::new(), Chain::begin(LogId([8; 16])));
        let from = good.find("\"kind\"").unwrap();
        let to = good.find(",\"signature\"").unwrap();
        chain.append_signed(&good.as_bytes()[from..to], &mut lines, |_| Ok::<_, ()>(other)).unwrap();
        let moved = String::from_utf8(lines).unwrap();
        assert!(matches!(read(moved.trim_end()), Err(SealFault::Signature(_))), "another log");
    }
}
