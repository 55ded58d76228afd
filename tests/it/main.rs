//! Integration tests.

mod concurrency;
mod deadlines;
mod dependencies;
mod exchanges;
mod forged_identity;
mod framing;
mod framing_http2;
mod http_versions;
mod identity_states;
mod limbo;
mod local_users;
mod oracle_id;
mod oracle_svid;
mod outbound;
mod pages;
mod permissions;
mod races;
mod refused_heads;
mod reload;
mod reload_listeners;
mod rotation;
mod teardown;
mod teardown_latency;
mod tidy;
mod tunnels;
mod web_roots;
