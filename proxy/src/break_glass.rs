//! Break-glass: a signed override of the rules, for some time. It lets in what the rules refuse, and nothing that they were not
//! asked about: who a caller is, tokens, the deny list and framing stay as they are.
//!
//! It is a file of its own with a signature beside it, so that whoever may write the configuration may not open it, and
//! whoever may sign need not be able to change anything else. It ends by itself.

use crate::audit::record::Event;
use crate::authz::{Asked, Decision, RuleSet};
use crate::base64;
use crate::policy::{Judged, Policy};
use crate::reload::Watcher;
use crate::shared::Shared;
use crate::tls::bundle::sha256;
use crate::tls::certificate::hex;
use crate::tls::der::{self, BIT_STRING, DerError, SEQUENCE};
use arc_swap::ArcSwapOption;
use postern_config::{BreakGlass, Override, Problems, SpiffeId};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::{self, PemObject};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const FILE_BYTES_MAX: u64 = 256 << 10;
/// How exactly its beginning and its end are kept.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An override that is signed, and not at its end. It acts between its two moments, where the sidecar is one that it is for.
pub struct Active {
    pub written: Override,
    rules: RuleSet,
    /// SHA-256 of the file, hex.
    pub digest: String,
    /// SHA-256 of the public key that signed it, hex.
    pub signer: String,
}

/// Why an override is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is larger than {FILE_BYTES_MAX} bytes", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} is no public key in PEM", path = path.display())]
    Key { path: PathBuf, source: pem::Error },
    #[error("{path} is not text", path = path.display())]
    NotText { path: PathBuf },
    #[error("the override is not signed by any of `break_glass.keys`")]
    NotSigned,
    #[error("the override has problems:\n{0}")]
    Problems(Problems),
    #[error("the override lasts {lasts:?}, longer than `break_glass.longest` ({longest:?})")]
    TooLong { lasts: Duration, longest: Duration },
    #[error("the override ended at {until}")]
    Ended { until: String },
}

/// The public keys whose signature counts.
///
/// # Errors
/// One of the files is none.
pub fn read_keys(config: &BreakGlass) -> Result<Vec<SubjectPublicKeyInfoDer<'static>>, Fault> {
    let key = |path: &PathBuf| {
        let bytes = read_file(path)?;
        SubjectPublicKeyInfoDer::from_pem_slice(&bytes).map_err(|source| Fault::Key { path: path.clone(), source })
    };
    config.keys.iter().map(key).collect()
}

/// What stands in the file, if it is there.
///
/// # Errors
/// It is there and is not taken. The keys are read anew, so that one that was taken away signs nothing any more.
pub fn load(config: &BreakGlass, now: SystemTime) -> Result<Option<Active>, Fault> {
    if !config.file.exists() {
        return Ok(None);
    }
    let bytes = read_file(&config.file)?;
    let mut beside = config.file.clone().into_os_string();
    beside.push(".sig");
    let signature = read_file(Path::new(&beside))?;
    let keys = read_keys(config)?;
    let signer = keys.iter().find(|key| is_signed_by(key, &bytes, &signature)).ok_or(Fault::NotSigned)?;
    let text = std::str::from_utf8(&bytes).map_err(|_not_text| Fault::NotText { path: config.file.clone() })?;
    let written = Override::from_str(&config.file, text).map_err(Fault::Problems)?;
    if written.lasts() > config.longest {
        return Err(Fault::TooLong { lasts: written.lasts(), longest: config.longest });
    }
    if seconds(now) >= written.until {
        return Err(Fault::Ended { until: written.until_text() });
    }
    let rules = RuleSet::compile(&written.rules);
    Ok(Some(Active { rules, digest: hex(&sha256(&bytes)), signer: hex(&sha256(signer)), written }))
}

fn read_file(path: &Path) -> Result<Vec<u8>, Fault> {
    let fault = |source| Fault::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(fault)?;
    if !file.metadata().map_err(fault)?.is_file() {
        return Err(fault(std::io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// `signature`: as `openssl dgst -sha256 -sign` or `openssl pkeyutl -sign -rawin` write it, or that in base64.
fn is_signed_by(key: &SubjectPublicKeyInfoDer<'_>, message: &[u8], signature: &[u8]) -> bool {
    let text: Option<String> = std::str::from_utf8(signature).ok().map(|text| text.split_whitespace().collect());
    let decoded = text.and_then(|text| base64::decode(&text).ok());
    let forms = [Some(signature), decoded.as_deref()];
    let checked = || -> Result<bool, DerError> {
        let mut fields = der::Reader::new(der::only(key, SEQUENCE)?);
        let (algorithm, bits) = (fields.expect(SEQUENCE)?, fields.expect(BIT_STRING)?);
        let [0, bits @ ..] = bits else { return Err(DerError::Value) };
        let fitting = webpki::ALL_VERIFICATION_ALGS.iter().filter(|it| it.public_key_alg_id().as_ref() == algorithm);
        let fitting: Vec<_> = fitting.collect();
        Ok(forms.into_iter().flatten().any(|signature| {
            fitting.iter().any(|algorithm| algorithm.verify_signature(bits, message, signature).is_ok())
        }))
    };
    checked().unwrap_or(false)
}

impl Active {
    /// Whether it acts at `now`, in the sidecar of `own`.
    pub fn acts(&self, own: &SpiffeId, now: SystemTime) -> bool {
        self.is_now(now) && self.written.workload.matches(own)
    }

    fn is_now(&self, now: SystemTime) -> bool {
        (self.written.from..self.written.until).contains(&seconds(now))
    }

    fn allows(&self, port: &str, asked: &Asked<'_>) -> Option<Arc<str>> {
        let is_for = self.written.ports.is_empty() || self.written.ports.iter().any(|name| name == port);
        match is_for.then(|| self.rules.decide(asked))? {
            Decision::Allowed { rule } => Some(Arc::from(format!("break-glass/{rule}"))),
            _ => None,
        }
    }
}

/// Holds an override while it is in force. Every policy has the same one.
pub type InForce = Arc<ArcSwapOption<Active>>;

/// What comes of it where an override is in force: a no of rules may become a yes. Asked only then, so that nobody pays for it
/// else.
pub fn rescue(policy: &Policy, port: &str, judged: Judged, asked: &Asked<'_>) -> Judged {
    if judged.is_allowed() {
        return judged;
    }
    let active = policy.break_glass.load();
    let Some(active) = active.as_deref().filter(|active| active.is_now(SystemTime::now())) else { return judged };
    match (active.allows(port, asked), judged) {
        (Some(rule), Judged::By(refused)) => Judged::Overridden { rule, refused },
        (_, judged) => judged,
    }
}

/// Follows the file, and the clock. Never returns.
pub async fn watch(config: BreakGlass, shared: Arc<Shared>) {
    let mut beside = config.file.clone().into_os_string();
    beside.push(".sig");
    let mut watcher = Watcher::new(&[config.file.clone(), PathBuf::from(beside)]);
    let mut taken = take(&config, &shared);
    loop {
        put_in_force(taken.as_ref(), &shared);
        tokio::select! {
            () = watcher.changed() => taken = take(&config, &shared),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// What is signed and not at its end. A file that is no override ends the one before it: this is the one place where the last good
/// one does not stay.
fn take(config: &BreakGlass, shared: &Shared) -> Option<Arc<Active>> {
    load(config, SystemTime::now()).map(|active| active.map(Arc::new)).unwrap_or_else(|fault| {
        let error = format!("{:#}", anyhow::Error::from(fault));
        tracing::error!(error, "a break-glass override is not taken");
        shared.audit.event(&Event::BreakGlassRefused { why: &error });
        None
    })
}

/// Lets it act from its beginning to its end, in the sidecars that it is for.
fn put_in_force(taken: Option<&Arc<Active>>, shared: &Shared) {
    let identity = shared.identity.load();
    let now = SystemTime::now();
    let is_for = |active: &&Arc<Active>| identity.svids.first().is_some_and(|own| active.acts(&own.id, now));
    let acting = taken.filter(is_for).cloned();
    let before = shared.break_glass.load_full();
    if before.as_ref().map(Arc::as_ptr) == acting.as_ref().map(Arc::as_ptr) {
        return;
    }
    shared.break_glass.store(acting.clone());
    shared.metrics.set_break_glass(acting.is_some());
    if let Some(ended) = before {
        tracing::warn!(digest = ended.digest, "a break-glass override has ended");
        shared.audit.event(&Event::BreakGlass { active: &ended, acts: false });
    }
    if let Some(active) = &acting {
        tracing::error!(digest = active.digest, signer = active.signer, "{}", note(active));
        shared.audit.event(&Event::BreakGlass { active, acts: true });
    }
    // What it let in has to go, and what waits may come.
    shared.decide_again();
}

/// A configuration without `break_glass` lets none act.
pub fn end(shared: &Shared) {
    put_in_force(None, shared);
}

/// For readiness and status: what is in force.
pub fn note(active: &Active) -> String {
    let Override { reason, author, .. } = &active.written;
    format!(
        "BREAK-GLASS: an override of the rules is in force until {}: {reason} ({author})",
        active.written.until_text()
    )
}

fn seconds(at: SystemTime) -> i64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
