//! How a worker reads what is published: through caches of its own.

use crate::identity::Snapshot;
use crate::policy::Policy;
use crate::shared::Shared;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// Lets a `Cache` reach the `ArcSwap`s inside `Shared`.
#[derive(Clone)]
pub struct PolicyOf(pub Arc<Shared>);
#[derive(Clone)]
pub struct IdentityOf(pub Arc<Shared>);

impl std::ops::Deref for PolicyOf {
    type Target = ArcSwap<Policy>;
    fn deref(&self) -> &Self::Target {
        self.0.policy()
    }
}

impl std::ops::Deref for IdentityOf {
    type Target = ArcSwap<Snapshot>;
    fn deref(&self) -> &Self::Target {
        self.0.identity.swap()
    }
}
