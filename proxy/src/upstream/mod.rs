//! Where requests and connections go: which endpoints, which of them, over which pooled connection.
//!
//! `health` (which endpoints are passed over), `budget` (how many requests may be sent again) and `places` (how many at
//! once) are plain state of each worker.
//!
//! `plan` is made at configuration time, `discovery` keeps addresses current on the control plane, `pool` and `connect`
//! are each worker's own, `client` sends one request.

pub mod address;
mod attempt;
mod budget;
pub mod client;
pub mod connect;
mod counted;
pub mod credentials;
pub mod discovery;
mod health;
pub mod http1;
pub mod http2;
pub mod l4;
pub mod lease;
mod mesh_io;
mod open;
mod places;
pub mod plan;
pub mod pool;
mod replay;
pub mod reserved;
mod version;
pub mod web_clients;
