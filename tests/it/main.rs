//! Integration tests.

mod dependencies;
mod exchanges;
mod forged_identity;
mod framing;
mod http_versions;
mod identity_states;
mod limbo;
mod oracle_id;
mod oracle_svid;
mod outbound;
mod pages;
mod reload;
mod rotation;
mod teardown;
mod teardown_latency;
mod tidy;
mod tunnels;
