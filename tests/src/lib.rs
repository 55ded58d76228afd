//! A mesh in a process: an embedded identity provider, sidecars, applications and clients, for the tests in `it/`.
//!
//! Fakes stand at the network: the sidecars are the whole program but its command line. Nothing sleeps for a hoped-for
//! effect; [`wait`] waits for events with a bound that a test which passes never reaches.

pub mod app_http;
pub mod app_raw;
pub mod client_http;
pub mod client_raw;
mod explanations;
pub mod gate;
pub mod http2_raw;
pub mod mesh;
pub mod mtls;
pub mod negative;
pub mod pair;
pub mod ports;
pub mod properties;
pub mod sidecar;
pub mod wait;

pub use app_http::{HttpApp, Seen};
pub use app_raw::{RawApp, TcpApp};
pub use client_http::{H1Client, H2Client, Reply};
pub use client_raw::{RawClient, RawResponse};
pub use gate::{Gate, HoldAt};
pub use http2_raw::H2Raw;
pub use mesh::Mesh;
pub use negative::Negative;
pub use pair::Pair;
pub use sidecar::Sidecar;
pub use wait::{BOUND, eventually, within};
