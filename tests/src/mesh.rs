//! The identity provider and the sidecars that get their identities from it.

use crate::sidecar::{Sidecar, start_sidecar};
use postern::identity::dev::{DevConfig, DevProvider, DevWorkload};
use postern_config::{SpiffeId, TrustDomain};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The identities that the provider knows, by the name of their workload.
pub const WORKLOADS: [(&str, &str); 5] = [
    ("web", "spiffe://shop.example/ns/web/sa/frontend"),
    ("orders", "spiffe://shop.example/ns/shop/sa/orders"),
    ("stranger", "spiffe://shop.example/ns/other/sa/stranger"),
    ("partner", "spiffe://partner.example/ns/billing/sa/caller"),
    ("guest", "spiffe://guest.example/ns/guest/sa/caller"),
];

pub const WEB: &str = WORKLOADS[0].1;
pub const ORDERS: &str = WORKLOADS[1].1;
pub const STRANGER: &str = WORKLOADS[2].1;
pub const PARTNER: &str = WORKLOADS[3].1;

/// A provider for one test. Dropped, it stops; sidecars end with their own handles.
pub struct Mesh {
    pub provider: DevProvider,
    directory: TempDir,
}

impl Mesh {
    /// Identities that last for the whole test. `orders` and `partner` know each other's trust domain.
    pub fn start() -> Self {
        Self::with_svid_ttl(Duration::from_secs(3600))
    }

    /// Identities that are issued anew at half of `svid_ttl`.
    ///
    /// # Panics
    /// The provider cannot start.
    pub fn with_svid_ttl(svid_ttl: Duration) -> Self {
        let directory = tempfile::Builder::new().prefix("mesh").tempdir().unwrap();
        let workloads = WORKLOADS.map(|(name, id)| DevWorkload {
            name: name.to_owned(),
            socket: None,
            svids: vec![(SpiffeId::parse(id).unwrap(), None)],
            federates_with: federates_with(name),
        });
        let provider = DevProvider::start(DevConfig {
            state_dir: directory.path().join("identity"),
            trust_domains: ["shop.example", "partner.example", "guest.example"].map(trust_domain).to_vec(),
            workloads: workloads.to_vec(),
            svid_ttl,
            ca_ttl: Duration::from_secs(24 * 3600),
        })
        .unwrap();
        Self { provider, directory }
    }

    /// A sidecar with the identity of `workload`, ready to carry. `sections` is YAML: `inbound:`, `outbound:` and whatever
    /// else the test is about, but `identity:`, `telemetry:` and `admin:`.
    ///
    /// # Panics
    /// It does not start, or has no identity in time.
    pub async fn sidecar(&self, workload: &str, sections: &str) -> Sidecar {
        self.sidecar_with(workload, "", sections).await
    }

    /// As [`Mesh::sidecar`], with lines for the `identity:` section.
    ///
    /// # Panics
    /// As [`Mesh::sidecar`].
    pub async fn sidecar_with(&self, workload: &str, identity: &str, sections: &str) -> Sidecar {
        let sidecar = self.sidecar_unready(workload, identity, sections).await;
        sidecar.until_ready().await;
        sidecar
    }

    /// As [`Mesh::sidecar_with`], without waiting for its identity.
    ///
    /// # Panics
    /// It does not start.
    pub async fn sidecar_unready(&self, workload: &str, identity: &str, sections: &str) -> Sidecar {
        let socket = self.provider.socket(workload).unwrap();
        start_sidecar(self.directory.path(), workload, &socket, identity, sections).await
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// All stages of a rotation of one trust domain's authority at once: whoever holds an SVID of the old one loses trust.
    ///
    /// # Panics
    /// The provider cannot.
    pub fn replace_authority(&self, name: &str) {
        let name = trust_domain(name);
        self.provider.publish_new_authority(&name).unwrap();
        self.provider.reissue(&name).unwrap();
        self.provider.remove_old_authorities(&name).unwrap();
    }
}

/// # Panics
/// It is none.
pub fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn federates_with(workload: &str) -> Vec<TrustDomain> {
    match workload {
        "orders" => vec![trust_domain("partner.example")],
        "partner" | "guest" => vec![trust_domain("shop.example")],
        _ => Vec::new(),
    }
}
