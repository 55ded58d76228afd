//! Integration tests.

mod dependencies;
mod exchanges;
mod forged_identity;
mod framing;
mod http_versions;
mod identity_states;
mod outbound;
mod reload;
mod rotation;
mod teardown;
mod teardown_latency;
mod tidy;
mod tunnels;
