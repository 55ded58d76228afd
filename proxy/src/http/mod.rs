//! HTTP: `serve` runs a connection, `request` is the life of one request, the rest are its steps.

pub mod body;
pub mod forward;
pub mod framing;
pub mod headers;
pub mod hops;
pub mod identity_headers;
pub mod normalize;
pub mod record;
pub mod request;
pub mod respond;
pub mod route;
pub mod serve;
pub mod target;
pub mod upgrade;
