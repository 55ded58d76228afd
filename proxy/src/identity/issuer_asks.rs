//! How a worker asks for newer keys of an issuer: it met a token whose key is not known.
//!
//! Asking waits for nothing and promises nothing: that request is refused. Whether and when a fetch follows, the issuer's own task
//! decides (`identity/issuers.rs`).

use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The tasks that can be asked, by `iss`. Each has room for one ask: however many come at once, there is one fetch.
pub type Askable = HashMap<String, mpsc::Sender<()>>;

/// What workers reach.
#[derive(Default)]
pub struct IssuerAsks(ArcSwap<Askable>);

impl IssuerAsks {
    /// From now on these are asked, and no others.
    pub fn set(&self, askable: Arc<Askable>) {
        self.0.store(askable);
    }

    /// Whoever has no task, as issuers have whose keys are in a file, is not asked.
    pub fn ask(&self, issuer: &str) {
        if let Some(task) = self.0.load().get(issuer) {
            // Full: it has been asked. Closed: its configuration has gone.
            let _ = task.try_send(());
        }
    }
}
