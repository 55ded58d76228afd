//! What the outside may know: metrics, one record per connection and request, the process log.
//!
//! Nothing here decides anything, and nothing here may slow down what does: counters are plain atomics that were found
//! at configuration time, records go through a bounded buffer that drops (and counts) rather than blocks.
//!
//! Reading order: [`metrics`] (the names), [`counters`] (the numbers), [`record`], [`access_log`], [`process_log`].

pub mod access_log;
mod audit_counters;
mod authorizer_counters;
pub mod counters;
mod dns;
mod exposition;
mod identity_figures;
pub mod json;
mod log_file;
pub mod metrics;
pub mod process;
pub mod process_log;
pub mod record;
pub mod upstream_counters;

pub use access_log::AccessLog;
pub use audit_counters::AuditCounters;
pub use authorizer_counters::{AuthorizerCounters, ExternalVerdict};
pub use counters::PortMetrics;
pub use dns::DnsResult;
pub use metrics::Metrics;
pub use process_log::LogHandle;
pub use record::{ConnectionRecord, RequestRecord};

/// Which way a connection goes, seen from the application beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Direction {
    /// From the mesh to our application; named after its listener.
    #[default]
    Inbound,
    /// From our application to the mesh; named after its service.
    Outbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}
