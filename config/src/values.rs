//! Readers and schemas of the single values that sections are made of.

use crate::audit::PostUrl;
use crate::identity::BundleUrl;
use crate::network::{Destination, Network};
use crate::pattern::{HostPattern, PathPattern, SpiffePattern};
use crate::problem::Place;
use crate::read::{FromNode, Reader};
use crate::spiffe_id::{SpiffeId, TrustDomain};
use crate::units::{UnitError, parse_duration, parse_size};
use crate::yaml::{Node, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value of a list, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub value: T,
    pub place: Place,
}

impl<T: FromNode> FromNode for At<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        Some(Self { value: T::from_node(node, reader)?, place: node.place.clone() })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What could be read of a list; each value that could not has been told. A list of which nothing could be read counts
/// as unreadable, not as empty.
impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Sequence(items) => {
                let values: Self = items.iter().filter_map(|item| T::from_node(item, reader)).collect();
                (items.is_empty() || !values.is_empty()).then_some(values)
            }
            _ => {
                reader.wrong(node, "is not a list", "write `- ` before each value, or `[…]` around them");
                None
            }
        }
    }
}

/// A list, or one value where a list of one is meant.
#[derive(Clone, Debug)]
pub(crate) struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: FromNode> FromNode for OneOrMany<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Sequence(_) => Vec::from_node(node, reader).map(Self),
            _ => T::from_node(node, reader).map(|value| Self(vec![value])),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("one or more {}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl FromNode for bool {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("true", true), ("false", false)])
    }
}

impl FromNode for u16 {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        // The only 16-bit numbers of the file are ports, and port 0 is none.
        reader.number(node, 1, u64::from(u16::MAX)).and_then(|number| number.try_into().ok())
    }
}

impl FromNode for u32 {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.number(node, 0, u64::from(u32::MAX)).and_then(|number| number.try_into().ok())
    }
}

impl FromNode for String {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "text")?;
        let looks_otherwise = matches!(text, "true" | "false") || text.parse::<f64>().is_ok();
        match &node.value {
            Value::Scalar { plain: true, .. } if looks_otherwise => {
                reader.wrong(node, "is not text", format!("write it in quotes: \"{text}\""));
                None
            }
            _ if text.is_empty() => {
                reader.wrong(node, "is empty", "write text, or remove the key");
                None
            }
            _ => Some(text.to_owned()),
        }
    }
}

/// An IP address and port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address(pub SocketAddr);

impl FromNode for Address {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "an address and port")?;
        if let Ok(address) = text.parse() {
            return Some(Self(address));
        }
        let hint = match text.rsplit_once(':') {
            _ if text.parse::<std::net::IpAddr>().is_ok() => "add a port, such as `127.0.0.1:8080` or `[::1]:8080`",
            None if text.parse::<u16>().is_ok() => "write the address too, such as `127.0.0.1:8080`",
            Some(("", port)) if port.parse::<u16>().is_ok() => {
                "write the address too, such as `0.0.0.0:8080` for all of this host's"
            }
            Some((_, port)) if port.parse::<u16>().is_ok() => {
                "write an IP address (`127.0.0.1:8080`, `[::1]:8080`); names are for `endpoints: { dns: … }`"
            }
            _ => "write `127.0.0.1:8080`, or `[::1]:8080` for IPv6",
        };
        reader.wrong(node, "is not an IP address and port", hint);
        None
    }
}

/// A file's path, made absolute: relative ones begin at the directory of the file that they are written in.
#[derive(Clone, Debug)]
pub(crate) struct FilePath(pub PathBuf);

impl FromNode for FilePath {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a file's path")?;
        if text.is_empty() || text.contains('\0') {
            reader.wrong(node, "is not a file's path", "write the path of a file");
            return None;
        }
        Some(Self(absolute(&node.place, text)))
    }
}

pub(crate) fn absolute(place: &Place, text: &str) -> PathBuf {
    let beside = place.file.parent().unwrap_or(Path::new("")).join(text);
    // Fails only where the process has no working directory; then the path stays as it was written.
    std::path::absolute(&beside).unwrap_or(beside)
}

impl FromNode for SpiffePattern {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "an ID such as `spiffe://shop.example/ns/shop/sa/web`, or `…/sa/*`", Self::parse)
    }
}

impl FromNode for HostPattern {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a host such as `orders.shop.svc`, or `*.{ns}.svc.cluster.local`", Self::parse)
    }
}

impl FromNode for PathPattern {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a path such as `/orders`, `/orders/{id}` or `/orders/**`", Self::parse)
    }
}

impl FromNode for SpiffeId {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "an ID such as `spiffe://shop.example/ns/shop/sa/web`", Self::parse)
    }
}

impl FromNode for Network {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a network such as `10.96.0.0/12`, or an address", Self::parse)
    }
}

impl FromNode for Destination {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a destination such as `10.96.0.12:5432`, or a network", Self::parse)
    }
}

impl FromNode for TrustDomain {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a trust domain such as `shop.example`", Self::parse)
    }
}

/// A token of RFC 9110 §9.1.
#[derive(Clone, Debug)]
pub(crate) struct Method(pub String);

impl FromNode for Method {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a method such as `GET`")?;
        // RFC 9110 §5.6.2, less the lower case: methods are compared exactly, and all that are registered are upper.
        let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text == "*" {
            reader.wrong(node, "is no method", "leave `methods` out: then any method fits");
        } else if text.is_empty() || !text.bytes().all(allowed) {
            reader.wrong(node, "is not a method", format!("write it in upper case: {}", text.to_ascii_uppercase()));
        } else {
            return Some(Self(text.to_owned()));
        }
        None
    }
}

/// What logs and metrics call something.
#[derive(Clone, Debug)]
pub(crate) struct Name(pub String);

const NAME_BYTES_MAX: usize = 64;

impl FromNode for Name {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a name")?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(allowed) {
            let hint = format!("write 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_`, `.` or `/`");
            reader.wrong(node, "is not a name", hint);
            return None;
        }
        Some(Self(text.to_owned()))
    }
}

/// A DNS name without wildcards.
#[derive(Clone, Debug)]
pub(crate) struct HostName(pub String);

impl HostName {
    pub fn parse(text: &str) -> Option<Self> {
        HostPattern::parse(text).ok()?.exact().map(|host| Self(host.to_owned()))
    }
}

impl FromNode for HostName {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a host's name")?;
        let name = Self::parse(text);
        if name.is_none() {
            reader.wrong(node, "is not a host's name", "write a name such as `api.cards.example`");
        }
        name
    }
}

/// A span of time that is not zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(pub Duration);

/// A span of time that may be `0s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpanOrZero(pub Duration);

const SPAN_WORDS: &str = "a number with its unit: `500ms`, `5s`, `10m`, `1h30m`";

impl FromNode for SpanOrZero {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, SPAN_WORDS)?;
        match parse_duration(text) {
            Ok(duration) => Some(Self(duration)),
            Err(UnitError::MissingUnit) if text.bytes().all(|b| b.is_ascii_digit()) => {
                reader.wrong(node, "has no unit", format!("write `{text}s` for seconds, `{text}ms` for milliseconds"));
                None
            }
            Err(error) => {
                reader.wrong(node, error.to_string(), format!("write {SPAN_WORDS}"));
                None
            }
        }
    }
}

impl FromNode for Span {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let SpanOrZero(duration) = SpanOrZero::from_node(node, reader)?;
        if duration.is_zero() {
            reader.wrong(node, "would end everything at once", format!("write {SPAN_WORDS}"));
            return None;
        }
        Some(Self(duration))
    }
}

/// A count of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub u64);

impl FromNode for Size {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "bytes: `65536`, `64KiB`, `1MiB`", parse_size).map(Self)
    }
}

/// A schema of one scalar: its title is the word for it in the reference page.
macro_rules! scalar_schema {
    ($type:ty, $title:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                $title.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}
pub(crate) use scalar_schema;

// A macro, because `JsonSchema` is not ours: it cannot be implemented for every type of a trait of ours.
scalar_schema!(SpiffePattern, "SPIFFE ID pattern", { "type": "string", "title": "SPIFFE ID pattern", "pattern": "^spiffe://[a-z0-9._-]+/" });
scalar_schema!(HostPattern, "host pattern", { "type": "string", "title": "host pattern" });
scalar_schema!(PathPattern, "path pattern", { "type": "string", "title": "path pattern", "pattern": "^/" });
scalar_schema!(Address, "IP:port", { "type": "string", "title": "IP:port" });
scalar_schema!(TrustDomain, "trust domain", { "type": "string", "title": "trust domain", "pattern": "^[a-z0-9._-]{1,255}$" });
scalar_schema!(BundleUrl, "bundle endpoint", { "type": "string", "title": "https URL", "pattern": "^https://" });
scalar_schema!(PostUrl, "https URL, or http on this host", { "type": "string", "title": "https URL, or http on this host", "pattern": "^https?://" });
scalar_schema!(Network, "network", { "type": "string", "title": "network" });
scalar_schema!(Destination, "destination", { "type": "string", "title": "destination" });
scalar_schema!(FilePath, "file", { "type": "string", "title": "file", "minLength": 1 });
scalar_schema!(SpiffeId, "SPIFFE ID", { "type": "string", "title": "SPIFFE ID", "pattern": "^spiffe://[a-z0-9._-]+/" });
scalar_schema!(Method, "method", { "type": "string", "title": "method", "pattern": "^[A-Z0-9!#$%&'*+.^_`|~-]+$" });
scalar_schema!(Name, "name", { "type": ["string", "integer"], "title": "name", "pattern": "^[A-Za-z0-9._/-]{1,64}$" });
scalar_schema!(HostName, "host", { "type": "string", "title": "host" });
scalar_schema!(Span, "duration", { "type": "string", "title": "duration", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$" });
scalar_schema!(SpanOrZero, "duration, may be zero", { "type": "string", "title": "duration", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$" });
scalar_schema!(Size, "size", { "type": ["string", "integer"], "title": "size", "pattern": "^[0-9]+([KMG]iB)?$", "minimum": 0 });
