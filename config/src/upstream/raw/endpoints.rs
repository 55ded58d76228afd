//! `endpoints:` in its three forms.

use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::upstream::Endpoints;
use crate::values::{Address, At, HostName};
use crate::yaml::{Node, Value};
use schemars::JsonSchema;

pub(super) struct WrittenEndpoints(pub Endpoints);

impl FromNode for WrittenEndpoints {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Mapping(_) => RawEndpoints::from_node(node, reader)?.check(node, reader),
            Value::Sequence(_) => addresses(node, reader),
            _ => {
                let hint = "write a list of addresses (`[\"10.0.0.7:8443\"]`), or `{ dns: \"HOST:PORT\" }`";
                reader.wrong(node, "is neither a list nor a mapping", hint);
                None
            }
        }
        .map(Self)
    }
}

fn addresses(node: &Node, reader: &mut Reader) -> Option<Endpoints> {
    let addresses: Vec<At<Address>> = Vec::from_node(node, reader)?;
    if addresses.is_empty() {
        reader.wrong(node, "has no address", "write at least one, such as `10.0.0.7:8443`");
        return None;
    }
    for address in &addresses {
        if address.value.0.ip().is_unspecified() || address.value.0.port() == 0 {
            let what = format!("`{}` is not an address to connect to", address.value.0);
            reader.problem(&address.place, what, "write the address and port of a peer");
        }
    }
    Some(Endpoints::Static(addresses.into_iter().map(|address| address.value.0).collect()))
}

/// Endpoints by name: exactly one of the two.
#[derive(JsonSchema)]
#[schemars(rename = "Endpoints", deny_unknown_fields, extend("required" = [], "minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct RawEndpoints {
    /// `HOST:PORT`, resolved again and again; all addresses of both families are used.
    dns: Field<HostAndPort>,
    /// The host that the request named, at this port.
    #[schemars(range(min = 1, max = 65535))]
    port: Field<u16>,
}

impl Section for RawEndpoints {
    const NAME: &'static str = "`endpoints`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { dns: keys.optional("dns"), port: keys.optional("port") }
    }
}

impl RawEndpoints {
    fn check(self, node: &Node, reader: &mut Reader) -> Option<Endpoints> {
        if self.dns.is_written() == self.port.is_written() {
            let hint = "write either `{ dns: \"HOST:PORT\" }` or `{ port: PORT }`";
            reader.wrong(node, "does not say where in exactly one way", hint);
            return None;
        }
        let dns = self.dns.into_option().map(|at| Endpoints::Dns { host: at.host, port: at.port });
        dns.or_else(|| self.port.into_option().map(|port| Endpoints::Host { port: Some(port) }))
    }
}

struct HostAndPort {
    host: String,
    port: u16,
}

impl FromNode for HostAndPort {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "`HOST:PORT`")?;
        if text.parse::<std::net::SocketAddr>().is_ok() {
            reader.wrong(node, "is an address, not a name", format!("write a list: `endpoints: [\"{text}\"]`"));
            return None;
        }
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts.map(|(host, port)| (HostName::parse(host), port)) {
            Some((Some(host), port)) if port != 0 => Some(Self { host: host.0, port }),
            _ => {
                reader.wrong(node, "is not a host and port", "write `payments.shop.svc:8443`");
                None
            }
        }
    }
}

impl JsonSchema for HostAndPort {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostAndPort".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "title": "host:port", "pattern": "^[^:]+:[0-9]+$" })
    }
}

impl JsonSchema for WrittenEndpoints {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WrittenEndpoints".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let address = generator.subschema_for::<Address>();
        let named = generator.subschema_for::<RawEndpoints>();
        schemars::json_schema!({ "anyOf": [{ "type": "array", "items": address, "minItems": 1 }, named] })
    }
}
