//! `identity:` where the workload's SVIDs and bundles come from, and how strict we are about them.

mod endpoint;
mod federation;

use crate::issuer::TokenIssuer;
use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::spiffe_id::{SpiffeId, TrustDomain};
use crate::values::{FilePath, SpanOrZero};
use crate::yaml::{Node, Value};
use schemars::JsonSchema;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use endpoint::{Endpoint, EndpointError};
pub(crate) use federation::RawBundleEndpoint;
pub use federation::{BundleEndpoint, BundleUrl, BundleUrlError, EndpointProfile};

#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub source: IdentitySource,
    /// Bundles of other trust domains that are fetched from their endpoints, each domain once.
    pub federation: Vec<BundleEndpoint>,
    /// `issuers:` of the file: their keys come and go beside the mesh's.
    pub issuers: Vec<Arc<TokenIssuer>>,
    /// The SVID that listeners and services use unless they name another.
    pub svid: SvidSelector,
    /// How long `PermissionDenied` has to last before live connections are cut. Default 30 s.
    pub permission_denied_grace: Duration,
    /// Accept leaves without basicConstraints or with non-critical keyUsage. Nothing else. Default false.
    pub compat: bool,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            source: IdentitySource::WorkloadApi { endpoint: None },
            federation: Vec::new(),
            issuers: Vec::new(),
            svid: SvidSelector::Default,
            permission_denied_grace: Duration::from_secs(30),
            compat: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum IdentitySource {
    /// The SPIFFE Workload API. `None`: `$SPIFFE_ENDPOINT_SOCKET`, resolved by the command, not here.
    WorkloadApi { endpoint: Option<Endpoint> },
    /// PEM files, watched.
    Files { certificate: PathBuf, key: PathBuf, bundle: PathBuf, federated: Vec<(TrustDomain, PathBuf)> },
}

/// Which of the SVIDs that the source gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum SvidSelector {
    /// The first (Workload API §8).
    #[default]
    Default,
    Id(SpiffeId),
    /// Workload API §5.2.1: the first with this hint.
    Hint(String),
}

/// Where our SVIDs and the trust bundles come from, and how strict we are about them.
#[derive(JsonSchema)]
#[schemars(rename = "Identity", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawIdentity {
    /// The SPIFFE Workload API: `unix:///PATH` or `tcp://IP:PORT` (SPIFFE Workload Endpoint §4).
    #[schemars(extend("x-default" = "$SPIFFE_ENDPOINT_SOCKET"))]
    workload_api: Field<Endpoint>,
    /// PEM files instead of the Workload API. They are watched, and read again once their content is stable.
    files: Field<RawFiles>,
    /// Bundles of other trust domains from their bundle endpoints (SPIFFE Federation §5). The agent brings those that its
    /// server federates with; this is for the others.
    federation: Field<Vec<RawBundleEndpoint>>,
    /// The SVID that listeners and services use unless they name another.
    #[schemars(extend("default" = "default"))]
    svid: Field<SvidSelector>,
    /// How long the agent has to answer `PermissionDenied` before live connections are cut. New handshakes with that
    /// identity end at once. Raise it if your agent says so in passing for longer.
    #[schemars(extend("default" = "30s"))]
    permission_denied_grace: Field<SpanOrZero>,
    /// Accept leaf certificates without basicConstraints or with a keyUsage that is not critical, as some PKIs issue
    /// them. Nothing else becomes less strict.
    #[schemars(extend("default" = false))]
    compat: Field<bool>,
}

impl Section for RawIdentity {
    const NAME: &'static str = "`identity`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            workload_api: keys.optional("workload_api"),
            files: keys.optional("files"),
            federation: keys.optional("federation"),
            svid: keys.optional("svid"),
            permission_denied_grace: keys.optional("permission_denied_grace"),
            compat: keys.optional("compat"),
        }
    }
}

impl RawIdentity {
    pub fn check(self, reader: &mut Reader) -> Identity {
        if let (Some(_), Some(files)) = (self.workload_api.place(), self.files.place()) {
            reader.problem(files, "`files` and `workload_api` are both written", "keep the one that is meant");
        }
        let defaults = Identity::default();
        let source = match self.files.into_option().and_then(RawFiles::check) {
            Some(files) => files,
            None => IdentitySource::WorkloadApi { endpoint: self.workload_api.into_option() },
        };
        let grace = self.permission_denied_grace.or(SpanOrZero(defaults.permission_denied_grace));
        let mut identity = Identity {
            source,
            federation: Vec::new(),
            issuers: Vec::new(),
            svid: self.svid.or_default(),
            permission_denied_grace: grace.0,
            compat: self.compat.or(defaults.compat),
        };
        federation::check_all(self.federation.or_default(), &mut identity, reader);
        identity
    }
}

/// An identity kept in PEM files.
#[derive(JsonSchema)]
#[schemars(rename = "IdentityFiles", deny_unknown_fields, extend("required" = ["certificate", "key", "bundle"]))]
pub(crate) struct RawFiles {
    /// Our X509-SVID: the leaf first, then its intermediates.
    certificate: Field<FilePath>,
    /// The leaf's private key, PKCS#8.
    key: Field<FilePath>,
    /// The authorities of our own trust domain.
    bundle: Field<FilePath>,
    /// The authorities of other trust domains, one file each. They vouch for their own domain only.
    federated: Field<Federated>,
}

impl Section for RawFiles {
    const NAME: &'static str = "`files`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            certificate: keys.required("certificate", "name the PEM file of our certificate and its intermediates"),
            key: keys.required("key", "name the PEM file of the certificate's private key"),
            bundle: keys.required("bundle", "name the PEM file with the authorities of our own trust domain"),
            federated: keys.optional("federated"),
        }
    }
}

impl RawFiles {
    fn check(self) -> Option<IdentitySource> {
        Some(IdentitySource::Files {
            certificate: self.certificate.into_option()?.0,
            key: self.key.into_option()?.0,
            bundle: self.bundle.into_option()?.0,
            federated: self.federated.or_default().0,
        })
    }
}

#[derive(Default)]
struct Federated(Vec<(TrustDomain, PathBuf)>);

impl FromNode for Federated {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            reader.wrong(node, "is not a mapping", "write `partner.example: partner.pem` below it");
            return None;
        };
        let mut domains = Vec::new();
        for entry in entries {
            let file = FilePath::from_node(&entry.value, reader);
            match TrustDomain::parse(&entry.key) {
                Ok(domain) => domains.extend(file.map(|file| (domain, file.0))),
                Err(error) => {
                    let hint = "write the trust domain alone, such as `partner.example`";
                    let what = format!("`{}` {error}", crate::read::shown(&entry.key));
                    reader.problem(&entry.key_place, what, hint);
                }
            }
        }
        Some(Self(domains))
    }
}

impl JsonSchema for Federated {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Federated".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object", "title": "trust domain: file", "additionalProperties": { "type": "string" },
        })
    }
}

impl FromNode for SvidSelector {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Mapping(_) => RawSvid::from_node(node, reader)?.check(node, reader),
            _ => reader.word(node, &[("default", ())]).map(|()| Self::Default),
        }
    }
}

impl JsonSchema for SvidSelector {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SvidSelector".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let selected = generator.subschema_for::<RawSvid>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["default"] }, selected] })
    }
}

/// Chooses among several SVIDs, by exactly one of two ways.
#[derive(JsonSchema)]
#[schemars(rename = "Svid", deny_unknown_fields, extend("required" = [], "minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct RawSvid {
    /// The SVID with this SPIFFE ID.
    id: Field<SpiffeId>,
    /// The first SVID that the Workload API gives with this hint (SPIFFE Workload API §5.2.1).
    hint: Field<String>,
}

impl Section for RawSvid {
    const NAME: &'static str = "`svid`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { id: keys.optional("id"), hint: keys.optional("hint") }
    }
}

impl RawSvid {
    fn check(self, node: &Node, reader: &mut Reader) -> Option<SvidSelector> {
        if self.id.is_written() == self.hint.is_written() {
            reader.wrong(
                node,
                "does not choose in exactly one way",
                "write either `{ id: spiffe://… }` or `{ hint: … }`",
            );
            return None;
        }
        let id = self.id.into_option().map(SvidSelector::Id);
        id.or_else(|| self.hint.into_option().map(SvidSelector::Hint))
    }
}
