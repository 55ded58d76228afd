//! Tokens: what a caller brings beside its certificate, judged.
//!
//! [`judge()`] is the one entry: bytes and keys in, a verdict out. In reading order: `jws` (the outside of a token), `keys` and
//! `verify` (who signed it), `claims` (what it says), `judge` (whether it is believed), `problem` (why not). All of them
//! are pure: no I/O, no clock. Fetching keys and tokens is not done here.

mod accepted;
pub mod algorithm;
pub mod claims;
pub mod json;
pub mod judge;
pub(crate) mod jwk_set;
pub mod jws;
pub mod key_fault;
pub mod keys;
mod once;
mod own;
pub mod problem;
mod remembered;
pub mod shown;
pub mod verify;

pub use accepted::{Accepted, AcceptedIssuer};
pub use algorithm::Algorithm;
pub use judge::{Expectation, Issuer, LEEWAY_DEFAULT, Presenter, Subject, Trust, Verified, judge, verify_signature};
pub use keys::{KeySet, KeySetError, Origin, Thumbprint};
pub use once::{NotOnce, ShownTokens};
pub use own::{OwnToken, read_own};
pub use problem::TokenProblem;
pub use remembered::RememberedTokens;

#[cfg(test)]
pub(crate) mod tests;
