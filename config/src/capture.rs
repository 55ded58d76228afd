//! `capture:` traffic of the application that is redirected to Postern, in both directions, without the application's help.

pub mod dns;
mod raw;

use crate::network::Network;
use std::num::NonZeroU32;

pub use dns::Dns;
#[cfg(test)]
pub(crate) use dns::RawDns;
#[cfg(test)]
pub(crate) use raw::RawRedirect;
pub(crate) use raw::{RawCapture, User};

/// Where captured connections arrive, and which are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Redirected connections from other hosts arrive at this port, of every address of both families.
    pub inbound: Option<u16>,
    /// Redirected connections of the application arrive at this port, of loopback of both families.
    pub outbound: Option<u16>,
    pub mode: CaptureMode,
    pub redirect: Redirect,
    /// `None`: name queries are left alone.
    pub dns: Option<Dns>,
}

/// How inbound connections are diverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CaptureMode {
    /// Their destination is rewritten; the application sees Postern's address as its caller's.
    #[default]
    Redirect,
    /// Their destination stays, and the application sees the true caller's address.
    Tproxy,
}

/// What the packet filter's rules cover, for `postern redirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Whose connections are not captured: Postern's own user above all. Names or numbers.
    pub exempt_users: Vec<String>,
    pub inbound_ports: Ports,
    pub exclude_inbound_ports: Vec<u16>,
    pub outbound_ports: Ports,
    pub exclude_outbound_ports: Vec<u16>,
    /// Only connections to these are captured. Empty: to all.
    pub only_networks: Vec<Network>,
    pub exclude_networks: Vec<Network>,
    /// Connections that arrive through these interfaces are not captured.
    pub exclude_interfaces: Vec<String>,
    /// Packets with this mark are not captured; Postern sets it where it may.
    pub mark: NonZeroU32,
    /// What leaves the host past Postern is dropped.
    pub closed_egress: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Ports {
    #[default]
    All,
    Only(Vec<u16>),
}

/// "PO" in ASCII: unlikely to be anybody else's.
pub const MARK_DEFAULT: NonZeroU32 = NonZeroU32::new(0x504f).expect("not zero");

impl Default for Redirect {
    fn default() -> Self {
        Self {
            exempt_users: Vec::new(),
            inbound_ports: Ports::All,
            exclude_inbound_ports: Vec::new(),
            outbound_ports: Ports::All,
            exclude_outbound_ports: Vec::new(),
            only_networks: Vec::new(),
            exclude_networks: Vec::new(),
            exclude_interfaces: Vec::new(),
            mark: MARK_DEFAULT,
            closed_egress: false,
        }
    }
}
