//! Where requests and connections go: which endpoints, which of them, over which pooled connection.
//!
//! `plan` is made at configuration time, `discovery` keeps addresses current on the control plane, `pool` and `connect`
//! are each worker's own, `client` sends one request.

pub mod address;
pub mod client;
pub mod connect;
pub mod discovery;
pub mod l4;
mod mesh_io;
pub mod plan;
pub mod pool;
mod replay;
pub mod reserved;
pub mod web_clients;
