//! What takes trust back here and now: the files that the configuration names, and the admin socket.

use super::guard::{Blast, Change, Gate, Proposal, bound};
use super::{Denials, Entry, LISTS_MAX, Origin, Revocations};
use crate::audit::record::Event;
use crate::identity::Snapshot;
use crate::shared::Shared;
use crate::tls::crl::{CRL_BYTES_MAX, Crl, CrlFault};
use postern_config::{DenyEntry, DenyList, Problems, Revocation};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::{self, PemObject};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::Mutex;

/// Entries that the admin socket may add; a file holds more.
const LEVER_ENTRIES_MAX: usize = 1000;

/// Why the files are not taken. What they said before stays.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the deny list has problems:\n{0}")]
    DenyList(Problems),
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is larger than {CRL_BYTES_MAX} bytes", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} is not whole PEM", path = path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path} has no certificate revocation list", path = path.display())]
    NoList { path: PathBuf },
    #[error("{path} has a list that cannot be used", path = path.display())]
    List { path: PathBuf, source: CrlFault },
    #[error("there are more than {LISTS_MAX} certificate revocation lists")]
    TooMany,
}

/// What stood in the files.
#[derive(Default)]
pub struct Loaded {
    pub denied: Vec<DenyEntry>,
    pub crls: Vec<Arc<Crl>>,
}

/// # Errors
/// One of the files is broken or gone; all problems of the deny list.
pub fn load(config: &Revocation) -> Result<Loaded, LoadError> {
    let mut loaded = Loaded::default();
    if let Some(path) = &config.deny_list {
        loaded.denied = DenyList::load(path).map_err(LoadError::DenyList)?.entries;
    }
    for path in &config.crls {
        loaded.crls.extend(read_lists(path)?);
    }
    if loaded.crls.len() > LISTS_MAX {
        return Err(LoadError::TooMany);
    }
    Ok(loaded)
}

fn read_lists(path: &Path) -> Result<Vec<Arc<Crl>>, LoadError> {
    let fault = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fault)?;
    if !file.metadata().map_err(fault)?.is_file() {
        return Err(fault(std::io::Error::other("it is not a regular file")));
    }
    file.take(CRL_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() > CRL_BYTES_MAX {
        return Err(LoadError::TooLarge { path: path.to_owned() });
    }
    let unusable = |source| LoadError::List { path: path.to_owned(), source };
    // DER begins with a SEQUENCE, which no text does.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![Arc::new(Crl::read(&bytes).map_err(unusable)?)]);
    }
    let mut lists = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(&bytes) {
        let der = der.map_err(|source| LoadError::Pem { path: path.to_owned(), source })?;
        lists.push(Arc::new(Crl::read(&der).map_err(unusable)?));
    }
    if lists.is_empty() { Err(LoadError::NoList { path: path.to_owned() }) } else { Ok(lists) }
}

/// Why a lever does not move.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("it would cut {cut} of {live} live connections; say so again with `confirm`", cut = .0.cut, live = .0.live)]
    TooMuch(Blast),
    #[error("the admin socket holds {LEVER_ENTRIES_MAX} entries, which is all that it may; write a deny list")]
    Full,
    #[error("nothing is denied under this number through the admin socket")]
    Unknown,
}

/// The only writer of what is denied.
pub struct Levers {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    of_file: Vec<Arc<Entry>>,
    of_lever: Vec<Arc<Entry>>,
    last_number: u64,
}

impl Entries {
    fn all(&self) -> Denials {
        Denials::new(self.of_file.iter().chain(&self.of_lever).cloned().collect())
    }
}

impl Levers {
    pub fn new(shared: Arc<Shared>, gate: Arc<Gate>) -> Self {
        Self { shared, gate, entries: Mutex::default() }
    }

    /// Takes over what stood in the files, at once.
    pub async fn take(&self, loaded: Loaded, config: &Revocation) {
        let mut entries = self.entries.lock().await;
        let before = std::mem::replace(&mut entries.of_file, Entry::of_file(loaded.denied));
        self.tell_changes(&before, &entries.of_file);
        let denials = Arc::new(entries.all());
        self.publish(|now| Revocations {
            from_files: loaded.crls.clone(),
            stale: config.stale_crls,
            denials: denials.clone(),
            ..now.clone()
        });
    }

    /// Whether what stood in the files has to wait: see [`Gate`].
    pub async fn objects(&self, loaded: &Loaded) -> Option<Blast> {
        let entries = self.entries.lock().await;
        let denied = Entry::of_file(loaded.denied.clone());
        let denials = Denials::new(denied.into_iter().chain(entries.of_lever.iter().cloned()).collect());
        drop(entries);
        let denials = Arc::new(denials);
        let proposal = self.proposal(|now| Revocations {
            from_files: loaded.crls.clone(),
            denials: denials.clone(),
            ..now.clone()
        });
        self.gate.objects(Change::DenyList, &proposal).await
    }

    /// Denies `what` from now on. It is gone when it expires, or when this process ends.
    ///
    /// # Errors
    /// It is too much without `confirmed`, or there are too many.
    pub async fn deny(&self, what: DenyEntry, confirmed: bool) -> Result<Arc<Entry>, Refused> {
        let mut entries = self.entries.lock().await;
        let now = SystemTime::now();
        entries.of_lever.retain(|entry| entry.acts(now));
        if entries.of_lever.len() >= LEVER_ENTRIES_MAX {
            return Err(Refused::Full);
        }
        entries.last_number += 1;
        let entry = Arc::new(Entry { number: entries.last_number, origin: Origin::Lever, denied: what });
        entries.of_lever.push(entry.clone());
        let denials = Arc::new(entries.all());
        let next = |now: &Revocations| Revocations { denials: denials.clone(), ..now.clone() };
        if !confirmed && let Some(blast) = self.gate.too_much(&self.proposal(next)).await {
            entries.of_lever.pop();
            return Err(Refused::TooMuch(blast));
        }
        self.tell_changes(&[], std::slice::from_ref(&entry));
        self.publish(next);
        Ok(entry)
    }

    /// Takes an entry of the admin socket away.
    ///
    /// # Errors
    /// There is none of this number.
    pub async fn allow_again(&self, number: u64) -> Result<Arc<Entry>, Refused> {
        let mut entries = self.entries.lock().await;
        let index = entries.of_lever.iter().position(|entry| entry.number == number).ok_or(Refused::Unknown)?;
        let entry = entries.of_lever.remove(index);
        self.tell_changes(std::slice::from_ref(&entry), &[]);
        let denials = Arc::new(entries.all());
        self.publish(|now| Revocations { denials: denials.clone(), ..now.clone() });
        Ok(entry)
    }

    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.shared.identity.load().revocations.denials.entries().to_vec()
    }

    fn publish(&self, next: impl Fn(&Revocations) -> Revocations) {
        self.shared.identity.publish(|current| changed(current, &next));
    }

    fn proposal(&self, next: impl Fn(&Revocations) -> Revocations) -> Proposal {
        Proposal::Identity(Arc::new(bound(changed(&self.shared.identity.load(), &next))))
    }

    /// What is denied, and what no longer: one line and one record each.
    fn tell_changes(&self, before: &[Arc<Entry>], after: &[Arc<Entry>]) {
        let is_in = |list: &[Arc<Entry>], entry: &Entry| list.iter().any(|other| same(other, entry));
        for entry in after.iter().filter(|entry| !is_in(before, entry)) {
            let (words, expires, origin) = (entry.words(), entry.denied.expires_text(), entry.origin.as_str());
            tracing::warn!(entry = words, expires, origin, "denied from now on");
            self.shared.audit.event(&Event::Denied(entry));
        }
        for entry in before.iter().filter(|entry| !is_in(after, entry)) {
            tracing::warn!(entry = entry.words(), origin = entry.origin.as_str(), "no longer denied");
            self.shared.audit.event(&Event::AllowedAgain(entry));
        }
    }
}

/// Wherever in the file it stands.
fn same(one: &Entry, other: &Entry) -> bool {
    let (a, b) = (&one.denied, &other.denied);
    a.what == b.what && a.reason == b.reason && a.author == b.author && a.expires == b.expires
}

fn changed(current: &Snapshot, next: impl Fn(&Revocations) -> Revocations) -> Snapshot {
    Snapshot { revocations: Arc::new(next(&current.revocations)), ..current.clone() }
}
