//! Integration tests.

mod dependencies;
mod http_versions;
mod teardown;
mod tidy;
