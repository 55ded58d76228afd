//! `telemetry:` and `admin:` as they are written, and their checks.

use super::{AccessLog, Admin, LogFormat, Telemetry};
use crate::listen::{ListenAddress, refuse_long};
use crate::read::{Field, FromNode, Keys, Listener, Reader, Section};
use crate::values::{Address, FilePath, OneOrMany};
use crate::yaml::{Node, Value};
use schemars::JsonSchema;
use std::net::SocketAddr;

/// What Postern tells about itself, and where.
#[derive(Default, JsonSchema)]
#[schemars(rename = "Telemetry", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawTelemetry {
    /// Prometheus metrics at `/metrics`: an address, or `off`.
    #[schemars(extend("default" = "0.0.0.0:15020"))]
    metrics: Field<AddressOrOff>,
    /// Readiness at `/healthz/ready`: an address, or `off`.
    #[schemars(extend("default" = "0.0.0.0:15021"))]
    readiness: Field<AddressOrOff>,
    /// One JSON record a connection and request: to `stdout`, to a file (`{ file: PATH }`), or `off`.
    #[schemars(extend("default" = "stdout"))]
    access_log: Field<AccessLog>,
    /// What the process log tells: a level, or a filter in the syntax of `RUST_LOG`. `$RUST_LOG` wins.
    #[schemars(extend("default" = "info"))]
    log: Field<String>,
    /// The form of the process log.
    #[schemars(extend("default" = "text"))]
    log_format: Field<LogFormat>,
}

impl Section for RawTelemetry {
    const NAME: &'static str = "`telemetry`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            metrics: keys.optional("metrics"),
            readiness: keys.optional("readiness"),
            access_log: keys.optional("access_log"),
            log: keys.optional("log"),
            log_format: keys.optional("log_format"),
        }
    }
}

impl RawTelemetry {
    pub fn check(self, reader: &mut Reader) -> Telemetry {
        let defaults = Telemetry::default();
        Telemetry {
            metrics: listen("telemetry.metrics", self.metrics, defaults.metrics, reader),
            readiness: listen("telemetry.readiness", self.readiness, defaults.readiness, reader),
            access_log: self.access_log.or_default(),
            log: self.log.into_option(),
            log_format: self.log_format.or_default(),
        }
    }
}

fn listen(
    whose: &str,
    field: Field<AddressOrOff>,
    default: Option<SocketAddr>,
    reader: &mut Reader,
) -> Option<SocketAddr> {
    let place = field.place().cloned();
    let address = field.or(AddressOrOff(default)).0;
    if let Some(address) = address {
        reader.listeners.push(Listener { address: address.into(), whose: whose.to_owned(), place });
    }
    address
}

struct AddressOrOff(Option<SocketAddr>);

impl FromNode for AddressOrOff {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match reader.scalar(node, "an address, or `off`")? {
            "off" => Some(Self(None)),
            "false" => {
                reader.wrong(node, "is not an address", "write `off`");
                None
            }
            _ => Address::from_node(node, reader).map(|address| Self(Some(address.0))),
        }
    }
}

impl JsonSchema for AddressOrOff {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AddressOrOff".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "title": "IP:port or `off`" })
    }
}

impl FromNode for LogFormat {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("text", Self::Text), ("json", Self::Json)])
    }
}

impl FromNode for AccessLog {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Mapping(_) => {
                RawAccessLogFile::from_node(node, reader)?.file.into_option().map(|file| Self::File(file.0))
            }
            _ => {
                let to_stdout = reader.word(node, &[("stdout", true), ("off", false)])?;
                Some(if to_stdout { Self::Stdout } else { Self::Off })
            }
        }
    }
}

impl JsonSchema for AccessLog {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AccessLog".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let file = generator.subschema_for::<RawAccessLogFile>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["stdout", "off"] }, file] })
    }
}

/// An access log in a file.
#[derive(JsonSchema)]
#[schemars(rename = "AccessLogFile", deny_unknown_fields, extend("required" = ["file"]))]
pub(crate) struct RawAccessLogFile {
    /// The file that records are appended to.
    file: Field<FilePath>,
}

impl Section for RawAccessLogFile {
    const NAME: &'static str = "`access_log`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { file: keys.required("file", "write `{ file: PATH }`, `stdout` or `off`") }
    }
}

/// Where the running program is asked and told.
#[derive(Default, JsonSchema)]
#[schemars(rename = "Admin", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawAdmin {
    /// A unix socket for reading and changing. Its callers are known by their user id; root and the user that Postern
    /// runs as may always.
    #[schemars(extend("x-default" = "off"))]
    socket: Field<FilePath>,
    /// A loopback address for reading only.
    #[schemars(extend("x-default" = "off"))]
    listen: Field<Address>,
    /// Further users (uid) who may do everything through the socket.
    #[schemars(extend("default" = []))]
    uids: Field<OneOrMany<u32>>,
    /// Users who may ask, and change nothing.
    #[schemars(extend("default" = []))]
    read: Field<OneOrMany<u32>>,
    /// Users who may ask, drain, and change what the process logs.
    #[schemars(extend("default" = []))]
    operate: Field<OneOrMany<u32>>,
    /// Users who may ask, deny (`postern deny`), and let held changes act.
    #[schemars(extend("default" = []))]
    revoke: Field<OneOrMany<u32>>,
}

impl Section for RawAdmin {
    const NAME: &'static str = "`admin`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            socket: keys.optional("socket"),
            listen: keys.optional("listen"),
            uids: keys.optional("uids"),
            read: keys.optional("read"),
            operate: keys.optional("operate"),
            revoke: keys.optional("revoke"),
        }
    }
}

impl RawAdmin {
    pub fn check(self, reader: &mut Reader) -> Admin {
        let place = self.listen.place().cloned();
        let listen = self.listen.into_option().map(|listen| listen.0);
        if let (Some(address), Some(place)) = (listen, place) {
            if !address.ip().is_loopback() {
                let hint = format!("write `127.0.0.1:{}`: it tells everything about this proxy", address.port());
                reader.problem(&place, format!("`admin.listen: {address}` can be reached from other hosts"), hint);
            }
            let whose = "admin.listen".to_owned();
            reader.listeners.push(Listener { address: address.into(), whose, place: Some(place) });
        }
        if let (Some(FilePath(socket)), Some(place)) = (self.socket.get(), self.socket.place()) {
            if let Err(what) = refuse_long(socket) {
                reader.problem(place, what, "move the socket to a shorter path");
            }
            let (address, whose) = (ListenAddress::Unix(socket.as_path().into()), "admin.socket".to_owned());
            reader.listeners.push(Listener { address, whose, place: Some(place.clone()) });
        }
        let users = [("uids", &self.uids), ("read", &self.read), ("operate", &self.operate), ("revoke", &self.revoke)];
        for (key, users) in users {
            if let (Some(place), None) = (users.place(), self.socket.place()) {
                let what = format!("`{key}` says who may use the admin socket, and there is none");
                reader.problem(place, what, format!("add `socket:`, or remove `{key}`"));
            }
        }
        Admin {
            socket: self.socket.into_option().map(|file| file.0),
            listen,
            uids: self.uids.or_default().0,
            read: self.read.or_default().0,
            operate: self.operate.or_default().0,
            revoke: self.revoke.or_default().0,
        }
    }
}
