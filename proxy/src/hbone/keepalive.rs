//! Notices that the other end is gone: HTTP/2 pings (PEERS D1: every 20 s, answered within 10 s).

use h2::{Ping, PingPong};
use postern_config::Timeouts;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{sleep, timeout};

pub struct Keepalive {
    pings: Option<PingPong>,
    every: Duration,
    within: Duration,
}

impl Keepalive {
    pub fn new(pings: Option<PingPong>, timeouts: &Timeouts) -> Self {
        Self { pings, every: timeouts.h2_ping, within: timeouts.h2_ping_answer }
    }

    /// Resolves when a ping was not answered, and nothing else was `heard` meanwhile: bytes from the other side so far, which may
    /// be many before an answer's turn. `is_used` says whether a ping is due. Whoever awaits this has to drive the connection at
    /// the same time.
    pub async fn lost(mut self, is_used: impl Fn() -> bool, heard: impl Fn() -> u64) {
        let Some(pings) = &mut self.pings else { return pending().await };
        loop {
            let before = heard();
            sleep(self.every).await;
            if !is_used() || heard() != before {
                continue;
            }
            let mut answered = pin!(pings.ping(Ping::opaque()));
            loop {
                let before = heard();
                match timeout(self.within, answered.as_mut()).await {
                    Ok(Ok(_)) => break,
                    // The connection has ended, and says so to whoever drives it.
                    Ok(Err(_)) => return pending().await,
                    Err(_) if heard() == before => return,
                    Err(_) => {}
                }
            }
        }
    }
}
