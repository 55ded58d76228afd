//! `postern redirect`: packet-filter rules that bring the application's connections to us without its help.
//!
//! What is captured is a [`RedirectPlan`] (`plan`, and `names` for queries to nameservers on this host), and the rules' texts are pure functions of it (`nft`, `iptables`). Only
//! `host`, `routes` and `probe` touch the machine. `diagnose`, `compare` and `others` judge what programs of the machine
//! printed: why a rule was not taken, what of ours was changed, and whose rules stand in the way. Nothing here reads the
//! environment, and no text of a configuration reaches a rule unchecked: users become numbers, ports, networks and marks are
//! numbers, and interfaces are [`Interface`]s.

pub mod compare;
pub mod diagnose;
pub mod host;
pub mod iptables;
pub mod names;
pub mod nft;
pub mod others;
pub mod plan;
pub mod probe;
pub mod proc;
pub mod routes;

pub use host::{Backend, HostError, Installed};
pub use names::{Names, WantedNames};
pub use plan::{Families, Family, HostFacts, Interface, PlanError, RedirectPlan, Wanted, probe_address};
