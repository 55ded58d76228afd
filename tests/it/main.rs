//! Integration tests.

mod dependencies;
mod limbo;
mod tidy;
