//! HTTP: `serve` runs a connection, `request` is the life of one request, the rest are its steps.

pub mod authorizer;
pub mod bearer;
pub mod body;
mod caller;
mod date;
pub mod decide;
pub mod forward;
pub mod forwarded;
pub mod frames;
pub mod headers;
pub mod hops;
pub mod http1;
pub mod identity_headers;
mod kept_body;
pub mod normalize;
pub mod record;
pub mod request;
pub mod respond;
pub mod route;
pub mod serve;
mod serve_http1;
mod serve_http2;
pub mod streams;
pub mod target;
pub mod upgrade;
pub mod windows;
