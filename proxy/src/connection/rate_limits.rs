//! The buckets that a connection's requests are taken out of.

use super::Connection;
use crate::rate_limit::{Bucket, Limited, Limiter};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

/// Limits that a connection remembers its bucket of; those of further routes are looked up with each request.
const REMEMBERED_MAX: usize = 8;

/// Found once, so that a request takes no lock. The limiter is kept beside, so that no other one is taken for it.
#[derive(Default)]
pub(super) struct Buckets(RefCell<Vec<(Arc<Limiter>, Arc<Bucket>)>>);

impl Connection {
    /// Counts one request.
    ///
    /// # Errors
    /// It is one too many.
    pub fn take_of(&self, limiter: &Arc<Limiter>, now: Instant) -> Result<(), Limited> {
        let mut remembered = self.buckets.0.borrow_mut();
        if let Some((_, bucket)) = remembered.iter().find(|(other, _)| Arc::ptr_eq(other, limiter)) {
            return limiter.take(bucket, now);
        }
        let source = self.session.remote.address().map(|address| address.ip());
        let bucket = limiter.bucket(self.peer().map(|peer| &peer.id), source, now);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.remove(0);
        }
        remembered.push((limiter.clone(), bucket.clone()));
        limiter.take(&bucket, now)
    }
}
