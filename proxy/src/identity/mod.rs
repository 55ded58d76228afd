//! Who we are and whom we can believe: sources of SVIDs and bundles, checked, as one immutable [`Snapshot`].
//!
//! `workload_api` and `files` build snapshots; `store` publishes them; `dev` is the embedded provider. Nothing here
//! decides *who a peer is*: that is `tls/verifier.rs`.

pub mod dev;
#[allow(clippy::all, clippy::wildcard_imports, missing_docs, reason = "generated; see the top of the file")]
pub mod proto;
pub mod snapshot;
pub mod store;

pub use snapshot::{Anchor, AuthorityId, Bundle, IdentityState, NoSvid, Snapshot, SourceStatus, Svid};
pub use store::IdentityStore;
