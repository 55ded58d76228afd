//! What every negative test asserts besides the verdict (the invariants U0 to U2 of the catalogue of attacks): nothing at
//! the application, one record with a reason, no credential in any output, and a healthy next request.

use crate::app_raw::RawApp;
use crate::client_raw::RawClient;
use crate::sidecar::Sidecar;
use serde_json::Value;
use std::net::SocketAddr;

/// Sent with requests that are refused, and looked for in everything that a sidecar says.
pub const CANARY: &str = "canary-7f3a91c2";

/// One attack after the other, on a port whose application answers everything with 200.
pub struct Negative<'a> {
    pub sidecar: &'a Sidecar,
    pub app: &'a RawApp,
    /// Where attacks and honest requests go in.
    pub to: SocketAddr,
    /// Records of requests, so far.
    records: usize,
}

impl<'a> Negative<'a> {
    pub fn new(sidecar: &'a Sidecar, app: &'a RawApp, to: SocketAddr) -> Self {
        Self { sidecar, app, to, records: 0 }
    }

    /// Sends `request`, and another one behind it: whatever the first is read as, nothing of the connection may get
    /// through. `statuses`: what it may be answered; `""` for a connection that is closed without a word.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub async fn refuses(&mut self, row: &str, request: &[u8], statuses: &[&str]) -> Option<Value> {
        let mut client = RawClient::connect(self.to).await;
        let behind =
            format!("GET /evil-second HTTP/1.1\r\nhost: orders.shop.svc\r\nauthorization: Bearer {CANARY}\r\n\r\n");
        client.send_what_is_taken([request, behind.as_bytes()].concat()).await;
        let answer = String::from_utf8_lossy(&client.until_ended().await).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&status), "{row}: {answer:?}, expected {statuses:?}");
        assert!(answer.matches("HTTP/1.").count() <= 1, "{row}: two answers: {answer:?}");
        self.assert_no_canary(row, &answer);
        self.check(row, usize::from(!status.is_empty())).await
    }

    /// The invariants, after something that `requests` records are expected of. The last of them.
    ///
    /// # Panics
    /// One does not hold.
    pub async fn check(&mut self, row: &str, requests: usize) -> Option<Value> {
        assert!(!self.app.text().contains("evil"), "{row}: reached the application: {}", self.app.text());
        self.records += requests;
        let mut records = self.sidecar.records_of("request", self.records).await;
        let last = records.pop().filter(|_| requests > 0);
        if let Some(record) = &last {
            let reason = record["refusal"].as_str().or(record["end"].as_str());
            assert!(reason.is_some_and(|reason| !reason.is_empty()), "{row}: no reason: {record}");
        }
        self.honest(row).await;
        let everything: String = self.sidecar.records().iter().map(Value::to_string).collect();
        self.assert_no_canary(row, &everything);
        self.assert_no_canary(row, &self.sidecar.metrics());
        last
    }

    async fn honest(&mut self, row: &str) {
        let mut honest = RawClient::connect(self.to).await;
        let response = honest.get("orders.shop.svc", "/honest").await;
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "after {row}");
        self.records += 1;
        self.sidecar.records_of("request", self.records).await;
    }

    fn assert_no_canary(&self, row: &str, text: &str) {
        assert!(!text.contains(CANARY), "{row}: a credential in {text}");
    }
}
