//! Of a message of the Workload API, all or nothing is believed, and what is believed verifies.

use super::fixtures::now;
use postern::identity::reading::{Believed, workload_message};
use postern::tls::{Role, Strictness, verify_svid};

pub(super) fn check(bytes: &[u8]) {
    if let Ok(believed) = workload_message(bytes, now()) {
        assert!(!believed.svids.is_empty(), "a message without an SVID was taken");
        all_verify(&believed);
    }
}

pub(super) fn all_verify(believed: &Believed) {
    for svid in &believed.svids {
        let own = believed.bundles.get(&svid.id.trust_domain()).expect("the bundle of its own trust domain");
        assert!(!own.anchors.is_empty());
        for role in [Role::Client, Role::Server] {
            let chain = &svid.certified.cert;
            let peer =
                verify_svid(chain, &believed.bundles, 0, role, now(), Strictness::Strict).expect("it was verified");
            assert_eq!((&peer.id, peer.fingerprint, peer.authority), (&svid.id, svid.fingerprint, svid.authority));
        }
        svid.certified.keys_match().expect("the key is the certificate's");
    }
    assert!(!believed.refused.iter().any(|domain| believed.bundles.contains_key(domain)), "taken and refused");
}

#[cfg(test)]
mod tests {
    use super::{all_verify, now, workload_message};
    use crate::properties::fixtures::{AUTHORITY, INTERMEDIATE, KEY, LEAF, genuine_id};
    use postern::identity::proto::{X509svid, X509svidResponse};
    use prost::Message;

    #[test]
    fn a_genuine_message_is_believed() {
        let svid = X509svid {
            spiffe_id: genuine_id().as_str().to_owned(),
            x509_svid: [LEAF, INTERMEDIATE].concat(),
            x509_svid_key: KEY.to_vec(),
            bundle: AUTHORITY.to_vec(),
            hint: "internal".to_owned(),
        };
        let federated = [("spiffe://partner.example".to_owned(), AUTHORITY.to_vec())];
        let message = X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: federated.into() };
        let believed = workload_message(&message.encode_to_vec(), now()).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((believed.svids.len(), believed.bundles.len(), believed.refused.len()), (1, 2, 0));
        all_verify(&believed);
    }
}
