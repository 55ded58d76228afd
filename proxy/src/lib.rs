//! Postern, the program: see `main.rs`, then `app.rs`, `inbound.rs`, `http/request.rs`, in that order.

pub mod admin;
pub mod app;
pub mod authz;
pub mod capture;
pub mod cli;
pub mod connection;
mod delegate;
pub mod detect;
pub mod dns;
pub mod drain;
pub mod hbone;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod outbound;
pub mod policy;
pub mod redirect;
pub mod refusal;
pub mod reload;
pub mod session;
pub mod shared;
pub mod telemetry;
pub mod tls;
pub mod tunnel;
pub mod upstream;
pub mod worker;
