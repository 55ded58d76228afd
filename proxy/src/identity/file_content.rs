//! From the bytes of PEM files and SPIFFE bundles to an update. No watching here, and no clock: that is `files`.

use super::bundle_format::{BundleError, parse_spiffe_bundle};
use super::key::PrivateKeyBytes;
use super::message::{SvidMaterial, Update, leaf_trust_domain};
use super::message_fault::{BundleFault, MessageFault};
use crate::tls::Strictness;
use crate::tls::bundle::sha256;
use aws_lc_rs::digest::{Context, SHA256};
use postern_config::TrustDomain;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use zeroize::Zeroizing;

/// As for a message of the Workload API. A device or an endless pipe is no identity.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Clone)]
pub(crate) struct FilePaths {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// PEM, or the SPIFFE bundle format when its name ends in `.json`.
    pub(crate) bundle: PathBuf,
    pub(crate) federated: Vec<(TrustDomain, PathBuf)>,
}

impl FilePaths {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Path> {
        let federated = self.federated.iter().map(|(_trust_domain, path)| path);
        [&self.certificate, &self.key, &self.bundle].into_iter().chain(federated).map(PathBuf::as_path)
    }
}

/// What is wrong with one file. Never its content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileFault {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a regular file", path = path.display())]
    NotRegular { path: PathBuf },
    #[error("{path} is larger than {FILE_BYTES_MAX} bytes", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} is not whole PEM", path = path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path} has no certificate", path = path.display())]
    NoCertificate { path: PathBuf },
    #[error("{path} is not a SPIFFE bundle", path = path.display())]
    Bundle { path: PathBuf, source: BundleError },
    #[error("{path} has `spiffe_sequence` {found}, older than the {known} that is in use", path = path.display())]
    OlderSequence { path: PathBuf, found: u64, known: u64 },
}

/// Why the files give no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentFault {
    #[error("an identity file cannot be used")]
    File(#[from] FileFault),
    #[error("the identity files break a rule")]
    Rule(#[from] MessageFault),
}

/// The bytes of all files at one reading. The key is in it, so it is zeroized.
pub(crate) struct FileContents {
    /// In the order of [`FilePaths::all`].
    files: Vec<Result<Zeroizing<Vec<u8>>, FileFault>>,
    /// Tells one reading from another.
    pub(crate) digest: [u8; 32],
}

impl FileContents {
    pub(crate) fn read(paths: &FilePaths) -> Self {
        Self::digested(paths.all().map(read_file).collect())
    }

    /// As if these had been read, in the order of [`FilePaths::all`].
    pub(crate) fn of(contents: &[&[u8]]) -> Self {
        Self::digested(contents.iter().map(|bytes| Ok(Zeroizing::new(bytes.to_vec()))).collect())
    }

    fn digested(files: Vec<Result<Zeroizing<Vec<u8>>, FileFault>>) -> Self {
        let mut context = Context::new(&SHA256);
        for file in &files {
            let (marker, bytes): (u8, &[u8]) = match file {
                Ok(bytes) => (1, bytes),
                Err(_) => (0, &[]),
            };
            context.update(&[marker]);
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self { files, digest }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileFault> {
    let fault = |source| FileFault::Read { path: path.to_owned(), source };
    // Asked before it is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(fault)?.is_file() {
        return Err(FileFault::NotRegular { path: path.to_owned() });
    }
    let file = std::fs::File::open(path).map_err(fault)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileFault::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// The highest `spiffe_sequence` in use, by file.
pub(crate) type Sequences = BTreeMap<PathBuf, u64>;

/// Checks the contents by the same rules as a message of the Workload API. `sequences` is raised by what is read.
///
/// # Errors
/// [`ContentFault`]: keep what we have. A federated bundle is refused alone.
pub(crate) fn check_contents(
    paths: &FilePaths,
    contents: FileContents,
    sequences: &mut Sequences,
    now: SystemTime,
    strictness: Strictness,
) -> Result<Update, ContentFault> {
    let mut files = contents.files.into_iter();
    let mut next = |path: &Path| {
        let missing = || FileFault::NotRegular { path: path.to_owned() };
        files.next().unwrap_or_else(|| Err(missing()))
    };
    let chain = certificates(&paths.certificate, &next(&paths.certificate)?)?;
    let key = PrivateKeyBytes::from_pem(&next(&paths.key)?)
        .map_err(|source| FileFault::Pem { path: paths.key.clone(), source })?;
    let mut update = Update::new();
    let own = leaf_trust_domain(&chain)?;
    let bundle = bundle(&paths.bundle, &next(&paths.bundle)?, sequences)?;
    update.add_own_bundle(own, bundle, now);
    update.add_svid(SvidMaterial { claimed: None, chain, key, hint: None }, now, strictness)?;
    for (trust_domain, path) in &paths.federated {
        let read = next(path).and_then(|bytes| self::bundle(path, &bytes, sequences));
        match read {
            Ok(certificates) => update.add_foreign_bundle(trust_domain.clone(), certificates, now),
            Err(fault) => update.refuse(trust_domain.clone(), BundleFault::File(fault)),
        }
    }
    Ok(update)
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| FileFault::Pem { path: path.to_owned(), source })?;
    if certificates.is_empty() { Err(FileFault::NoCertificate { path: path.to_owned() }) } else { Ok(certificates) }
}

/// The authorities in a file (PEM, or the SPIFFE bundle format when its name ends in `.json`) and its SHA-256.
pub(crate) fn read_bundle(path: &Path) -> Result<(Vec<CertificateDer<'static>>, [u8; 32]), FileFault> {
    let bytes = read_file(path)?;
    Ok((bundle(path, &bytes, &mut Sequences::new())?, sha256(&bytes)))
}

fn bundle(path: &Path, bytes: &[u8], sequences: &mut Sequences) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return certificates(path, bytes);
    }
    let document = parse_spiffe_bundle(bytes).map_err(|source| FileFault::Bundle { path: path.to_owned(), source })?;
    document.report_ignored(&path.display().to_string());
    if let Some(found) = document.sequence {
        match sequences.get(path) {
            Some(known) if found < *known => {
                return Err(FileFault::OlderSequence { path: path.to_owned(), found, known: *known });
            }
            _ => sequences.insert(path.to_owned(), found),
        };
    }
    Ok(document.x509_authorities)
}
