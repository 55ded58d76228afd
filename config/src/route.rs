//! `routes:` of an inbound port.

use crate::authz::Allow;
use crate::pattern::{HostPattern, PathPattern};
use crate::problem::Place;

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique within its port. Default `route-N`.
    pub name: String,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// Upper case as in RFC 9110 §9.1, compared exactly. Empty: any method but CONNECT.
    pub methods: Vec<String>,
    /// Never empty: a route without rules of its own has got its port's.
    pub allow: Vec<Allow>,
    /// CONNECT may use this route. Default false.
    pub connect: bool,
    /// Paths with raw non-ASCII bytes or a stray `%` may use this route. Default false.
    pub lax_path: bool,
    pub place: Place,
}
