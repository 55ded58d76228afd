//! How long `PermissionDenied` has to last before live connections are cut.
//!
//! New handshakes stop at once (the snapshot says `Denied`), because the standard has the client cease to use what it
//! holds. Agents also say it in passing, while they restart or entries are edited, so connections that live are given
//! `permission_denied_grace`. A task of its own, so that no step of the client can hold it up.

use super::snapshot::{Snapshot, SourceStatus};
use super::store::IdentityStore;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Never returns.
pub(crate) async fn enforce(store: Arc<IdentityStore>, grace: Duration) {
    let mut changes = store.subscribe();
    loop {
        let denied_since = undecided_denial(&store.load());
        let Some(since) = denied_since else {
            // The sender lives in `store`, which this task holds: no error is possible.
            let _ = changes.changed().await;
            continue;
        };
        let elapsed = tokio::time::sleep(grace);
        tokio::pin!(elapsed);
        let lasted = loop {
            tokio::select! {
                () = &mut elapsed => break true,
                _ = changes.changed() => if undecided_denial(&store.load()) != Some(since) { break false },
            }
        };
        if lasted {
            cut(&store, since);
        }
    }
}

fn undecided_denial(snapshot: &Snapshot) -> Option<SystemTime> {
    match snapshot.source {
        SourceStatus::Denied { since, cut: false } => Some(since),
        _ => None,
    }
}

/// Only if it is still the same denial: between the timer and here a message may have come.
fn cut(store: &IdentityStore, since: SystemTime) {
    let published = store.publish_if_changed(|current| {
        let same = undecided_denial(current) == Some(since);
        same.then(|| Snapshot { source: SourceStatus::Denied { since, cut: true }, ..current.clone() })
    });
    if published.is_some() {
        tracing::error!(
            "the agent has denied this workload an identity for the whole grace period; live connections end"
        );
    }
}
