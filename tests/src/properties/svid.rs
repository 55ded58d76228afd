//! Whatever bytes a peer shows, it is known by the identity that the authority signed, or by none.

use super::fixtures::{AUTHORITY, TRUST_DOMAIN, genuine_id, now};
use postern::identity::Bundle;
use postern::tls::bundle::{load_bundle, split_der};
use postern::tls::certificate::Fields;
use postern::tls::{Role, Strictness, verify_svid};
use postern_config::TrustDomain;
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

static BUNDLES: LazyLock<HashMap<TrustDomain, Arc<Bundle>>> = LazyLock::new(|| {
    let domain = TrustDomain::parse(TRUST_DOMAIN).expect("a trust domain");
    let (bundle, problems) = load_bundle(domain.clone(), [CertificateDer::from(AUTHORITY)], now());
    assert!(problems.is_empty(), "{problems:?}");
    HashMap::from([(domain, Arc::new(bundle))])
});

pub(super) fn check(bytes: &[u8]) {
    let Ok(certificates) = split_der(bytes) else { return };
    let together: Vec<u8> = certificates.iter().flat_map(|certificate| certificate.to_vec()).collect();
    assert_eq!(together, bytes, "nothing is left over and nothing is made up");
    for certificate in &certificates {
        let fields = Fields::read(certificate);
        // As an authority of its own bundle: what is loaded may vouch for others, and still not for an ID that is not its.
        let domain = TrustDomain::parse(TRUST_DOMAIN).expect("a trust domain");
        let (bundle, problems) = load_bundle(domain, [certificate.clone()], now());
        assert_eq!(bundle.anchors.len() + problems.len(), 1);
        assert!(fields.is_ok() || bundle.anchors.is_empty(), "an authority that cannot be read");
    }
    for strictness in [Strictness::Strict, Strictness::Compat] {
        for role in [Role::Client, Role::Server] {
            if let Ok(peer) = verify_svid(&certificates, &BUNDLES, 7, role, now(), strictness) {
                assert_eq!(peer.id, genuine_id(), "nobody signed that");
                assert_eq!(peer.generation, 7);
                assert_eq!(
                    certificates.first().map(|leaf| leaf.as_ref()),
                    peer.chain.first().map(|leaf| leaf.as_ref())
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BUNDLES, check, now};
    use crate::properties::fixtures::{INTERMEDIATE, LEAF};
    use postern::tls::{Role, Strictness, verify_svid};
    use rustls_pki_types::CertificateDer;

    /// The property means something: what the authority signed is believed.
    #[test]
    fn the_genuine_chain_is_believed() {
        let chain = [CertificateDer::from(LEAF), CertificateDer::from(INTERMEDIATE)];
        verify_svid(&chain, &BUNDLES, 0, Role::Client, now(), Strictness::Strict).expect("it is genuine");
        check(&[LEAF, INTERMEDIATE].concat());
    }
}
