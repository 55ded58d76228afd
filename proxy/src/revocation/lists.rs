//! CRLs by the key of the authority that signed them.

use crate::identity::{AuthorityId, Bundle, Svid};
use crate::tls::SvidError;
use crate::tls::bundle::sha256;
use crate::tls::certificate::{Fields, hex};
use crate::tls::crl::{Crl, significant};
use crate::tls::peer::Issued;
use postern_config::{StaleCrls, TrustDomain};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

/// Lists in all. More is no list of exceptions.
pub const LISTS_MAX: usize = 256;

/// What the authorities' own lists say of what they issued.
#[derive(Default)]
pub struct BoundLists {
    by_authority: HashMap<AuthorityId, RevokedBy>,
    /// Nobody here whose key signed them.
    pub unbound: Vec<Arc<Crl>>,
}

/// One authority's lists: the newest of each scope.
#[derive(Default)]
pub struct RevokedBy(pub Vec<Arc<Crl>>);

impl BoundLists {
    pub(super) fn bind<'a>(
        lists: impl Iterator<Item = &'a Arc<Crl>>,
        bundles: &HashMap<TrustDomain, Arc<Bundle>>,
        svids: &[Arc<Svid>],
    ) -> Self {
        let mut bound = Self::default();
        let mut lists = lists.take(LISTS_MAX).peekable();
        if lists.peek().is_none() {
            return bound;
        }
        let keys = keys_of(bundles, svids);
        for list in lists {
            let mut signers = keys.iter().filter(|(_, spki)| list.is_signed_by(spki)).peekable();
            if signers.peek().is_none() {
                bound.unbound.push(list.clone());
            }
            for (authority, _) in signers {
                bound.by_authority.entry(*authority).or_default().add(list);
            }
        }
        bound
    }

    pub fn iter(&self) -> impl Iterator<Item = (&AuthorityId, &RevokedBy)> {
        self.by_authority.iter()
    }

    /// "Unknown status → allow; revoked → reject" (SPIFFE checklist A2.26).
    ///
    /// # Errors
    /// `Revoked`, or `RevocationStale` where that is to be an error.
    pub(super) fn check(&self, issued: &[Issued], stale: StaleCrls, now: SystemTime) -> Result<(), SvidError> {
        if self.by_authority.is_empty() {
            return Ok(());
        }
        for certificate in issued {
            let Some(RevokedBy(lists)) = self.by_authority.get(&certificate.by) else { continue };
            if lists.iter().any(|list| list.names(&certificate.serial)) {
                return Err(SvidError::Revoked { serial: hex(significant(&certificate.serial)) });
            }
            if stale == StaleCrls::Refuse && lists.iter().any(|list| list.is_stale(now)) {
                return Err(SvidError::RevocationStale);
            }
        }
        Ok(())
    }
}

impl RevokedBy {
    fn add(&mut self, list: &Arc<Crl>) {
        match self.0.iter_mut().find(|known| known.scope == list.scope) {
            Some(known) if known.this_update < list.this_update => *known = list.clone(),
            Some(_) => {}
            None => self.0.push(list.clone()),
        }
    }
}

/// Every key that may vouch here: the roots of all trust domains, and the intermediates that we show ourselves.
fn keys_of(bundles: &HashMap<TrustDomain, Arc<Bundle>>, svids: &[Arc<Svid>]) -> HashMap<AuthorityId, Vec<u8>> {
    let roots = bundles.values().flat_map(|bundle| &bundle.anchors).map(|anchor| &anchor.der);
    let intermediates = svids.iter().flat_map(|svid| svid.certified.cert.iter().skip(1));
    let keys = roots.chain(intermediates).filter_map(|der| {
        let spki = Fields::read(der).ok()?.spki.to_vec();
        Some((AuthorityId(sha256(&spki)), spki))
    });
    keys.collect()
}
