//! Integration tests.

mod dependencies;
mod http_versions;
mod limbo;
mod oracle_id;
mod oracle_svid;
mod pages;
mod teardown;
mod tidy;
