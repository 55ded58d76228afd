//! `allow:` who may do what.

use crate::pattern::{PathPattern, SpiffePattern};
use crate::problem::Place;

/// One rule: all of its parts hold, or it does not match. Nothing is allowed that no rule allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    /// For logs: `NAME` if it has one, else `allow-N`.
    pub name: String,
    pub who: Principal,
    /// Empty: any. Not allowed on `protocol: tcp`.
    pub methods: Vec<String>,
    /// Empty: any. Not allowed on `protocol: tcp`.
    pub paths: Vec<PathPattern>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// A verified SPIFFE ID that matches one of these.
    Spiffe(Vec<SpiffePattern>),
    /// A plaintext caller; only rules that name it match it.
    Anonymous,
}
