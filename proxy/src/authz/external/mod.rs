//! External authorization in Envoy's `ext_authz`: what an authorizer is asked, and what its answer means.
//!
//! Pure: a request's head in, a question out; an answer in, a [`Verdict`] out. `http/authorizer.rs` asks.

mod answer;
mod changes;
mod plan;
pub mod proto;
mod question;

pub use answer::{AnswerFault, Denial, Verdict, read_grpc, read_http};
pub use changes::{Change, Changes, How};
pub use plan::AuthorizerPlan;
pub use question::{Facts, Party, SentBody, grpc_question, http_question};

#[cfg(test)]
mod tests;
