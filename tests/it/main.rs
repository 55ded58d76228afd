//! Integration tests.

mod dependencies;
mod limbo;
mod oracle_id;
mod oracle_svid;
mod tidy;
