//! Certificates made byte by byte: what an issuer would never sign is what a verifier has to refuse.
//!
//! Knows nothing of Postern, so that the oracles in `tests/` can use it as well.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

pub const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
pub const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
/// 1.2.3.4: nobody's.
pub const UNKNOWN: &[u8] = &[0x2a, 3, 4];

pub const DIGITAL_SIGNATURE: u8 = 0x80;
pub const KEY_ENCIPHERMENT: u8 = 0x20;
pub const KEY_AGREEMENT: u8 = 0x08;
pub const KEY_CERT_SIGN: u8 = 0x04;
pub const CRL_SIGN: u8 = 0x02;

pub const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
pub const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
pub const ANY_USAGE: &[u8] = &[0x55, 0x1d, 37, 0];

pub const EMAIL: u8 = 0x81;
pub const DNS: u8 = 0x82;
pub const DIRECTORY: u8 = 0xa4;
pub const URI: u8 = 0x86;
pub const IP: u8 = 0x87;

/// A P-256 key.
pub struct Key {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

impl Key {
    pub fn generate() -> Arc<Self> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).expect("its own encoding");
        Arc::new(Self { pair, pkcs8: pkcs8.as_ref().to_vec() })
    }

    pub fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.clone()))
    }

    pub fn spki(&self) -> Vec<u8> {
        const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
        const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        let algorithm = sequence(&[tlv(6, EC_PUBLIC_KEY), tlv(6, P256)]);
        sequence(&[algorithm, bit_string(self.pair.public_key().as_ref())])
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
    }
}

#[derive(Clone)]
pub struct Extension {
    pub oid: &'static [u8],
    pub critical: bool,
    pub value: Vec<u8>,
}

impl Extension {
    fn encoded(&self) -> Vec<u8> {
        let critical = if self.critical { tlv(1, &[0xff]) } else { Vec::new() };
        sequence(&[tlv(6, self.oid), critical, tlv(4, &self.value)])
    }
}

/// What a certificate will say; the issuer and the keys come when it is signed.
#[derive(Clone)]
pub struct Draft {
    pub subject: Vec<u8>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub extensions: Vec<Extension>,
    /// A public key of which nobody here has the private one.
    pub spki: Option<Vec<u8>>,
    /// Content bytes.
    pub serial: Vec<u8>,
}

impl Draft {
    /// `base leaf` of the conformance cases: now−1 m … now+1 h.
    pub fn leaf(id: &str) -> Self {
        Self {
            subject: common_name("workload"),
            not_before: SystemTime::now() - Duration::from_secs(60),
            not_after: SystemTime::now() + Duration::from_secs(3600),
            extensions: vec![
                basic_constraints(false, None),
                key_usage(DIGITAL_SIGNATURE),
                extended_key_usage(&[SERVER_AUTH, CLIENT_AUTH]),
                subject_alt_name(&[(URI, id.as_bytes())]),
            ],
            spki: None,
            serial: vec![0x01, 0x0f, 0xa0],
        }
    }

    /// A CA as SPIRE makes them, all with one name if `name` says so.
    pub fn authority(name: &str, id: &str) -> Self {
        Self {
            subject: common_name(name),
            not_before: SystemTime::now() - Duration::from_secs(3600),
            not_after: SystemTime::now() + Duration::from_secs(24 * 3600),
            extensions: vec![
                basic_constraints(true, None),
                key_usage(KEY_CERT_SIGN | CRL_SIGN),
                subject_alt_name(&[(URI, id.as_bytes())]),
            ],
            spki: None,
            serial: vec![0x01, 0x0f, 0xa0],
        }
    }

    /// Replaces the extension of that kind.
    pub fn with(mut self, extension: Extension) -> Self {
        self.extensions.retain(|other| other.oid != extension.oid);
        self.adding(extension)
    }

    /// Adds it beside one of the same kind.
    pub fn adding(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    pub fn without(mut self, oid: &[u8]) -> Self {
        self.extensions.retain(|other| other.oid != oid);
        self
    }

    pub fn serial(mut self, serial: &[u8]) -> Self {
        self.serial = serial.to_vec();
        self
    }

    pub fn subject(mut self, subject: Vec<u8>) -> Self {
        self.subject = subject;
        self
    }

    /// Valid from `before` until `after` seconds from now.
    pub fn valid(mut self, before: i64, after: i64) -> Self {
        self.not_before = from_now(before);
        self.not_after = from_now(after);
        self
    }
}

/// Whoever signs.
#[derive(Clone)]
pub struct Issuer {
    pub name: Vec<u8>,
    pub key: Arc<Key>,
    pub der: CertificateDer<'static>,
}

impl Issuer {
    pub fn root(draft: Draft) -> Self {
        let key = Key::generate();
        let der = sign(&draft, &key, &draft.subject, &key);
        Self { name: draft.subject, key, der }
    }

    pub fn issue(&self, draft: &Draft, key: &Key) -> CertificateDer<'static> {
        sign(draft, key, &self.name, &self.key)
    }

    /// A certificate list, DER, with `extensions` beside nothing.
    pub fn list(&self, serials: &[&[u8]], next_update: i64, extensions: &[Extension]) -> Vec<u8> {
        let entries: Vec<_> =
            serials.iter().map(|serial| sequence(&[tlv(2, serial), utc_time(from_now(-60))])).collect();
        let revoked = if entries.is_empty() { Vec::new() } else { sequence(&entries) };
        self.list_of(&revoked, next_update, extensions)
    }

    /// With the field `revokedCertificates` as it is given.
    pub fn list_of(&self, revoked: &[u8], next_update: i64, extensions: &[Extension]) -> Vec<u8> {
        let algorithm = sequence(&[tlv(6, ECDSA_WITH_SHA256)]);
        let extensions = sequence(&extensions.iter().map(Extension::encoded).collect::<Vec<_>>());
        let tbs = sequence(&[
            tlv(2, &[1]),
            algorithm.clone(),
            self.name.clone(),
            utc_time(from_now(-60)),
            utc_time(from_now(next_update)),
            revoked.to_vec(),
            tlv(0xa0, &extensions),
        ]);
        let signature = bit_string(&self.key.sign(&tbs));
        sequence(&[tbs, algorithm, signature])
    }

    /// An authority below this one.
    pub fn intermediate(&self, draft: Draft) -> Self {
        self.intermediate_with(draft, Key::generate())
    }

    pub fn intermediate_with(&self, draft: Draft, key: Arc<Key>) -> Self {
        let der = self.issue(&draft, &key);
        Self { name: draft.subject, key, der }
    }
}

pub fn basic_constraints(ca: bool, path_length: Option<u8>) -> Extension {
    let flag = if ca { tlv(1, &[0xff]) } else { Vec::new() };
    let length = path_length.map_or(Vec::new(), |length| tlv(2, &[length]));
    Extension { oid: BASIC_CONSTRAINTS, critical: true, value: sequence(&[flag, length]) }
}

pub fn key_usage(bits: u8) -> Extension {
    let unused = if bits == 0 { 0 } else { bits.trailing_zeros() as u8 };
    let value = if bits == 0 { tlv(3, &[0]) } else { tlv(3, &[unused, bits]) };
    Extension { oid: KEY_USAGE, critical: true, value }
}

pub fn extended_key_usage(purposes: &[&[u8]]) -> Extension {
    let oids: Vec<_> = purposes.iter().map(|oid| tlv(6, oid)).collect();
    Extension { oid: EXTENDED_KEY_USAGE, critical: false, value: sequence(&oids) }
}

pub fn subject_alt_name(names: &[(u8, &[u8])]) -> Extension {
    let names: Vec<_> = names.iter().map(|(tag, value)| tlv(*tag, value)).collect();
    Extension { oid: SUBJECT_ALT_NAME, critical: false, value: sequence(&names) }
}

pub fn name_constraints(permitted: &[(u8, &[u8])], excluded: &[(u8, &[u8])]) -> Extension {
    let subtrees = |tag: u8, names: &[(u8, &[u8])]| {
        let each: Vec<_> = names.iter().map(|(form, value)| sequence(&[tlv(*form, value)])).collect();
        if each.is_empty() { Vec::new() } else { tlv(tag, &each.concat()) }
    };
    let value = sequence(&[subtrees(0xa0, permitted), subtrees(0xa1, excluded)]);
    Extension { oid: NAME_CONSTRAINTS, critical: true, value }
}

pub fn critical(mut extension: Extension, critical: bool) -> Extension {
    extension.critical = critical;
    extension
}

/// A name with one commonName.
pub fn common_name(text: &str) -> Vec<u8> {
    let attribute = sequence(&[tlv(6, &[0x55, 4, 3]), tlv(0x0c, text.as_bytes())]);
    sequence(&[tlv(0x31, &attribute)])
}

pub fn empty_name() -> Vec<u8> {
    sequence(&[])
}

pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    match content.len() {
        short @ 0..=0x7f => element.push(short as u8),
        middle @ 0x80..=0xff => element.extend([0x81, middle as u8]),
        long => element.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    element.extend(content);
    element
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0], bytes].concat())
}

fn sign(draft: &Draft, subject_key: &Key, issuer_name: &[u8], issuer_key: &Key) -> CertificateDer<'static> {
    let algorithm = sequence(&[tlv(6, ECDSA_WITH_SHA256)]);
    let extensions: Vec<_> = draft.extensions.iter().map(Extension::encoded).collect();
    let tbs = sequence(&[
        tlv(0xa0, &tlv(2, &[2])),
        tlv(2, &draft.serial),
        algorithm.clone(),
        issuer_name.to_vec(),
        sequence(&[utc_time(draft.not_before), utc_time(draft.not_after)]),
        draft.subject.clone(),
        draft.spki.clone().unwrap_or_else(|| subject_key.spki()),
        tlv(0xa3, &sequence(&extensions)),
    ]);
    let signature = bit_string(&issuer_key.sign(&tbs));
    CertificateDer::from(sequence(&[tbs, algorithm, signature]))
}

fn utc_time(at: SystemTime) -> Vec<u8> {
    let at = OffsetDateTime::from(at);
    let text = format!(
        "{:02}{:02}{:02}{:02}{:02}{:02}Z",
        at.year() % 100,
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    tlv(0x17, text.as_bytes())
}

fn from_now(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds >= 0 { SystemTime::now() + distance } else { SystemTime::now() - distance }
}

/// RFC 7468, whose Base64 nobody here needs otherwise.
pub fn as_pem(der: &[u8]) -> String {
    pem_of("CERTIFICATE", der)
}

pub fn pem_of(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for position in 0..4 {
                let sextet = bits >> (18 - 6 * position) & 63;
                text.push(if position <= group.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
            }
        }
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
