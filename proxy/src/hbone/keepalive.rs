//! Notices that the other end is gone: HTTP/2 pings (PEERS D1: every 20 s, answered within 10 s).

use h2::{Ping, PingPong};
use std::future::pending;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const EVERY: Duration = Duration::from_secs(20);
const WITHIN: Duration = Duration::from_secs(10);

pub struct Keepalive(Option<PingPong>);

impl Keepalive {
    pub fn new(pings: Option<PingPong>) -> Self {
        Self(pings)
    }

    /// Resolves when a ping was not answered. Whoever awaits this has to drive the connection at the same time.
    pub async fn lost(mut self) {
        let Some(pings) = &mut self.0 else { return pending().await };
        loop {
            sleep(EVERY).await;
            match timeout(WITHIN, pings.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {}
                // The connection has ended, and says so to whoever drives it.
                Ok(Err(_)) => return pending().await,
                Err(_) => return,
            }
        }
    }
}
