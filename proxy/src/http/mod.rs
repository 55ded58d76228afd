//! HTTP between a caller and the application. `normalize`, `target`, `headers` and `route` are pure: a request's head in,
//! a verdict out; they do no I/O and read no clock.

pub mod headers;
pub mod identity_headers;
pub mod normalize;
pub mod route;
pub mod target;
