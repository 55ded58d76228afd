//! Integration tests.

mod dependencies;
mod tidy;
