//! TLS clients of the Web PKI, one for each set of roots: those whose roots are still what they were stay, with the
//! sessions and pools that were made with them.

use super::plan::{Security, ServicePlan};
use crate::tls::web::{WebRoots, WebRootsError, WebTls};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What one compilation of a policy uses. Each file is read once for it.
pub struct WebClients {
    earlier: Vec<Arc<WebTls>>,
    of_this: HashMap<Option<PathBuf>, Arc<WebTls>>,
}

impl WebClients {
    /// `plans`: those of the policy before.
    pub fn following<'a>(plans: impl Iterator<Item = &'a Arc<ServicePlan>>) -> Self {
        let earlier = plans.filter_map(|plan| client_of(plan)).cloned().collect();
        Self { earlier, of_this: HashMap::new() }
    }

    /// # Errors
    /// [`WebRootsError`].
    pub fn get(&mut self, roots: Option<&Path>) -> Result<Arc<WebTls>, WebRootsError> {
        let path = roots.map(Path::to_owned);
        if let Some(client) = self.of_this.get(&path) {
            return Ok(client.clone());
        }
        let found = WebRoots::read(roots)?;
        let client = match self.earlier.iter().find(|client| client.trusts(&found)) {
            Some(client) => client.clone(),
            None => Arc::new(WebTls::new(found)?),
        };
        self.of_this.insert(path, client.clone());
        Ok(client)
    }
}

/// The client of the Web PKI that a plan connects with, if it does.
pub fn client_of(plan: &ServicePlan) -> Option<&Arc<WebTls>> {
    match &plan.security {
        Security::WebTls { client, .. } => Some(client),
        Security::Mesh { .. } | Security::Plaintext | Security::App => None,
    }
}
