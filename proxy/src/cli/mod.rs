//! Commands, one a file.

mod admin_client;
pub mod check;
pub mod dev_identity;
pub mod doctor;
mod output;
pub mod schema;
pub mod status;
