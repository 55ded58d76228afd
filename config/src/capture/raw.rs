//! `capture:` as it is written, and its checks.

use super::dns::RawDns;
use super::{Capture, CaptureMode, Dns, Ports, Redirect};
use crate::network::Network;
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Listener, Reader, Section};
use crate::values::{OneOrMany, scalar_schema};
use crate::yaml::{Node, Value};
use schemars::JsonSchema;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;

/// `IFNAMSIZ` less its end (Linux, `net/if.h`).
const INTERFACE_BYTES_MAX: usize = 15;

/// Traffic that the packet filter redirects to Postern, so that the application need not know of it. `postern redirect`
/// installs the rules.
#[derive(JsonSchema)]
#[schemars(rename = "Capture", deny_unknown_fields, extend("required" = [], "minProperties" = 1))]
pub(crate) struct RawCapture {
    /// The port at which redirected connections from other hosts arrive; customarily 15006. Absent: none are captured.
    #[schemars(range(min = 1, max = 65535))]
    inbound: Field<u16>,
    /// The port at which redirected connections of the application arrive; customarily 15001. Absent: none are captured.
    #[schemars(range(min = 1, max = 65535))]
    outbound: Field<u16>,
    /// How inbound connections are diverted: `redirect` rewrites their destination, `tproxy` takes them as they are, and
    /// the application sees the true caller's address. The latter needs CAP_NET_ADMIN while Postern runs.
    #[schemars(extend("default" = "redirect"))]
    mode: Field<CaptureMode>,
    /// What is captured.
    redirect: Field<RawRedirect>,
    /// The application's name queries. Absent: they are left alone.
    dns: Field<RawDns>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawCapture {
    const NAME: &'static str = "`capture`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            inbound: keys.optional("inbound"),
            outbound: keys.optional("outbound"),
            mode: keys.optional("mode"),
            redirect: keys.optional("redirect"),
            dns: keys.optional("dns"),
            place: keys.place(),
        }
    }
}

impl RawCapture {
    pub fn has_dns(&self) -> bool {
        self.dns.is_written()
    }

    pub fn check(self, reader: &mut Reader) -> Capture {
        let ports = [
            (&self.inbound, "capture.inbound", Ipv4Addr::UNSPECIFIED),
            (&self.outbound, "capture.outbound", Ipv4Addr::LOCALHOST),
        ];
        for (port, whose, address) in ports {
            if let (Some(port), Some(place)) = (port.get(), port.place()) {
                let address = SocketAddr::from((address, *port));
                reader.listeners.push(Listener {
                    address: address.into(),
                    whose: whose.to_owned(),
                    place: Some(place.clone()),
                });
            }
        }
        if !self.inbound.is_written() && !self.outbound.is_written() {
            let hint = "write `inbound: 15006`, `outbound: 15001`, or both";
            reader.problem(&self.place, "`capture` captures neither direction", hint);
        }
        if let (Some(place), false) = (self.mode.place(), self.inbound.is_written()) {
            let hint = "add `inbound: 15006`, or remove `mode`";
            reader.problem(place, "`mode` is about inbound connections, and none are captured", hint);
        }
        let dns_place = self.dns.place().cloned();
        let redirect = self.redirect.into_option().map_or_else(Redirect::default, RawRedirect::check);
        let dns = self.dns.into_option().map(|dns| dns.check(reader));
        if let (Some(place), false) = (&dns_place, self.outbound.is_written()) {
            let hint = "add `outbound: 15001`, or remove `dns`";
            let what = "`dns` hands out addresses that captured connections alone reach, and none are captured";
            reader.problem(place, what, hint);
        }
        if let (Some(place), Some(dns)) = (&dns_place, &dns) {
            are_captured(place, dns, &redirect, reader);
        }
        Capture {
            inbound: self.inbound.into_option(),
            outbound: self.outbound.into_option(),
            mode: self.mode.or_default(),
            redirect,
            dns,
        }
    }
}

/// Connections to virtual addresses that are not captured lead nowhere.
fn are_captured(place: &Place, dns: &Dns, redirect: &Redirect, reader: &mut Reader) {
    for network in &dns.virtual_networks {
        if let Some(excluded) = redirect.exclude_networks.iter().find(|excluded| excluded.overlaps(network)) {
            let what = format!("`exclude_networks` has `{excluded}`, and `dns` hands out addresses of `{network}`");
            reader.problem(place, what, "write other `virtual_networks`, or exclude less");
        }
        let only = &redirect.only_networks;
        if !only.is_empty() && !only.iter().any(|only| only.covers(network)) {
            let what = format!("`only_networks` leaves out `{network}`, of which `dns` hands out addresses");
            reader.problem(place, what, format!("add `{network}` to `only_networks`"));
        }
    }
}

impl FromNode for CaptureMode {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("redirect", Self::Redirect), ("tproxy", Self::Tproxy)])
    }
}

/// What the packet filter's rules cover. `postern redirect` reads it.
#[derive(JsonSchema)]
#[schemars(rename = "Redirect", deny_unknown_fields, extend("required" = [], "minProperties" = 1))]
pub(crate) struct RawRedirect {
    /// Users whose connections are not captured, by name or number: the one that Postern runs as, above all.
    #[schemars(extend("x-default" = "the user of the process that runs `postern redirect`, unless that is root"))]
    exempt_users: Field<OneOrMany<User>>,
    /// Ports of this host on which connections are captured: `all`, or a list. What is captured and is no port of
    /// `inbound` is refused.
    #[schemars(extend("default" = "all"))]
    inbound_ports: Field<Ports>,
    /// Ports of this host that are left alone. Our own, such as those of `telemetry`, need not be named.
    exclude_inbound_ports: Field<OneOrMany<u16>>,
    /// Ports to which the application's connections are captured: `all` (53, DNS over TCP, excepted), or a list.
    #[schemars(extend("default" = "all"))]
    outbound_ports: Field<Ports>,
    /// Ports to which the application connects by itself.
    exclude_outbound_ports: Field<OneOrMany<u16>>,
    /// Capture connections to these networks alone, such as `10.96.0.0/12`.
    only_networks: Field<OneOrMany<Network>>,
    /// Networks to which the application connects by itself.
    exclude_networks: Field<OneOrMany<Network>>,
    /// Interfaces through which connections arrive uncaptured, such as `docker0`.
    exclude_interfaces: Field<OneOrMany<Interface>>,
    /// The mark that tells Postern's own packets, set where it has CAP_NET_ADMIN.
    #[schemars(extend("x-default" = "0x504f"))]
    mark: Field<Mark>,
    /// Refuse what leaves this host past Postern: of every user but the exempt ones. DNS, excluded ports and excluded
    /// networks stay open.
    #[schemars(extend("default" = false))]
    closed_egress: Field<bool>,
}

impl Section for RawRedirect {
    const NAME: &'static str = "`redirect`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            exempt_users: keys.optional("exempt_users"),
            inbound_ports: keys.optional("inbound_ports"),
            exclude_inbound_ports: keys.optional("exclude_inbound_ports"),
            outbound_ports: keys.optional("outbound_ports"),
            exclude_outbound_ports: keys.optional("exclude_outbound_ports"),
            only_networks: keys.optional("only_networks"),
            exclude_networks: keys.optional("exclude_networks"),
            exclude_interfaces: keys.optional("exclude_interfaces"),
            mark: keys.optional("mark"),
            closed_egress: keys.optional("closed_egress"),
        }
    }
}

impl RawRedirect {
    fn check(self) -> Redirect {
        let defaults = Redirect::default();
        Redirect {
            exempt_users: self.exempt_users.or_default().0.into_iter().map(|user| user.0).collect(),
            inbound_ports: self.inbound_ports.or_default(),
            exclude_inbound_ports: self.exclude_inbound_ports.or_default().0,
            outbound_ports: self.outbound_ports.or_default(),
            exclude_outbound_ports: self.exclude_outbound_ports.or_default().0,
            only_networks: self.only_networks.or_default().0,
            exclude_networks: self.exclude_networks.or_default().0,
            exclude_interfaces: self.exclude_interfaces.or_default().0.into_iter().map(|name| name.0).collect(),
            mark: self.mark.into_option().map_or(defaults.mark, |mark| mark.0),
            closed_egress: self.closed_egress.or(defaults.closed_egress),
        }
    }
}

impl FromNode for Ports {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. } if text == "all" => Some(Self::All),
            _ => OneOrMany::<u16>::from_node(node, reader).map(|ports| Self::Only(ports.0)),
        }
    }
}

impl JsonSchema for Ports {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ports".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let list = generator.subschema_for::<OneOrMany<u16>>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["all"] }, list] })
    }
}

/// A name of the user database, or a number.
pub(crate) struct User(pub String);

impl FromNode for User {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a user's name or number")?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte);
        if text.is_empty() || text.len() > 64 || text.starts_with('-') || !text.bytes().all(allowed) {
            reader.wrong(node, "is not a user", "write a name such as `postern`, or a number such as `1337`");
            return None;
        }
        Some(Self(text.to_owned()))
    }
}

/// What the kernel takes as an interface's name, and the packet filter without quotes.
struct Interface(String);

impl FromNode for Interface {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "an interface")?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
        let fits = (1..=INTERFACE_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed);
        if !fits {
            reader.wrong(node, "is not an interface", "write a name such as `eth0`, as `ip link` shows it");
            return None;
        }
        Some(Self(text.to_owned()))
    }
}

struct Mark(NonZeroU32);

impl FromNode for Mark {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a mark such as `0x504f`")?;
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let mark = number.ok().and_then(NonZeroU32::new);
        if mark.is_none() {
            reader.wrong(node, "is not a mark", "write a number other than 0, such as `0x504f`");
        }
        mark.map(Self)
    }
}

scalar_schema!(CaptureMode, "CaptureMode", { "type": "string", "enum": ["redirect", "tproxy"] });
scalar_schema!(User, "user", { "type": ["string", "integer"], "title": "user" });
scalar_schema!(Interface, "interface", { "type": "string", "title": "interface", "pattern": "^[A-Za-z0-9_.@-]{1,15}$" });
scalar_schema!(Mark, "mark", { "type": ["string", "integer"], "title": "mark" });
