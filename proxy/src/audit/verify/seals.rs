//! Who signed a seal, and who vouches for that: the data plane's verifier, at the time of the seal. Pure.

use crate::audit::chain::{Hash, Record};
use crate::audit::seal::Seal;
use crate::tls::bundle::load_bundle;
use crate::tls::{Role, Strictness, SvidError, verify_svid};
use postern_config::{SpiffeId, SpiffePattern, TrustDomain};
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

/// What seals are judged by.
pub struct Judge {
    /// `--bundle`: what the one who asks believes.
    pub trusted: Option<(TrustDomain, Vec<CertificateDer<'static>>)>,
    /// The files that were archived beside the log, by their SHA-256. Whoever could write the log could write them.
    pub archived: HashMap<Hash, Vec<CertificateDer<'static>>>,
    /// Who may have sealed it.
    pub id: Option<SpiffePattern>,
    pub strictness: Strictness,
    /// When it is verified: a seal of later than that is none.
    pub now: SystemTime,
}

/// Who vouches for a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vouched {
    /// Nobody whose word we have: the bundle that it names is not here.
    ByNobody,
    ByArchive,
    ByTrusted,
}

/// What the seals of a log say together.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    pub seals: u64,
    /// Number of the last one that somebody vouches for, and so of the last record that is sealed.
    pub last: Option<u64>,
    pub last_vouched: Option<Vouched>,
    /// When the last one was made, as it says.
    pub last_time: Option<SystemTime>,
    /// The last one that `--bundle` vouches for, and with it for everything before.
    pub last_trusted: Option<u64>,
    /// The last for which nobody vouches.
    pub last_by_nobody: Option<u64>,
    pub signers: BTreeSet<String>,
}

impl Judge {
    /// Judges a record of the kind `seal`.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn judge(&self, record: &Record<'_>, sealed: &mut Sealed) -> Result<Vouched, String> {
        let seal = Seal::read(record).map_err(|fault| with_causes(&fault))?;
        if let Some(expected) = self.id.as_ref().filter(|expected| !expected.matches(&seal.id)) {
            return Err(format!("{} sealed it, who is not {expected}", seal.id));
        }
        let vouched = self.vouch(&seal)?;
        sealed.seals += 1;
        sealed.last_vouched = Some(vouched);
        sealed.last_time = Some(seal.time);
        match vouched {
            Vouched::ByTrusted => {
                sealed.last = Some(seal.number);
                sealed.last_trusted = sealed.last;
            }
            Vouched::ByArchive => sealed.last = Some(seal.number),
            Vouched::ByNobody => sealed.last_by_nobody = Some(seal.number),
        }
        sealed.signers.insert(seal.id.to_string());
        Ok(vouched)
    }

    fn vouch(&self, seal: &Seal) -> Result<Vouched, String> {
        let by_trusted = self.trusted.as_ref().map(|(trust_domain, bundle)| self.verify(seal, trust_domain, bundle));
        if let Some(Ok(())) = by_trusted {
            return Ok(Vouched::ByTrusted);
        }
        // A rotated authority is in no bundle of today. What was archived then vouches for its seals, and a later seal
        // that `--bundle` vouches for vouches for that.
        match seal.bundle.and_then(|hash| self.archived.get(&hash)) {
            Some(bundle) => {
                self.verify(seal, &seal.id.trust_domain(), bundle)?;
                Ok(Vouched::ByArchive)
            }
            None => Ok(Vouched::ByNobody),
        }
    }

    fn verify(
        &self,
        seal: &Seal,
        trust_domain: &TrustDomain,
        bundle: &[CertificateDer<'static>],
    ) -> Result<(), String> {
        self.verify_chain(&seal.chain, &seal.id, seal.time, trust_domain, bundle)
    }

    /// Whether a seal made at `time` with the key of this chain would be believed.
    ///
    /// # Errors
    /// Why not.
    pub fn believes(&self, chain: &[CertificateDer<'static>], id: &SpiffeId, time: SystemTime) -> Result<(), String> {
        match &self.trusted {
            Some((trust_domain, bundle)) => self.verify_chain(chain, id, time, trust_domain, bundle),
            None => Ok(()),
        }
    }

    fn verify_chain(
        &self,
        chain: &[CertificateDer<'static>],
        id: &SpiffeId,
        time: SystemTime,
        trust_domain: &TrustDomain,
        bundle: &[CertificateDer<'static>],
    ) -> Result<(), String> {
        let (bundle, _passed_over) = load_bundle(trust_domain.clone(), bundle.iter().cloned(), time);
        let bundles = HashMap::from([(trust_domain.clone(), Arc::new(bundle))]);
        // X509-SVID §4.4 lets an issuer restrict an SVID to one of the two roles; a seal is in neither.
        let in_role = |role| verify_svid(chain, &bundles, 0, role, time, self.strictness);
        let verdict = in_role(Role::Client).or_else(|error| match error {
            SvidError::WrongUsage { .. } => in_role(Role::Server),
            other => Err(other),
        });
        let signer = verdict.map_err(|error| with_causes(&error))?;
        if signer.id != *id {
            return Err(format!("it says that {id} sealed it, and its certificate is that of {}", signer.id));
        }
        Ok(())
    }
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(error.source(), |cause| (*cause).source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
