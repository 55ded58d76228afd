//! Who we are and whom we can believe: sources of SVIDs and bundles, checked, as one immutable [`Snapshot`].
//!
//! `workload_api` and `files` build snapshots, `federation` adds fetched bundles; `store` publishes them; `dev` is the
//! embedded provider. Nothing here
//! decides *who a peer is*: that is `tls/verifier.rs`.

mod backoff;
pub mod bundle_format;
pub mod dev;
pub mod events;
mod federation;
mod file_content;
mod files;
mod grace;
pub mod issuer_asks;
mod issuers;
mod key;
mod message;
mod message_fault;
#[allow(clippy::all, clippy::wildcard_imports, missing_docs, reason = "generated; see the top of the file")]
pub mod proto;
mod publisher;
pub mod reading;
pub mod snapshot;
pub mod source;
pub mod store;
mod supervisor;
mod token_keys;
pub mod tokens;
mod workload_api;

pub use events::{Counters, DiscardReason};
pub use federation::probe;
pub use key::PrivateKeyBytes;
pub use snapshot::{
    Anchor, AuthorityId, Bundle, IdentityState, IssuerKeys, NoSvid, Snapshot, SourceStatus, Svid, TokenKeys,
};
pub use source::{Profile, SourceError, SourceHandle, spawn, spawn_bundles_only};
pub use store::IdentityStore;

#[cfg(test)]
mod tests;
