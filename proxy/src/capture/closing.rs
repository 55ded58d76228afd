//! Closing a listener from elsewhere, and knowing when its address is free again.

use std::time::Duration;
use tokio::sync::oneshot;

/// For the listener's task to have its turn. Later, the address is as good as in use.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// The asker's side. Dropped, it asks for nothing.
pub struct Closer(oneshot::Sender<Closed>);

/// The listener's side. `None`: nobody will ask any more.
pub struct CloseAsked(Option<oneshot::Receiver<Closed>>);

/// To be dropped after the socket: that is the answer.
pub struct Closed(#[expect(dead_code, reason = "its drop is what the asker waits for")] oneshot::Sender<()>);

pub fn closing() -> (Closer, CloseAsked) {
    let (closer, asked) = oneshot::channel();
    (Closer(closer), CloseAsked(Some(asked)))
}

impl Closer {
    /// Resolves when the socket is closed, or its task does not get to it in time.
    pub async fn close(self) {
        let (closed, is_closed) = oneshot::channel();
        // A listener that is gone is closed.
        if self.0.send(Closed(closed)).is_ok() {
            let _ = tokio::time::timeout(CLOSED_WITHIN, is_closed).await;
        }
    }
}

impl CloseAsked {
    /// Resolves once: when somebody asks.
    ///
    /// # Cancellation
    /// Loses nothing.
    pub async fn asked(&mut self) -> Closed {
        if let Some(asked) = &mut self.0 {
            let closed = asked.await;
            // A receiver that has answered must not be asked again.
            self.0 = None;
            if let Ok(closed) = closed {
                return closed;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::closing;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn who_asks_waits_until_the_socket_is_closed() {
        let (closer, mut asked) = closing();
        let mut closing = std::pin::pin!(closer.close());
        assert!(closing.as_mut().now_or_never().is_none());
        let closed = asked.asked().await;
        assert!(closing.as_mut().now_or_never().is_none(), "asked, not closed");
        drop(closed);
        closing.await;
    }

    #[tokio::test]
    async fn a_listener_that_nobody_can_close_stays_open() {
        let (closer, mut asked) = closing();
        drop(closer);
        for _ in 0..2 {
            assert!(asked.asked().now_or_never().is_none());
        }
    }
}
