//! Certificate revocation lists: what is taken for revoked is what another reader finds in the list.

use postern::tls::crl::Crl;
use postern::tls::crl::significant;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

pub(super) fn check(bytes: &[u8]) {
    let Ok(list) = Crl::read(bytes) else { return };
    // The other one reads the issuer's name, too, which we do not look at: a list is of the key that signed it.
    let Ok((rest, other)) = CertificateRevocationList::from_der(bytes) else { return };
    assert!(rest.is_empty());
    let serials: BTreeSet<&[u8]> =
        other.iter_revoked_certificates().map(|entry| significant(entry.raw_serial())).collect();
    assert_eq!(list.len(), serials.len());
    assert!(serials.iter().all(|serial| list.names(serial)), "{serials:?}");
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let next = other.next_update().map(|next| u64::try_from(next.timestamp()).unwrap_or(0));
    assert_eq!(list.next_update.map(seconds), next);
    assert!(list.next_update.is_none_or(|next| list.is_stale(next) && !list.is_stale(next - Duration::from_secs(1))));
    // The other reader takes signatures of any kind for granted; ours may be asked for any key.
    assert!(!list.is_signed_by(bytes));
}
