//! Starts what runs beside the data plane.

use std::pin::Pin;
use tokio::task::JoinHandle;

/// As [`tokio::spawn`]. All of them are one kind of task: each kind has a copy of the scheduler's code, some four kilobytes, and an
/// idle sidecar's memory is mostly its program. What is started for connections and requests does not come here: the box costs
/// an allocation.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let future: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
    tokio::spawn(future)
}
