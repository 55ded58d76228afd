//! The trust bundle that vouches for a seal, kept beside the log: who verifies it in a year has the authorities of today.

use super::chain::Hash;
use super::target::synchronize_folder;
use crate::base64;
use crate::identity::{Bundle, Snapshot, Svid};
use crate::tls::bundle::sha256;
use crate::tls::certificate::hex;
use postern_config::TrustDomain;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Stands between the log's name and the digest of the file.
pub const MARK: &str = ".bundle-";
/// A bundle has at most a thousand authorities; whoever reads one that lies beside a log reads no more.
pub const BYTES_MAX: u64 = 16 << 20;

pub(super) struct Archive {
    /// The log. `None`: there is no file, and nothing beside it.
    log: Option<PathBuf>,
    kept: Option<(Arc<Bundle>, Hash)>,
}

impl Archive {
    pub(super) fn beside(log: Option<&Path>) -> Self {
        Self { log: log.map(Path::to_owned), kept: None }
    }

    /// SHA-256 of the file with the bundle of `svid`'s trust domain, which is written unless it is there.
    pub(super) fn keep(&mut self, snapshot: &Snapshot, svid: &Svid) -> Option<Hash> {
        let log = self.log.as_deref()?;
        let bundle = snapshot.bundles.get(&svid.id.trust_domain())?;
        if let Some((kept, hash)) = &self.kept
            && Arc::ptr_eq(kept, bundle)
        {
            return Some(*hash);
        }
        let text = pem(bundle);
        let hash = sha256(text.as_bytes());
        match write(&path_of(log, &hash), &text) {
            Ok(()) => {
                self.kept = Some((bundle.clone(), hash));
                Some(hash)
            }
            Err(error) => {
                tracing::error!(%error, "the trust bundle cannot be kept beside the audit log");
                None
            }
        }
    }
}

fn path_of(log: &Path, hash: &Hash) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!("{MARK}{}.pem", hex(hash)));
    PathBuf::from(name)
}

/// By rename, so that it is there whole or not at all. What is there under that name counts only if it is that: not a link to
/// something, and not something else.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let is_file = path.symlink_metadata().is_ok_and(|there| there.is_file() && there.len() == text.len() as u64);
    if is_file && std::fs::read(path)? == text.as_bytes() {
        return Ok(());
    }
    let unfinished = path.with_extension("unfinished");
    // Of a process that was killed; or a link that somebody put there, which is not followed.
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&unfinished, path)?;
    synchronize_folder(path);
    Ok(())
}

/// RFC 7468 §5: each line but the last has 64 characters.
fn pem(bundle: &Bundle) -> String {
    let name: &TrustDomain = &bundle.trust_domain;
    let mut text = format!("# The authorities of {name}\n");
    for anchor in &bundle.anchors {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let digits = base64::encode(&anchor.der);
        let mut rest = digits.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
